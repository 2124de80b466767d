//! `motu stats`: what machines that run use.

use super::{inspect, kept, ls};
use crate::cli::life::StatsArgs;
use crate::images::human;
use crate::status::Status;
use anyhow::{Context, Result};
use motu_manager::{Machine, ManagerError};
use serde_json::{Value, json};
use std::io::Write;

/// # Errors
/// A machine that was named is not there or does not run.
pub fn run(args: &StatsArgs) -> Result<Status> {
    let machines = kept::machines()?;
    let running = match args.machines.as_slice() {
        [] => machines.all()?.into_iter().filter(|machine| machine.running).collect(),
        names => names.iter().map(|name| machines.find(name)).collect::<Result<Vec<_>, _>>()?,
    };
    if let Some(machine) = running.iter().find(|machine| !machine.running) {
        return Err(ManagerError::NotRunning(machine.name.clone()).into());
    }
    let used: Vec<Value> = running.iter().map(used).collect();
    let text = if args.json {
        serde_json::to_string_pretty(&used).context("writing JSON")? + "\n"
    } else {
        ls::columns(&table(&used))
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")?;
    Ok(Status::Success)
}

fn used(machine: &Machine) -> Value {
    let pid = machine.state().ok().flatten().map(|state| state.pid);
    let resident = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/statm")).ok());
    // Pages, of which the second number is those in memory (proc(5)).
    let resident = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).map(|pages| pages * 4096);
    // A guest that does not say how it is, is shown without.
    let guest = inspect::report(machine).unwrap_or(Value::Null);
    json!({ "id": machine.id, "name": machine.name, "pid": pid, "host_memory": resident, "guest": guest })
}

fn table(used: &[Value]) -> Vec<Vec<String>> {
    let heading = ["NAME", "LOAD", "MEM USAGE / LIMIT", "MEM OF HOST", "TASKS"].map(str::to_owned).to_vec();
    let rows = used.iter().map(|machine| {
        let guest = &machine["guest"];
        let total = guest["memory"]["total"].as_u64();
        let free = guest["memory"]["available"].as_u64().unwrap_or_default();
        let memory = total.map(|total| format!("{} / {}", human(total.saturating_sub(free)), human(total)));
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            machine["name"].as_str().unwrap_or_default().to_owned(),
            or_none(guest["load"][0].as_f64().map(|load| format!("{load:.2}"))),
            or_none(memory),
            or_none(machine["host_memory"].as_u64().map(human)),
            or_none(guest["processes"].as_f64().map(|count| format!("{count:.0}"))),
        ]
    });
    std::iter::once(heading).chain(rows).collect()
}
