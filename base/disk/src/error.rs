//! Why a disk cannot be used.

use crate::{Format, MAX_SIZE, SECTOR};
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a disk, and what would have been right.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("there is no disk {}; name a file that exists, or give a size to have it made", .0.display())]
    NotFound(PathBuf),
    #[error("{} is a folder; a disk is a file or a block device", .0.display())]
    Folder(PathBuf),
    #[error("{} is neither a file nor a block device, so it is no disk", .0.display())]
    NoDisk(PathBuf),
    #[error("the disk {} may not be {}; change its permissions{}", path.display(), if *write { "written" } else { "read" },
        if *write { ", or use it read-only" } else { "" })]
    Permission { path: PathBuf, write: bool },
    #[error("the disk {} cannot be made, as there is no folder {}; make the folder, or name another", path.display(),
        folder.display())]
    NoFolder { path: PathBuf, folder: PathBuf },
    #[error("the disk {} cannot be made, as its folder {} may not be written; change its permissions, or name another folder",
        path.display(), folder.display())]
    FolderPermission { path: PathBuf, folder: PathBuf },
    #[error("the disk {} is in use: another machine or program {}; stop it{}", path.display(),
        if *write { "has it open" } else { "writes to it" },
        if *write { ", or use the disk read-only in both" } else { "" })]
    Locked { path: PathBuf, write: bool },
    #[error("the disk {} has {size} bytes, which are no whole sectors of {SECTOR}; make it {} bytes long (truncate -s)",
        path.display(), size.next_multiple_of(SECTOR))]
    OddSize { path: PathBuf, size: u64 },
    #[error(
        "a disk of {0} bytes cannot be made: give a size in whole sectors of {SECTOR} bytes, such as 20G, up to 64T"
    )]
    NewSize(u64),
    #[error("the disk {} is empty; give it a size (truncate -s 20G), or delete it and give a size to have it made", .0.display())]
    Empty(PathBuf),
    #[error("the disk {} has {size} bytes, more than a disk can have; at most {MAX_SIZE} do", path.display())]
    TooLarge { path: PathBuf, size: u64 },
    #[error("the disk {} exists and has {size} bytes, not {asked}; leave the size out to use it, or name another file",
        path.display())]
    Exists { path: PathBuf, size: u64, asked: u64 },
    #[error(
        "the disk {} has no qcow2 header; if it is a raw disk, say format=raw (what a guest may write is not guessed to be \
         raw)", .0.display()
    )]
    Unsaid(PathBuf),
    #[error("say what the new disk {} is to be: format=raw or format=qcow2, or a name that ends in .raw or .qcow2", .0.display())]
    UnsaidNew(PathBuf),
    #[error("the disk {} is named as {named} and begins as {found}; say which it is, format=raw or format=qcow2", path.display())]
    NameDisagrees { path: PathBuf, named: Format, found: Format },
    #[error("the disk {} is no qcow2 image: {problem}", path.display())]
    NotQcow2 { path: PathBuf, problem: String },
    #[error("the qcow2 image {} {problem}", path.display())]
    Qcow2 { path: PathBuf, problem: String },
    #[error("the qcow2 image {} has the backing file {name:?}, {problem}", path.display())]
    Backing { path: PathBuf, name: String, problem: String },
    #[error("the raw disk {} cannot lie over another disk, as it has all of its own; a qcow2 image can", .0.display())]
    RawOver(PathBuf),
    #[error("{} is no overlay of this disk: {problem}", path.display())]
    Overlay { path: PathBuf, problem: String },
    #[error("{doing} the disk {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
}

impl DiskError {
    /// For `map_err`: what was being done with which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Why a disk does not grow. Sentences go on from its name.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    #[error(
        "has {size} bytes and does not shrink to {asked}, as what the guest has behind that would be lost; give a larger size"
    )]
    Shrink { size: u64, asked: u64 },
    #[error("cannot have {asked} bytes, which are no whole sectors of {SECTOR}; give {}, or a size such as 20G", asked.next_multiple_of(SECTOR))]
    OddSize { asked: u64 },
    #[error("cannot be so large; give at most {most} bytes")]
    TooLarge { most: u64 },
    #[error("is read-only, so it does not grow")]
    ReadOnly,
    #[error(
        "is a block device of {size} bytes; make that larger by its own tool (such as lvextend), and give the size that it has then"
    )]
    BlockDevice { size: u64 },
    #[error("could not be made larger: {0}")]
    Io(#[from] io::Error),
}
