//! The steps.

use super::house;
use super::tally::Tally;
use crate::arch;
use crate::fuzz;
use crate::workspace::{self, Metadata};
use anyhow::{Context, Result};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// One step.
pub struct Step {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&mut Tally) -> Result<Outcome>,
}

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    Passed,
    /// It cannot run here; why.
    Skipped(String),
    Failed(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "ok"),
            Self::Skipped(why) => write!(f, "SKIPPED: {why}"),
            Self::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// In the order they are run: what is quick comes first. Clippy, the tests and motu itself are built
/// with the same profile (dev), so that what they share is compiled once.
pub const STEPS: &[Step] = &[
    Step { name: "fmt", about: "the code is formatted", run: fmt },
    Step { name: "arch", about: "the crates keep the layers' directions", run: |_| passed(arch::run()) },
    Step { name: "house", about: "house rules that no compiler checks", run: house },
    Step { name: "clippy", about: "no lint, in tests and benchmarks neither", run: clippy },
    Step { name: "build", about: "all targets build, benchmarks included", run: build },
    Step { name: "test", about: "unit, property, differential and whole-machine tests", run: test },
    Step { name: "fuzz", about: "every fuzz target for a few seconds", run: fuzz },
    Step { name: "doc", about: "the API's documentation has no broken link", run: doc },
];

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

fn fmt(_: &mut Tally) -> Result<Outcome> {
    if let Some(skipped) = lacks_component("fmt", "rustfmt") {
        return Ok(skipped);
    }
    succeed(workspace::cargo().args(["fmt", "--all", "--", "--check"]))
}

fn house(_: &mut Tally) -> Result<Outcome> {
    let breaches = house::breaches(workspace::root())?;
    for breach in &breaches {
        println!("{breach}");
    }
    Ok(if breaches.is_empty() { Outcome::Passed } else { Outcome::Failed(format!("{} breaches", breaches.len())) })
}

fn clippy(_: &mut Tally) -> Result<Outcome> {
    if let Some(skipped) = lacks_component("clippy", "clippy") {
        return Ok(skipped);
    }
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    succeed(workspace::cargo().args(arguments))
}

/// Everything, with the features that the tests are built with: the same units serve both.
fn build(_: &mut Tally) -> Result<Outcome> {
    succeed(workspace::cargo().args(["build", "--workspace", "--all-targets", "--locked"]))
}

/// Tests of whole machines take the motu that was just built.
fn test(tally: &mut Tally) -> Result<Outcome> {
    let built = build(tally)?;
    if !matches!(built, Outcome::Passed) {
        return Ok(built);
    }
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"]);
    cargo.env("MOTU_BIN", Metadata::read()?.target_directory.join("debug/motu"));
    let ended = show(&mut cargo, tally)?;
    if let (Outcome::Passed, ignored @ 1..) = (&ended, tally.ignored()) {
        return Ok(Outcome::Failed(format!("{ignored} tests are ignored")));
    }
    Ok(match ended {
        Outcome::Failed(_) if tally.failed() != 0 => Outcome::Failed(format!("{} tests", tally.failed())),
        other => other,
    })
}

/// After the tests, which replay what has been found already.
fn fuzz(_: &mut Tally) -> Result<Outcome> {
    let failed = fuzz::short()?;
    Ok(if failed == 0 { Outcome::Passed } else { Outcome::Failed(format!("{failed} targets")) })
}

fn doc(_: &mut Tally) -> Result<Outcome> {
    let mut cargo = workspace::cargo();
    cargo.args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items", "--quiet"]);
    succeed(cargo.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
}

/// Skips a step whose part of the toolchain is not installed.
fn lacks_component(subcommand: &str, component: &str) -> Option<Outcome> {
    let mut cargo = workspace::cargo();
    cargo.args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    let there = cargo.status().is_ok_and(|status| status.success());
    let why = format!("cargo {subcommand} is not installed (rustup component add {component})");
    (!there).then_some(Outcome::Skipped(why))
}

fn succeed(command: &mut Command) -> Result<Outcome> {
    let status = command.status().with_context(|| format!("running {}", said(command)))?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed(format!("{}: {status}", said(command))) })
}

/// Runs a command, counting and showing what it prints.
fn show(command: &mut Command, tally: &mut Tally) -> Result<Outcome> {
    let running = || format!("running {}", said(command));
    let doing = running();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| doing.clone())?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| doing.clone())?;
            let line = String::from_utf8_lossy(&line);
            if tally.line(&line) {
                println!("{line}");
            }
        }
    }
    let status = child.wait().context(doing)?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed(format!("{}: {status}", said(command))) })
}

/// A command as a person would type it.
fn said(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
