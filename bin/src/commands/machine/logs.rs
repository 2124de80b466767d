//! `motu logs`: what a machine's command wrote.

use super::kept;
use crate::cli::life::LogsArgs;
use crate::status::Status;
use anyhow::{Context, Result};
use motu_manager::{LogFollower, LogRecord, Machine, Tail, files};
use motu_proto::OutputStream;
use motu_store::Timestamp;
use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// How often a log is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// # Errors
/// There is no such machine, or what it wrote cannot be read.
pub fn run(args: &LogsArgs) -> Result<Status> {
    let machine = kept::find(&args.machine)?;
    let shown = if args.console { console(&machine) } else { output(args, &machine) };
    match shown {
        // Who reads has enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(Status::Success)
        }
        other => other.map(|()| Status::Success),
    }
}

fn console(machine: &Machine) -> Result<()> {
    let newest = machine.path.join(files::CONSOLE);
    for path in [newest.with_extension("log.1"), newest] {
        match File::open(&path) {
            Ok(mut file) => drop(io::copy(&mut file, &mut io::stdout())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
    Ok(())
}

fn output(args: &LogsArgs, machine: &Machine) -> Result<()> {
    let path = machine.path.join(files::OUTPUT);
    let reading = || format!("reading {}", path.display());
    let tail = args.tail.map_or(Tail::All, Tail::Lines);
    let mut log = LogFollower::open(&path, tail).with_context(reading)?;
    let machines = kept::machines()?;
    loop {
        // What is written before the machine has ended is read after it.
        let runs = args.follow && machines.find(&machine.id).is_ok_and(|machine| machine.running);
        while let Some(record) = log.next_record().with_context(reading)? {
            show(&record, args.timestamps)?;
        }
        if !runs {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn show(record: &LogRecord, timestamps: bool) -> io::Result<()> {
    let mut text = Vec::new();
    if timestamps {
        text.extend(format!("{} ", Timestamp::from_unix(record.time / 1000)).into_bytes());
    }
    text.extend(&record.data);
    let mut to: Box<dyn Write> = match record.stream {
        OutputStream::Stdout => Box::new(io::stdout()),
        OutputStream::Stderr => Box::new(io::stderr()),
    };
    to.write_all(&text)?;
    to.flush()
}
