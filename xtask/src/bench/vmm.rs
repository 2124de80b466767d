//! The two programs, started in the same way, and what the host's kernel says of their processes.

use super::guest::{Guest, Init, MARKER, MEMORY_MIB};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No boot takes as long.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The kernel counts a process' time in hundredths of a second on x86 (USER_HZ; proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub enum Vmm {
    Motu {
        program: PathBuf,
        /// What follows `soft,` in its `--engine`.
        engine_options: String,
    },
    Qemu,
}

impl Vmm {
    /// motu with its engine as it comes.
    pub fn motu(program: PathBuf) -> Vmm {
        Vmm::Motu { program, engine_options: String::new() }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Motu { .. } => "motu",
            Self::Qemu => "QEMU",
        }
    }

    /// Boots `guest`, its serial console on the program's standard output.
    pub fn command(&self, guest: &Guest, init: Init) -> Command {
        let (cmdline, cpus) = (guest.cmdline(init), guest.cpus.to_string());
        let mut command = match self {
            Self::Motu { program, engine_options } => {
                let engine = match engine_options.as_str() {
                    "" => "soft".to_owned(),
                    options => format!("soft,{options}"),
                };
                let mut motu = Command::new(program);
                motu.args(["run", "--stats", "--engine", &engine, "--memory", &format!("{MEMORY_MIB}M")]);
                motu.args(["--cpus", &cpus]);
                motu.arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(&guest.initrd);
                motu.args(["--append", &cmdline]);
                if let Some(disk) = &guest.disk {
                    let mut path = OsString::from("format=raw,path=");
                    path.push(disk);
                    motu.arg("--disk").arg(path);
                }
                motu
            }
            Self::Qemu => {
                let mut qemu = Command::new(super::host::QEMU);
                qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", &cpus]);
                qemu.args(["-m", &format!("{MEMORY_MIB}M"), "-nodefaults", "-no-user-config", "-no-reboot"]);
                qemu.args(["-display", "none", "-serial", "stdio"]);
                qemu.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.initrd);
                qemu.args(["-append", &cmdline]);
                if let Some(disk) = &guest.disk {
                    let mut drive = OsString::from("if=none,id=disk,format=raw,discard=unmap,file=");
                    drive.push(disk);
                    qemu.arg("-drive").arg(drive).args(["-device", "virtio-blk-pci,drive=disk"]);
                }
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
    output: Option<JoinHandle<Vec<Line>>>,
    errors: Option<JoinHandle<String>>,
}

/// A line of the guest's console.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it came.
    pub at: Instant,
    pub text: String,
}

/// What a program has left that ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: Vec<Line>,
    pub errors: String,
}

impl Ended {
    /// The output's text.
    pub fn text(&self) -> String {
        text_of(&self.output)
    }
}

fn text_of(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
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
            let mut lines = Vec::new();
            for line in BufReader::new(stdout).split(b'\n').map_while(std::io::Result::ok) {
                let (at, line) = (Instant::now(), String::from_utf8_lossy(&line));
                if line.contains(MARKER) {
                    // Nobody listens any more if the line comes twice.
                    let _ = seen.send(at);
                }
                lines.push(Line { at, text: line.trim_end().to_owned() });
            }
            drop(at_end);
            lines
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
                bail!("{} does not reach user space; it said:\n{}{errors}", vmm.name(), text_of(&output))
            }
        }
    }

    /// Seconds of CPU that the process, with all of its threads, has used (proc(5): stat, utime and stime).
    pub fn cpu_time(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        ticks(&text).map(|ticks| ticks as f64 / TICKS_PER_SECOND).with_context(|| format!("{path} has no times"))
    }

    /// Waits until the guest has switched itself off.
    ///
    /// # Errors
    /// It does not within `patience`.
    pub fn finish(mut self, patience: Duration) -> Result<Ended> {
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            let (output, errors) = self.stop();
            bail!("{} does not end; it said:\n{}{errors}", self.name, text_of(&output));
        }
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        let (output, errors) = self.stop();
        Ok(Ended { status, output, errors })
    }

    /// Ends the process if it still runs, and returns what it printed.
    fn stop(&mut self) -> (Vec<Line>, String) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let output = self.output.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let errors = self.errors.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (output, errors)
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
        for vmm in [Vmm::motu("/motu".into()), Vmm::Qemu] {
            let arguments = arguments(&vmm);
            for word in ["/k", "/i", "quiet rdinit=/bench/power-off", "512M"] {
                assert!(arguments.iter().any(|have| have == word), "{word} in {arguments:?}");
            }
            assert!(arguments.iter().any(|have| have.contains("format=raw") && have.ends_with("=/d")), "{arguments:?}");
        }
    }

    #[test]
    fn options_of_the_engine_follow_its_name() {
        let engine = |engine_options: &str| {
            let vmm = Vmm::Motu { program: "/motu".into(), engine_options: engine_options.to_owned() };
            let arguments = arguments(&vmm);
            let name = arguments.iter().position(|word| word == "--engine").unwrap();
            arguments[name + 1].clone()
        };
        assert_eq!(engine(""), "soft");
        assert_eq!(engine("translate=off"), "soft,translate=off");
    }

    fn arguments(vmm: &Vmm) -> Vec<String> {
        let guest = Guest {
            kernel: "/k".into(),
            kernel_name: String::new(),
            initrd: "/i".into(),
            cmdline: "quiet".to_owned(),
            disk: Some("/d".into()),
            cpus: 1,
        };
        let command = vmm.command(&guest, Init::PowerOff);
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }
}
