//! The root disk: mounted and moved to, as switch_root(8) does.
//!
//! ```text
//! motu.root=/dev/vda           the device; without it the machine stays in its initial RAM disk
//! motu.rootfstype=ext4         its file system; without it those that the kernel knows are tried
//! motu.rootflags=noatime,...   options of mount(8)
//! ro | rw                      the last of them stands; rw without one
//! ```

use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstatfs, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};
use std::ffi::CString;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the disk is mounted before it is the root.
const SYSROOT: &str = "/sysroot";

/// How long the device may take to appear.
const APPEARS: Duration = Duration::from_secs(5);

/// The file systems that an initial RAM disk can be on: ramfs and tmpfs (Linux, include/uapi/linux/magic.h).
const MEMORY: [u64; 2] = [0x8584_58f6, 0x0102_1994];

/// Deepest folder of the initial RAM disk that is freed.
const DEEPEST: usize = 64;

/// What the kernel's command line says of the root disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Root {
    device: String,
    kind: Option<String>,
    flags: MountFlags,
    /// What the file system itself is told.
    data: String,
}

impl Root {
    /// Reads the kernel's parameters; `None` if they name no root disk.
    pub fn parse(cmdline: &str) -> Option<Self> {
        let mut root = Root { device: String::new(), kind: None, flags: MountFlags::empty(), data: String::new() };
        for word in cmdline.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("motu.root", device)) => root.device = device.to_owned(),
                Some(("motu.rootfstype", kind)) => root.kind = Some(kind.to_owned()),
                Some(("motu.rootflags", options)) => options.split(',').for_each(|option| root.option(option)),
                None if word == "ro" => root.flags |= MountFlags::RDONLY,
                None if word == "rw" => root.flags -= MountFlags::RDONLY,
                _ => {}
            }
        }
        (!root.device.is_empty()).then_some(root)
    }

    /// Takes an option of mount(8): the kernel's own, or the file system's.
    fn option(&mut self, option: &str) {
        let flag = match option {
            "" | "defaults" | "rw" => return,
            "ro" => MountFlags::RDONLY,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            "sync" => MountFlags::SYNCHRONOUS,
            "noatime" => MountFlags::NOATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "relatime" => MountFlags::RELATIME,
            "strictatime" => MountFlags::STRICTATIME,
            "lazytime" => MountFlags::LAZYTIME,
            other => {
                if !self.data.is_empty() {
                    self.data.push(',');
                }
                return self.data.push_str(other);
            }
        };
        self.flags |= flag;
    }

    /// Mounts the disk and moves there, with the file systems that are mounted already. Nothing has changed if the
    /// disk cannot be mounted.
    ///
    /// # Errors
    /// For people: what could not be done.
    pub fn enter(&self, mounted: &[&str]) -> Result<(), String> {
        self.wait_for_device()?;
        let _ = fs::create_dir(SYSROOT);
        self.mount()?;
        let old = openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        for target in mounted {
            let place = format!("{SYSROOT}{target}");
            if !Path::new(&place).is_dir() {
                let _ = fs::create_dir_all(&place);
            }
            mount_move(*target, &place).map_err(|error| {
                format!("the root disk {} has no folder {target} to mount on: {error}", self.device)
            })?;
        }
        let moved = chdir(SYSROOT).and_then(|()| mount_move(".", "/")).and_then(|()| chroot("."));
        moved.and_then(|()| chdir("/")).map_err(|error| format!("moving to the root disk {}: {error}", self.device))?;
        if let Ok(old) = old {
            free(old);
        }
        Ok(())
    }

    fn wait_for_device(&self) -> Result<(), String> {
        let deadline = Instant::now() + APPEARS;
        let mut pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        while !Path::new(&self.device).exists() {
            if Instant::now() >= deadline {
                return Err(format!("there is no root disk {}", self.device));
            }
            let _ = poll(&mut [] as &mut [PollFd<'_>; 0], Some(&pause));
            pause.tv_nsec = (pause.tv_nsec * 2).min(50_000_000);
        }
        Ok(())
    }

    fn mount(&self) -> Result<(), String> {
        let data = CString::new(self.data.as_str()).unwrap_or_default();
        let kinds = match &self.kind {
            Some(kind) => vec![kind.clone()],
            None => known_kinds(),
        };
        for kind in &kinds {
            match mount(&self.device, SYSROOT, kind, self.flags, data.as_c_str()) {
                Ok(()) => return Ok(()),
                // It is none of this kind; perhaps of another one.
                Err(Errno::INVAL) if self.kind.is_none() => {}
                Err(error) => {
                    return Err(format!("the root disk {} cannot be mounted as {kind}: {error}", self.device));
                }
            }
        }
        Err(format!(
            "the root disk {} holds no file system that can be mounted ({} were tried)",
            self.device,
            kinds.join(", ")
        ))
    }
}

/// The file systems on disks that the kernel knows (proc(5), /proc/filesystems: those without "nodev").
fn known_kinds() -> Vec<String> {
    let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix('\t')).map(str::to_owned).collect()
}

/// Deletes what is left of the initial RAM disk, which is the machine's memory. Whatever else the agent was started from is left
/// alone, as by switch_root(8).
fn free(old: OwnedFd) {
    let is_memory = fstatfs(&old).is_ok_and(|status| MEMORY.contains(&(status.f_type as u64)));
    if let Ok(device) = rustix::fs::fstat(&old).map(|status| status.st_dev)
        && is_memory
    {
        empty(&old, device, DEEPEST);
    }
}

/// Empties a folder, other file systems left out.
fn empty(folder: &OwnedFd, device: u64, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = Dir::read_from(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(status) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if status.st_dev != device {
            continue;
        }
        if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
            let _ = unlinkat(folder, name, AtFlags::empty());
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(inner) = openat(folder, name, flags, Mode::empty()) {
            empty(&inner, device, depth);
        }
        let _ = unlinkat(folder, name, AtFlags::REMOVEDIR);
    }
}

/// Writes `/etc/hostname` and its like where an image left them out.
pub fn complete_etc(host: &str) {
    let _ = fs::create_dir("/etc");
    let hosts = format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{host}\n");
    for (path, text) in
        [("/etc/hostname", format!("{host}\n")), ("/etc/hosts", hosts), ("/etc/resolv.conf", String::new())]
    {
        // A link that leads nowhere is there: what it names belongs to the image's own programs.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        if let Ok(file) = openat(CWD, path, flags, Mode::from_raw_mode(0o644)) {
            write_all(&file, text.as_bytes());
        }
    }
}

fn write_all<'a>(file: &'a OwnedFd, mut bytes: &[u8]) {
    use std::os::fd::AsFd;
    let fd: BorrowedFd<'a> = file.as_fd();
    while let Ok(count @ 1..) = rustix::io::write(fd, bytes) {
        bytes = bytes.get(count..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_disk_is_what_the_command_line_says() {
        assert_eq!(Root::parse("console=ttyS0 quiet root=/dev/sda ro"), None);
        let root =
            Root::parse("quiet motu.root=/dev/vda motu.rootfstype=ext4 motu.rootflags=noatime,data=writeback,ro,x rw");
        assert_eq!(
            root,
            Some(Root {
                device: "/dev/vda".into(),
                kind: Some("ext4".into()),
                flags: MountFlags::NOATIME,
                data: "data=writeback,x".into()
            })
        );
        let root = Root::parse("rw motu.root=/dev/vdb1 ro").unwrap();
        assert_eq!((root.kind, root.flags), (None, MountFlags::RDONLY));
    }
}
