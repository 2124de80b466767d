//! Images: made once, never changed, found by digest.
//!
//! A store is one folder (see [`default_path`]):
//!
//! ```text
//! blobs/sha256/HEX     a file under the digest of its bytes; never changed
//! images/NAME.json     what an image is made of: the digests of its blobs and where they come from
//! packages/NAME.json   the packages that an image was made from, kept so that a newer motu can make
//!                      the image anew without a network
//! tmp/                 what is being written; nothing in it is ever used
//! lock                 held (flock) by the one process that writes
//! ```
//!
//! Everything is written to `tmp/`, synced and renamed to its place, blobs before the record that
//! names them. So whoever reads needs no lock: a record is there with all of its blobs or not at all,
//! also after a kill or a power cut at any instant. Whoever writes holds the lock and first empties
//! `tmp/` of what a killed writer left. A blob is checked against its digest each time before it is used:
//! what is damaged is named and refused.
//!
//! The one image so far is [`tiny`](Store::tiny).
#![forbid(unsafe_code)]

mod applets;
mod apt;
mod blobs;
mod cpio;
mod deb;
mod error;
mod lock;
mod modules;
mod process;
mod progress;
mod record;
mod room;
mod store;
#[cfg(test)]
mod tests;
mod tiny;

pub use cpio::{Archive, CpioError};
pub use error::StoreError;
pub use progress::{Progress, Silent};
pub use record::{Digest, ImageRecord, Package};
pub use store::{Image, Store, default_path};
