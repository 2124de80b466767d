//! The folder that COPY copies from.

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// A folder of which everything below, and nothing else, can be copied.
#[derive(Debug)]
pub struct Context {
    /// Canonical.
    root: PathBuf,
}

/// One thing to copy, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub source: PathBuf,
    /// What is in the folder, and not the folder itself.
    pub contents: bool,
    /// The folder in the image that is made first.
    pub folder: String,
    /// The path to copy to, and the name that it gets if that is a folder.
    pub path: String,
    pub name: String,
}

impl Context {
    /// # Errors
    /// There is no such folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let root = folder.canonicalize().with_context(|| format!("finding the context {}", folder.display()))?;
        if !root.is_dir() {
            bail!("the context {} is no folder; give the one that COPY copies from", folder.display());
        }
        Ok(Self { root })
    }

    /// What COPY is to copy. A folder's content is copied, not the folder, as in Docker.
    ///
    /// # Errors
    /// A source is not in the context.
    pub fn copies(&self, sources: &[String], target: &str) -> Result<Vec<Copy>> {
        let many = sources.len() > 1;
        if many && !target.ends_with('/') {
            bail!("several things are copied to {target}, which is to be a folder then; write {target}/");
        }
        sources.iter().map(|source| self.copy(source, target)).collect()
    }

    fn copy(&self, named: &str, target: &str) -> Result<Copy> {
        if named.contains(['*', '?']) && self.root.join(named).symlink_metadata().is_err() {
            bail!("{named} is no file; COPY knows no patterns: name a folder, or each file");
        }
        let outside = || format!("{named} is not in the context {}, of which alone can be copied", self.root.display());
        // A path that begins with a slash begins at the context, as in Docker.
        let plain = Path::new(named.trim_start_matches('/'));
        if plain.components().any(|part| part == Component::ParentDir) {
            bail!(outside());
        }
        let path = self.root.join(plain);
        let found = path.symlink_metadata();
        let found = found.with_context(|| format!("there is no {named} in the context {}", self.root.display()))?;
        // The folders on the way may be links to anywhere; to the context itself there are none.
        let is_below = plain.components().any(|part| matches!(part, Component::Normal(_)));
        let folder = path.parent().filter(|_| is_below).unwrap_or(&self.root);
        if !folder.canonicalize().is_ok_and(|folder| folder.starts_with(&self.root)) {
            bail!(outside());
        }
        let contents = found.is_dir();
        let (folder, name) = match target.rsplit_once('/') {
            // The folder itself.
            _ if contents || target.ends_with('/') => (target, path.file_name()),
            Some(("", name)) => ("/", Some(name.as_ref())),
            Some((folder, name)) => (folder, Some(name.as_ref())),
            None => ("/", Some(target.as_ref())),
        };
        let Some(name) = name.map_or(contents.then_some("."), |name| name.to_str()) else {
            bail!("the name of {named} is no UTF-8; rename it");
        };
        let (folder, name) = (folder.to_owned(), name.to_owned());
        Ok(Copy { source: path, contents, folder, path: target.to_owned(), name })
    }
}

impl Copy {
    /// All that the copy depends on: names, modes, content. Not times, as they change when a tree is got anew.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn describe(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        let mut waiting = vec![(self.source.clone(), PathBuf::new())];
        while let Some((path, name)) = waiting.pop() {
            let failed = || format!("reading {}", path.display());
            let metadata = path.symlink_metadata().with_context(failed)?;
            let kind = metadata.file_type();
            let mut part = |bytes: &[u8]| {
                hasher.update((bytes.len() as u64).to_le_bytes());
                hasher.update(bytes);
            };
            part(name.as_os_str().as_bytes());
            if kind.is_symlink() {
                part(b"link");
                part(fs::read_link(&path).with_context(failed)?.as_os_str().as_bytes());
                continue;
            }
            part(&metadata.permissions().mode().to_le_bytes());
            if kind.is_dir() {
                let mut below = Vec::new();
                for entry in fs::read_dir(&path).with_context(failed)? {
                    let file = entry.with_context(failed)?.file_name();
                    below.push((path.join(&file), name.join(&file)));
                }
                below.sort();
                waiting.extend(below);
            } else if kind.is_file() {
                part(&metadata.len().to_le_bytes());
                let mut file = File::open(&path).with_context(failed)?;
                let mut chunk = vec![0; 1 << 20];
                loop {
                    let count = file.read(&mut chunk).with_context(failed)?;
                    if count == 0 {
                        break;
                    }
                    hasher.update(chunk.get(..count).unwrap_or_default());
                }
            }
        }
        Ok(format!("{:x} {} {} {} {}", hasher.finalize(), self.contents, self.folder, self.path, self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_copied_lies_in_the_context() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("context/dir")).unwrap();
        fs::write(at("context/dir/file"), "x").unwrap();
        fs::write(at("secret"), "x").unwrap();
        symlink("..", at("context/out")).unwrap();
        symlink("/etc", at("context/etc")).unwrap();
        let context = Context::open(&at("context")).unwrap();
        let copies = |sources: &[&str], target: &str| {
            let sources: Vec<String> = sources.iter().map(|&source| source.to_owned()).collect();
            context.copies(&sources, target).map(|copies| copies[0].clone()).map_err(|error| error.to_string())
        };
        let copy = copies(&["dir/file"], "/srv/name").unwrap();
        assert_eq!((copy.folder.as_str(), copy.path.as_str(), copy.name.as_str()), ("/srv", "/srv/name", "name"));
        let copy = copies(&["dir/file"], "/srv/").unwrap();
        assert_eq!((copy.folder.as_str(), copy.name.as_str(), copy.contents), ("/srv/", "file", false));
        let copy = copies(&["dir"], "/srv").unwrap();
        assert_eq!((copy.folder.as_str(), copy.contents), ("/srv", true));
        assert!(copies(&["."], "/srv").unwrap().contents);
        // A link itself is in the context, whatever it points to.
        assert!(!copies(&["etc"], "/srv/").unwrap().contents);
        for (sources, target, word) in [
            (&["../secret"][..], "/x", "not in the context"),
            (&["out/secret"], "/x", "not in the context"),
            (&["etc/passwd"], "/x", "not in the context"),
            (&["none"], "/x", "there is no none"),
            (&["*.c"], "/x", "no patterns"),
            (&["dir", "dir/file"], "/x", "write /x/"),
        ] {
            let error = copies(sources, target).unwrap_err();
            assert!(error.contains(word), "{sources:?}: {error}");
        }
    }

    #[test]
    fn a_copy_depends_on_content_and_not_on_times() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("dir/file");
        fs::create_dir(place.path().join("dir")).unwrap();
        fs::write(&file, "one").unwrap();
        let context = Context::open(place.path()).unwrap();
        let key = || context.copies(&["dir".to_owned()], "/srv").unwrap()[0].describe().unwrap();
        let before = key();
        File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(key(), before);
        fs::write(&file, "two").unwrap();
        let other = key();
        assert_ne!(other, before);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(key(), other);
    }
}
