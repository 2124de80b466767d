//! What can go wrong with a copy.

use std::io;
use std::path::PathBuf;

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The file system refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The other end takes, or sends, nothing more.
    #[error("the copy broke off: {0}")]
    Broken(io::Error),
    /// What is said is no stream of files.
    #[error("the copy broke off: the other side sent {0}")]
    Stream(&'static str),
    /// A folder is to go where a file is, or the other way round.
    #[error("cannot put {what} in the place of {}, which is {is}", path.display())]
    InTheWay {
        /// What comes.
        what: &'static str,
        /// The place.
        path: PathBuf,
        /// What is there.
        is: &'static str,
    },
    /// There is no folder to copy into.
    #[error("there is no folder {}", .0.display())]
    NoFolder(PathBuf),
    /// Folders in folders without an end.
    #[error("{}: folders are copied {} deep at most", .0.display(), crate::DEEPEST)]
    TooDeep(PathBuf),
    /// More files with several names than can be kept in mind.
    #[error("too many files with several names to copy at once; copy a part of them")]
    TooManyLinks,
    /// There is nothing that could be copied.
    #[error("{} is {is}, which cannot be copied", path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What it is.
        is: &'static str,
    },
}
