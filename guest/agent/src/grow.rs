//! A file system becomes as large as the disk that it lies on, while it is in use.

use crate::mounts::{self, Mount};
use rustix::fs::{Mode, OFlags, open};
use rustix::ioctl::{self, Setter};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Bytes of the sectors that the kernel counts in.
const SECTOR: u64 = 512;
/// How long the driver may take to notice that the disk has grown, and how often it is looked.
const NOTICED: Duration = Duration::from_secs(10);
const LOOKS: Duration = Duration::from_millis(10);
/// EXT4_IOC_RESIZE_FS (Linux, include/uapi/linux/ext4.h): to so many blocks.
const EXT4_IOC_RESIZE_FS: ioctl::Opcode = ioctl::opcode::write::<u64>(b'f', 16);

fn failed(message: String) -> io::Error {
    io::Error::other(message)
}

/// Does it: the disk's name in `/dev`, and its size in bytes.
pub fn run(arguments: &[OsString]) -> io::Result<()> {
    let words: Option<Vec<&str>> = arguments.iter().map(|word| word.to_str()).collect();
    let words = words.unwrap_or_default();
    let wrong = || failed("the host asks in words that this agent does not know".to_owned());
    let [disk, size] = words[..] else { return Err(wrong()) };
    let size: u64 = size.parse().map_err(|_| wrong())?;
    wait_for(disk, size)?;
    let device = fs::read_to_string(format!("/sys/class/block/{disk}/dev"))?;
    let mount = mounts::all().into_iter().find(|mount| lies_on(mount, device.trim()));
    let mount = mount.ok_or_else(|| failed(format!("{disk} itself is not mounted there, so no file system grew")))?;
    let (path, kind) = (mount.path.display(), mount.kind.display());
    if mount.kind != "ext4" {
        return Err(failed(format!(
            "{disk} has a file system of the kind {kind}, and motu makes only ext4 larger; the machine's own tool does that"
        )));
    }
    let folder = open(&mount.path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let block = u64::try_from(rustix::fs::fstatfs(&folder)?.f_bsize).unwrap_or(0).max(1);
    // SAFETY: the request takes a pointer to 64 bits that it reads, which is what `Setter` gives.
    let resize = unsafe { Setter::<EXT4_IOC_RESIZE_FS, u64>::new(size / block) };
    // SAFETY: the same; the kernel keeps nothing of it.
    unsafe { ioctl::ioctl(&folder, resize) }.map_err(|error| failed(format!("making {path} larger: {error}")))
}

/// Waits until the kernel knows of the disk's size.
fn wait_for(disk: &str, size: u64) -> io::Result<()> {
    let path = format!("/sys/class/block/{disk}/size");
    let begun = Instant::now();
    loop {
        let text = fs::read_to_string(&path).map_err(|error| failed(format!("there is no disk {disk}: {error}")))?;
        let sectors: u64 = text.trim().parse().unwrap_or(0);
        if sectors.saturating_mul(SECTOR) >= size {
            return Ok(());
        }
        if begun.elapsed() > NOTICED {
            return Err(failed(format!("the kernel has not noticed that {disk} has grown")));
        }
        std::thread::sleep(LOOKS);
    }
}

/// Whether a file system is the one on a device, `MAJOR:MINOR` (Documentation/ABI/stable/sysfs-block, `dev`).
fn lies_on(mount: &Mount, device: &str) -> bool {
    // Others, such as a share of the host's, are not asked: they may not answer.
    let is_disk = mount.device.as_bytes().starts_with(b"/dev/");
    let number = |id| format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id));
    is_disk && rustix::fs::stat(&mount.path).is_ok_and(|found| number(found.st_dev) == device)
}
