//! The software CPU against the host's, instruction by instruction.
//!
//! `MOTU_DIFF_CASES` (1,000,000) says how many cases, `MOTU_DIFF_SEED` where they come from,
//! `MOTU_DIFF_FIRST` (0) the number of the first, `MOTU_DIFF_ONLY` (all) the mnemonics, separated by
//! commas. A mismatch is made again by its seed, its number and one case, with the same mnemonics.

use motu_oracle::Soft;
use motu_oracle::cases::{Case, Generator, Skip};
use motu_oracle::compare;
use motu_oracle::native::Oracle;
use std::time::Instant;

const DEFAULT_CASES: u64 = 1_000_000;
const DEFAULT_SEED: u64 = 20_260_101;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// The host and the software CPU; the reason where the host cannot judge.
fn cpus() -> Option<(Oracle, Soft)> {
    match Oracle::new() {
        Ok(host) => Some((host, Soft::new().expect("the software CPU needs only memory"))),
        Err(error) => {
            println!("SKIPPED: {error}");
            None
        }
    }
}

/// Compares `cases` cases that `make` takes from a generator.
fn compare(cases: u64, make: impl Fn(&mut Generator, u64) -> Option<Case>) {
    let Some((mut host, mut soft)) = cpus() else { return };
    let seed = number("MOTU_DIFF_SEED", DEFAULT_SEED);
    let first = number("MOTU_DIFF_FIRST", 0);
    let mut generator = Generator::new(seed);
    for (reason, forms) in generator.skipped() {
        let marker = if matches!(reason, Skip::HostLacks(_)) { "SKIPPED" } else { "not compared" };
        println!("{marker}: {} forms: {reason}", forms.len());
    }
    if let Ok(only) = std::env::var("MOTU_DIFF_ONLY") {
        let wanted: Vec<_> = only.split(',').collect();
        generator.retain(|code| wanted.iter().any(|name| name.eq_ignore_ascii_case(&format!("{:?}", code.mnemonic()))));
    }
    println!("seed {seed}, {cases} cases from number {first} over {} forms", generator.forms().len());
    let start = Instant::now();
    let made = (first..first + cases).map(|number| make(&mut generator, number));
    let report = compare::run(made, &mut host, &mut soft);
    println!("{report}\nin {:.1} s", start.elapsed().as_secs_f64());
    assert_eq!(report.mismatches, 0, "the software CPU and the host differ");
    assert!(report.not_made <= cases / 1000, "{} cases could not be made", report.not_made);
}

#[test]
fn instructions_do_what_the_host_does() {
    compare(number("MOTU_DIFF_CASES", DEFAULT_CASES), Generator::case);
}

/// A tenth as many cases: most raise #UD, which costs the host a signal.
#[test]
fn bytes_decode_as_the_host_decodes_them() {
    compare(number("MOTU_DIFF_CASES", DEFAULT_CASES) / 10, Generator::decoding_case);
}
