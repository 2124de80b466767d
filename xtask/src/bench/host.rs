//! The machine that the figures are from.

use anyhow::{Result, bail};
use std::fs;
use std::process::Command;

pub const QEMU: &str = "qemu-system-x86_64";

/// QEMU's version.
///
/// # Errors
/// QEMU is not installed.
pub fn qemu_version() -> Result<String> {
    match Command::new(QEMU).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let first = text.lines().next().unwrap_or_default();
            Ok(first.replace("QEMU emulator version", "QEMU").trim().to_owned())
        }
        Ok(output) => bail!("{QEMU} --version: {}", output.status),
        Err(error) => bail!("{QEMU}: {error}; it is what motu is compared with: apt-get install qemu-system-x86"),
    }
}

/// CPU, kernel, QEMU and load in one line.
pub fn description(qemu: &str) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = cpu_model(&read("/proc/cpuinfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg").split_whitespace().next().unwrap_or("?").to_owned();
    format!("{cpu}, {cores} cores, Linux {}, {qemu}; load {load} at the end", kernel.trim())
}

fn cpu_model(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| "unknown CPU".to_owned());
    match (field("cpu family"), field("model")) {
        (Some(family), Some(number)) => format!("{model} (family {family}, model {number})"),
        _ => model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_described_by_its_name_and_numbers() {
        let cpuinfo = "vendor_id\t: X\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: Fast CPU\n";
        assert_eq!(cpu_model(cpuinfo), "Fast CPU (family 26, model 2)");
        assert_eq!(cpu_model(""), "unknown CPU");
    }
}
