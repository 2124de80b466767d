//! What can go wrong, said so that a person knows what to do.

use std::io;

/// Why no root file system was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// The disk's size does not do.
    #[error("a root file system of {0} bytes cannot be made: give it 16 MiB to 16 TiB, such as 10G")]
    Size(u64),
    /// The disk cannot be written.
    #[error("cannot write the file system: {0}")]
    Write(#[source] io::Error),
    /// The layer cannot be read or decompressed.
    #[error("cannot read the layer {layer}: {source}")]
    Read {
        /// The layer's name.
        layer: String,
        /// What its reader or decompressor says.
        source: io::Error,
    },
    /// The layer is no tar archive, or a damaged one.
    #[error("the layer {layer} is no whole tar archive: {problem}")]
    Archive {
        /// The layer's name.
        layer: String,
        /// What is wrong where.
        problem: String,
    },
    /// An entry of a layer cannot be taken.
    #[error("the layer {layer} has {entry:?}, {problem}")]
    Entry {
        /// The layer's name.
        layer: String,
        /// The entry's name in the archive.
        entry: String,
        /// What is wrong with it, to be read after the name.
        problem: String,
    },
    /// The layers ask for more than [`crate::Limits`] has.
    #[error("the layer {layer} is refused at {entry:?}: the image has more than {limit}")]
    TooMuch {
        /// The layer's name.
        layer: String,
        /// The entry's name in the archive.
        entry: String,
        /// What there is too much of, and how much would be right.
        limit: String,
    },
    /// The files do not fit.
    #[error("the files need more than the {} MiB of the file system; make it larger", size >> 20)]
    Full {
        /// Bytes of the file system.
        size: u64,
    },
    /// What is on a disk cannot be read as a file system.
    #[error("the file system on the disk cannot be read: {0}")]
    Unreadable(String),
    /// The disk that a file system is on cannot be read.
    #[error("cannot read the disk: {0}")]
    Disk(#[source] io::Error),
    /// Something in a file system cannot go into a layer.
    #[error("{path:?} cannot go into a layer: {problem}")]
    Unpackable {
        /// Its path.
        path: String,
        /// Why.
        problem: String,
    },
    /// A layer cannot be written.
    #[error("cannot write the layer: {0}")]
    Pack(#[source] io::Error),
    /// The caller no longer wants it.
    #[error("stopped before it was done")]
    Cancelled,
}
