//! Signals as a file descriptor, and the children that they tell of.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, wait, waitid};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// How a child ended: its process and wait status.
pub type Ended = (i32, rustix::process::WaitStatus);

/// SIGCHLD and SIGIO, blocked as signals and read from a descriptor instead.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks both signals for this process. Children must undo that ([`unblock_all`]).
    pub fn new() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that the calls after it read; all pointers are to
        // live memory of this frame.
        let fd = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGIO);
            libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            libc::signalfd(-1, set.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just made this descriptor and nothing else owns it.
        Ok(Signals { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Forgets what has arrived, so that the descriptor is readable at the next signal only.
    pub fn clear(&self) {
        let mut buffer = [0u8; 8 * size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(&self.fd, &mut buffer).is_ok_and(|count| count == buffer.len()) {}
    }

    /// Sleeps until a signal arrives.
    pub fn wait(&self) {
        let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], None);
        self.clear();
    }

    /// The next child that has ended, this process's own or one left to it by its parent's end.
    pub fn next_ended(&self) -> Option<Ended> {
        let (pid, status) = wait(WaitOptions::NOHANG).ok()??;
        Some((pid.as_raw_nonzero().get(), status))
    }

    /// Whether no other process is left but the kernel's own: orphans become children of the first process.
    pub fn alone(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::All, options).is_err_and(|error| error == rustix::io::Errno::CHILD)
    }

    /// Collects children until the one with this process number has ended.
    pub fn reap_until(&self, child: u32) {
        loop {
            while let Some((pid, _)) = self.next_ended() {
                if u32::try_from(pid) == Ok(child) {
                    return;
                }
            }
            self.wait();
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Gives a new child the empty signal mask that programs expect. May be called between fork and exec.
pub fn unblock_all() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that sigprocmask reads; both are async-signal-safe
    // (POSIX.1-2017 XSH 2.4.3).
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}
