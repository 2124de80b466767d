//! The report, in Markdown.

use super::boot::{Boot, Stats};
use super::guest::MEMORY_MIB;
use super::samples::Samples;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// What this version promises.
mod targets {
    /// Times QEMU's time from kernel to init, at most.
    pub const RATIO: f64 = 0.6;
    /// MiB of motu's own above the guest's RAM, at most.
    pub const OWN_MEMORY: f64 = 96.0;
    /// Percent of a core for an idle guest, less than.
    pub const IDLE: f64 = 2.0;
}

#[derive(Debug)]
pub struct Report {
    pub host: String,
    pub kernel: String,
    pub cmdline: String,
    /// motu's boot and QEMU's of each round.
    pub pairs: Vec<(Boot, Boot)>,
    /// An earlier motu's boot of each round, or none at all.
    pub befores: Vec<Boot>,
    /// Percent of a core, motu's and QEMU's.
    pub idle: Option<(f64, f64)>,
    /// How long the idle guests were watched.
    pub watch: Duration,
}

impl Report {
    fn over(&self, figure: impl Fn(&Boot, &Boot) -> f64) -> Samples {
        Samples::new(self.pairs.iter().map(|(motu, qemu)| figure(motu, qemu)))
    }

    fn before(&self, figure: impl Fn(&Boot, &Boot) -> f64) -> Samples {
        Samples::new(self.pairs.iter().zip(&self.befores).map(|((motu, _), before)| figure(motu, before)))
    }

    fn stats(&self, figure: impl Fn(&Stats) -> f64) -> Samples {
        Samples::new(self.pairs.iter().filter_map(|(motu, _)| motu.stats.as_ref().map(&figure)))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Host: {}.", self.host)?;
        writeln!(
            f,
            "Guest: {}, {MEMORY_MIB} MiB, 1 CPU, `{}`; QEMU: `-accel tcg -machine q35 -cpu max`.\n",
            self.kernel, self.cmdline
        )?;
        writeln!(f, "| kernel to init, {} rounds in turn | min | median | max |", self.pairs.len())?;
        writeln!(f, "| --- | ---: | ---: | ---: |")?;
        row(f, "motu, seconds", &self.over(|motu, _| motu.wall.as_secs_f64()), 2)?;
        row(f, "QEMU TCG, seconds", &self.over(|_, qemu| qemu.wall.as_secs_f64()), 2)?;
        row(f, "motu / QEMU TCG, pair by pair", &self.over(ratio), 2)?;
        row(f, "motu, seconds of CPU", &self.over(|motu, _| motu.cpu), 2)?;
        row(f, "QEMU TCG, seconds of CPU", &self.over(|_, qemu| qemu.cpu), 2)?;
        row(f, "motu / QEMU TCG, CPU, pair by pair", &self.over(|motu, qemu| motu.cpu / qemu.cpu), 2)?;
        row(f, "motu, to power-off, seconds", &self.over(|motu, _| motu.total.as_secs_f64()), 2)?;
        row(f, "QEMU TCG, to power-off, seconds", &self.over(|_, qemu| qemu.total.as_secs_f64()), 2)?;
        row(f, "motu's own memory, MiB", &self.stats(|stats| stats.own_memory), 1)?;
        if !self.befores.is_empty() {
            row(f, "motu before this version, seconds", &self.before(|_, before| before.wall.as_secs_f64()), 2)?;
            row(f, "motu / motu before, pair by pair", &self.before(ratio), 2)?;
            row(f, "motu / motu before, CPU, pair by pair", &self.before(|motu, before| motu.cpu / before.cpu), 2)?;
        }

        writeln!(f, "\n| figure | target | measured | |")?;
        writeln!(f, "| --- | ---: | ---: | --- |")?;
        let times = self.over(ratio).median();
        judged(f, "kernel to init, times QEMU TCG", ("≤", targets::RATIO), (times, 1), times <= targets::RATIO)?;
        let memory = self.stats(|stats| stats.own_memory).max();
        judged(f, "motu's own memory, MiB", ("≤", targets::OWN_MEMORY), (memory, 1), memory <= targets::OWN_MEMORY)?;
        if let Some((motu, qemu)) = self.idle {
            let name = format!("idle guest, percent of a core over {} s (QEMU: {qemu:.1})", self.watch.as_secs());
            judged(f, &name, ("<", targets::IDLE), (motu, 1), motu < targets::IDLE)?;
        }
        Ok(())
    }
}

fn ratio(motu: &Boot, qemu: &Boot) -> f64 {
    motu.wall.as_secs_f64() / qemu.wall.as_secs_f64()
}

/// A line of a table of samples.
pub fn row(f: &mut Formatter<'_>, name: &str, samples: &Samples, digits: usize) -> fmt::Result {
    writeln!(f, "| {name} | {:.digits$} | {:.digits$} | {:.digits$} |", samples.min(), samples.median(), samples.max())
}

/// A line of a table of targets; what was measured comes with how many digits of its fraction to show.
pub fn judged(
    f: &mut Formatter<'_>,
    name: &str,
    (sign, target): (&str, f64),
    (measured, digits): (f64, usize),
    kept: bool,
) -> fmt::Result {
    let verdict = if kept { "kept" } else { "**missed**" };
    writeln!(f, "| {name} | {sign} {target} | {measured:.digits$} | {verdict} |")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(seconds: f64, stats: Option<Stats>) -> Boot {
        let wall = Duration::from_secs_f64(seconds);
        Boot { wall, cpu: seconds, total: wall, stats }
    }

    fn report(motu: f64, idle: f64) -> String {
        let stats = Stats { own_memory: 20.0 };
        let pairs = vec![(boot(motu, Some(stats)), boot(1.0, None))];
        let (host, kernel, cmdline) = ("host".to_owned(), "kernel".to_owned(), "quiet".to_owned());
        let watch = Duration::from_secs(20);
        let befores = vec![boot(2.0 * motu, None)];
        Report { host, kernel, cmdline, pairs, befores, idle: Some((idle, 3.0)), watch }.to_string()
    }

    #[test]
    fn figures_are_judged_against_their_targets() {
        let kept = report(0.5, 0.5);
        assert!(kept.contains("| kernel to init, times QEMU TCG | ≤ 0.6 | 0.5 | kept |"), "{kept}");
        assert!(!kept.contains("missed"), "{kept}");
        assert!(kept.contains("| motu / motu before, pair by pair | 0.50 | 0.50 | 0.50 |"), "{kept}");
        let missed = report(8.5, 2.0);
        assert!(missed.contains("| kernel to init, times QEMU TCG | ≤ 0.6 | 8.5 | **missed** |"), "{missed}");
        assert!(missed.contains("(QEMU: 3.0) | < 2 | 2.0 | **missed** |"), "{missed}");
    }
}
