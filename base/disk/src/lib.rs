//! A machine's disks: what a guest sees as one run of sectors, and how the host keeps it.
//!
//! [`open()`] gives a [`Disk`] for a raw file, a block device or a qcow2 image with its backing files; [`create`]
//! makes a new one; [`Overlay`] keeps a machine's own writes over a base that is never written.
//!
//! ```text
//!   virtio-blk ── dyn Disk ─┬─ Raw       the file itself; holes are zeros
//!                           ├─ Memory    bytes of motu's own, to be read only
//!                           ├─ Qcow2     tables, and the clusters of other files below it
//!                           └─ Overlay   a bitmap and the written blocks, over any Disk
//! ```
//!
//! A qcow2 image is a stranger's bytes: [`qcow2::header`] refuses what is damaged, absurd or not supported,
//! and backing files stay inside the image's folder ([`qcow2::chain`]). A disk that
//! guests write is never guessed to be qcow2 by its content alone where its name says otherwise ([`Format`]).
#![forbid(unsafe_code)]

mod copy;
mod disk;
mod error;
mod file;
mod format;
mod lock;
mod memory;
mod open;
mod overlay;
pub mod qcow2;
mod raw;
#[cfg(test)]
mod tests;

pub use copy::{copy, copy_changes};
pub use disk::{Disk, MAX_SIZE, SECTOR};
pub use error::{DiskError, GrowError};
pub use format::{Format, ParseFormatError};
pub use memory::Memory;
pub use open::{OpenOptions, create, create_layer, open, open_layer};
pub use overlay::{BaseId, Overlay};
pub use raw::Raw;
