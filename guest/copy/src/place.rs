//! Where a copy goes, as cp(1) and Docker have it.

use crate::pack::{io, kind_name};
use crate::stream::Item;
use crate::{CopyError, Target};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, stat, statat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A folder, and the name of what goes there in it; without one the folder itself is meant.
#[derive(Debug)]
pub struct Place {
    pub folder: OwnedFd,
    pub name: Option<OsString>,
    /// The same for people.
    pub path: PathBuf,
}

fn open_folder(path: &Path) -> Result<OwnedFd, CopyError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => CopyError::NoFolder(path.to_owned()),
        error => io("write to", path)(error),
    })
}

impl Place {
    /// Where the first item of a copy goes. The path is the person's own word: links in it are followed.
    pub fn find(target: &Target<'_>, first: &Item) -> Result<Self, CopyError> {
        let path = target.path;
        let is_folder = matches!(first, Item::Folder { .. });
        match stat(path).map(|status| FileType::from_raw_mode(status.st_mode)) {
            Ok(FileType::Directory) if is_folder && target.contents => {
                Ok(Self { folder: open_folder(path)?, name: None, path: path.to_owned() })
            }
            Ok(FileType::Directory) => {
                let folder = open_folder(path)?;
                let path = path.join(target.name);
                // A file does not take a folder's place, nor a folder a file's.
                if let Ok(there) = statat(&folder, target.name, AtFlags::SYMLINK_NOFOLLOW) {
                    in_the_way(is_folder, FileType::from_raw_mode(there.st_mode), &path)?;
                }
                Ok(Self { folder, name: Some(target.name.to_owned()), path })
            }
            Ok(kind) => {
                in_the_way(is_folder, kind, path)?;
                Self::new(path)
            }
            Err(Errno::NOENT) if !is_folder && path.as_os_str().as_bytes().ends_with(b"/") => {
                Err(CopyError::NoFolder(path.to_owned()))
            }
            Err(Errno::NOENT) => Self::new(path),
            Err(error) => Err(io("write to", path)(error)),
        }
    }

    /// A place in a folder that is there.
    fn new(path: &Path) -> Result<Self, CopyError> {
        let Some(name) = path.file_name() else { return Err(CopyError::NoFolder(path.to_owned())) };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Ok(Self { folder: open_folder(parent)?, name: Some(name.to_owned()), path: path.to_owned() })
    }
}

/// Refuses a folder in a file's place, and a file in a folder's, or in that of what is no file: `/dev/null` would become one.
fn in_the_way(is_folder: bool, there: FileType, path: &Path) -> Result<(), CopyError> {
    let fits = match there {
        FileType::Directory => is_folder,
        FileType::RegularFile | FileType::Symlink => !is_folder,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let what = if is_folder { "a folder" } else { "a file" };
    Err(CopyError::InTheWay { what, path: path.to_owned(), is: kind_name(there) })
}

/// A name that nothing in the folder has: no guest's file is called so by accident.
pub fn temporary(number: u64) -> OsString {
    OsStr::new(&format!(".motu-copy-{}-{number}", std::process::id())).to_owned()
}
