//! `motu image build`: an image from a Motufile.

use super::made;
use crate::cli::BuildArgs;
use crate::engine;
use crate::images::{self, BuildOptions};
use crate::status::Status;
use anyhow::{Result, bail};
use motu_spec::VmSpec;
use std::path::PathBuf;

/// What the file is called if nobody says it.
const NAMES: [&str; 2] = ["Motufile", "Dockerfile"];

/// # Errors
/// The file cannot be understood, a step failed, or the host's trouble; there is no image then.
pub fn run(args: &BuildArgs) -> Result<Status> {
    let store = images::store()?;
    let spec = VmSpec { memory: args.memory, cpus: args.cpus, engine: args.engine.clone(), ..VmSpec::default() };
    let engine = engine::choose(&spec)?;
    crate::commands::machine::run::check(&spec, &engine)?;
    let file = file(args)?;
    let options = BuildOptions {
        file: &file,
        context: &args.context,
        names: &args.names,
        anew: args.no_cache,
        spec: &spec,
        engine: &engine,
    };
    made(&store, args.json, |watch| images::build(&store, &options, watch))
}

fn file(args: &BuildArgs) -> Result<PathBuf> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    let found = NAMES.iter().map(|name| args.context.join(name)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => bail!("there is no Motufile in {}; write one, or name it with --file", args.context.display()),
    }
}
