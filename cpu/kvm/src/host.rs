//! Opening /dev/kvm.

use crate::facts::{EXTENSIONS, Extension};
use crate::vm::KvmHypervisor;
use kvm_ioctls::Kvm;
use std::io;

/// The only version of the API that there ever was since it became stable (API, 4.1).
const API_VERSION: i32 = 12;

/// Why this host has no KVM for motu.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no /dev/kvm")]
    Missing,
    #[error("/dev/kvm may not be opened by this user (permission denied)")]
    Denied,
    #[error("opening /dev/kvm: {0}")]
    Open(io::Error),
    #[error("/dev/kvm speaks version {0} of its API, and motu version {API_VERSION}")]
    Version(i32),
    #[error("the host's KVM lacks {}", names(.0))]
    Extensions(Vec<&'static Extension>),
}

fn names(extensions: &[&'static Extension]) -> String {
    let name = |e: &&Extension| format!("{} (Linux {})", e.name, e.since);
    extensions.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Opens /dev/kvm and makes sure that it is one that motu can use.
///
/// # Errors
/// There is none, this user may not open it, or it is too old.
pub fn open() -> Result<KvmHypervisor, OpenError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => OpenError::Missing,
        libc::EACCES | libc::EPERM => OpenError::Denied,
        errno => OpenError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(OpenError::Version(version));
    }
    let lacking: Vec<_> = EXTENSIONS.iter().filter(|e| e.required && !e.is_in(&kvm)).collect();
    if !lacking.is_empty() {
        return Err(OpenError::Extensions(lacking));
    }
    Ok(KvmHypervisor::new(kvm))
}

/// What an ioctl said, with what was being done.
pub fn failed(doing: impl Into<String>) -> impl FnOnce(kvm_ioctls::Error) -> motu_hv::HvError {
    let doing = doing.into();
    move |error| motu_hv::HvError::Host { doing, source: io::Error::from_raw_os_error(error.errno()) }
}
