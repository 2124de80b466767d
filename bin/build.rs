//! Builds the agent for the guest and tells motu where it lies.
//!
//! The agent is another program for another machine: linked statically, optimised for size, with
//! none of the flags that motu itself is built with. So it is a build of its own.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "agent";
/// What this build's cargo sets for its own rustc: the agent's must not see it (clippy's wrapper
/// would check it instead of building it).
const NOT_INHERITED: [&str; 6] = [
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_INCREMENTAL",
];

fn main() {
    let root = var("CARGO_MANIFEST_DIR").parent().map(PathBuf::from).expect("the workspace is above bin/");
    let target_dir = var("OUT_DIR").join("agent");
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .current_dir(&root)
        .args(["build", "--quiet", "--locked", "--package", "motu-agent", "--profile", PROFILE, "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir);
    for name in NOT_INHERITED {
        cargo.env_remove(name);
    }
    // Separated by 0x1f; this one is preferred to RUSTFLAGS and to every configuration file.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static");
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "the agent for the guest does not build: {status}");

    let agent = target_dir.join(TARGET).join(PROFILE).join("motu-agent");
    println!("cargo::rustc-env=MOTU_AGENT={}", agent.display());
    for path in ["guest/agent", "guest/copy", "guest/proto", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
}

fn var(name: &str) -> PathBuf {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}")).into()
}
