//! One boot.

use super::guest::{Guest, Init};
use super::vmm::{PATIENCE, Running, Vmm};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

/// What one boot took.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// From the program's start to the guest's first user-space line.
    pub wall: Duration,
    /// Seconds of CPU until then.
    pub cpu: f64,
    /// From the program's start to its end.
    pub total: Duration,
    /// motu's own figures.
    pub stats: Option<Stats>,
}

/// What `motu run --stats` prints, as far as it is needed here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// Memory above the guest's RAM, in MiB.
    pub own_memory: f64,
}

pub fn run(vmm: &Vmm, guest: &Guest) -> Result<Boot> {
    let start = Instant::now();
    let running = Running::start(vmm, guest, Init::PowerOff)?;
    let (wall, cpu) = (running.wall, running.cpu);
    let ended = running.finish(PATIENCE)?;
    let total = start.elapsed();
    ensure!(ended.status.success(), "{} ended with {}:\n{}", vmm.name(), ended.status, ended.errors);
    let stats = Stats::of(vmm, &ended.errors)?;
    Ok(Boot { wall, cpu, total, stats })
}

impl Stats {
    /// What motu has printed; QEMU prints nothing of the kind.
    pub fn of(vmm: &Vmm, errors: &str) -> Result<Option<Stats>> {
        match vmm {
            Vmm::Motu { .. } => {
                let stats = Stats::parse(errors).with_context(|| format!("motu's figures are not in:\n{errors}"))?;
                Ok(Some(stats))
            }
            Vmm::Qemu => Ok(None),
        }
    }

    fn parse(text: &str) -> Option<Stats> {
        let row = |name: &str| {
            let value = text.lines().find_map(|line| line.trim().strip_prefix(name))?;
            value.split_whitespace().next()?.replace(',', "").parse().ok()
        };
        Some(Stats { own_memory: row("motu's own")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_as_motu_prints_them() {
        let text = "\
engine                                      soft
instructions interpreted              46,062,094
peak memory                            125.9 MiB
  motu's own                            25.8 MiB
";
        let expected = Stats { own_memory: 25.8 };
        assert_eq!(Stats::parse(text), Some(expected));
        assert_eq!(Stats::parse("engine soft"), None);
    }
}
