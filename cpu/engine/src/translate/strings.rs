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

/// Takes back what a thunk has pushed: registers, and the flags between them.
macro_rules! restored {
    () => {
        "pop rbx\npop rdx\npop rax\nadd al, 127\nsahf\npop rax"
    };
}

/// Thunk `$name` for elements of `$size` = 1 << `$shift` bytes, which leaves where it got to in `$to`. R11 is the displacement of the TLB's array from the frame, and
/// [`Frame::exit`] the way to the interpreter.
macro_rules! thunk {
    ($name:ident, $to:literal, $size:literal, $shift:literal, $repeated:literal, [$($source:expr),*], [$($save:expr),*], [$($restore:expr),*]) => {
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
                // A page is as good as a backward jump.
                "cmp dword ptr [rsp + 40 + {calm}], 0",
                "je 9f",
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
                concat!("lea ", $to, ", [rdi + rdx * ", $size, "]"),
                "jmp 2b",
                "8:",
                restored!(),
                "ret",
                "9:",
                restored!(),
                "lea rsp, [rsp + 8]",
                "jmp {leave}",
                cpu = const offset_of!(Frame, cpu),
                calm = const offset_of!(Frame, calm),
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
    ($name:ident, $to:literal, $size:literal, $shift:literal, $repeated:literal) => {
        thunk!($name, $to, $size, $shift, $repeated, [], ["mov rax, [rsp + 40]"], []);
    };
}

macro_rules! movs {
    ($name:ident, $to:literal, $from:literal, $size:literal, $shift:literal, $repeated:literal) => {
        thunk!(
            $name,
            $to,
            $size,
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
            ["pop rsi", concat!("lea ", $from, ", [rsi + rdx * ", $size, "]")]
        );
    };
}

const _: () = assert!(offset_of!(Entry, read) == 0);

stos!(stos_8, "rdi", 1, 0, "rep stosb");
stos!(stos_16, "rdi", 2, 1, "rep stosw");
stos!(stos_32, "rdi", 4, 2, "rep stosd");
stos!(stos_64, "rdi", 8, 3, "rep stosq");
movs!(movs_8, "rdi", "rsi", 1, 0, "rep movsb");
movs!(movs_16, "rdi", "rsi", 2, 1, "rep movsw");
movs!(movs_32, "rdi", "rsi", 4, 2, "rep movsd");
movs!(movs_64, "rdi", "rsi", 8, 3, "rep movsq");
// Of 32-bit code, whose pointers wrap around at 4 GiB.
stos!(narrow_stos_8, "edi", 1, 0, "rep stosb");
stos!(narrow_stos_16, "edi", 2, 1, "rep stosw");
stos!(narrow_stos_32, "edi", 4, 2, "rep stosd");
movs!(narrow_movs_8, "edi", "esi", 1, 0, "rep movsb");
movs!(narrow_movs_16, "edi", "esi", 2, 1, "rep movsw");
movs!(narrow_movs_32, "edi", "esi", 4, 2, "rep movsd");

/// How many thunks there are.
pub const THUNKS: usize = 14;

/// The thunks by [`super::select::Repeated::number`].
pub fn thunks() -> [Code; THUNKS] {
    [
        stos_8 as Code,
        stos_16 as Code,
        stos_32 as Code,
        stos_64 as Code,
        movs_8 as Code,
        movs_16 as Code,
        movs_32 as Code,
        movs_64 as Code,
        narrow_stos_8 as Code,
        narrow_stos_16 as Code,
        narrow_stos_32 as Code,
        narrow_movs_8 as Code,
        narrow_movs_16 as Code,
        narrow_movs_32 as Code,
    ]
}

#[cfg(test)]
mod tests {
    use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
    use crate::options::{Options, Translate};
    use motu_hv::{Exit, Vcpu};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const PROGRAM: u64 = 0x40_0000;
    const DATA: u64 = 0x50_0000;
    const PAGES: u64 = 4;

    /// Registers and memory behind a repeated instruction and a store to the bus, from different states each time.
    fn ends(translate: Translate, instruction: &[u8]) -> Vec<([u64; 16], u64, Vec<u8>)> {
        let data = (0..PAGES).map(|n| UserPage { linear: DATA + n * 4096, frame: 1 + n, writable: true });
        let own = UserPage { linear: PROGRAM, frame: 0, writable: false };
        let pages: Vec<UserPage> = std::iter::once(own).chain(data).collect();
        let options = Options { translate, ..Options::default() };
        let mut harness = UserHarness::with_options("v2-2026", &pages, &options).unwrap();
        // The instruction; MOV [RBP], ECX, which is the bus's page; JMP to itself.
        let code: Vec<u8> = instruction.iter().copied().chain([0x89, 0x4d, 0x00, 0xeb, 0xfe]).collect();
        harness.write(0, &code);
        let bus = KickingBus(harness.vcpu().kicker());
        let mut random = 1u64;
        let mut draw = |below: u64| {
            // Knuth's MMIX constants.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut ends = Vec::new();
        for round in 0..300 {
            harness.frames()[4096..].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 7 + round) as u8);
            let cpu = harness.cpu();
            cpu.rip = PROGRAM;
            let count = draw(700);
            let registers = [
                (0, 0x0102_0304_0506_0708 * (draw(200) + 1)),
                (1, count),
                (5, BUS),
                // Eight bytes an element at most, so that all stays in the pages.
                (6, DATA + draw(PAGES * 4096 - 8 * count)),
                (7, DATA + draw(PAGES * 4096 - 8 * count)),
            ];
            registers.iter().for_each(|&(register, value)| cpu.set_gpr(register, value));
            assert_eq!(harness.vcpu().run(&bus), Exit::Kicked, "round {round}");
            let cpu = harness.cpu();
            let (gprs, rflags) = (*cpu.gprs(), cpu.rflags());
            ends.push((gprs, rflags, harness.frames()[4096..].to_vec()));
        }
        let translated = harness.vcpu().translator.as_ref().map_or(0, |translator| translator.stats().instructions);
        assert_eq!(translated > 0, translate == Translate::On);
        ends
    }

    #[test]
    fn repeated_instructions_end_as_the_interpreter_has_them() {
        for element in [&[0xf3u8][..], &[0xf3, 0x66], &[0xf3, 0x48]] {
            for opcode in [0xa4, 0xa5, 0xaa, 0xab] {
                let instruction: Vec<u8> = element.iter().copied().chain([opcode]).collect();
                assert!(
                    ends(Translate::On, &instruction) == ends(Translate::Off, &instruction),
                    "{instruction:x?} differs"
                );
            }
        }
    }

    #[test]
    fn a_long_one_ends_however_often_it_is_disturbed() {
        // Sixty-four pages that are one: the interpreter's piece is shorter.
        const LENGTH: u64 = 64 * 4096;
        let data = (0..64).map(|n| UserPage { linear: DATA + n * 4096, frame: 1, writable: true });
        let own = UserPage { linear: PROGRAM, frame: 0, writable: false };
        let pages: Vec<UserPage> = std::iter::once(own).chain(data).collect();
        let options = Options { stress: Some(1), ..Options::default() };
        let mut harness = UserHarness::with_options("v2-2026", &pages, &options).unwrap();
        // REP STOSB; MOV [RBP], ECX; JMP to itself.
        harness.write(0, &[0xf3, 0xaa, 0x89, 0x4d, 0x00, 0xeb, 0xfe]);
        let bus = KickingBus(harness.vcpu().kicker());
        let mailbox = Arc::clone(&harness.vcpu().mailbox);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    mailbox.ring();
                }
            });
            // The first run fills the TLB, so that the later ones' pages are the thunk's.
            for _ in 0..50 {
                let cpu = harness.cpu();
                cpu.rip = PROGRAM;
                [(1, LENGTH), (5, BUS), (7, DATA)]
                    .into_iter()
                    .for_each(|(register, value)| cpu.set_gpr(register, value));
                assert_eq!(harness.vcpu().run(&bus), Exit::Kicked);
                assert_eq!((harness.cpu().gpr(1), harness.cpu().gpr(7)), (0, DATA + LENGTH));
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
