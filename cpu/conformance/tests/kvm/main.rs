//! Every guest on the host's KVM: it must end as the manual says, and in the state in which it ends on the software engine.
//!
//! Where there is no KVM, or one that keeps no contract, this says `SKIPPED`. What a KVM does wrong is the host's, not motu's:
//! it is held against [`known`] on the one KVM that this was written on, and only printed on any other, unless
//! `MOTU_KVM_STRICT=1` asks for a failure. docs/engines.md says more.

mod known;

use known::{Fault, KNOWN};
use motu_conformance::bench::{Problem, Run};
use motu_conformance::{Failure, Guest};
use motu_engine::SoftHypervisor;
use motu_hv::{HvError, Hypervisor, Trouble};
use motu_kvm::KvmHypervisor;
use std::time::Duration;

/// Longer than what a guest takes that ends at all, on a busy host and instruction by instruction.
const PATIENCE: Duration = Duration::from_secs(60);
/// For those of which it is known that they do not end.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// The contract of most guests.
const CONTRACT: &str = "v2-2026";

/// What a guest came to.
enum Verdict {
    Agrees,
    Differs(String),
    /// KVM cannot execute an instruction of it.
    Stuck,
    /// The host cannot keep its contract, or the engine has not as many processors.
    NotTried,
}

fn judge(guest: &Guest, kvm: &KvmHypervisor, known: Option<Fault>) -> Verdict {
    let patience = if known == Some(Fault::Endless) { IMPATIENCE } else { PATIENCE };
    match motu_conformance::observe(guest, kvm, patience) {
        Err(Failure { problem: Problem::Engine(HvError::Stuck { trouble: Trouble::Instruction, .. }), .. }) => {
            Verdict::Stuck
        }
        Err(Failure { problem: Problem::Engine(HvError::Contract { .. } | HvError::TooManyVcpus { .. }), .. }) => {
            Verdict::NotTried
        }
        // Some guests say first which part of them it was.
        Err(failure) if failure.problem.to_string().contains(&Trouble::Instruction.to_string()) => Verdict::Stuck,
        Err(failure) => Verdict::Differs(failure.problem.to_string()),
        Ok(runs) => match motu_conformance::observe(guest, &SoftHypervisor::default(), PATIENCE) {
            Ok(expected) => compare(guest, &expected, &runs),
            Err(failure) => panic!("the software engine: {failure}"),
        },
    }
}

fn compare(guest: &Guest, expected: &[Run], found: &[Run]) -> Verdict {
    // Of several CPUs none knows how far the others are.
    if known::TELLS_TIME.contains(&guest.name) || found.iter().any(|run| run.cpus > 1) {
        return Verdict::Agrees;
    }
    if expected.len() != found.len() {
        return Verdict::Differs(format!("{} runs, and {} expected", found.len(), expected.len()));
    }
    let differences: Vec<String> = expected
        .iter()
        .zip(found)
        .flat_map(|(expected, found)| motu_conformance::differences(expected, found))
        .collect();
    if differences.is_empty() { Verdict::Agrees } else { Verdict::Differs(differences.join("; ")) }
}

/// What is wrong with a verdict about a guest of which `known` is known; `None` if nothing is.
fn complaint(name: &str, verdict: &Verdict, known: Option<Fault>) -> Option<String> {
    match (verdict, known) {
        (_, Some(Fault::Unsteady | Fault::Processor)) | (Verdict::Agrees | Verdict::NotTried, None) => None,
        (Verdict::Stuck, Some(Fault::Instruction)) => None,
        (Verdict::Differs(_), Some(fault)) if fault != Fault::Instruction => None,
        (Verdict::Agrees | Verdict::NotTried, Some(fault)) => {
            Some(format!("{name}: agrees, though it is said to differ ({})", fault.reason()))
        }
        (Verdict::Stuck, _) => Some(format!("{name}: {}", Trouble::Instruction)),
        (Verdict::Differs(what), _) => Some(format!("{name}: {what}")),
    }
}

/// This host's KVM, if guests can be tried on it.
fn kvm() -> Result<KvmHypervisor, String> {
    let kvm = motu_kvm::open().map_err(|error| error.to_string())?;
    let contract = motu_x86::contract::Contract::by_name(CONTRACT).ok_or("there is no such contract")?;
    if !kvm.capabilities().contracts.contains(&CONTRACT) {
        return Err(format!(
            "the host's KVM cannot keep {CONTRACT}: it lacks {}",
            kvm.differences(contract).join(", ")
        ));
    }
    Ok(kvm)
}

#[test]
fn every_guest_ends_on_kvm_as_on_the_software_engine() {
    let kvm = match kvm() {
        Ok(kvm) => kvm,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let wanted = std::env::var("GUEST").unwrap_or_default();
    let is_known = known::is_the_known_one(&kvm);
    let (mut agreed, mut complaints) = (0, Vec::new());
    for guest in motu_conformance::all().filter(|guest| guest.name.contains(&wanted)) {
        let known = KNOWN.iter().find(|(name, _)| is_known && *name == guest.name).map(|(_, fault)| *fault);
        let verdict = judge(guest, &kvm, known);
        agreed += usize::from(matches!(verdict, Verdict::Agrees));
        complaints.extend(complaint(guest.name, &verdict, known));
    }
    println!("{agreed} guests agree; backing: {:?}", kvm.backing());
    let strict = is_known || std::env::var("MOTU_KVM_STRICT").is_ok_and(|value| value == "1");
    if strict {
        assert!(
            complaints.is_empty(),
            "{} guests (what is KVM's doing goes into known.rs):\n{}",
            complaints.len(),
            complaints.join("\n")
        );
    }
    complaints.iter().for_each(|complaint| println!("DIFFERS: {complaint}"));
}

#[test]
fn the_table_names_guests_that_there_are() {
    let names: Vec<_> = motu_conformance::all().map(|guest| guest.name).collect();
    for name in KNOWN.iter().map(|(name, _)| name).chain(known::TELLS_TIME) {
        assert!(names.contains(name), "there is no guest {name:?}");
    }
    let mut listed: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), KNOWN.len(), "a guest is listed twice");
}

#[test]
fn a_change_in_either_direction_is_told() {
    let differs = || Verdict::Differs("x".into());
    assert_eq!(complaint("g", &Verdict::Agrees, None), None);
    assert_eq!(complaint("g", &Verdict::Stuck, Some(Fault::Instruction)), None);
    assert_eq!(complaint("g", &differs(), Some(Fault::Batches)), None);
    for (verdict, known) in [
        (Verdict::Agrees, Some(Fault::Batches)),
        (Verdict::Agrees, Some(Fault::Instruction)),
        (Verdict::Stuck, Some(Fault::Batches)),
        (differs(), Some(Fault::Instruction)),
        (differs(), None),
        (Verdict::Stuck, None),
    ] {
        assert!(complaint("g", &verdict, known).is_some());
    }
}
