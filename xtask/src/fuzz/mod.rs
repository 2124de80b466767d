//! Hostile input: the targets of `fuzz/`, guided by coverage where a C++ compiler is to be had. And random
//! instructions for the software CPU, judged by the host's.

mod cpu;
mod driver;
mod targets;

pub use targets::short;

use anyhow::Result;

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    targets: targets::Args,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The software CPU against the host's, instruction by instruction
    Cpu(cpu::Args),
}

/// # Errors
/// What was asked for cannot be built or run, or something was found.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        Some(What::Cpu(args)) => cpu::run(args),
        None => targets::run(&args.targets),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches};

    #[test]
    fn targets_and_the_cpu_share_a_command_line() {
        let parse = |words: &[&str]| {
            let command = super::Args::augment_args(Command::new("fuzz"));
            super::Args::from_arg_matches(&command.try_get_matches_from(words)?)
        };
        assert!(parse(&["fuzz", "cpu", "--cases", "10", "--seed", "1"]).unwrap().what.is_some());
        assert!(parse(&["fuzz", "uart", "--time", "1s"]).unwrap().what.is_none());
        assert!(parse(&["fuzz"]).is_err() && parse(&["fuzz", "cpu", "--cases", "0"]).is_err());
    }
}
