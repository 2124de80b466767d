//! Which engine runs a machine on this host.

use anyhow::{Result, bail};
use motu_engine::SoftHypervisor;
use motu_hv::Hypervisor;
use motu_spec::{EngineChoice, SoftOptions, Translate};

/// An engine, and why it was chosen.
pub struct Engine {
    pub hypervisor: Box<dyn Hypervisor>,
    pub why: &'static str,
}

/// # Errors
/// This host, or this motu, has no such engine.
pub fn choose(choice: &EngineChoice) -> Result<Engine> {
    let (options, why) = match choice {
        EngineChoice::Auto(options) => (options, "auto: the only engine of this version"),
        EngineChoice::Soft(options) => (options, "as asked"),
        EngineChoice::Kvm => bail!("the kvm engine is not in this version of motu; use --engine soft, or auto"),
    };
    Ok(Engine { hypervisor: Box::new(SoftHypervisor::new(soft(options))), why })
}

fn soft(asked: &SoftOptions) -> motu_engine::Options {
    let translate = match asked.translate {
        Translate::Off => motu_engine::Translate::Off,
        Translate::On => motu_engine::Translate::On,
        Translate::Lockstep => motu_engine::Translate::Lockstep,
    };
    motu_engine::Options { translate, deny: asked.deny.clone(), stress: asked.stress }
}
