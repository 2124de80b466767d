//! `motu kill`: switches machines off at once, or sends a signal to their command.

use super::kept;
use crate::status::Status;
use anyhow::{Result, bail};
use motu_manager::wire::Request;
use motu_manager::{Connection, ManagerError};

/// The signals that have names (signal(7), x86-64).
const SIGNALS: [(&str, u8); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// # Errors
/// The signal is none, or there is no place for machines. What is wrong with one machine is told, and the others are killed.
pub fn run(names: &[String], signal: Option<&str>) -> Result<Status> {
    let signal = signal.map(number).transpose()?;
    kept::each(names, |_, machine| match signal {
        Some(signo) => Ok(Connection::open(machine)?.ask(&Request::Signal { signo })?),
        None if kept::wait_for_end(machine, Some(&Request::Kill))? => Ok(()),
        None => Err(ManagerError::NotRunning(machine.name.clone()).into()),
    })
}

fn number(text: &str) -> Result<u8> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match named.or_else(|| text.parse().ok().filter(|number| (1..=64).contains(number))) {
        Some(number) => Ok(number),
        None => bail!("{text:?} is no signal; write a name such as HUP or USR1, or a number from 1 to 64"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [("HUP", 1), ("sigterm", 15), ("9", 9), ("64", 64)] {
            assert_eq!(number(text).unwrap(), expected);
        }
        for text in ["0", "65", "TREM", "", "-1"] {
            assert!(number(text).unwrap_err().to_string().contains("no signal"), "{text}");
        }
    }
}
