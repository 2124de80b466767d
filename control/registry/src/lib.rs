//! OCI images from everywhere they come from: registries, layouts, archives. What is handed out is verified.
//!
//! ```text
//!   oci:REFERENCE ──────── client ── manifest ── platform ── config ── fetch ── BlobSink ──┐
//!   oci-layout:DIR ─────── layout ── manifest ── platform ── config ── in place ───────────┤── OciImage: config, layers
//!   oci-archive:FILE ───── archive ─ layout                                                 │
//!   docker-archive:FILE ── archive ─ manifest.json ─────────── config ── in place ──────────┘
//! ```
//!
//! [`Source`] says where; [`pull()`] brings the image: its configuration, and its layers as files that have the digests that
//! the image says. Layers are still packed; what is unpacked from one is judged by [`Verified`] against its
//! [`diff_id`](Layer::diff_id).
//!
//! The way back is [`ImageWriter`]: an image that was kept as it came, or one layer that somebody writes, becomes a layout or an
//! archive.
//!
//! It speaks the OCI distribution specification 1.1 ("Pull") and reads the OCI image specification 1.1 and Docker's schema 2.
//! All that it reads is strangers' bytes: documents have 4 MiB at most, layers the size that their manifest says, names and
//! messages of registries are shown as text.
#![forbid(unsafe_code)]

mod client;
mod config;
mod credentials;
mod digest;
mod error;
mod fetch;
mod kept;
mod local;
mod manifest;
mod pull;
mod reference;
mod retry;
mod save;
mod sink;
mod source;

pub use config::ImageConfig;
pub use credentials::Credentials;
pub use digest::Verified;
pub use error::RegistryError;
pub use kept::KeptImage;
pub use local::is_docker_archive;
pub use pull::{Layer, OciImage, Options, pull};
pub use reference::Reference;
pub use save::{ImageWriter, LayerWriter, SaveFormat};
pub use sink::{BlobSink, LayerCache, Part};
pub use source::Source;
