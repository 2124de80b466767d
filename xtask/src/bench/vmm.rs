//! The two programs, started in the same way, and what the host's kernel says of their processes.

use super::guest::{Guest, Init, MARKER, MEMORY_MIB};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No boot takes as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// The kernel counts a process' time in hundredths of a second on x86 (USER_HZ; proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub enum Vmm {
    Motu(PathBuf),
    Qemu,
}

impl Vmm {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Motu(_) => "motu",
            Self::Qemu => "QEMU",
        }
    }

    /// Boots `guest`, its serial console on the program's standard output.
    pub fn command(&self, guest: &Guest, init: Init) -> Command {
        let cmdline = guest.cmdline(init);
        let mut command = match self {
            Self::Motu(program) => {
                let mut motu = Command::new(program);
                motu.args(["run", "--stats", "--engine", "soft", "--memory", &format!("{MEMORY_MIB}M")]);
                motu.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
                motu.args(["--append", &cmdline]);
                motu
            }
            Self::Qemu => {
                let mut qemu = Command::new(super::host::QEMU);
                qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1"]);
                qemu.args(["-m", &format!("{MEMORY_MIB}M"), "-nodefaults", "-no-user-config", "-no-reboot"]);
                qemu.args(["-display", "none", "-serial", "stdio"]);
                qemu.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
                qemu.args(["-append", &cmdline]);
                qemu
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A guest whose first user-space line has been seen. Its process is ended with this.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: &'static str,
    /// From the program's start to the line.
    pub wall: Duration,
    /// Seconds of CPU that its process had used by then.
    pub cpu: f64,
    ended: Receiver<()>,
    output: Option<JoinHandle<String>>,
    errors: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts the program and waits for the line.
    pub fn start(vmm: &Vmm, guest: &Guest, init: Init) -> Result<Running> {
        let start = Instant::now();
        let mut child = vmm.command(guest, init).spawn().with_context(|| format!("starting {}", vmm.name()))?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("{} has no standard output", vmm.name());
        };
        let (seen, line_seen) = mpsc::channel();
        let (at_end, ended) = mpsc::channel();
        let output = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(stdout).split(b'\n').map_while(std::io::Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if line.contains(MARKER) {
                    // Nobody listens any more if the line comes twice.
                    let _ = seen.send(Instant::now());
                }
                text.push_str(line.trim_end());
                text.push('\n');
            }
            drop(at_end);
            text
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            // What cannot be read is not there to be shown.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut running = Running {
            child,
            name: vmm.name(),
            wall: Duration::ZERO,
            cpu: 0.0,
            ended,
            output: Some(output),
            errors: Some(errors),
        };
        match line_seen.recv_timeout(PATIENCE) {
            Ok(at) => {
                running.wall = at - start;
                running.cpu = running.cpu_time()?;
                Ok(running)
            }
            Err(_) => {
                let (output, errors) = running.stop();
                bail!("{} does not reach user space; it said:\n{output}{errors}", vmm.name())
            }
        }
    }

    /// Seconds of CPU that the process, with all of its threads, has used (proc(5): stat, utime and stime).
    pub fn cpu_time(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        ticks(&text).map(|ticks| ticks as f64 / TICKS_PER_SECOND).with_context(|| format!("{path} has no times"))
    }

    /// Waits until the guest has switched itself off; the program's status and its standard error.
    pub fn finish(mut self) -> Result<(ExitStatus, String)> {
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let (output, errors) = self.stop();
            bail!("{} does not end; it said:\n{output}{errors}", self.name);
        }
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        let (_, errors) = self.stop();
        Ok((status, errors))
    }

    /// Ends the process if it still runs, and returns what it printed.
    fn stop(&mut self) -> (String, String) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let text =
            |thread: Option<JoinHandle<String>>| thread.and_then(|thread| thread.join().ok()).unwrap_or_default();
        (text(self.output.take()), text(self.errors.take()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// utime plus stime of a `stat` file: fields 14 and 15, of which the second may have spaces in it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 1234 66 0 0 20 0 3 0 100 1000 10";
        assert_eq!(ticks(stat), Some(1300));
        assert_eq!(ticks("42 (x) S 1"), None);
    }

    #[test]
    fn both_boot_the_same_files() {
        let guest =
            Guest { kernel: "/k".into(), kernel_name: String::new(), initrd: "/i".into(), cmdline: "quiet".to_owned() };
        for vmm in [Vmm::Motu("/motu".into()), Vmm::Qemu] {
            let command = vmm.command(&guest, Init::PowerOff);
            let arguments: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            for word in ["/k", "/i", "quiet rdinit=/bench/power-off", "512M"] {
                assert!(arguments.iter().any(|have| have == word), "{word} in {arguments:?}");
            }
        }
    }
}
