//! The end of the machine.

use crate::mounts;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::Signal;
use rustix::system::{RebootCommand, reboot};

/// Kills what still runs, leaves the disks' file systems whole and powers the machine off.
pub fn off() -> ! {
    signal_all(Signal::KILL);
    rustix::fs::sync();
    leave_disks();
    // Without a way to power off the kernel comes back from this; halting is what is left then.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Halt);
    loop {
        let _ = poll(&mut [PollFd::new(&rustix::stdio::stdin(), PollFlags::empty())], None);
    }
}

/// Unmounts what is on a disk, the last mounted first, and makes read-only what is in use, so that nothing is left to be
/// mended at the next start.
fn leave_disks() {
    for mount in mounts::all().iter().rev() {
        let is_on_disk = mount.device.as_encoded_bytes().starts_with(b"/dev/");
        if is_on_disk && unmount(&mount.path, UnmountFlags::NOFOLLOW).is_err() {
            let _ = mount_remount(&mount.path, MountFlags::RDONLY, c"");
        }
    }
}

/// Sends a signal to every process but this one (kill(2): process number -1).
pub fn signal_all(signal: Signal) {
    // SAFETY: kill takes no pointer; as the first process this one is spared by the kernel.
    unsafe { libc::kill(-1, signal.as_raw()) };
}
