//! What can go wrong, said so that a person knows what to do.

use motu_store::StoreError;
use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be done with a machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManagerError {
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// A text that can be no machine's name.
    #[error(
        "{0:?} is no machine name: names are of a-z, A-Z, 0-9, '_', '.' and '-', begin with a letter or digit, and have 128 \
         characters at most"
    )]
    Name(String),
    /// A machine's file is not what it was when it was written.
    #[error("the machine {machine} is damaged: {} {found}; `motu rm {machine}` removes it", path.display())]
    Damaged {
        /// The machine.
        machine: String,
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// The machine does not run.
    #[error("the machine {0} is not running; `motu start {0}` starts it")]
    NotRunning(String),
    /// The machine runs.
    #[error("the machine {0} is running; `motu stop {0}` stops it")]
    Running(String),
    /// The machine's process could not be started.
    #[error("cannot start the process of the machine: {0}")]
    Spawn(io::Error),
    /// The machine's process said why it could not go on.
    #[error("{message}")]
    Refused {
        /// What motu exits with.
        status: u8,
        /// In its words.
        message: String,
    },
    /// The machine's process ended before it said anything.
    #[error("the process of the machine {machine} ended before the machine ran; the end of {}:{said}", log.display())]
    Died {
        /// The machine.
        machine: String,
        /// Where it wrote what it had to say.
        log: PathBuf,
        /// The end of that.
        said: String,
    },
    /// The machine's process is gone, or speaks otherwise than this motu.
    #[error("the machine's process {0}")]
    Wire(String),
}

impl ManagerError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ManagerError {
        move |source| ManagerError::Io { doing, path: path.to_owned(), source }
    }
}
