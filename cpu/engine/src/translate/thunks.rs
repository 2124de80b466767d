//! The ways into translated code and out of it.
//!
//! While translated code runs, a general register of the guest is the host register of its name, but for RSP,
//! which is in R9, and R9 to R11, which are in the frame. R10 and R11 of the host hold nothing from one guest
//! instruction to the next. The arithmetic flags are the host's. Vector registers and MXCSR are the host's
//! where [`Frame::units`] says so, and else in the CPU's XSAVE area.

use super::frame::{Code, Frame};
use super::slots::{FilledSlots, SLOTS, Slot};
use crate::mmu::{Access, ENTRIES, Entry, is_canonical};
use motu_x86::XsaveArea;
use std::arch::naked_asm;
use std::mem::{offset_of, size_of};

/// What MXCSR is in Rust code.
pub const HOST_MXCSR: u32 = 0x1f80;

/// The instruction that macro `$one` makes, once for each vector register, with memory at register `$base`.
macro_rules! each_vector {
    ($one:ident, $base:literal) => {
        concat!(
            $one!($base, "0"),
            $one!($base, "1"),
            $one!($base, "2"),
            $one!($base, "3"),
            $one!($base, "4"),
            $one!($base, "5"),
            $one!($base, "6"),
            $one!($base, "7"),
            $one!($base, "8"),
            $one!($base, "9"),
            $one!($base, "10"),
            $one!($base, "11"),
            $one!($base, "12"),
            $one!($base, "13"),
            $one!($base, "14"),
            $one!($base, "15"),
        )
    };
}

// To and from an XSAVE area: XMM at 160, upper halves at 576, MXCSR at 24 (SDM vol. 1, 13.4).

macro_rules! store_sse {
    ($base:literal, $n:literal) => {
        concat!("movups [", $base, " + 160 + 16 * ", $n, "], xmm", $n, "\n")
    };
}

macro_rules! store_upper {
    ($base:literal, $n:literal) => {
        concat!("vextractf128 [", $base, " + 576 + 16 * ", $n, "], ymm", $n, ", 1\n")
    };
}

macro_rules! load_sse {
    ($base:literal, $n:literal) => {
        concat!("movups xmm", $n, ", [", $base, " + 160 + 16 * ", $n, "]\n")
    };
}

macro_rules! load_avx {
    ($base:literal, $n:literal) => {
        concat!(
            "vmovups xmm",
            $n,
            ", [",
            $base,
            " + 160 + 16 * ",
            $n,
            "]\n",
            "vinsertf128 ymm",
            $n,
            ", ymm",
            $n,
            ", [",
            $base,
            " + 576 + 16 * ",
            $n,
            "], 1\n",
        )
    };
}

/// All of a register to the frame.
macro_rules! store_whole {
    ($base:literal, $n:literal) => {
        concat!("vmovups [", $base, " + 32 * ", $n, "], ymm", $n, "\n")
    };
}

macro_rules! load_whole {
    ($base:literal, $n:literal) => {
        concat!("vmovups ymm", $n, ", [", $base, " + 32 * ", $n, "]\n")
    };
}

const _: () = assert!(XsaveArea::XMM == 160 && XsaveArea::YMM_HIGH == 576);

/// Runs translated code at `code` with R10 = `target`, until it leaves.
///
/// # Safety
/// `frame` is a whole frame, `code` an entry of the code cache that was made for it, and `frame.registers` and
/// `frame.vectors` lead to the CPU's.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter(frame: *mut Frame, code: Code, target: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi + {host_stack}], rsp",
        "mov rsp, rdi",
        "mov r10, rdx",
        "mov [rsp + {target}], rsi",
        "cmp dword ptr [rsp + {units}], 0",
        "je 3f",
        "mov rax, [rsp + {vectors}]",
        "ldmxcsr [rax + 24]",
        "test dword ptr [rsp + {units}], 2",
        "jz 2f",
        each_vector!(load_avx, "rax"),
        "jmp 3f",
        "2:",
        each_vector!(load_sse, "rax"),
        "3:",
        "mov r11, [rsp + {registers}]",
        "mov rax, [r11 + 72]",
        "mov [rsp + {r9}], rax",
        "mov rax, [r11 + 80]",
        "mov [rsp + {r10}], rax",
        "mov rax, [r11 + 88]",
        "mov [rsp + {r11}], rax",
        "movzx eax, word ptr [rsp + {arith}]",
        "add al, 127",
        "sahf",
        "mov rax, [r11]",
        "mov rcx, [r11 + 8]",
        "mov rdx, [r11 + 16]",
        "mov rbx, [r11 + 24]",
        "mov r9, [r11 + 32]",
        "mov rbp, [r11 + 40]",
        "mov rsi, [r11 + 48]",
        "mov rdi, [r11 + 56]",
        "mov r8, [r11 + 64]",
        "mov r12, [r11 + 96]",
        "mov r13, [r11 + 104]",
        "mov r14, [r11 + 112]",
        "mov r15, [r11 + 120]",
        "jmp [rsp + {target}]",
        host_stack = const offset_of!(Frame, host_stack),
        target = const offset_of!(Frame, target),
        units = const offset_of!(Frame, units),
        vectors = const offset_of!(Frame, vectors),
        registers = const offset_of!(Frame, registers),
        r9 = const offset_of!(Frame, r9),
        r10 = const offset_of!(Frame, r10),
        r11 = const offset_of!(Frame, r11),
        arith = const offset_of!(Frame, arith),
    )
}

/// Where translated code goes when it is done: [`enter`] returns. R10 becomes [`Frame::target`].
#[unsafe(naked)]
pub unsafe extern "sysv64" fn leave() {
    naked_asm!(
        "mov [rsp + {target}], r10",
        "mov r11, [rsp + {registers}]",
        "mov [r11], rax",
        "lahf",
        "seto al",
        "mov [rsp + {arith}], ax",
        "mov [r11 + 8], rcx",
        "mov [r11 + 16], rdx",
        "mov [r11 + 24], rbx",
        "mov [r11 + 32], r9",
        "mov [r11 + 40], rbp",
        "mov [r11 + 48], rsi",
        "mov [r11 + 56], rdi",
        "mov [r11 + 64], r8",
        "mov [r11 + 96], r12",
        "mov [r11 + 104], r13",
        "mov [r11 + 112], r14",
        "mov [r11 + 120], r15",
        "mov rax, [rsp + {r9}]",
        "mov [r11 + 72], rax",
        "mov rax, [rsp + {r10}]",
        "mov [r11 + 80], rax",
        "mov rax, [rsp + {r11}]",
        "mov [r11 + 88], rax",
        "cmp dword ptr [rsp + {units}], 0",
        "je 3f",
        "mov rax, [rsp + {vectors}]",
        "stmxcsr [rax + 24]",
        "ldmxcsr [rsp + {host_mxcsr}]",
        each_vector!(store_sse, "rax"),
        "test dword ptr [rsp + {units}], 2",
        "jz 2f",
        each_vector!(store_upper, "rax"),
        "vzeroupper",
        "2:",
        "mov dword ptr [rsp + {units}], 0",
        "3:",
        "mov rsp, [rsp + {host_stack}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        target = const offset_of!(Frame, target),
        registers = const offset_of!(Frame, registers),
        arith = const offset_of!(Frame, arith),
        r9 = const offset_of!(Frame, r9),
        r10 = const offset_of!(Frame, r10),
        r11 = const offset_of!(Frame, r11),
        units = const offset_of!(Frame, units),
        vectors = const offset_of!(Frame, vectors),
        host_mxcsr = const offset_of!(Frame, host_mxcsr),
        host_stack = const offset_of!(Frame, host_stack),
    )
}

/// What an empty entry of a jump table leads to: leaves with exit [`super::exit::LOOKUP`].
#[unsafe(naked)]
pub unsafe extern "sysv64" fn lookup() {
    naked_asm!(
        "mov dword ptr [rsp + {exit}], {lookup}",
        "jmp {leave}",
        exit = const offset_of!(Frame, exit),
        lookup = const super::exit::LOOKUP,
        leave = sym leave,
    )
}

/// Called by translated code that found no TLB entry for the address in R10; R11 is a [`request`]. Returns when the
/// entry is there, with everything but R10 and R11 as it was; else leaves, or returns behind the jump that follows the call,
/// as the request says.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn refill() {
    naked_asm!(
        "push rax",
        "lahf",
        "seto al",
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        "push rdi",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "lea rdi, [rsp + 80]",
        "mov rsi, r10",
        "mov edx, r11d",
        "cmp dword ptr [rdi + {units}], 0",
        "jne 4f",
        "call [rdi + {fill}]",
        "2:",
        "mov r11d, eax",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rdi",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "sub r11, 1",
        "pop rax",
        "jc 3f",
        "add [rsp + 8], r11",
        "add al, 127",
        "sahf",
        "pop rax",
        "ret",
        "3:",
        "add al, 127",
        "sahf",
        "pop rax",
        "lea rsp, [rsp + 8]",
        "jmp {leave}",
        // The host's vector registers are the guest's: Rust code may use them.
        "4:",
        "stmxcsr [rdi + {saved_mxcsr}]",
        "ldmxcsr [rdi + {host_mxcsr}]",
        "lea rax, [rdi + {saved}]",
        each_vector!(store_whole, "rax"),
        "vzeroupper",
        "mov [rsp], rdi",
        "call [rdi + {fill}]",
        "mov rdi, [rsp]",
        "lea rdx, [rdi + {saved}]",
        each_vector!(load_whole, "rdx"),
        "ldmxcsr [rdi + {saved_mxcsr}]",
        "jmp 2b",
        units = const offset_of!(Frame, units),
        fill = const offset_of!(Frame, fill),
        saved = const offset_of!(Frame, saved),
        saved_mxcsr = const offset_of!(Frame, saved_mxcsr),
        host_mxcsr = const offset_of!(Frame, host_mxcsr),
        leave = sym leave,
    )
}

/// Called by translated code whose slot has not got the address in R10; R11 is a [`request`]. If the TLB has the page: returns
/// behind the two jumps that follow the call, with what to add to the address in R11, and may have filled the slot. Else
/// does what [`refill`] does, or if the request says so, only returns behind the first jump. All but R11 and the flags are as
/// they were.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn fill_slot() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "push rsi",
        // The entry.
        "mov rax, r10",
        "shr rax, {to_entry}",
        "and eax, {entry_mask}",
        "bt r11d, {user}",
        "jnc 2f",
        "add eax, {array}",
        "2:",
        "lea rax, [rsp + rax + {tlb} + {pushed}]",
        "mov rdx, [rax + {read}]",
        "bt r11d, {write}",
        "cmovc rdx, [rax + {tag_write}]",
        // Whether its page has all of the operand: it may begin in so many bytes of it.
        "mov ecx, r11d",
        "and ecx, {bytes}",
        "neg rcx",
        "add rcx, 4097",
        "mov rsi, r10",
        "sub rsi, rdx",
        "cmp rsi, rcx",
        "jae 5f",
        "mov rax, [rax + {addend}]",
        "mov esi, r11d",
        "shr esi, {slot}",
        "shl esi, {slot_shift}",
        "lea rsi, [rsp + rsi + {slots} + {pushed}]",
        "dec dword ptr [rsi + {patience}]",
        "js 4f",
        // Longer runs are for others to replace.
        "cmp qword ptr [rsi + {limit}], 4096",
        "ja 3f",
        "cmp qword ptr [rsi + {limit}], 0",
        "mov [rsi + {low}], rdx",
        "mov [rsi + {limit}], rcx",
        "mov [rsi + {slot_addend}], rax",
        "jne 3f",
        // It had nothing: now it belongs to the list of its half.
        "shr r11d, {slot}",
        "shr rdx, 63",
        "imul edx, edx, {list}",
        "lea rdx, [rsp + rdx + {filled} + {pushed}]",
        "mov ecx, [rdx + {count}]",
        "and ecx, {last}",
        "mov [rdx + rcx * 2 + {listed}], r11w",
        "inc dword ptr [rdx + {count}]",
        "3:",
        "mov r11, rax",
        "add qword ptr [rsp + {pushed} - 8], 2 * {jump}",
        "8:",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "ret",
        // It was filled often.
        "4:",
        "or r11d, {tired}",
        "jmp 6f",
        "5:",
        "bt r11d, {early}",
        "jc 7f",
        "6:",
        "pop rsi",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "jmp {refill}",
        "7:",
        "add qword ptr [rsp + {pushed} - 8], {jump}",
        "jmp 8b",
        to_entry = const 12 - size_of::<Entry>().trailing_zeros(),
        entry_mask = const (ENTRIES - 1) * size_of::<Entry>(),
        array = const ENTRIES * size_of::<Entry>(),
        pushed = const 8 + 4 * 8,
        user = const request::USER.trailing_zeros(),
        write = const request::WRITE.trailing_zeros(),
        slot = const request::SLOT,
        slot_shift = const size_of::<Slot>().trailing_zeros(),
        tired = const request::TIRED,
        early = const request::EARLY.trailing_zeros(),
        bytes = const request::BYTES,
        jump = const JUMP,
        tlb = const offset_of!(Frame, tlb),
        slots = const offset_of!(Frame, slots),
        filled = const offset_of!(Frame, filled),
        list = const size_of::<FilledSlots>(),
        count = const offset_of!(FilledSlots, count),
        listed = const offset_of!(FilledSlots, slots),
        last = const SLOTS - 1,
        read = const offset_of!(Entry, read),
        tag_write = const offset_of!(Entry, write),
        addend = const offset_of!(Entry, addend),
        low = const offset_of!(Slot, low),
        limit = const offset_of!(Slot, limit),
        slot_addend = const offset_of!(Slot, addend),
        patience = const offset_of!(Slot, patience),
        refill = sym refill,
    )
}

/// What [`refill`] is asked for: bytes in bits 0 to 14.
pub mod request {
    pub const BYTES: u32 = 0x7fff;
    /// Of [`super::fill_slot`]: the access may never come, so that the TLB is not to be filled for it.
    pub const EARLY: u32 = 1 << 15;
    /// For a store, or a read that a store follows.
    pub const WRITE: u32 = 1 << 16;
    /// Where it does not help, the call returns behind the jump of five bytes that follows it.
    pub const MAY_FAIL: u32 = 1 << 17;
    /// Of [`super::fill_slot`]: for code of ring 3, and that the slot was filled often; the first bit of the slot's number.
    pub const USER: u32 = 1 << 18;
    pub const TIRED: u32 = 1 << 19;
    pub const SLOT: u32 = 20;
}

/// Bytes of a jump behind a call that may return elsewhere.
pub const JUMP: u32 = 5;

/// Fills the TLB for an access. Gives one more than the bytes behind the call that it returns to, or zero for leaving. What it does not allow is the interpreter's: faults,
/// devices, pages with decoded code, operands across pages.
pub unsafe extern "sysv64" fn fill(frame: *mut Frame, address: u64, request: u32) -> u32 {
    let refused = if request & request::MAY_FAIL != 0 { 1 + JUMP } else { 0 };
    // SAFETY: the frame's pointer to the CPU was set from an exclusive borrow that `enter`'s caller holds and does
    // not use meanwhile.
    let cpu = unsafe { &mut *(*frame).cpu.cast::<crate::cpu::Cpu>() };
    let bytes = u64::from(request & request::BYTES);
    let access = if request & request::WRITE != 0 { Access::Write } else { Access::Read };
    if request & request::TIRED != 0 {
        cpu.mmu.tlb.look_at_slot((request >> request::SLOT) as usize, address, bytes, access);
        return 1;
    }
    if !is_canonical(address) || (address & crate::mmu::PAGE_MASK) + bytes > crate::mmu::PAGE {
        return refused;
    }
    if cpu.fill_for(address, bytes, access) { 1 } else { refused }
}
