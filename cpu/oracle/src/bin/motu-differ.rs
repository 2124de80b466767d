//! The software CPU against the host's: `cargo xtask fuzz cpu` and the crate's own test run this.

use std::process::ExitCode;

fn main() -> ExitCode {
    motu_oracle::run::main(std::env::args().skip(1)).unwrap_or_else(|error| {
        eprintln!("motu-differ: {error}");
        ExitCode::from(2)
    })
}
