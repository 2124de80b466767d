//! Every guest on the software engine.

use motu_engine::SoftHypervisor;

#[test]
fn every_guest_runs_as_the_manual_says() {
    let engine = SoftHypervisor::default();
    let wanted = std::env::var("GUEST").unwrap_or_default();
    let failures: Vec<String> = motu_conformance::all()
        .filter(|guest| guest.name.contains(&wanted))
        .filter_map(|guest| motu_conformance::run(guest, &engine).err())
        .map(|failure| failure.to_string())
        .collect();
    assert!(failures.is_empty(), "{} guests failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = motu_conformance::all().map(|guest| guest.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
