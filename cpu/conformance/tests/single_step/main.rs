//! Single-step suites: what real processors made of one instruction each.
//!
//! `MOTU_SINGLE_STEP=FOLDER` names a folder with files of such suites (`*.MOO`, `*.MOO.gz`), for example
//! those of github.com/SingleStepTests/80386, and is searched with all below it, its lists of bad cases
//! (`revocation_list.txt`) included. Without it one file of that suite is fetched if it can be reached.

mod data;
mod hand_made;

use data::Found;
use motu_conformance::moo::{Case, Runner, Suite, Verdict};
use motu_engine::SoftHypervisor;

/// Cases that are shown of those that differ, for each file.
const SHOWN: usize = 5;

#[test]
fn the_engine_does_what_real_processors_did() {
    let (files, revoked) = match data::find() {
        Found::Files { files, revoked } => (files, revoked),
        Found::Nothing(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    let mut runner = Runner::new(&SoftHypervisor::default()).expect("a machine of 16 MiB can be made");
    let mut differing = 0;
    for (name, bytes) in &files {
        let suite = Suite::parse(bytes).unwrap_or_else(|error| panic!("{name} is no MOO file: {error}"));
        let (mut same, mut unsuitable, mut shown) = (0, 0, Vec::new());
        let cases = suite.cases.iter().filter(|case| !revoked.contains(&case.hash));
        for case in cases {
            match run(&mut runner, &suite, case) {
                Verdict::Same => same += 1,
                Verdict::Unsuitable => unsuitable += 1,
                Verdict::Differs(how) => shown.push(format!("  {} {}: {how:x?}", case.index, case.name)),
            }
        }
        println!("{name}: {same} same, {} differ, {unsuitable} cannot be run", shown.len());
        shown.iter().take(SHOWN).for_each(|case| println!("{case}"));
        differing += shown.len();
    }
    assert_eq!(differing, 0, "cases differ; the first of each file are above");
}

fn run(runner: &mut Runner, suite: &Suite, case: &Case) -> Verdict {
    runner.run(suite, case).unwrap_or_else(|error| panic!("case {} {}: {error}", case.index, case.name))
}
