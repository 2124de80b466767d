//! `motu image prune` and `motu system prune`: deletes what nothing needs.

use crate::cli::PruneArgs;
use crate::images;
use crate::status::Status;
use anyhow::Result;
use motu_store::{Prune, Watch};

/// `caches` are deleted by `motu system prune` only.
///
/// # Errors
/// The store cannot be written.
pub fn run(args: &PruneArgs, caches: bool) -> Result<Status> {
    let store = images::store()?;
    let what = Prune { unused: args.all, caches };
    let mut pruned = store.prune(what, Watch::silent())?;
    if caches {
        pruned.bytes += images::layer_cache(&store)?.prune()?;
    }
    if args.json {
        let gone = pruned.images.iter().map(|(digest, names)| serde_json::json!({ "id": digest, "names": names }));
        images::print_json(&serde_json::json!({ "images": gone.collect::<Vec<_>>(), "bytes": pruned.bytes }))?;
        return Ok(Status::Success);
    }
    for (digest, names) in &pruned.images {
        names.iter().for_each(|name| println!("Untagged: {name}"));
        println!("Deleted: sha256:{digest}");
    }
    println!("Space that came free: {}", images::human(pruned.bytes));
    Ok(Status::Success)
}
