//! Root file systems: an ordered list of tar layers becomes one ext4 file system, without root and without mounting.
//!
//! ```text
//!   layer ── Compression ── tar ── the image specification's rules ── tree ─┐ names, owners, modes, links
//!                            └───── data of files, written once, at once ───┴── ext4 ── dyn Disk
//! ```
//!
//! [`Builder`] takes layers from the lowest to the highest ([OCI image specification], "Image Layer Filesystem
//! Changeset") and writes the data of each file where it will lie; names and everything else stay in memory until
//! [`Builder::finish`] writes them. What a later layer deletes gives its place to files that come after.
//!
//! The result is the same for the same layers and [`Options`], bit by bit. Nothing is written but what is not zeros: the
//! disk should be new and take no space until it is written, such as a new qcow2 image or a sparse file.
//!
//! The way back is [`FileSystem::archive`]: a file system, whoever made it, becomes one layer.
//!
//! ```text
//!   dyn Disk ── reader: superblock, inodes, extents, names, attributes ── archive ── a tar stream
//! ```
//!
//! Layers are strangers' bytes, and so are disks. Whatever their names say (`../x`, `/etc/x`, links to anywhere), a name means what it would
//! in a `chroot` into the tree that is being made: nothing of the host is named or opened. How much a layer may ask for
//! is bounded by [`Limits`].
//!
//! [OCI image specification]: https://github.com/opencontainers/image-spec/blob/main/layer.md
#![forbid(unsafe_code)]

mod archive;
mod builder;
mod compression;
mod error;
mod ext4;
mod layer;
mod limits;
mod output;
mod reader;
mod space;
mod tar;
#[cfg(test)]
mod tests;
mod tree;

pub use archive::Archived;
pub use builder::{Builder, Options, Report};
pub use compression::Compression;
pub use error::RootfsError;
pub use layer::{Layer, PackageData, Unattended, Watch};
pub use limits::Limits;
pub use reader::FileSystem;
pub use tree::{Attributes, Time};
