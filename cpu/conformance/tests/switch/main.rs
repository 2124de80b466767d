//! Every guest on two engines that take turns: it must end as the manual says, and in the state in which it ends on one.

#[path = "../kvm/known.rs"]
mod known;
mod restless;
mod stepping;

use motu_conformance::bench::{End, Run};
use motu_conformance::{Failure, Guest};
use motu_engine::{Options, SoftHypervisor, Translate};
use motu_hv::Hypervisor;
use motu_rescue::Rescuing;
use motu_switch::{Pace, Switching, Trigger};
use restless::{Chance, Restless};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Guests that tell what the time is beside [`known::TELLS_TIME`]; they only have to end content.
const TELLS_TIME: &[&str] = &[
    "interrupts between iterations",
    "time-stamp counter",
    "TSD keeps the TSC from ring 3",
    "interrupts that a hot loop sends itself",
];

/// How the guest that keeps a checksum says so.
const TSC_WENT_BACK: End = End::Value(0xbac);

/// Guests that this very KVM cannot be asked for beside [`known::KNOWN`].
const BY_TURNS: &[(&str, known::Fault)] = &[
    // There is no time for as many instructions between two switches.
    ("masked APIC timer counts and is silent", known::Fault::Batches),
    // The TSC is the host's, whatever it is told, so that each CPU's is as of when it was read.
    ("time goes on from one processor to the next", known::Fault::Unsteady),
    // A KVM is not told of the initial count of a timer that has run out, as it would have it run out again.
    ("APIC timer, one-shot", known::Fault::Other),
];

/// Flags are compared wherever a fault pushes them.
fn exact() -> Options {
    Options { exact_flags: true, ..Options::default() }
}

/// Two software engines, and a switch behind each 1 to `most` instructions; behind twice as many after each `often` of them, and none after eight
/// times that.
fn soft_soft(most: u64, often: u64) -> Switching {
    let trigger = Trigger::default();
    let seed = Arc::new(AtomicU64::new(1));
    let engine = || {
        let (trigger, seed) = (trigger.clone(), Arc::clone(&seed));
        Box::new(Restless { engine: SoftHypervisor::new(exact()), trigger, seed, most, often }) as Box<dyn Hypervisor>
    };
    Switching::new("soft,soft", [engine(), engine()], Pace::On(trigger.clone()))
}

fn differences(guest: &Guest, engine: &dyn Hypervisor) -> Vec<String> {
    let found = match motu_conformance::observe(guest, engine, PATIENCE) {
        Ok(found) => found,
        Err(failure) => return vec![failure.to_string()],
    };
    let interpreter = SoftHypervisor::new(Options { translate: Translate::Off, ..Options::default() });
    let expected = motu_conformance::observe(guest, &interpreter, PATIENCE);
    let expected: Vec<Run> = expected.unwrap_or_else(|failure: Failure| panic!("without a switch: {failure}"));
    if expected.len() != found.len() {
        return vec![format!("{} runs, and {} expected", found.len(), expected.len())];
    }
    // Of several CPUs none knows how far the others are.
    if found.iter().any(|run| run.cpus > 1) {
        return Vec::new();
    }
    if TELLS_TIME.iter().chain(known::TELLS_TIME).any(|name| *name == guest.name) {
        return Vec::new();
    }
    expected.iter().zip(&found).flat_map(|(expected, found)| motu_conformance::differences(expected, found)).collect()
}

#[test]
fn every_guest_runs_the_same_while_it_switches() {
    let wanted = std::env::var("GUEST").unwrap_or_default();
    let engine = soft_soft(8, 16);
    let mut complaints = Vec::new();
    for guest in motu_conformance::all().filter(|guest| guest.name.contains(&wanted)) {
        let differences = differences(guest, &engine);
        if !differences.is_empty() {
            complaints.push(format!("{}: {}", guest.name, differences.join("; ")));
        }
    }
    assert!(complaints.is_empty(), "{} guests:\n{}", complaints.len(), complaints.join("\n"));
}

/// Those of the machines that `runs` are of.
fn switches(runs: &[Run]) -> u64 {
    let of = |run: &Run| run.stats.switches.map_or(0, |switches| switches.done);
    runs.iter().map(of).sum()
}

fn guest(name: &str) -> &'static Guest {
    motu_conformance::all().find(|guest| guest.name == name).expect("a guest of that name")
}

#[test]
fn a_checksum_over_everything_survives_a_thousand_switches() {
    let engine = soft_soft(64, u64::MAX);
    let guest = guest("checksum over every register and interrupts");
    let runs = motu_conformance::observe(guest, &engine, PATIENCE).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(switches(&runs) >= 1000, "{} switches", switches(&runs));
}

/// The contract of most guests.
const CONTRACT: &str = "v2-2026";

/// This host's KVM with a rescuer and the software engine, and a switch behind each microsecond to 300; or why not.
struct KvmSoft {
    engine: Switching,
    trigger: Trigger,
    is_known: bool,
}

impl KvmSoft {
    fn new() -> Result<Self, String> {
        let kvm = motu_kvm::open().map_err(|error| error.to_string())?;
        if !kvm.capabilities().contracts.contains(&CONTRACT) {
            return Err(format!("the host's KVM cannot keep {CONTRACT}"));
        }
        let is_known = known::is_the_known_one(&kvm);
        let trigger = Trigger::default();
        let interpreter = SoftHypervisor::new(Options { translate: Translate::Off, ..Options::default() });
        let first = Rescuing::new(Box::new(kvm), Box::new(interpreter));
        let engines: [Box<dyn Hypervisor>; 2] = [Box::new(first), Box::new(SoftHypervisor::new(exact()))];
        Ok(Self { engine: Switching::new("kvm,soft", engines, Pace::On(trigger.clone())), trigger, is_known })
    }

    /// Pulls while `act` runs.
    fn while_switching<T>(&self, act: impl FnOnce(&Switching) -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut chance = Chance::new(1);
                while !done.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_micros(chance.up_to(300)));
                    self.trigger.pull();
                }
            });
            let _done = Done(&done);
            act(&self.engine)
        })
    }
}

/// Ends who pulls, even if a test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn every_guest_runs_on_kvm_and_soft_by_turns() {
    let both = match KvmSoft::new() {
        Ok(both) => both,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let wanted = std::env::var("GUEST").unwrap_or_default();
    let fault_of = |guest: &Guest| {
        known::KNOWN.iter().chain(BY_TURNS).find(|(name, _)| *name == guest.name).map(|(_, fault)| *fault)
    };
    let is_left_out = |guest: &Guest| {
        let fault = fault_of(guest).filter(|_| both.is_known);
        fault.inspect(|fault| println!("left out: {}: {}", guest.name, fault.reason())).is_some()
    };
    let guests = motu_conformance::all().filter(|guest| guest.name.contains(&wanted) && !is_left_out(guest));
    let complaints: Vec<String> = both.while_switching(|engine| {
        guests
            .filter_map(|guest| motu_conformance::run(guest, engine).err())
            .map(|failure| failure.to_string())
            .collect()
    });
    if both.is_known || std::env::var("MOTU_KVM_STRICT").is_ok_and(|value| value == "1") {
        assert!(complaints.is_empty(), "{} guests:\n{}", complaints.len(), complaints.join("\n"));
    }
    complaints.iter().for_each(|complaint| println!("DIFFERS: {complaint}"));
}

#[test]
fn a_checksum_over_everything_survives_a_thousand_switches_to_kvm_and_back() {
    let both = match KvmSoft::new() {
        Ok(both) => both,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let guest = guest("checksum over every register and interrupts");
    let mut count = 0;
    both.while_switching(|engine| {
        while count < 1000 {
            count += match motu_conformance::observe(guest, engine, PATIENCE) {
                Ok(runs) => switches(&runs),
                // That KVM gives its guests the host's TSC whatever offset it is told.
                Err(Failure { last: Some(run), .. }) if both.is_known && run.end == TSC_WENT_BACK => switches(&[*run]),
                Err(failure) => panic!("{failure}"),
            };
        }
    });
}
