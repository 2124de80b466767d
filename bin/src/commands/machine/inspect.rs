//! `motu inspect`: all that is known of machines, as JSON.

use super::kept;
use crate::agent::{Event, Remote};
use crate::error::Shown;
use crate::status::Status;
use anyhow::{Context, Result};
use motu_manager::wire::Request;
use motu_manager::{Connection, Machine, Phase};
use motu_proto::{Exec, OutputStream, builtin};
use serde_json::{Value, json};
use std::io::Write;

/// Bytes of a guest's report about itself at most.
const LONGEST: usize = 256 << 10;

/// # Errors
/// There is no place for machines, or it cannot be read. What is wrong with one machine is told, and the others are shown.
pub fn run(names: &[String]) -> Result<Status> {
    let machines = kept::machines()?;
    let (mut status, mut shown) = (Status::Success, Vec::new());
    for name in names {
        match machines.find(name).map_err(Into::into).and_then(|machine| inspect(&machine)) {
            Ok(machine) => shown.push(machine),
            Err(error) => {
                tell!("motu: {}", Shown(&error));
                status = Status::Failed;
            }
        }
    }
    let text = serde_json::to_string_pretty(&shown).context("writing JSON")?;
    std::io::stdout().write_all(format!("{text}\n").as_bytes()).context("writing to stdout")?;
    Ok(status)
}

fn inspect(machine: &Machine) -> Result<Value> {
    let record = machine.record()?;
    let phase = machine.phase()?;
    let state = machine.state()?;
    let running = matches!(phase, Phase::Running(_));
    // A guest that does not say how it is, is shown without.
    let guest = if running { report(machine).unwrap_or(Value::Null) } else { Value::Null };
    Ok(json!({
        "id": machine.id,
        "name": machine.name,
        "created": machine.created,
        "image": { "name": record.spec.image_name(), "digest": machine.image },
        "path": machine.path,
        "state": {
            "status": phase.word(),
            "pid": state.as_ref().filter(|_| running).map(|state| state.pid),
            "started": state.as_ref().map(|state| state.started),
            "ended": state.as_ref().filter(|_| !running).and_then(|state| state.ended),
            "exit_status": (!running && phase != Phase::Created).then(|| phase.status()),
            "error": state.filter(|_| !running).and_then(|state| state.error),
        },
        "spec": record.spec,
        "command": record.command,
        "guest": guest,
    }))
}

/// What the guest says of itself: load, memory, mounts, addresses. It may say anything.
pub fn report(machine: &Machine) -> Result<Value> {
    let exec = Exec { argv: vec![builtin::REPORT.to_vec()], builtin: true, ..Exec::default() };
    let (speaker, says) = Connection::open(machine)?.command(&Request::Exec, Some(exec))?;
    let (_remote, events) = Remote::start(speaker, says).context("starting the thread for the machine")?;
    let mut text = Vec::new();
    for event in events {
        if let Event::Output(OutputStream::Stdout, data) = event {
            let room = LONGEST.saturating_sub(text.len());
            text.extend(data.iter().take(room));
        }
    }
    serde_json::from_slice(&text).context("reading what the guest says of itself")
}
