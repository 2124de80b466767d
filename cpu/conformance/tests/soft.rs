//! Every guest on the software engine.

use motu_conformance::bench::Problem;
use motu_engine::{Options, SoftHypervisor, Translate};
use motu_hv::HvError;

fn run_all(options: Options) {
    // Lock-step is for one processor.
    let alone = options.translate == Translate::Lockstep;
    let engine = SoftHypervisor::new(options);
    let wanted = std::env::var("GUEST").unwrap_or_default();
    let failures: Vec<String> = motu_conformance::all()
        .filter(|guest| guest.name.contains(&wanted))
        .filter_map(|guest| motu_conformance::run(guest, &engine).err())
        .filter(|failure| !(alone && matches!(failure.problem, Problem::Engine(HvError::TooManyVcpus { .. }))))
        .map(|failure| failure.to_string())
        .collect();
    assert!(failures.is_empty(), "{} guests failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn every_guest_runs_as_the_manual_says() {
    run_all(Options::default());
}

#[test]
fn every_guest_runs_interpreted() {
    run_all(Options { translate: Translate::Off, ..Options::default() });
}

/// Every block translated before it first runs, and interrupts looked for every few jumps.
#[test]
fn every_guest_runs_translated_under_stress() {
    for seed in 1..=3 {
        run_all(Options { stress: Some(seed), ..Options::default() });
    }
}

#[test]
fn every_guest_runs_the_same_interpreted_and_translated() {
    run_all(Options { translate: Translate::Lockstep, stress: Some(1), ..Options::default() });
}

/// All flags are compared wherever translated code leaves.
#[test]
fn every_guest_runs_the_same_with_exact_flags() {
    run_all(Options { translate: Translate::Lockstep, exact_flags: true, stress: Some(1), ..Options::default() });
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = motu_conformance::all().map(|guest| guest.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
