//! Which engine runs a machine on this host.
//!
//! `auto` takes KVM where hardware is behind it, it keeps the machine's CPU contract and everything that was asked for can be
//! had of it; else the software engine, and says why.

mod notice;

use anyhow::{Result, bail};
use motu_engine::SoftHypervisor;
use motu_hv::Hypervisor;
use motu_kvm::{Backing, KvmHypervisor, OpenError};
use motu_rescue::Rescuing;
use motu_spec::{EngineChoice, Flags, SoftOptions, SpecError, TraceKind, Translate, Turn, VmSpec};
use motu_switch::{Pace, Switching};
use motu_x86::contract::Contract;
use std::time::Duration;

/// An engine, and why it was chosen.
pub struct Engine {
    pub hypervisor: Box<dyn Hypervisor>,
    pub why: String,
}

/// Chooses the engine of a machine, and tells the person what they should know of the choice.
///
/// # Errors
/// This host has no such engine, or it cannot do what was asked for.
pub fn choose(spec: &VmSpec) -> Result<Engine> {
    if let Some((engines, every)) = spec.turns()? {
        return turns(spec, engines, every.duration());
    }
    match &spec.engine {
        EngineChoice::Turns(_) => Err(SpecError::TurnsWithoutPeriod.into()),
        EngineChoice::Soft(options) => Ok(soft(options, "as asked".to_owned())),
        EngineChoice::Kvm => asked_for_kvm(spec),
        EngineChoice::Auto(options) => Ok(match usable_kvm(spec) {
            Ok(kvm) => on_kvm(kvm, "auto: KVM on the host's hardware".to_owned()),
            Err(why) => {
                notice::tell_once(&format!("using the soft engine: {why} ('motu doctor' says more)"));
                soft(options, format!("auto: {why}"))
            }
        }),
    }
}

/// The engine that `auto` takes for a machine without wishes, and why.
pub fn verdict() -> (&'static str, String) {
    match usable_kvm(&VmSpec::default()) {
        Ok(_) => ("kvm", "the host's hardware keeps a CPU contract".to_owned()),
        Err(why) => ("soft", why),
    }
}

/// KVM as `auto` wants it, or why not.
fn usable_kvm(spec: &VmSpec) -> Result<KvmHypervisor, String> {
    if let Some(what) = needs_soft(spec) {
        return Err(format!("{what} needs it"));
    }
    let kvm = motu_kvm::open().map_err(|error| error.to_string())?;
    if let Backing::Emulated(why) = kvm.backing() {
        return Err(format!("/dev/kvm has no hardware behind it: {why}"));
    }
    match refusal(&kvm, spec.cpu.as_deref()) {
        Some(why) => Err(why),
        None => Ok(kvm),
    }
}

fn asked_for_kvm(spec: &VmSpec) -> Result<Engine> {
    let (kvm, why) = any_kvm(spec)?;
    Ok(on_kvm(kvm, why))
}

/// KVM, with hardware or without, and the reason why it is taken.
fn any_kvm(spec: &VmSpec) -> Result<(KvmHypervisor, String)> {
    if let Some(what) = needs_soft(spec) {
        bail!("{what} is for the soft engine: leave it out, or use --engine soft");
    }
    let kvm = match motu_kvm::open() {
        Ok(kvm) => kvm,
        Err(error) => bail!("{error}: {}, or use --engine soft", remedy(&error)),
    };
    match kvm.backing() {
        Backing::Hardware => {
            if let Some(why) = refusal(&kvm, spec.cpu.as_deref()) {
                bail!("{why}; use --engine soft");
            }
            Ok((kvm, "as asked".to_owned()))
        }
        Backing::Emulated(why) => {
            tell!(
                "motu: warning: /dev/kvm has no hardware behind it ({why}): it is far slower than --engine soft and \
                 does not keep the CPU contract"
            );
            let why = format!("as asked, without hardware: {why}");
            Ok((kvm, why))
        }
    }
}

/// Two engines that take turns.
fn turns(spec: &VmSpec, engines: &[Turn; 2], every: Duration) -> Result<Engine> {
    let name = match engines {
        [Turn::Kvm, Turn::Kvm] => "kvm,kvm",
        [Turn::Kvm, Turn::Soft(_)] => "kvm,soft",
        [Turn::Soft(_), Turn::Kvm] => "soft,kvm",
        [Turn::Soft(_), Turn::Soft(_)] => "soft,soft",
    };
    let mut reason = "as asked".to_owned();
    // Once, so that a warning comes once.
    if engines.contains(&Turn::Kvm) {
        (_, reason) = any_kvm(spec)?;
    }
    let engine = |turn: &Turn| -> Result<Box<dyn Hypervisor>> {
        Ok(match turn {
            Turn::Kvm => on_kvm(motu_kvm::open()?, String::new()).hypervisor,
            Turn::Soft(options) => soft(options, String::new()).hypervisor,
        })
    };
    let [first, second] = engines;
    let hypervisor = Switching::new(name, [engine(first)?, engine(second)?], Pace::Every(every));
    Ok(Engine { hypervisor: Box::new(hypervisor), why: reason })
}

/// What of a machine only the software engine has.
fn needs_soft(spec: &VmSpec) -> Option<&'static str> {
    let traces = |kind| spec.traces.iter().any(|trace| trace.kind == kind);
    if traces(TraceKind::Exec) {
        Some("--trace exec")
    } else if traces(TraceKind::Int) {
        Some("--trace int")
    } else {
        None
    }
}

/// Why this KVM does not make machines of the contract that was asked for, or of any.
fn refusal(kvm: &KvmHypervisor, asked: Option<&str>) -> Option<String> {
    let kept = kvm.capabilities().contracts;
    let contract = match asked {
        // A name that nobody knows is the spec's to refuse.
        Some(name) => Contract::by_name(name).filter(|contract| !kept.contains(&contract.name()))?,
        None if kept.is_empty() => Contract::by_name("v2-2026")?,
        None => return None,
    };
    let lacking = kvm.differences(contract).join(", ");
    Some(format!("the host's KVM cannot keep the CPU contract {}: it lacks {lacking}", contract.name()))
}

/// What a person can do about it.
pub fn remedy(error: &OpenError) -> &'static str {
    match error {
        OpenError::Missing => {
            "load the module (modprobe kvm_intel or kvm_amd), or hand the device to the container (--device /dev/kvm)"
        }
        OpenError::Denied => "join its group (sudo usermod -aG kvm $USER, then log in again)",
        OpenError::Open(_) => "see the host's kernel log",
        OpenError::Version(_) | OpenError::Extensions(_) => "use a newer kernel",
    }
}

/// KVM, with the software engine's interpreter for instructions that it cannot emulate.
fn on_kvm(kvm: KvmHypervisor, why: String) -> Engine {
    let interpreter = motu_engine::Options { translate: motu_engine::Translate::Off, ..Default::default() };
    let hypervisor = Rescuing::new(Box::new(kvm), Box::new(SoftHypervisor::new(interpreter)));
    Engine { hypervisor: Box::new(hypervisor), why }
}

fn soft(asked: &SoftOptions, why: String) -> Engine {
    let translate = match asked.translate {
        Translate::Off => motu_engine::Translate::Off,
        Translate::On => motu_engine::Translate::On,
        Translate::Lockstep => motu_engine::Translate::Lockstep,
    };
    let exact_flags = asked.flags == Flags::Exact;
    let options = motu_engine::Options {
        translate,
        deny: asked.deny.clone(),
        exact_flags,
        stress: asked.stress,
        ..Default::default()
    };
    Engine { hypervisor: Box::new(SoftHypervisor::new(options)), why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_spec::{Profile, Trace};

    fn tracing(kind: TraceKind) -> VmSpec {
        VmSpec { traces: vec![Trace { kind, file: None }], ..VmSpec::default() }
    }

    #[test]
    fn what_only_the_software_engine_can_tell_is_asked_of_it() {
        assert_eq!(needs_soft(&VmSpec::default()), None);
        assert_eq!(needs_soft(&tracing(TraceKind::Io)), None, "accesses pass by any engine");
        let profiled = VmSpec { profile: Some(Profile { file: "x".into(), symbols: None }), ..VmSpec::default() };
        assert_eq!(needs_soft(&profiled), None, "any engine tells where its CPUs are");
        for spec in [tracing(TraceKind::Exec), tracing(TraceKind::Int)] {
            let engine = choose(&spec).unwrap();
            assert_eq!(engine.hypervisor.capabilities().name, "soft", "{}", engine.why);
            let error = choose(&VmSpec { engine: EngineChoice::Kvm, ..spec }).err().unwrap().to_string();
            assert!(error.contains("--engine soft"), "{error}");
        }
    }

    #[test]
    fn every_error_says_what_to_do() {
        for error in [OpenError::Missing, OpenError::Denied, OpenError::Version(11), OpenError::Extensions(vec![])] {
            assert!(!remedy(&error).is_empty());
        }
        assert!(remedy(&OpenError::Missing).contains("--device /dev/kvm"));
        assert!(remedy(&OpenError::Denied).contains("usermod"));
    }

    /// Whatever this host has, there is an engine for a machine without wishes.
    #[test]
    fn auto_always_finds_an_engine() {
        let engine = choose(&VmSpec::default()).unwrap();
        assert!(engine.why.starts_with("auto: "), "{}", engine.why);
        assert!(!engine.hypervisor.capabilities().contracts.is_empty());
    }
}
