//! Room on the disk, looked at before it is used up: apt waits for ever for its own helper once that
//! has died of a full disk.

use crate::StoreError;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// MiB for fetching and making an image: lists and packages, each once as apt has them and once as we
/// keep them, and the image.
pub(crate) const TO_FETCH: u64 = 128;

/// MiB for making an image from packages that are kept.
pub(crate) const TO_MAKE: u64 = 32;

/// MiB for an image of a distribution: lists, packages, the disk, and what is written while packages are configured.
pub(crate) const TO_MAKE_DISTRIBUTION: u64 = 768;

/// MiB below which work that goes on is ended.
pub(crate) const TO_GO_ON: u64 = 1;

/// Fails unless so many MiB are free to this user where `path` is.
pub(crate) fn check(path: &Path, needed: u64) -> Result<(), StoreError> {
    let disk = rustix::fs::statvfs(path).map_err(|error| StoreError::io("look at", path)(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize) / MIB;
    if free >= needed { Ok(()) } else { Err(StoreError::NoRoom { path: path.to_owned(), free, needed }) }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn no_disk_has_room_for_everything() {
        let folder = tempfile::TempDir::new().expect("a folder");
        assert!(check(folder.path(), 0).is_ok());
        let error = check(folder.path(), u64::MAX).expect_err("no disk is that large").to_string();
        assert!(error.starts_with("there is no room to make the image: /"), "{error}");
        assert!(error.contains("18446744073709551615 MiB are needed"), "{error}");
    }
}
