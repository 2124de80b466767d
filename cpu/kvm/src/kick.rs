//! How other threads reach a vCPU that is inside KVM_RUN.
//!
//! Who rings first sets `immediate_exit`, then sends a signal. A vCPU that is on its way into KVM_RUN finds the one, a
//! vCPU that is inside is brought out by the other, so that no ring is lost (API, 5, "immediate_exit").

use motu_hv::Kick;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Signal of the kick: its handler does nothing, since it only has to interrupt KVM_RUN.
pub fn signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the signal's handler, once a process.
///
/// # Errors
/// The host refuses it.
pub fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let install = || register_signal_handler(signal(), nothing).map_err(|error| error.errno());
    INSTALLED.get_or_init(install).map_err(io::Error::from_raw_os_error)
}

/// Where a vCPU is rung.
#[derive(Debug, Default)]
pub struct Door {
    kicked: AtomicBool,
    bell: Mutex<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    /// `immediate_exit` of the vCPU's `kvm_run`; none once the vCPU is gone.
    immediate_exit: Option<ExitByte>,
    /// The thread that is in [`motu_hv::Vcpu::run`].
    thread: Option<libc::pthread_t>,
}

/// Points into a `kvm_run` that is mapped for as long as the pointer is in a [`Bell`].
#[derive(Debug)]
struct ExitByte(NonNull<u8>);

// SAFETY: the byte is only reached by atomic operations, under the bell's lock or by the vCPU that maps it.
unsafe impl Send for ExitByte {}

impl ExitByte {
    fn store(&self, value: u8) {
        // SAFETY: the byte is mapped (see the type), a byte is aligned, and the kernel is the only one that reaches it
        // without an atomic operation: it reads it once when KVM_RUN begins.
        unsafe { AtomicU8::from_ptr(self.0.as_ptr()) }.store(value, Ordering::SeqCst);
    }
}

impl Door {
    /// A door whose bell sets the byte.
    ///
    /// # Safety
    /// The byte is `immediate_exit` of a mapped `kvm_run`, which stays mapped until [`Door::close`].
    pub unsafe fn new(immediate_exit: NonNull<u8>) -> Arc<Self> {
        let bell = Bell { immediate_exit: Some(ExitByte(immediate_exit)), thread: None };
        Arc::new(Self { kicked: AtomicBool::new(false), bell: Mutex::new(bell) })
    }

    fn bell(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody can reach the vCPU any more.
    pub fn close(&self) {
        self.bell().immediate_exit = None;
    }

    /// The calling thread runs the vCPU until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> Inside {
        // SAFETY: has no preconditions.
        self.bell().thread = Some(unsafe { libc::pthread_self() });
        Inside(Arc::clone(self))
    }

    /// Makes KVM_RUN return at once, the next one if none is running.
    pub fn ring(&self) {
        let bell = self.bell();
        if let Some(byte) = &bell.immediate_exit {
            byte.store(1);
        }
        if let Some(thread) = bell.thread {
            // SAFETY: the thread is inside `run`, since it takes its name away before it leaves, under this lock.
            unsafe { libc::pthread_kill(thread, signal()) };
        }
    }

    /// Lets the next KVM_RUN enter the guest, or not. What was to be noticed is to be looked at behind the call: a ring
    /// from then on is not lost.
    pub fn set_immediate_exit(&self, value: bool) {
        if let Some(byte) = &self.bell().immediate_exit {
            byte.store(u8::from(value));
        }
    }

    /// A kick that was taken is yet to be answered.
    pub fn put_back_kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
    }

    /// Whether somebody kicked since the last call.
    pub fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }
}

impl Kick for Door {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.ring();
    }
}

/// While it lives, rings send a signal.
#[derive(Debug)]
pub struct Inside(Arc<Door>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.bell().thread = None;
    }
}
