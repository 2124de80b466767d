//! What a machine did, as `--stats` shows it.

use crate::host;
use motu_hv::{ExitCounts, TranslatorStats};
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
    cpus.iter().copied().reduce(|a, b| a + b).unwrap_or_default()
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
        match (&cpus.hardware, &cpus.translator) {
            (Some(hardware), _) => {
                row("exits from guest code", grouped(hardware.exits))?;
                row("instructions rescued", grouped(hardware.rescues))?;
            }
            (None, None) => {
                row("guest instructions", grouped(cpus.instructions))?;
                let mips = cpus.instructions as f64 / cpu_time.as_secs_f64().max(1e-9) / 1e6;
                row("MIPS (per CPU second)", format!("{mips:.1}"))?;
            }
            (None, Some(translator)) => {
                row("instructions interpreted", grouped(cpus.instructions))?;
                translator_rows(translator, &mut row)?;
            }
        }
        if let Some(switches) = &cpus.switches {
            row("engine switches", grouped(switches.done))?;
            row("  refused by an engine", grouped(switches.refused))?;
            row("  mean time", millis(switches.time.0 / switches.done.max(1)))?;
            row("  99 of 100 within", millis(switches.most.0))?;
            row("  longest", millis(switches.longest.0))?;
        }
        if cpus.hardware.is_none() {
            row("TLB misses", grouped(cpus.tlb_misses))?;
            row("TLB flushes", grouped(cpus.tlb_flushes))?;
            row("exceptions", grouped(cpus.exceptions))?;
            row("interrupts", grouped(cpus.interrupts))?;
            row("halts", grouped(cpus.halts))?;
            row("blocks decoded", grouped(cpus.blocks_decoded))?;
            row("  taken from another CPU", grouped(cpus.blocks_shared))?;
            row("blocks invalidated", grouped(cpus.blocks_invalidated))?;
        }
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

/// What it translated, and why translated code came back. How many instructions ran translated is not known: counting
/// them would cost as much as they do.
fn translator_rows(translator: &TranslatorStats, row: &mut impl FnMut(&str, String) -> fmt::Result) -> fmt::Result {
    let TranslatorStats { blocks, shared, instructions, cache_bytes, invalidated, evictions, exits } = *translator;
    let ExitCounts { poll, lookup, interpret, refill_failed, link, fpu } = exits;
    row("blocks translated", grouped(blocks))?;
    row("  taken from another CPU", grouped(shared))?;
    row("  instructions in them", grouped(instructions))?;
    row("  invalidated (code written)", grouped(invalidated))?;
    row("  evicted (cache full)", grouped(evictions))?;
    row("code cache", mib(cache_bytes))?;
    row("exits to poll", grouped(poll))?;
    row("exits to look up a target", grouped(lookup))?;
    row("exits to link a branch", grouped(link))?;
    row("exits to interpret", grouped(interpret))?;
    row("exits on memory", grouped(refill_failed))?;
    row("exits to load FPU state", grouped(fpu))
}

fn millis(nanos: u64) -> String {
    format!("{:.3} ms", nanos as f64 / 1e6)
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
    use motu_hv::HardwareStats;

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
        assert_eq!((all.translator, sum(&[])), (None, motu_hv::Stats::default()));
        let exits = ExitCounts { poll: 5, ..ExitCounts::default() };
        let translator = Some(TranslatorStats { blocks: 2, exits, ..TranslatorStats::default() });
        let all = sum(&[cpu, motu_hv::Stats { translator, ..cpu }, motu_hv::Stats { translator, ..cpu }]);
        let added = all.translator.unwrap();
        assert_eq!((all.halts, added.blocks, added.exits.poll, added.exits.link), (9, 4, 10, 0));
    }

    fn shown(translator: Option<TranslatorStats>) -> String {
        table(motu_hv::Stats { instructions: 3_000_000, translator, ..motu_hv::Stats::default() })
    }

    fn table(cpus: motu_hv::Stats) -> String {
        let second = Duration::from_secs(1);
        let bus = BusCounters::default();
        let stats = Stats { contract: "v3-2026", cpus, bus, wall: second, cpu_time: second, memory: None };
        stats.table("soft").to_string()
    }

    #[test]
    fn a_speed_is_claimed_only_where_every_instruction_is_counted() {
        let interpreted = shown(None);
        assert!(interpreted.contains("guest instructions                     3,000,000\n"), "{interpreted}");
        assert!(interpreted.contains("MIPS (per CPU second)                        3.0\n"), "{interpreted}");
        assert!(!interpreted.contains("exits"), "{interpreted}");
        let exits = ExitCounts { interpret: 1234, ..ExitCounts::default() };
        let translated = shown(Some(TranslatorStats { cache_bytes: 3 << 19, exits, ..TranslatorStats::default() }));
        assert!(translated.contains("instructions interpreted               3,000,000\n"), "{translated}");
        assert!(translated.contains("exits to interpret                         1,234\n"), "{translated}");
        assert!(translated.contains("code cache                               1.5 MiB\n"), "{translated}");
        assert!(!translated.contains("MIPS") && !translated.contains("guest instructions"), "{translated}");
    }

    #[test]
    fn what_the_hosts_cpu_does_not_count_is_not_shown() {
        let hardware = Some(HardwareStats { exits: 4321, rescues: 7 });
        let shown = table(motu_hv::Stats { hardware, ..motu_hv::Stats::default() });
        assert!(shown.contains("exits from guest code                      4,321\n"), "{shown}");
        assert!(shown.contains("instructions rescued                           7\n"), "{shown}");
        assert!(!shown.contains("TLB") && !shown.contains("guest instructions"), "{shown}");
    }
}
