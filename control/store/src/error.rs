//! What can go wrong, said so that a person knows what to do.

use crate::{Digest, ImageName};
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No place for the store is known.
    #[error("no place to keep images: none of MOTU_HOME, XDG_DATA_HOME and HOME is set to an absolute path")]
    NoHome,
    /// The host's file system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The disk became full.
    #[error(
        "cannot {doing} {}: its disk is full, or no more of it is for you ({source}); `motu system df` shows what motu takes, \
         `motu system prune` deletes what is not needed",
        path.display()
    )]
    Full {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The disk is, or would be, full.
    #[error(
        "there is no room to make the image: {} has {free} MiB free and {needed} MiB are needed; \
         free some, or set MOTU_HOME to a folder on another disk",
        path.display()
    )]
    NoRoom {
        /// The store's folder.
        path: PathBuf,
        /// MiB that are free.
        free: u64,
        /// MiB that are needed.
        needed: u64,
    },
    /// A text that is no image's name.
    #[error(transparent)]
    Name(#[from] crate::ParseNameError),
    /// There is no such image.
    #[error("there is no image {text:?}{}; `motu image ls` shows those there are{}", meant(.near), elsewhere(.text, .near))]
    NoImage {
        /// What was asked for.
        text: String,
        /// Names that are near.
        near: Vec<String>,
    },
    /// The first digits of more than one image's digest.
    #[error("{text} are the first digits of several images, such as {one} and {other}; give more of them")]
    Ambiguous {
        /// The digits.
        text: String,
        /// One of them.
        one: Digest,
        /// Another.
        other: Digest,
    },
    /// An image that something stands on.
    #[error(
        "the image {image} is in use by {user}; end and remove that first, or take only the name away with --force"
    )]
    InUse {
        /// The image.
        image: String,
        /// The machine, or the work.
        user: String,
    },
    /// An image with several names was to be deleted by its digest.
    #[error("the image {image} has several names: {}; name one of them, or take all away with --force", list(.names))]
    ManyNames {
        /// Its digest.
        image: String,
        /// Its names.
        names: Vec<ImageName>,
    },
    /// A newer motu's record.
    #[error(
        "the image {image} was made by a newer motu (its record has version {version}); use that, or remove the image"
    )]
    Newer {
        /// The image.
        image: String,
        /// Its record's version.
        version: u32,
    },
    /// An image's record that cannot be.
    #[error("no image can be made of {source_text}: its record {problem}")]
    Record {
        /// Where it comes from.
        source_text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A blob was deleted while something was made of it.
    #[error("the blob {0} was deleted while an image was made of it; make the image again")]
    Lost(Digest),
    /// An image that needs firmware.
    #[error(
        "the image {image} has no kernel beside its disk, and this motu has no firmware to run the disk's own boot loader; import \
         the disk with --kernel and --initrd, as `motu image pull disk:FILE --kernel vmlinuz --initrd initrd.img --append root=/dev/vda1`"
    )]
    NoFirmware {
        /// The image.
        image: String,
    },
    /// There is no such machine.
    #[error("there is no machine {text:?}{}; `motu ls -a` shows those there are", meant(.near))]
    NoMachine {
        /// What was asked for.
        text: String,
        /// Names that are near.
        near: Vec<String>,
    },
    /// A name that another machine has.
    #[error("there is a machine {name:?} already ({id}); remove it first, or give this one another name")]
    MachineExists {
        /// The name.
        name: String,
        /// The other machine's ID.
        id: String,
    },
    /// A machine that another process has.
    #[error("the machine {machine} is running; stop it first")]
    MachineRuns {
        /// Its ID.
        machine: String,
    },
    /// A machine's record is not what it was when it was written.
    #[error("the machine {machine} is damaged: {} {found}; `motu rm {machine}` removes it", path.display())]
    DamagedMachine {
        /// Its ID.
        machine: String,
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(motu_disk::DiskError),
    /// A root file system cannot be made.
    #[error(transparent)]
    Rootfs(motu_rootfs::RootfsError),
    /// An image without a root disk.
    #[error("the image {image} has no disk: all of it is in its initial RAM disk")]
    NoDisk {
        /// The image.
        image: String,
    },
    /// A file or folder that would be written over.
    #[error("{} is there already; remove it first, or name another place", .0.display())]
    Exists(PathBuf),
    /// A stored file is not what it was when it was stored.
    #[error(
        "the image {image} is damaged: {} {found}; remove it (`motu image rm {image}`) and make it, or get it, again",
        path.display()
    )]
    Damaged {
        /// The image.
        image: String,
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A program that is needed is not on this host.
    #[error(
        "there is no {tool} on this host, which `tiny` and images of packages are made with; pass a kernel of your own instead \
         of `tiny`: --kernel KERNEL --initrd INITRD"
    )]
    NoTool {
        /// The program.
        tool: &'static str,
    },
    /// A program could not be started or spoken to.
    #[error("cannot run {tool}: {source}")]
    Run {
        /// The program.
        tool: &'static str,
        /// The host's reason.
        source: io::Error,
    },
    /// A program reported a failure.
    #[error("{tool} could not {doing} ({status}){}", said(.output))]
    Tool {
        /// The program.
        tool: &'static str,
        /// What it was to do.
        doing: String,
        /// How it ended.
        status: String,
        /// Its errors and warnings.
        output: String,
    },
    /// None of the packages that would do is to be had.
    #[error(
        "apt-get knows no package {} in the sources that this host is configured for{}; \
         pass a kernel of your own instead: --kernel KERNEL --initrd INITRD",
        tried.join(" nor "), said(.output)
    )]
    NoPackage {
        /// The names that were looked for.
        tried: Vec<String>,
        /// apt's errors and warnings.
        output: String,
    },
    /// A package does not hold what it must.
    #[error("the package {package} holds {problem}")]
    Package {
        /// The package.
        package: String,
        /// What is missing or wrong.
        problem: String,
    },
    /// The host's sources have no such release.
    #[error(
        "this host's package sources have no {asked}; they have {}; name one of these, as deb:NAME, or add sources for it to the host",
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    )]
    NoSuite {
        /// What was asked for.
        asked: String,
        /// Codenames and suites.
        known: Vec<String>,
    },
    /// A package's name that cannot be one.
    #[error(
        "{0:?} is no package's name: names are of a-z, 0-9, '+', '-' and '.', as curl, or with a version, as curl=7.88.1-10"
    )]
    PackageName(String),
    /// Packages could not be configured.
    #[error("the packages could not be configured in a machine: {problem}{}", said(.output))]
    Configure {
        /// How it ended.
        problem: String,
        /// The last lines that were written.
        output: String,
    },
    /// The initial RAM disk cannot be written.
    #[error("cannot make the initrd: {0}")]
    Cpio(#[from] crate::CpioError),
    /// The person, or a signal, stopped it. Nothing half made is left in use.
    #[error("stopped before it was done; nothing half made is kept")]
    Cancelled,
}

/// A hint at names that are near.
fn meant(near: &[String]) -> String {
    match near {
        [] => String::new(),
        [names @ .., last] if !names.is_empty() => format!("; is {} or {last} meant?", names.join(", ")),
        names => format!("; is {} meant?", names.concat()),
    }
}

/// Where a name that nothing here is near to may be known.
fn elsewhere(text: &str, near: &[String]) -> String {
    match text.parse::<ImageName>() {
        Ok(_) if near.is_empty() => format!(", and `motu image pull oci:{text}` gets one from a registry"),
        _ => String::new(),
    }
}

fn list(names: &[ImageName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said:\n{output}") }
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| match is_full(&source) {
            true => StoreError::Full { doing, path, source },
            false => StoreError::Io { doing, path, source },
        }
    }
}

impl From<motu_disk::DiskError> for StoreError {
    fn from(error: motu_disk::DiskError) -> Self {
        match error {
            motu_disk::DiskError::Io { path, source, .. } if is_full(&source) => {
                StoreError::Full { doing: "write", path, source }
            }
            other => StoreError::Disk(other),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<motu_rootfs::RootfsError> for StoreError {
    fn from(error: motu_rootfs::RootfsError) -> Self {
        match error {
            motu_rootfs::RootfsError::Cancelled => StoreError::Cancelled,
            other => StoreError::Rootfs(other),
        }
    }
}
