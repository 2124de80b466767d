//! What can go wrong, said so that a person knows what to do.

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
    /// An image name that cannot be a file's name in the store.
    #[error("{0:?} is no image name: names are of a-z, 0-9, '.', '_' and '-', and begin with a letter or digit")]
    Name(String),
    /// A stored file is not what it was when it was stored.
    #[error(
        "the image {image} is damaged: {} {found}; `motu image rm {image}` removes it, and its next use makes it anew",
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
        "there is no {tool} on this host, which `tiny` is made with; pass a kernel of your own instead: \
         --kernel KERNEL --initrd INITRD"
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
    /// The initial RAM disk cannot be written.
    #[error("cannot make the initrd: {0}")]
    Cpio(#[from] crate::CpioError),
    /// The person, or a signal, stopped it. Nothing half made is left in use.
    #[error("stopped before the image was made; nothing was kept")]
    Cancelled,
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said:\n{output}") }
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { doing, path: path.to_owned(), source }
    }
}
