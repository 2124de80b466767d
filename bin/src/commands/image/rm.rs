//! `motu image rm`: takes names away, and deletes images that have none left.

use crate::images;
use crate::status::Status;
use anyhow::Result;
use motu_store::Watch;

/// # Errors
/// There is no such image, it is in use, or the store cannot be written. Those named before are gone then.
pub fn run(images: &[String], force: bool) -> Result<Status> {
    let store = images::store()?;
    for image in images {
        let removed = store.remove(image, force, Watch::silent())?;
        for name in removed.untagged {
            println!("Untagged: {name}");
        }
        if let Some(digest) = removed.deleted {
            println!("Deleted: sha256:{digest}");
        }
    }
    Ok(Status::Success)
}
