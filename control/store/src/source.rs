//! Where images come from, as people say it: `oci:alpine`, `disk:cloud.qcow2`.

use crate::ImageName;
use crate::near::near;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an image is to be had. Written `KIND:REST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `oci:REFERENCE`: a registry.
    Oci(String),
    /// `oci-layout:FOLDER[:TAG]`: an OCI image layout.
    OciLayout(String),
    /// `oci-archive:FILE[:TAG]`: the same in a tar archive.
    OciArchive(String),
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes.
    DockerArchive(String),
    /// `deb:SUITE`: packages of the distribution that the host's package client is configured for.
    Deb(String),
    /// `disk:FILE`: a raw or qcow2 disk.
    Disk(PathBuf),
    /// `dir:FOLDER`: a tree of files.
    Dir(PathBuf),
}

/// A text that is no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSourceError {
    /// Nothing stands behind the colon.
    #[error("{0}: says no more than where to look; write {0}:{1}")]
    Empty(&'static str, &'static str),
    /// There is no such kind.
    #[error(
        "{text:?} does not say what it is{}; write oci:alpine for an image of a registry, deb:stable for packages, \
         disk:cloud.qcow2 for a disk, dir:rootfs/ for a tree of files, or oci-layout:, oci-archive:, docker-archive: and a path",
        hint(.near)
    )]
    Kind {
        /// The text.
        text: String,
        /// What was perhaps meant.
        near: Vec<String>,
    },
}

fn hint(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!(" (is {} meant?)", near.join(" or ")) }
}

/// Kinds, and what stands behind their colon.
const KINDS: [(&str, &str); 7] = [
    ("oci", "alpine:3.20"),
    ("oci-layout", "FOLDER"),
    ("oci-archive", "FILE.tar"),
    ("docker-archive", "FILE.tar"),
    ("deb", "stable"),
    ("disk", "FILE.qcow2"),
    ("dir", "FOLDER"),
];

impl Source {
    fn parts(&self) -> (&'static str, String) {
        match self {
            Self::Oci(text) => ("oci", text.clone()),
            Self::OciLayout(text) => ("oci-layout", text.clone()),
            Self::OciArchive(text) => ("oci-archive", text.clone()),
            Self::DockerArchive(text) => ("docker-archive", text.clone()),
            Self::Deb(text) => ("deb", text.clone()),
            Self::Disk(path) => ("disk", path.display().to_string()),
            Self::Dir(path) => ("dir", path.display().to_string()),
        }
    }
}

impl Source {
    /// The same as any folder names it: a path that is relative means something else in each.
    ///
    /// # Errors
    /// The path is empty, or this process has no folder.
    pub fn absolute(self) -> io::Result<Self> {
        let full = |path: PathBuf| std::path::absolute(path);
        // What stands behind a last colon goes through as part of a path's last name.
        let text = |text: String| {
            let text = full(text.into())?.into_os_string().into_string();
            text.map_err(|_| io::Error::new(io::ErrorKind::InvalidFilename, "the folder's name is no text"))
        };
        Ok(match self {
            Self::Oci(_) | Self::Deb(_) => self,
            Self::OciLayout(path) => Self::OciLayout(text(path)?),
            Self::OciArchive(path) => Self::OciArchive(text(path)?),
            Self::DockerArchive(path) => Self::DockerArchive(text(path)?),
            Self::Disk(path) => Self::Disk(full(path)?),
            Self::Dir(path) => Self::Dir(full(path)?),
        })
    }
}

/// A name for what lies at a path: its last part without its extension, as far as a name can have it.
pub fn name_of_path(path: &Path) -> Option<ImageName> {
    let stem = path.file_stem()?.to_str()?.to_ascii_lowercase();
    let stem = stem.strip_suffix(".tar").unwrap_or(&stem);
    let plain: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("-").parse().ok()
}

impl FromStr for Source {
    type Err = ParseSourceError;

    fn from_str(text: &str) -> Result<Self, ParseSourceError> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let Some((kind, example)) = KINDS.into_iter().find(|(known, _)| *known == kind) else {
            return Err(ParseSourceError::Kind { text: text.to_owned(), near: suggest(text, kind, rest) });
        };
        if rest.is_empty() {
            return Err(ParseSourceError::Empty(kind, example));
        }
        let rest = rest.to_owned();
        Ok(match kind {
            "oci" => Self::Oci(rest),
            "oci-layout" => Self::OciLayout(rest),
            "oci-archive" => Self::OciArchive(rest),
            "docker-archive" => Self::DockerArchive(rest),
            "deb" => Self::Deb(rest),
            "disk" => Self::Disk(rest.into()),
            _ => Self::Dir(rest.into()),
        })
    }
}

/// What a text that names no kind may have been meant to be.
fn suggest(text: &str, kind: &str, rest: &str) -> Vec<String> {
    let path = Path::new(text);
    if path.is_dir() {
        return vec![format!("dir:{text}")];
    }
    if path.is_file() {
        let what = if text.ends_with(".tar") { "oci-archive" } else { "disk" };
        return vec![format!("{what}:{text}")];
    }
    let kinds: Vec<String> = KINDS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    let mut meant: Vec<String> = near(kind, &kinds)
        .into_iter()
        .take(1)
        .filter(|_| !rest.is_empty())
        .map(|kind| format!("{kind}:{rest}"))
        .collect();
    // What is both a near kind and a name is more likely the first.
    if meant.is_empty() && text.parse::<ImageName>().is_ok() {
        meant.push(format!("oci:{text}"));
    }
    meant
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.parts();
        write!(out, "{kind}:{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_written_as_it_is_read() {
        for (kind, rest) in KINDS {
            let text = format!("{kind}:{rest}");
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        let port = "oci:localhost:5000/app:v1".parse::<Source>();
        assert_eq!(port, Ok(Source::Oci("localhost:5000/app:v1".into())));
    }

    #[test]
    fn a_relative_path_is_completed() {
        let here = std::env::current_dir().unwrap();
        let absolute = |text: &str| text.parse::<Source>().unwrap().absolute().unwrap().to_string();
        for (kind, rest) in
            [("disk", "a.raw"), ("dir", "./x/"), ("oci-layout", "a:v1"), ("docker-archive", "a.tar:o/b:1")]
        {
            let completed = format!("{kind}:{}/{}", here.display(), rest.trim_start_matches("./"));
            assert_eq!(absolute(&format!("{kind}:{rest}")), completed);
            assert_eq!(absolute(&completed), completed);
        }
        for text in ["oci:alpine:3.20", "deb:stable", "dir:/x"] {
            assert_eq!(absolute(text), text);
        }
    }

    #[test]
    fn what_was_perhaps_meant_is_said() {
        let near = |text: &str| match text.parse::<Source>() {
            Err(ParseSourceError::Kind { near, .. }) => near,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(near("alpine"), ["oci:alpine"]);
        assert_eq!(near("alpine:3.20"), ["oci:alpine:3.20"]);
        assert_eq!(near("dsik:a.raw"), ["disk:a.raw"]);
        assert_eq!(near("docker-archve:a"), ["docker-archive:a"]);
        assert_eq!(near("/"), ["dir:/"]);
        assert!(near("What is this?").is_empty());
        let error = "disk:".parse::<Source>().unwrap_err().to_string();
        assert!(error.contains("disk:FILE.qcow2"), "{error}");
    }

    #[test]
    fn a_path_gives_a_name() {
        let name = |path: &str| name_of_path(Path::new(path)).map(|name| name.to_string());
        assert_eq!(name("/x/Debian-12 cloud.qcow2").as_deref(), Some("debian-12-cloud:latest"));
        assert_eq!(name("rootfs/").as_deref(), Some("rootfs:latest"));
        assert_eq!(name("app.tar.gz").as_deref(), Some("app:latest"));
        assert_eq!(name("/"), None);
        assert_eq!(name("___"), None);
    }
}
