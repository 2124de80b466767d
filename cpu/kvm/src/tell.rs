//! Has the kernel tell what it has yet to tell, without letting the guest run.
//!
//! That the guest ended a level-triggered interrupt comes back when KVM_RUN is about to enter the guest. `immediate_exit` is
//! looked at before that, and a pending signal behind it. So a signal is made pending that KVM_RUN alone lets through
//! (API, 4.17 KVM_SET_SIGNAL_MASK).

use crate::kick;
use kvm_ioctls::VcpuFd;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// `_IOW(0xae, 0x8b, struct kvm_signal_mask)`, whose last member has no length.
const SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;

/// `struct kvm_signal_mask` with the kernel's `sigset_t` behind it.
#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; 8],
}

/// While it lives, the kick's signal is pending and KVM_RUN of the vCPU does not enter the guest.
#[derive(Debug)]
pub struct PendingSignal {
    vcpu: RawFd,
    /// The thread's signals as they were.
    before: libc::sigset_t,
}

impl PendingSignal {
    /// # Errors
    /// The kernel refuses.
    pub fn new(vcpu: &VcpuFd) -> io::Result<Self> {
        let signal = kick::signal();
        let only = only(signal);
        let mut before = only;
        // SAFETY: both sets are initialised and live for the call.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &only, &mut before) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let pending = Self { vcpu: vcpu.as_raw_fd(), before };
        let all_but_it = !(1u64 << (signal - 1));
        let mask = SignalMask { len: 8, set: all_but_it.to_le_bytes() };
        // SAFETY: the kernel reads the length and as many bytes behind it, which `mask` has.
        if unsafe { libc::ioctl(pending.vcpu, SET_SIGNAL_MASK, &mask) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the thread is this one.
        unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
        Ok(pending)
    }
}

/// The set of one signal.
fn only(signal: libc::c_int) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set, and sigaddset changes it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        set.assume_init()
    }
}

impl Drop for PendingSignal {
    fn drop(&mut self) {
        let none = std::ptr::null::<SignalMask>();
        // SAFETY: no pointer means no mask. The kernel refuses nothing of it.
        unsafe { libc::ioctl(self.vcpu, SET_SIGNAL_MASK, none) };
        // SAFETY: the set was filled in by the call that blocked the signal. It is delivered now, to a handler that does nothing.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}
