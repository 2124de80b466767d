//! Images from where they come from: the one place where kinds of sources meet the code that gets them.

use super::{distribution, oci};
use anyhow::{Result, bail};
use motu_disk::Format;
use motu_store::{DiskImport, DistributionSpec, Image, ImageName, Source, Store, Watch, name_of_path};
use std::path::{Path, PathBuf};

/// What a person says beside the source.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// The image's names; none means one after the source.
    pub names: Vec<ImageName>,
    /// Packages beside those that belong to it anyway.
    pub include: Vec<String>,
    /// Of a disk.
    pub format: Option<Format>,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub cmdline: Option<String>,
}

impl PullOptions {
    fn is_of_a_disk(&self) -> bool {
        self.format.is_some() || self.kernel.is_some() || self.initrd.is_some() || self.cmdline.is_some()
    }

    /// The names that were given, or else the one that belongs to a path.
    fn names_or(&self, path: &Path) -> Result<Vec<ImageName>> {
        if !self.names.is_empty() {
            return Ok(self.names.clone());
        }
        // The last part of `rootfs/..` is none.
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        match name_of_path(&whole) {
            Some(name) => Ok(vec![name]),
            None => bail!("{} gives no name for an image; say one with --tag NAME", path.display()),
        }
    }
}

/// Gets an image and puts it into the store.
///
/// # Errors
/// What is wrong with the source, or the host's trouble; the store is as it was then.
pub fn pull(store: &Store, source: &Source, options: &PullOptions, watch: Watch<'_>) -> Result<Image> {
    if options.is_of_a_disk() && !matches!(source, Source::Disk(_)) {
        bail!("--format, --kernel, --initrd and --append are for disks (disk:FILE), and {source} is none");
    }
    if !options.include.is_empty() && !matches!(source, Source::Deb(_)) {
        bail!("--include is for packages of a distribution (deb:SUITE), and {source} is none");
    }
    let source = &super::absolute(source.clone())?;
    match source {
        Source::Disk(path) => {
            let import = DiskImport {
                path,
                format: options.format,
                kernel: options.kernel.as_deref(),
                initrd: options.initrd.as_deref(),
                cmdline: options.cmdline.as_deref(),
            };
            Ok(store.import_disk(&import, &options.names_or(path)?, watch)?)
        }
        Source::Dir(path) => Ok(store.import_folder(path, &options.names_or(path)?, watch)?),
        Source::Oci(_) | Source::OciLayout(_) | Source::OciArchive(_) | Source::DockerArchive(_) => {
            oci::pull(store, source, options, watch)
        }
        Source::Deb(suite) => {
            let include = options.include.clone();
            let spec = DistributionSpec { suite: Some(suite.clone()), include, ..DistributionSpec::default() };
            distribution::make(store, &spec, (!options.names.is_empty()).then_some(&options.names), watch)
        }
    }
}

/// What a file or a folder is, for `motu image import`.
///
/// # Errors
/// There is nothing.
pub fn source_of(path: &Path) -> Result<Source> {
    if !path.exists() {
        bail!("there is no file or folder {}", path.display());
    }
    let text = || path.display().to_string();
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    Ok(match () {
        () if path.join("oci-layout").is_file() => Source::OciLayout(text()),
        () if path.is_dir() => Source::Dir(path.to_owned()),
        () if [".tar", ".tar.gz", ".tgz"].iter().any(|end| name.ends_with(end)) => {
            if motu_registry::is_docker_archive(path) {
                Source::DockerArchive(text())
            } else {
                Source::OciArchive(text())
            }
        }
        () => Source::Disk(path.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_there_is_told_by_how_it_looks() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("layout")).unwrap();
        for name in ["layout/oci-layout", "app.tar", "cloud.qcow2"] {
            std::fs::write(at(name), "").unwrap();
        }
        let kind = |name: &str| source_of(&at(name)).unwrap().to_string().split(':').next().unwrap().to_owned();
        assert_eq!(["layout", "app.tar", "cloud.qcow2", "."].map(kind), ["oci-layout", "oci-archive", "disk", "dir"]);
        assert!(source_of(&at("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn options_of_disks_are_for_disks() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let options = PullOptions { kernel: Some("vmlinuz".into()), ..PullOptions::default() };
        let error = pull(&store, &Source::Dir("x".into()), &options, Watch::silent()).unwrap_err().to_string();
        assert!(error.contains("--kernel") && error.contains("dir:x"), "{error}");
    }
}
