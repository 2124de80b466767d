//! Faults of the guest's instruction, as the kernel tells them.
//!
//! A fault that is not the guest's goes to whoever had the signal before.

use super::OracleError;
use super::stub::{self, CONTEXT, Fault, Trap};
use crate::layout;
use libc::{c_int, c_void, siginfo_t, ucontext_t};
use motu_x86::XSAVE_SIZE;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicPtr, Ordering};

const SIGNALS: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];
/// Room for the kernel's signal frame with every state component (AMX: 11 KiB) and the handler.
const STACK_SIZE: usize = 64 * 1024;
/// FP_XSTATE_MAGIC1: the frame's floating-point state is an XSAVE image (Linux uapi asm/sigcontext.h).
const XSTATE_MAGIC: u32 = 0x4650_5853;
/// Offset of `fpx_sw_bytes` in the legacy region.
const SW_BYTES: usize = 464;

/// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15 in the kernel's order.
const GREGS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// What the process did with the signals before; the handler passes on to it.
struct Previous {
    actions: [libc::sigaction; SIGNALS.len()],
    stack: libc::stack_t,
}

static PREVIOUS: AtomicPtr<Previous> = AtomicPtr::new(std::ptr::null_mut());

/// The fault signals of this process and the alternate stack of this thread, until dropped.
#[derive(Debug)]
pub(super) struct Handlers {
    _stack: Box<[u8]>,
}

impl Handlers {
    pub(super) fn install() -> Result<Self, OracleError> {
        let mut stack = vec![0u8; STACK_SIZE].into_boxed_slice();
        let ours = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_SIZE };
        // SAFETY: plain C structures for which zero is a value; the stack outlives its use, as
        // `drop` gives the previous one back.
        unsafe {
            let mut previous: Box<Previous> = Box::new(MaybeUninit::zeroed().assume_init());
            if libc::sigaltstack(&ours, &mut previous.stack) != 0 {
                return Err(failed("setting the signal stack"));
            }
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = stub::signal_entry as *const () as usize;
            // The handler never returns for a guest's fault, so nothing may be blocked in it.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            for (signal, old) in SIGNALS.iter().zip(&mut previous.actions) {
                if libc::sigaction(*signal, &action, old) != 0 {
                    return Err(failed("taking the fault signals"));
                }
            }
            PREVIOUS.store(Box::into_raw(previous), Ordering::Release);
        }
        Ok(Self { _stack: stack })
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        let previous = PREVIOUS.swap(std::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: made by `install` from a box, and swapped out so only this call has it.
        unsafe {
            let previous = Box::from_raw(previous);
            for (signal, old) in SIGNALS.iter().zip(&previous.actions) {
                libc::sigaction(*signal, old, std::ptr::null_mut());
            }
            libc::sigaltstack(&previous.stack, std::ptr::null_mut());
        }
    }
}

fn failed(doing: &str) -> OracleError {
    OracleError::Host { doing: doing.into(), source: io::Error::last_os_error() }
}

pub(super) extern "C" fn handler(signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a ucontext_t to an SA_SIGINFO handler.
    let machine = unsafe { &(*context.cast::<ucontext_t>()).uc_mcontext };
    let register = |index: c_int| machine.gregs[index as usize] as u64;
    let rip = register(libc::REG_RIP);
    let trap = Trap {
        vector: register(libc::REG_TRAPNO),
        error_code: register(libc::REG_ERR),
        address: register(libc::REG_CR2),
    };
    // SAFETY: the context is a static; only this thread writes the word.
    let running = unsafe { (&raw const (*CONTEXT.get()).running).read_volatile() } != 0;
    let at_guest = layout::code_offset(rip.wrapping_sub(1)).is_some() || layout::code_offset(rip).is_some();
    let fetched = trap.vector == 14 && trap.address == rip;
    if !running || !(at_guest || fetched) {
        return pass_on(signal);
    }
    let xsave: *const u8 = machine.fpregs.cast();
    // SAFETY: the kernel's frame has at least the 512 bytes of the legacy region.
    let magic = unsafe { xsave.add(SW_BYTES).cast::<u32>().read_unaligned() };
    // SAFETY: with the magic, the image has the size of the enabled components: AVX is among them.
    let xsave = unsafe { std::slice::from_raw_parts(xsave, if magic == XSTATE_MAGIC { XSAVE_SIZE } else { 512 }) };
    let gpr = GREGS.map(register);
    // CS, GS, FS and SS, 16 bits each; the kernel fills in only CS and SS.
    let selectors = register(libc::REG_CSGSFS);
    let (cs, ss) = (selectors as u16, (selectors >> 48) as u16);
    let fault = Fault { gpr, rip, rflags: register(libc::REG_EFL), cs, ss, xsave, trap };
    // SAFETY: the guest's instruction was running and this is its fault.
    unsafe { stub::abandon(&fault) }
}

/// Gives the signal back to its previous owner; the instruction runs again and finds it.
fn pass_on(signal: c_int) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: set before the handler can run, and freed only after it cannot.
    if let (Some(previous), Some(index)) = (unsafe { previous.as_ref() }, SIGNALS.iter().position(|s| *s == signal)) {
        // SAFETY: an action that the kernel gave us.
        unsafe { libc::sigaction(signal, &previous.actions[index], std::ptr::null_mut()) };
    }
}
