//! REP MOVS and REP STOS: thunks that translated code calls.
//!
//! Forwards, and page by page as far as the TLB allows; whatever is left then is the interpreter's. The registers always
//! say how far it got, so that it may stop anywhere (SDM vol. 2, REP).

use super::frame::{Code, Frame};
use super::thunks::leave;
use crate::cpu::Cpu;
use crate::mmu::{ENTRIES, Entry};
use motu_x86::flags::rflags;
use std::arch::naked_asm;
use std::mem::{offset_of, size_of};

const ENTRY_MASK: usize = (ENTRIES - 1) * size_of::<Entry>();
// RORX by 7 makes an address the offset of its page's entry.
const _: () = assert!(size_of::<Entry>() == 1 << (12 - 7));

/// Thunk `$name` for elements of `1 << $shift` bytes. R11 is the displacement of the TLB's array from the frame, and
/// [`Frame::exit`] the way to the interpreter.
macro_rules! thunk {
    ($name:ident, $shift:literal, $repeated:literal, [$($source:expr),*], [$($save:expr),*], [$($restore:expr),*]) => {
        #[unsafe(naked)]
        unsafe extern "sysv64" fn $name() {
            naked_asm!(
                "push rax",
                "lahf",
                "seto al",
                "push rax",
                "push rdx",
                "push rbx",
                "lea rbx, [rsp + r11 + 40]",
                "mov rdx, [rsp + 40 + {cpu}]",
                "test dword ptr [rdx + {flags}], {down}",
                "jnz 9f",
                "2:",
                "test rcx, rcx",
                "jz 8f",
                // A page is paid for as a jump is.
                "dec dword ptr [rsp + 40 + {budget}]",
                "jle 9f",
                // RDX: whole elements up to the page's end, RCX at most.
                "mov edx, edi",
                "or edx, -4096",
                "neg edx",
                concat!("shr edx, ", $shift),
                "jz 9f",
                "cmp rcx, rdx",
                "cmovb rdx, rcx",
                // R10: where the host has what RDI points to.
                "rorx r10, rdi, 7",
                "and r10d, {mask}",
                "mov r11, rdi",
                "sub r11, [rbx + r10 + {write}]",
                "cmp r11, 4095",
                "ja 9f",
                "mov r10, [rbx + r10 + {addend}]",
                "add r10, rdi",
                $($source,)*
                "push rcx",
                "push rdi",
                $($save,)*
                "mov rdi, r10",
                "mov rcx, rdx",
                $repeated,
                $($restore,)*
                "pop rdi",
                "pop rcx",
                "sub rcx, rdx",
                concat!("lea rdi, [rdi + rdx * (1 << ", $shift, ")]"),
                "jmp 2b",
                "8:",
                "pop rbx",
                "pop rdx",
                "pop rax",
                "add al, 127",
                "sahf",
                "pop rax",
                "ret",
                "9:",
                "pop rbx",
                "pop rdx",
                "pop rax",
                "add al, 127",
                "sahf",
                "pop rax",
                "lea rsp, [rsp + 8]",
                "jmp {leave}",
                cpu = const offset_of!(Frame, cpu),
                budget = const offset_of!(Frame, budget),
                flags = const offset_of!(Cpu, system_flags),
                down = const rflags::DF,
                mask = const ENTRY_MASK,
                write = const offset_of!(Entry, write),
                addend = const offset_of!(Entry, addend),
                leave = sym leave,
            )
        }
    };
}

macro_rules! stos {
    ($name:ident, $shift:literal, $repeated:literal) => {
        thunk!($name, $shift, $repeated, [], ["mov rax, [rsp + 40]"], []);
    };
}

macro_rules! movs {
    ($name:ident, $shift:literal, $repeated:literal) => {
        thunk!(
            $name,
            $shift,
            $repeated,
            [
                "mov eax, esi",
                "or eax, -4096",
                "neg eax",
                concat!("shr eax, ", $shift),
                "jz 9f",
                "cmp edx, eax",
                "cmova edx, eax",
                // R11: where the host has what RSI points to.
                "rorx rax, rsi, 7",
                "and eax, {mask}",
                "mov r11, rsi",
                "sub r11, [rbx + rax]",
                "cmp r11, 4095",
                "ja 9f",
                "mov r11, [rbx + rax + {addend}]",
                "add r11, rsi"
            ],
            ["push rsi", "mov rsi, r11"],
            ["pop rsi", concat!("lea rsi, [rsi + rdx * (1 << ", $shift, ")]")]
        );
    };
}

const _: () = assert!(offset_of!(Entry, read) == 0);

stos!(stos_8, 0, "rep stosb");
stos!(stos_16, 1, "rep stosw");
stos!(stos_32, 2, "rep stosd");
stos!(stos_64, 3, "rep stosq");
movs!(movs_8, 0, "rep movsb");
movs!(movs_16, 1, "rep movsw");
movs!(movs_32, 2, "rep movsd");
movs!(movs_64, 3, "rep movsq");

/// The thunks by [`super::select::Repeated::number`].
pub fn thunks() -> [Code; 8] {
    [
        stos_8 as Code,
        stos_16 as Code,
        stos_32 as Code,
        stos_64 as Code,
        movs_8 as Code,
        movs_16 as Code,
        movs_32 as Code,
        movs_64 as Code,
    ]
}
