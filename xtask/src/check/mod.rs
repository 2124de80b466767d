//! What CI runs, step by step, each with its time.

mod house;
mod steps;
mod tally;

use anyhow::{Result, bail};
use std::time::Instant;
use steps::{Outcome, STEPS, Step};
use tally::Tally;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Steps to run [default: all of them]
    steps: Vec<String>,
    /// Print the steps and what each does
    #[arg(long)]
    list: bool,
}

/// Runs the steps. One that fails does not keep the later ones from running.
///
/// # Errors
/// A step failed, or there is none of that name.
pub fn run(args: &Args) -> Result<()> {
    if args.list {
        for step in STEPS {
            println!("{:<10}{}", step.name, step.about);
        }
        return Ok(());
    }
    let chosen = choose(&args.steps)?;
    let mut ended = Vec::new();
    let mut tally = Tally::default();
    for step in &chosen {
        println!("==> {}: {}", step.name, step.about);
        let start = Instant::now();
        let outcome = (step.run)(&mut tally).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        let seconds = start.elapsed().as_secs_f64();
        let line = format!("{outcome} ({}, {seconds:.1} s)", step.name);
        println!("{line}\n");
        ended.push((line, outcome));
    }
    println!("==> summary");
    for (line, _) in &ended {
        println!("{line}");
    }
    let failed = ended.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_))).count();
    if let Some(sum) = tally.sum() {
        println!("{sum}");
    }
    if failed != 0 {
        bail!("{failed} of {} steps failed", chosen.len());
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Step>> {
    if names.is_empty() {
        return Ok(STEPS.iter().collect());
    }
    names
        .iter()
        .map(|name| match STEPS.iter().find(|step| step.name == name) {
            Some(step) => Ok(step),
            None => {
                let known: Vec<_> = STEPS.iter().map(|step| step.name).collect();
                bail!("there is no step {name:?}; the steps are {}", known.join(", "))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_chosen_by_name_in_the_order_asked_for() {
        let names = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|name| (*name).to_owned()).collect();
            choose(&asked).map(|steps| steps.iter().map(|step| step.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), STEPS.len());
        assert_eq!(names(&["house", "fmt"]).unwrap(), ["house", "fmt"]);
        assert!(names(&["tset"]).unwrap_err().to_string().contains("test"));
    }
}
