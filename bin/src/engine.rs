//! Which engine runs a machine on this host.

use anyhow::{Result, bail};
use motu_hv::Hypervisor;
use motu_spec::EngineChoice;

/// An engine, and why it was chosen.
pub struct Engine {
    pub hypervisor: Box<dyn Hypervisor>,
    pub why: &'static str,
}

/// # Errors
/// This host, or this motu, has no such engine.
pub fn choose(choice: EngineChoice) -> Result<Engine> {
    let why = match choice {
        EngineChoice::Auto => "auto: the only engine of this version",
        EngineChoice::Soft => "as asked",
        EngineChoice::Kvm => bail!("the kvm engine is not in this version of motu; use --engine soft, or auto"),
    };
    Ok(Engine { hypervisor: Box::new(motu_engine::SoftHypervisor::new()), why })
}
