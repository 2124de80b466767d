//! Images: made once, never changed, found by digest.
//!
//! A store is one folder (see [`default_path`]):
//!
//! ```text
//! blobs/sha256/HEX     a file under the digest of its bytes; never changed
//! seals/HEX            what a blob's file was when its bytes were compared (blobs.rs)
//! images/HEX.json      an image: what it is made of; HEX is the digest of the record's own bytes
//! names/NAME.json      a name, and the image that has it
//! packages/NAME.json   the packages that an image was made from, kept so that a newer motu can make
//!                      the image anew without a network
//! cache/HEX.json       a blob that is kept because it saves a download
//! steps/HEX.json       what a step of a build came to; HEX is the digest of all that it depends on
//! machines/ID/         a machine that stays: what it stands on, and its own writes (machines.rs)
//! tmp/work-*/          work under way, locked by its process (work.rs); pins/ names what it needs
//! tmp/machine-ID/      a machine that is gone with its process
//! turns/HEX            locked by the process whose turn it is to make something (lock.rs)
//! lock                 the store's lock
//! ```
//!
//! Everything is written in `tmp/`, synced and renamed to its place, under the lock: blobs before the record that
//! names them, records before names. So whoever reads needs no lock: an image is there with all of its blobs or not at all,
//! also after a kill or a power cut at any instant. Long work holds no lock that others wait for. What is damaged is named and
//! refused ([`blobs`]), and never deleted for it.
//!
//! An image is deleted by name, and only if no machine stands on it and no work needs it; a blob when no record names it ([`remove`]).
#![forbid(unsafe_code)]

mod applets;
mod apt;
mod blobs;
mod check;
mod cpio;
mod deb;
mod delivery;
mod digest;
mod disks;
mod distribution;
mod error;
mod lock;
mod machines;
mod modules;
pub mod motufile;
mod name;
mod near;
mod process;
mod progress;
mod record;
mod remove;
mod room;
mod source;
mod steps;
mod store;
#[cfg(test)]
mod tests;
mod timestamp;
mod tiny;
mod tree;
mod usage;
mod work;

pub use check::{CheckReport, Trouble};
pub use cpio::{Archive, CpioError};
pub use delivery::Delivery;
pub use digest::Digest;
pub use disks::{DiskImport, ROOT_SIZE};
pub use distribution::{Configure, DistributionSpec};
pub use error::StoreError;
pub use machines::{Life, MachineEntry, MachineFolder, MachineRecord};
pub use name::{DEFAULT_TAG, ImageName, ParseNameError};
pub use progress::{Progress, Silent, Watch};
pub use record::{Agent, Boot, ImageConfig, ImageRecord, Kernel, Layer, MAX_LAYERS, Package, RECORD_VERSION, RootDisk};
pub use remove::{Prune, Pruned, Removed};
pub use source::{ParseSourceError, Source, name_of_path};
pub use steps::StepResult;
pub use store::{BootFiles, Image, Listed, Store, default_path};
pub use timestamp::Timestamp;
pub use usage::{StoreUsage, Usage};
pub use work::{Blob, BlobWriter, Work};
