//! The software CPU against the host's, instruction by instruction.
//!
//! `MOTU_DIFF_CASES` (5,000,000) says how many cases, `MOTU_DIFF_SEED` where they come from,
//! `MOTU_DIFF_FIRST` (0) the number of the first, `MOTU_DIFF_ONLY` (all) the mnemonics, separated by
//! commas. A mismatch is made again by its seed, its number and one case, with the same mnemonics.

use std::process::Command;

const DEFAULT_CASES: &str = "5000000";

#[test]
fn the_software_cpu_does_what_the_host_does() {
    let jobs = std::thread::available_parallelism().map_or(1, |jobs| jobs.get());
    let mut differ = Command::new(env!("CARGO_BIN_EXE_motu-differ"));
    differ.args(["--jobs", &jobs.to_string()]);
    let given = |name: &str| std::env::var(name).ok();
    differ.args(["--cases", given("MOTU_DIFF_CASES").as_deref().unwrap_or(DEFAULT_CASES)]);
    for (name, argument) in [("MOTU_DIFF_SEED", "--seed"), ("MOTU_DIFF_FIRST", "--first"), ("MOTU_DIFF_ONLY", "--only")]
    {
        if let Some(value) = given(name) {
            differ.args([argument, &value]);
        }
    }
    let output = differ.output().expect("the program was built with this test");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "the software CPU and the host differ, or cases could not be made");
}
