//! `motu system df`: what takes how much of the disk.

use crate::images::{self, human};
use crate::status::Status;
use anyhow::Result;
use motu_store::{Usage, Watch};

/// # Errors
/// The store cannot be read.
pub fn run(json: bool) -> Result<Status> {
    let store = images::store()?;
    let mut usage = store.usage(Watch::silent())?;
    let (count, bytes) = images::layer_cache(&store)?.usage()?;
    usage.cache.count += count;
    usage.cache.bytes += bytes;
    usage.cache.reclaimable += bytes;
    let kinds = [("Images", usage.images), ("Machines", usage.machines), ("Cache", usage.cache), ("Work", usage.work)];
    if json {
        let kinds = kinds.iter().map(|(kind, usage)| (kind.to_lowercase(), shown(usage)));
        images::print_json(&kinds.collect::<serde_json::Map<_, _>>())?;
        return Ok(Status::Success);
    }
    println!("{:<10} {:>6} {:>6} {:>12}   RECLAIMABLE", "TYPE", "TOTAL", "ACTIVE", "SIZE");
    for (kind, usage) in kinds {
        let (size, reclaimable) = (human(usage.bytes), human(usage.reclaimable));
        println!("{kind:<10} {:>6} {:>6} {size:>12}   {reclaimable}", usage.count, usage.active);
    }
    Ok(Status::Success)
}

fn shown(usage: &Usage) -> serde_json::Value {
    serde_json::json!({
        "count": usage.count, "active": usage.active, "bytes": usage.bytes, "reclaimable": usage.reclaimable,
    })
}
