//! `motu image build`: an image from a Motufile.

use super::inspect::describe;
use crate::cli::BuildArgs;
use crate::engine;
use crate::images::{self, BuildOptions, Interrupt};
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
    let image = match Interrupt::run(|watch| images::build(&store, &options, watch))? {
        Ok(image) => image,
        Err(by) => return Ok(by),
    };
    if args.json {
        images::print_json(&describe(&store, &image)?)?;
    } else {
        println!("{} sha256:{}", image.name, image.digest);
    }
    Ok(Status::Success)
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
