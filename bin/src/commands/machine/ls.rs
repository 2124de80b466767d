//! `motu ls`: what machines there are.

use super::kept;
use crate::cli::life::LsArgs;
use crate::images;
use crate::status::Status;
use anyhow::{Context, Result};
use motu_manager::{Machine, Phase, Record};
use motu_spec::DEFAULT_IMAGE;
use serde_json::json;
use std::io::Write;

/// Characters of a command that are shown.
const COMMAND: usize = 20;

/// # Errors
/// There is no place for machines, or it cannot be read.
pub fn run(args: &LsArgs) -> Result<Status> {
    let mut machines = kept::machines()?.all()?;
    machines.retain(|machine| args.all || machine.running);
    machines.reverse();
    let text = if args.json {
        let listed: Vec<_> = machines.iter().map(entry).collect();
        serde_json::to_string_pretty(&listed).context("writing JSON")? + "\n"
    } else if args.quiet {
        machines.iter().map(|machine| format!("{}\n", machine.id)).collect()
    } else {
        table(&machines)
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")?;
    Ok(Status::Success)
}

fn table(machines: &[Machine]) -> String {
    let heading = ["MACHINE ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"].map(str::to_owned).to_vec();
    columns(&std::iter::once(heading).chain(machines.iter().map(row)).collect::<Vec<_>>())
}

/// A table, its columns as wide as they need to be.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(row.len().max(widths.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn row(machine: &Machine) -> Vec<String> {
    // A damaged machine is listed, so that it can be removed.
    let (image, command) = match machine.record() {
        Ok(record) => (image(&record), command(&record)),
        Err(_) => ("-".into(), "-".into()),
    };
    let status = machine.phase().map_or_else(|_| "Damaged".to_owned(), status);
    vec![machine.id.clone(), image, command, images::ago(machine.created), status, machine.name.clone()]
}

fn image(record: &Record) -> String {
    record.spec.image_name().unwrap_or(DEFAULT_IMAGE).to_owned()
}

/// As Docker shows it: in quotation marks, and shortened.
fn command(record: &Record) -> String {
    let words = record.command.entrypoint.iter().chain(&record.command.argv);
    let text = words.map(String::as_str).collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return "-".to_owned();
    }
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(COMMAND).collect();
    if shown.chars().count() < text.chars().count() { format!("\"{shown}…\"") } else { format!("\"{shown}\"") }
}

/// Docker's words.
pub fn status(phase: Phase) -> String {
    match phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running(since) => {
            let ago = images::ago(since);
            format!("Up {}", ago.strip_suffix(" ago").unwrap_or(&ago))
        }
        Phase::Exited(status, at) => format!("Exited ({status}) {}", images::ago(at)),
        Phase::Killed => "Exited (137), killed".to_owned(),
    }
}

fn entry(machine: &Machine) -> serde_json::Value {
    let record = machine.record().ok();
    let phase = machine.phase().ok();
    json!({
        "id": machine.id,
        "name": machine.name,
        "image": record.as_ref().map(image),
        "command": record.map(|record| record.command.argv),
        "created": machine.created,
        "state": phase.map_or("damaged", Phase::word),
        "status": phase.map_or_else(|| "Damaged".to_owned(), status),
    })
}
