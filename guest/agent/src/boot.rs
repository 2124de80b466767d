//! From a bare kernel to a machine that a command can run in.

use crate::root::{self, Root};
use crate::shares::{self, Share};
use crate::signals::Signals;
use rustix::fs::{CWD, Mode, OFlags, open, symlinkat};
use rustix::mount::{MountFlags, mount};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel modules to load, one path a line, in an order in which each finds what it needs.
const MODULES: &str = "/etc/motu/modules";
/// Those that only a machine with a disk needs.
const DISK_MODULES: &str = "/etc/motu/modules-disk";
/// Those that only a machine with a shared folder needs.
const SHARE_MODULES: &str = "/etc/motu/modules-share";
/// Those that only a machine with a disk for cloud-init needs, and the word of the kernel's command line that says so.
const SEED_MODULES: &str = "/etc/motu/modules-seed";
const SEED: &str = "motu.seed";

/// A folder for each virtio device, and what a disk's file `device` in it holds (virtio 1.2, 5).
const VIRTIO_DEVICES: &str = "/sys/bus/virtio/devices";
const DISK: &str = "0x0002";
const FILE_SYSTEM: &str = "0x001a";

/// How readily the kernel ends a process when memory is out, and what says never (proc(5)). Commands are asked to undo it.
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
const NEVER: &str = "-1000";

/// Bytes of a host's name at most (sethostname(2), Linux: __NEW_UTS_LEN).
const LONGEST_NAME: usize = 64;

const BUSYBOX: &str = "/bin/busybox";
const SHELL: &str = "/bin/sh";

/// Mounts the kernel's file systems, loads the modules, goes over to the root disk if there is one, and names the machine.
/// What fails is said on the console and left out: a machine with less in it still answers the host.
///
/// # Errors
/// For people: the root disk or a shared folder cannot be used. Without its root disk, the machine is what its initial RAM disk makes
/// of it.
pub fn prepare() -> Result<(), String> {
    let noexec = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let dev = MountFlags::NOSUID | MountFlags::NOEXEC;
    let temporary = MountFlags::NOSUID | MountFlags::NODEV;
    make_mount("proc", "/proc", noexec, c"");
    make_mount("sysfs", "/sys", noexec, c"");
    make_mount("devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755");
    make_mount("devpts", "/dev/pts", dev, c"mode=0620,gid=5,ptmxmode=0666");
    make_mount("tmpfs", "/dev/shm", temporary, c"mode=1777");
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        said(link, symlinkat(target, CWD, link));
    }
    said(OOM_SCORE, fs::write(OOM_SCORE, NEVER));
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let host = host_name(&cmdline);
    said("hostname", rustix::system::sethostname(host.as_bytes()));
    load_modules(MODULES);
    let root = Root::parse(&cmdline);
    if root.is_some() || has_device(DISK) {
        load_modules(DISK_MODULES);
    }
    if has_device(FILE_SYSTEM) {
        load_modules(SHARE_MODULES);
    }
    if cmdline.split_ascii_whitespace().any(|word| word == SEED) {
        load_modules(SEED_MODULES);
    }
    let entered = root.as_ref().map_or(Ok(()), |root| root.enter(&["/dev", "/proc", "/sys"]));
    make_mount("tmpfs", "/run", temporary, c"mode=0755");
    if root.is_some() && entered.is_ok() {
        root::complete_etc(host);
    } else {
        make_mount("tmpfs", "/tmp", temporary, c"mode=1777");
        if !Path::new(SHELL).exists() {
            let installed = Command::new(BUSYBOX).args(["--install", "-s"]).status();
            said(BUSYBOX, installed);
        }
    }
    entered?;
    shares::parse(&cmdline).iter().try_for_each(Share::mount)
}

/// The machine's name: `motu.hostname=` on the kernel's command line, as much of it as the kernel takes.
fn host_name(cmdline: &str) -> &str {
    let mut named = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("motu.hostname="));
    let name = named.rfind(|name| !name.is_empty()).unwrap_or("motu");
    name.get(..name.floor_char_boundary(LONGEST_NAME)).unwrap_or(name)
}

fn said<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) {
    if let Err(error) = result {
        eprintln!("motu-agent: {what}: {error}");
    }
}

fn make_mount(kind: &str, target: &str, flags: MountFlags, options: &CStr) {
    let _ = fs::create_dir(target);
    said(target, mount(kind, target, kind, flags, options));
}

fn has_device(wanted: &str) -> bool {
    let Ok(devices) = fs::read_dir(VIRTIO_DEVICES) else { return false };
    let mut kinds = devices.flatten().filter_map(|device| fs::read_to_string(device.path().join("device")).ok());
    kinds.any(|kind| kind.trim_end() == wanted)
}

fn load_modules(list: &str) {
    let list = match fs::read_to_string(list) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return said(list, Err::<(), _>(error)),
    };
    for path in list.lines().filter(|line| !line.is_empty()) {
        let loaded = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::system::finit_module(file, c"", 0));
        match loaded {
            Err(rustix::io::Errno::EXIST) => {}
            other => said(path, other),
        }
    }
}

/// The terminal behind /dev/console, which itself cannot be a shell's controlling terminal: the last
/// one that the kernel lists (Documentation/ABI/testing/sysfs-tty).
fn console() -> PathBuf {
    let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let name = active.split_whitespace().next_back().unwrap_or("console");
    Path::new("/dev").join(name)
}

/// Runs a shell on the console until it ends.
pub fn console_shell(signals: &Signals) {
    let path = console();
    let terminal = fs::OpenOptions::new().read(true).write(true).open(&path);
    let terminal = match terminal.and_then(|tty| Ok((tty.try_clone()?, tty.try_clone()?, tty))) {
        Ok(terminal) => terminal,
        Err(error) => return said(&path.to_string_lossy(), Err::<(), _>(error)),
    };
    let mut command = Command::new(SHELL);
    command.args(["-l"]).env("HOME", "/root").env("TERM", "linux").env("PATH", crate::exec::PATH);
    command.stdin(Stdio::from(terminal.0)).stdout(Stdio::from(terminal.1)).stderr(Stdio::from(terminal.2));
    // SAFETY: `become_leader` makes system calls only, which is all that may be done between fork and
    // exec.
    unsafe { command.pre_exec(|| crate::exec::become_leader(true)) };
    match command.spawn() {
        Ok(shell) => signals.reap_until(shell.id()),
        Err(error) => said(SHELL, Err::<(), _>(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_is_the_machines_as_far_as_it_fits() {
        assert_eq!(host_name("quiet"), "motu");
        assert_eq!(host_name("motu.hostname=a quiet motu.hostname=b motu.hostname="), "b");
        assert_eq!(host_name(&format!("motu.hostname={}", "x".repeat(128))), "x".repeat(64));
        assert_eq!(host_name(&format!("motu.hostname={}\u{e9}", "x".repeat(63))), "x".repeat(63));
    }
}
