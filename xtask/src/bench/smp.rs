//! `cargo xtask bench smp`: the same boot with one CPU and with several, in turn, in motu and in QEMU's software mode.

use super::boot::{self, Boot};
use super::guest::{self, Guest, Image, MEMORY_MIB};
use super::report::{judged, row};
use super::samples::Samples;
use super::vmm::Vmm;
use super::{document, find, host};
use anyhow::{Context, Result};
use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

/// Times the boot with one CPU, at most.
const TARGET: f64 = 1.3;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// CPUs of the guest that has several
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=64))]
    cpus: u32,
    /// Boots of each, in turn
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Use this motu instead of building one
    #[arg(long, value_name = "FILE")]
    motu: Option<PathBuf>,
    /// Put the report into docs/performance.md too
    #[arg(long)]
    write: bool,
}

/// # Errors
/// QEMU is not installed, motu does not build, or a guest does not boot.
pub fn run(args: &Args) -> Result<()> {
    let qemu = host::qemu_version()?;
    let motu = find(args.motu.as_deref())?;
    let folder = tempfile::tempdir().context("making a folder for the initial RAM disk")?;
    let mut guest = Image::tiny(&motu)?.guest(folder.path().join("initrd"), &guest::boot_inits(0)?)?;
    let vmms = [Vmm::motu(motu), Vmm::Qemu];
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let mut pair = |vmm| pair(vmm, &mut guest, args.cpus, round % 2 == 0);
        let [motu, qemu] = [pair(&vmms[0])?, pair(&vmms[1])?];
        eprintln!(
            "round {} of {}: motu {:.2} times, QEMU {:.2} times",
            round + 1,
            args.rounds,
            motu.times(),
            qemu.times()
        );
        rounds.push([motu, qemu]);
    }
    let report = Report {
        host: host::description(&qemu),
        kernel: guest.kernel_name,
        cmdline: guest.cmdline,
        cpus: args.cpus,
        rounds,
    };
    println!("{report}");
    if args.write {
        document::write("smp", &report.to_string())?;
    }
    Ok(())
}

/// The boot with one CPU, and with several.
#[derive(Debug)]
struct Pair {
    one: Boot,
    many: Boot,
}

impl Pair {
    fn times(&self) -> f64 {
        self.many.wall.as_secs_f64() / self.one.wall.as_secs_f64()
    }
}

fn pair(vmm: &Vmm, guest: &mut Guest, cpus: u32, one_first: bool) -> Result<Pair> {
    let mut boot = |cpus| {
        guest.cpus = cpus;
        boot::run(vmm, guest)
    };
    if one_first {
        let one = boot(1)?;
        return Ok(Pair { one, many: boot(cpus)? });
    }
    let many = boot(cpus)?;
    Ok(Pair { one: boot(1)?, many })
}

#[derive(Debug)]
struct Report {
    host: String,
    kernel: String,
    cmdline: String,
    cpus: u32,
    /// motu's and QEMU's.
    rounds: Vec<[Pair; 2]>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let cpus = self.cpus;
        writeln!(f, "Host: {}.", self.host)?;
        writeln!(
            f,
            "Guest: {}, {MEMORY_MIB} MiB, `{}`; QEMU: `-accel tcg -machine q35 -cpu max -smp N`.\n",
            self.kernel, self.cmdline
        )?;
        writeln!(f, "| kernel to init, {} rounds in turn | min | median | max |", self.rounds.len())?;
        writeln!(f, "| --- | ---: | ---: | ---: |")?;
        for (which, name) in ["motu", "QEMU TCG"].into_iter().enumerate() {
            let over =
                |figure: &dyn Fn(&Pair) -> f64| Samples::new(self.rounds.iter().map(|round| figure(&round[which])));
            row(f, &format!("{name}, 1 CPU, seconds"), &over(&|pair| pair.one.wall.as_secs_f64()), 2)?;
            row(f, &format!("{name}, {cpus} CPUs, seconds"), &over(&|pair| pair.many.wall.as_secs_f64()), 2)?;
            row(f, &format!("{name}, {cpus} CPUs / 1 CPU, pair by pair"), &over(&Pair::times), 2)?;
            row(f, &format!("{name}, the same of seconds of CPU"), &over(&|pair| pair.many.cpu / pair.one.cpu), 2)?;
        }
        let times = Samples::new(self.rounds.iter().map(|[motu, _]| motu.times())).median();
        writeln!(f, "\n| figure | target | measured | |")?;
        writeln!(f, "| --- | ---: | ---: | --- |")?;
        judged(
            f,
            &format!("kernel to init with {cpus} CPUs, times that with 1"),
            ("≤", TARGET),
            (times, 2),
            times <= TARGET,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_middle_pair_is_judged() {
        let boot = |seconds: f64| {
            let wall = Duration::from_secs_f64(seconds);
            Boot { wall, cpu: seconds, total: wall, stats: None }
        };
        let round = |times: f64| [Pair { one: boot(1.0), many: boot(times) }, Pair { one: boot(2.0), many: boot(5.0) }];
        let report = |times: [f64; 3]| {
            let (host, kernel, cmdline) = ("host".to_owned(), "kernel".to_owned(), "quiet".to_owned());
            Report { host, kernel, cmdline, cpus: 4, rounds: times.map(round).into() }.to_string()
        };
        let kept = report([1.2, 1.9, 1.25]);
        assert!(kept.contains("| kernel to init with 4 CPUs, times that with 1 | ≤ 1.3 | 1.25 | kept |"), "{kept}");
        assert!(kept.contains("| QEMU TCG, 4 CPUs / 1 CPU, pair by pair | 2.50 | 2.50 | 2.50 |"), "{kept}");
        assert!(report([1.2, 1.9, 1.4]).contains("| 1.40 | **missed** |"));
    }
}
