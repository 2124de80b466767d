//! The end of the machine.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};
use std::time::{Duration, Instant};

/// How long processes have to end by themselves.
const GRACE: Duration = Duration::from_secs(2);

/// Ends all processes, writes out what is dirty and powers the machine off.
pub fn off() -> ! {
    signal_all(Signal::TERM);
    let deadline = Instant::now() + GRACE;
    let mut pause = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // The wait fails once no child is left; orphans of a child become this process's children.
    while let Ok(ended) = wait(WaitOptions::NOHANG) {
        if ended.is_none() {
            if Instant::now() >= deadline {
                break;
            }
            let _ = poll(&mut [] as &mut [PollFd<'_>; 0], Some(&pause));
            pause.tv_nsec = (pause.tv_nsec * 2).min(50_000_000);
        }
    }
    signal_all(Signal::KILL);
    rustix::fs::sync();
    // Without a way to power off the kernel comes back from this; halting is what is left then.
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Halt);
    loop {
        let _ = poll(&mut [PollFd::new(&rustix::stdio::stdin(), PollFlags::empty())], None);
    }
}

/// Sends a signal to every process but this one (kill(2): process number -1).
fn signal_all(signal: Signal) {
    // SAFETY: kill takes no pointer; as the first process this one is spared by the kernel.
    unsafe { libc::kill(-1, signal.as_raw()) };
}
