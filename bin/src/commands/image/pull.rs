//! `motu image pull` and `motu image import`: new images.

use super::made;
use crate::cli::MadeArgs;
use crate::images::{self, PullOptions};
use crate::status::Status;
use anyhow::Result;
use motu_store::Source;

/// # Errors
/// What is wrong with the source, or the host's trouble; the store is as it was then.
pub fn run(source: &Source, args: MadeArgs) -> Result<Status> {
    let store = images::store()?;
    let options = PullOptions {
        names: args.names,
        format: args.format,
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.append,
        include: args.include,
    };
    made(&store, args.json, |watch| images::pull(&store, source, &options, watch))
}
