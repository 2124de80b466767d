//! The assembler that goes into the guest's instruction and comes back.
//!
//! All state passes through [`CONTEXT`], which is addressed relative to RIP, because every general
//! register, RSP too, holds the guest's value while its instruction runs.

use crate::{Mode, UserState};
use motu_x86::XsaveArea;
use std::arch::naked_asm;
use std::cell::UnsafeCell;
use std::mem::offset_of;

/// Where the stub finds the state and leaves it.
#[repr(C, align(64))]
pub(super) struct Context {
    xsave: XsaveArea,
    xsave_out: XsaveArea,
    gpr: [u64; 16],
    gpr_out: [u64; 16],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 8],
    pub(super) selectors_out: [u16; 8],
    /// Not zero where segment registers are not what a 64-bit program has: they are loaded, and given back after.
    segmented: u64,
    /// The host's FS base, which loading FS takes away.
    fs_base: u64,
    /// What IRETQ pops: RIP, CS, RFLAGS, RSP, SS.
    frame: [u64; 5],
    rflags_out: u64,
    rip_out: u64,
    host_rsp: u64,
    /// Not zero between entering the guest's instruction and leaving it.
    pub(super) running: u64,
    trap: Trap,
}

/// What the processor said about a fault (SDM vol. 3, 6.13 and 6.15).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Trap {
    /// The vector; [`Trap::NONE`] where the instruction retired.
    pub(super) vector: u64,
    pub(super) error_code: u64,
    /// CR2.
    pub(super) address: u64,
}

impl Trap {
    const NONE: u64 = u64::MAX;
}

#[repr(transparent)]
pub(super) struct Shared(UnsafeCell<Context>);

// SAFETY: used by one oracle at a time, on its own thread and in the handlers of its own faults.
unsafe impl Sync for Shared {}

pub(super) static CONTEXT: Shared = Shared(UnsafeCell::new(Context {
    xsave: XsaveArea([0; motu_x86::XSAVE_SIZE]),
    xsave_out: XsaveArea([0; motu_x86::XSAVE_SIZE]),
    gpr: [0; 16],
    gpr_out: [0; 16],
    selectors: [0; 8],
    selectors_out: [0; 8],
    segmented: 0,
    fs_base: 0,
    frame: [0; 5],
    rflags_out: 0,
    rip_out: 0,
    host_rsp: 0,
    running: 0,
    trap: Trap { vector: Trap::NONE, error_code: 0, address: 0 },
}));

impl Shared {
    pub(super) fn get(&self) -> *mut Context {
        self.0.get()
    }
}

/// Where the guest's code jumps back to.
pub(super) fn exit_address() -> u64 {
    exit as *const () as u64
}

/// Runs the instruction at `before.rip`. `after.rip` is only written when there was a trap.
///
/// # Safety
/// The code pages hold the instruction and the way back, this thread has the signal handlers, and
/// no other thread runs anything here.
pub(super) unsafe fn run(before: &UserState, after: &mut UserState) -> Option<Trap> {
    let context = CONTEXT.get();
    // SAFETY: the caller keeps every other user away.
    unsafe {
        load(&mut *context, before);
        enter();
        let context = &*context;
        after.xsave.0.copy_from_slice(&context.xsave_out.0);
        after.gpr = context.gpr_out;
        after.rflags = context.rflags_out;
        after.rip = context.rip_out;
        after.selectors = before.selectors;
        if context.segmented != 0 {
            after.selectors.copy_from_slice(&context.selectors_out[..6]);
            if context.trap.vector == Trap::NONE {
                after.selectors[1] = before.selectors[1];
            }
        }
        (context.trap.vector != Trap::NONE).then_some(context.trap)
    }
}

fn load(context: &mut Context, before: &UserState) {
    context.xsave.0.copy_from_slice(&before.xsave.0);
    // XRSTOR must not fault: no reserved bit of MXCSR, the standard format, nothing but x87, SSE, AVX.
    let header = &mut context.xsave.0[XsaveArea::XSTATE_BV..XsaveArea::YMM_HIGH];
    header.fill(0);
    header[0] = 7;
    context.xsave.0[26..28].fill(0);
    context.gpr = before.gpr;
    context.selectors[..6].copy_from_slice(&before.selectors);
    context.segmented = u64::from(before.selectors != Mode::Bits64.selectors());
    context.frame[0] = before.rip;
    context.frame[1] = before.selectors[1].into();
    context.frame[4] = before.selectors[2].into();
    context.frame[2] = before.rflags & UserState::SETTABLE_FLAGS;
    context.frame[3] = before.gpr[4];
    context.trap = Trap { vector: Trap::NONE, error_code: 0, address: 0 };
}

/// Called by the signal handler: the state at a fault, as the kernel saved it.
pub(super) struct Fault<'a> {
    pub(super) gpr: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) cs: u16,
    pub(super) ss: u16,
    /// The kernel's XSAVE image.
    pub(super) xsave: &'a [u8],
    pub(super) trap: Trap,
}

/// Ends the guest's instruction from its fault's signal handler.
///
/// # Safety
/// [`enter`] is running on this thread and the fault is the guest's.
pub(super) unsafe fn abandon(fault: &Fault<'_>) -> ! {
    // SAFETY: the interrupted code is the guest's, so nothing else has a reference now.
    unsafe {
        let context = &mut *CONTEXT.get();
        for (to, from) in context.xsave_out.0.iter_mut().zip(fault.xsave) {
            *to = *from;
        }
        context.gpr_out = fault.gpr;
        context.rip_out = fault.rip;
        context.rflags_out = fault.rflags;
        (context.selectors_out[1], context.selectors_out[2]) = (fault.cs, fault.ss);
        context.trap = fault.trap;
        leave()
    }
}

/// # Safety
/// See [`run`].
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rip + {c} + {host_rsp}], rsp",
        "mov qword ptr [rip + {c} + {running}], 1",
        "mov eax, 7",
        "xor edx, edx",
        "xrstor64 [rip + {c} + {xsave}]",
        "cmp qword ptr [rip + {c} + {segmented}], 0",
        "je 2f",
        "rdfsbase rax",
        "mov [rip + {c} + {fs_base}], rax",
        "mov es, word ptr [rip + {c} + {selectors}]",
        "mov ds, word ptr [rip + {c} + {selectors} + 6]",
        "mov fs, word ptr [rip + {c} + {selectors} + 8]",
        "mov gs, word ptr [rip + {c} + {selectors} + 10]",
        "2:",
        "mov rax, [rip + {c} + {gpr}]",
        "mov rcx, [rip + {c} + {gpr} + 8]",
        "mov rdx, [rip + {c} + {gpr} + 16]",
        "mov rbx, [rip + {c} + {gpr} + 24]",
        "mov rbp, [rip + {c} + {gpr} + 40]",
        "mov rsi, [rip + {c} + {gpr} + 48]",
        "mov rdi, [rip + {c} + {gpr} + 56]",
        "mov r8, [rip + {c} + {gpr} + 64]",
        "mov r9, [rip + {c} + {gpr} + 72]",
        "mov r10, [rip + {c} + {gpr} + 80]",
        "mov r11, [rip + {c} + {gpr} + 88]",
        "mov r12, [rip + {c} + {gpr} + 96]",
        "mov r13, [rip + {c} + {gpr} + 104]",
        "mov r14, [rip + {c} + {gpr} + 112]",
        "mov r15, [rip + {c} + {gpr} + 120]",
        "lea rsp, [rip + {c} + {frame}]",
        "iretq",
        c = sym CONTEXT,
        host_rsp = const offset_of!(Context, host_rsp),
        frame = const offset_of!(Context, frame),
        running = const offset_of!(Context, running),
        segmented = const offset_of!(Context, segmented),
        selectors = const offset_of!(Context, selectors),
        fs_base = const offset_of!(Context, fs_base),
        xsave = const offset_of!(Context, xsave),
        gpr = const offset_of!(Context, gpr),
    )
}

/// The end of an instruction that retired: everything still holds the guest's values.
///
/// # Safety
/// Only the guest's code jumps here, from within [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn exit() {
    naked_asm!(
        "mov [rip + {c} + {gpr}], rax",
        "mov [rip + {c} + {gpr} + 8], rcx",
        "mov [rip + {c} + {gpr} + 16], rdx",
        "mov [rip + {c} + {gpr} + 24], rbx",
        "mov [rip + {c} + {gpr} + 32], rsp",
        "mov [rip + {c} + {gpr} + 40], rbp",
        "mov [rip + {c} + {gpr} + 48], rsi",
        "mov [rip + {c} + {gpr} + 56], rdi",
        "mov [rip + {c} + {gpr} + 64], r8",
        "mov [rip + {c} + {gpr} + 72], r9",
        "mov [rip + {c} + {gpr} + 80], r10",
        "mov [rip + {c} + {gpr} + 88], r11",
        "mov [rip + {c} + {gpr} + 96], r12",
        "mov [rip + {c} + {gpr} + 104], r13",
        "mov [rip + {c} + {gpr} + 112], r14",
        "mov [rip + {c} + {gpr} + 120], r15",
        "mov rsp, [rip + {c} + {host_rsp}]",
        "pushfq",
        "pop [rip + {c} + {rflags}]",
        "mov word ptr [rip + {c} + {selectors}], es",
        "mov word ptr [rip + {c} + {selectors} + 4], ss",
        "mov word ptr [rip + {c} + {selectors} + 6], ds",
        "mov word ptr [rip + {c} + {selectors} + 8], fs",
        "mov word ptr [rip + {c} + {selectors} + 10], gs",
        "mov eax, 7",
        "xor edx, edx",
        "xsave64 [rip + {c} + {xsave}]",
        "jmp {leave}",
        c = sym CONTEXT,
        leave = sym leave,
        host_rsp = const offset_of!(Context, host_rsp),
        rflags = const offset_of!(Context, rflags_out),
        selectors = const offset_of!(Context, selectors_out),
        xsave = const offset_of!(Context, xsave_out),
        gpr = const offset_of!(Context, gpr_out),
    )
}

/// Returns from [`enter`] with the host's own registers.
///
/// # Safety
/// Within [`enter`], once per call of it.
#[unsafe(naked)]
unsafe extern "C" fn leave() -> ! {
    naked_asm!(
        "mov rsp, [rip + {c} + {host_rsp}]",
        // The guest may have set AC, DF or NT.
        "push 0x202",
        "popfq",
        "cmp qword ptr [rip + {c} + {segmented}], 0",
        "je 2f",
        "xor eax, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov rax, [rip + {c} + {fs_base}]",
        "wrfsbase rax",
        "mov eax, 0x2b",
        "mov ds, eax",
        "mov es, eax",
        "mov ss, eax",
        "2:",
        "mov qword ptr [rip + {c} + {running}], 0",
        "vzeroupper",
        "fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        c = sym CONTEXT,
        host_rsp = const offset_of!(Context, host_rsp),
        running = const offset_of!(Context, running),
        segmented = const offset_of!(Context, segmented),
        fs_base = const offset_of!(Context, fs_base),
    )
}

/// Where the kernel enters on a signal: the guest's AC, segments and FS base are still there, with which nothing
/// that a compiler made may run.
///
/// # Safety
/// The kernel's to call, as a handler with SA_SIGINFO.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn signal_entry(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    naked_asm!(
        "push 0x202",
        "popfq",
        "cmp qword ptr [rip + {c} + {running}], 0",
        "je 2f",
        "mov word ptr [rip + {c} + {selectors}], es",
        "mov word ptr [rip + {c} + {selectors} + 6], ds",
        "mov word ptr [rip + {c} + {selectors} + 8], fs",
        "mov word ptr [rip + {c} + {selectors} + 10], gs",
        "cmp qword ptr [rip + {c} + {segmented}], 0",
        "je 2f",
        "mov rax, [rip + {c} + {fs_base}]",
        "wrfsbase rax",
        "2:",
        "jmp {handler}",
        c = sym CONTEXT,
        running = const offset_of!(Context, running),
        segmented = const offset_of!(Context, segmented),
        selectors = const offset_of!(Context, selectors_out),
        fs_base = const offset_of!(Context, fs_base),
        handler = sym super::signal::handler,
    )
}
