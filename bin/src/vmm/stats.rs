//! What a machine did, as `--stats` shows it.

use crate::host;
use motu_machine::{BusCounters, Finished};
use rustix::time::{ClockId, clock_gettime};
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// Figures of one run.
#[derive(Debug)]
pub struct Stats {
    contract: &'static str,
    cpus: motu_hv::Stats,
    bus: BusCounters,
    wall: Duration,
    cpu_time: Duration,
    memory: Option<Memory>,
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    peak: u64,
    /// Guest RAM that the host has given pages for.
    guest: u64,
}

impl Stats {
    pub fn collect(finished: &Finished, contract: &'static str, wall: Duration) -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let cpu_time = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
        let memory = host::resident().map(|(peak, _)| Memory { peak, guest: guest_resident(finished) });
        Self { contract, cpus: sum(&finished.cpus), bus: finished.bus, wall, cpu_time, memory }
    }

    /// The table, for a machine that ran on `engine`.
    pub fn table<'a>(&'a self, engine: &'a str) -> impl Display + 'a {
        Table { stats: self, engine }
    }
}

fn sum(cpus: &[motu_hv::Stats]) -> motu_hv::Stats {
    cpus.iter().fold(motu_hv::Stats::default(), |a, b| motu_hv::Stats {
        instructions: a.instructions + b.instructions,
        tlb_misses: a.tlb_misses + b.tlb_misses,
        tlb_flushes: a.tlb_flushes + b.tlb_flushes,
        exceptions: a.exceptions + b.exceptions,
        interrupts: a.interrupts + b.interrupts,
        port_accesses: a.port_accesses + b.port_accesses,
        mmio_accesses: a.mmio_accesses + b.mmio_accesses,
        blocks_decoded: a.blocks_decoded + b.blocks_decoded,
        blocks_invalidated: a.blocks_invalidated + b.blocks_invalidated,
        halts: a.halts + b.halts,
    })
}

/// Bytes of guest RAM that the host holds in memory.
fn guest_resident(finished: &Finished) -> u64 {
    finished.ram.regions().map(|region| host::resident_in(region.host, region.len)).sum()
}

struct Table<'a> {
    stats: &'a Stats,
    engine: &'a str,
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Stats { contract, cpus, bus, wall, cpu_time, memory } = self.stats;
        let mut row = |name: &str, value: String| writeln!(f, "{name:<28}{value:>20}");
        row("engine", self.engine.to_owned())?;
        row("CPU contract", (*contract).to_owned())?;
        row("guest instructions", grouped(cpus.instructions))?;
        let mips = cpus.instructions as f64 / cpu_time.as_secs_f64().max(1e-9) / 1e6;
        row("MIPS (per CPU second)", format!("{mips:.1}"))?;
        row("TLB misses", grouped(cpus.tlb_misses))?;
        row("TLB flushes", grouped(cpus.tlb_flushes))?;
        row("exceptions", grouped(cpus.exceptions))?;
        row("interrupts", grouped(cpus.interrupts))?;
        row("halts", grouped(cpus.halts))?;
        row("blocks decoded", grouped(cpus.blocks_decoded))?;
        row("blocks invalidated", grouped(cpus.blocks_invalidated))?;
        row("port reads", grouped(bus.port_reads))?;
        row("port writes", grouped(bus.port_writes))?;
        row("MMIO reads", grouped(bus.mmio_reads))?;
        row("MMIO writes", grouped(bus.mmio_writes))?;
        row("wall time", format!("{:.3} s", wall.as_secs_f64()))?;
        row("CPU time", format!("{:.3} s", cpu_time.as_secs_f64()))?;
        if let Some(Memory { peak, guest }) = memory {
            row("peak memory", mib(*peak))?;
            row("  guest RAM in use", mib(*guest))?;
            row("  motu's own", mib(peak.saturating_sub(*guest)))?;
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or_default()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567_890), "1,234,567,890");
    }

    #[test]
    fn counters_of_all_cpus_are_added() {
        let cpu = motu_hv::Stats { instructions: 2, halts: 3, ..motu_hv::Stats::default() };
        let all = sum(&[cpu, cpu]);
        assert_eq!((all.instructions, all.halts, all.exceptions), (4, 6, 0));
    }
}
