//! A guest's crash, for a person to read.

mod names;

use motu_hv::{CrashReport, RecentInstruction};
use motu_x86::flags::{cr0, efer, rflags};
use motu_x86::{CpuState, DescriptorTable, Segment, Shadow};
use std::fmt::{self, Display, Formatter};

const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
/// Those that 16- and 32-bit code has.
const LEGACY_GPR: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];

/// Shows registers and the last instructions.
pub struct Shown<'a>(pub &'a CrashReport);

/// The mode that the processor ran in (SDM vol. 3, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    Virtual8086,
    Protected,
    Compatibility,
    Long,
}

impl Mode {
    fn of(state: &CpuState) -> Self {
        let long = state.msrs.efer & efer::LMA != 0;
        match () {
            () if state.cr0 & cr0::PE == 0 => Self::Real,
            () if long && state.segments.cs.attributes & Segment::L != 0 => Self::Long,
            () if long => Self::Compatibility,
            () if state.rflags & rflags::VM != 0 => Self::Virtual8086,
            () => Self::Protected,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Real => "real mode",
            Self::Virtual8086 => "virtual-8086 mode",
            Self::Protected => "protected mode",
            Self::Compatibility => "compatibility mode",
            Self::Long => "64-bit mode",
        }
    }
}

/// How many hexadecimal digits things have: as many as the code's registers.
#[derive(Clone, Copy)]
struct Widths {
    /// Of addresses in a segment.
    offset: usize,
    /// Of general registers and linear addresses.
    register: usize,
}

impl Widths {
    fn of(state: &CpuState) -> Self {
        let wide_code = state.segments.cs.attributes & Segment::DB != 0;
        match Mode::of(state) {
            // 64-bit mode is left in for a moment only, with all of its registers.
            Mode::Long | Mode::Compatibility => Self { offset: 16, register: 16 },
            _ if wide_code => Self { offset: 8, register: 8 },
            _ => Self { offset: 4, register: 8 },
        }
    }
}

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let CrashReport { state, recent } = self.0;
        let widths = Widths::of(state);
        place(f, state, widths)?;
        general_registers(f, state, widths)?;
        segment_registers(f, state, widths)?;
        control_registers(f, state, widths)?;
        if recent.is_empty() {
            return writeln!(f, "the last instructions are not known");
        }
        writeln!(f, "last instructions, the newest at the end:")?;
        recent.iter().try_for_each(|instruction| recent_line(f, instruction, widths))
    }
}

/// Where it was, and in what mode.
fn place(f: &mut Formatter<'_>, state: &CpuState, widths: Widths) -> fmt::Result {
    let cs = &state.segments.cs;
    let mode = Mode::of(state);
    write!(f, "in {}", mode.name())?;
    if matches!(mode, Mode::Protected | Mode::Compatibility) {
        write!(f, ", {}-bit code", if cs.attributes & Segment::DB != 0 { 32 } else { 16 })?;
    }
    if !matches!(mode, Mode::Real | Mode::Virtual8086) {
        write!(f, ", CPL {}", state.segments.ss.dpl())?;
    }
    let offset = widths.offset;
    write!(f, ", at {:04x}:{:0offset$x}", cs.selector, state.rip)?;
    if mode != Mode::Long && cs.base != 0 {
        let linear = cs.base.wrapping_add(state.rip) & 0xffff_ffff;
        write!(f, " (linear {linear:08x})")?;
    }
    writeln!(f)
}

fn general_registers(f: &mut Formatter<'_>, state: &CpuState, widths: Widths) -> fmt::Result {
    let width = widths.register;
    let names = if width == 16 { &GPR[..] } else { &LEGACY_GPR[..] };
    for (names, values) in names.chunks(4).zip(state.gpr.chunks(4)) {
        for (at, (name, value)) in names.iter().zip(values).enumerate() {
            // What 32-bit code cannot see is left out.
            let value = if width == 16 { *value } else { value & 0xffff_ffff };
            let gap = if at == 0 { "" } else { " " };
            write!(f, "{gap}{name:>3}={value:0width$x}")?;
        }
        writeln!(f)?;
    }
    let CpuState { rip, rflags: flags, .. } = state;
    let (ip, name) = if width == 16 { ("rip", "rflags") } else { ("eip", "eflags") };
    let level = (flags & rflags::IOPL) >> 12;
    write!(f, "{ip}={rip:0width$x} {name}={flags:08x}{} IOPL={level}", names::set(*flags, names::RFLAGS))?;
    let holds = [
        (state.interrupt_shadow != Shadow::None, ", interrupts held off for one instruction"),
        (state.nmi_blocked, ", in an NMI handler"),
    ];
    holds.iter().filter(|(is, _)| *is).try_for_each(|(_, text)| f.write_str(text))?;
    writeln!(f)
}

fn segment_registers(f: &mut Formatter<'_>, state: &CpuState, widths: Widths) -> fmt::Result {
    let width = widths.register;
    let s = &state.segments;
    let segments = [
        ("es", s.es),
        ("cs", s.cs),
        ("ss", s.ss),
        ("ds", s.ds),
        ("fs", s.fs),
        ("gs", s.gs),
        ("ldtr", s.ldtr),
        ("tr", s.tr),
    ];
    for (name, segment) in segments {
        let Segment { selector, base, limit, .. } = segment;
        let kind = names::segment(&segment);
        writeln!(f, "{name:>4} {selector:04x} base={base:0width$x} limit={limit:08x} {kind}")?;
    }
    for (name, DescriptorTable { base, limit }) in [("gdtr", state.gdtr), ("idtr", state.idtr)] {
        writeln!(f, "{name}      base={base:0width$x} limit={limit:08x}")?;
    }
    Ok(())
}

fn control_registers(f: &mut Formatter<'_>, state: &CpuState, widths: Widths) -> fmt::Result {
    let width = widths.register;
    let CpuState { cr0, cr2, cr3, cr4, .. } = state;
    let efer = state.msrs.efer;
    writeln!(f, "cr0={cr0:08x}{}", names::set(*cr0, names::CR0))?;
    writeln!(f, "cr2={cr2:0width$x} cr3={cr3:0width$x}")?;
    writeln!(f, "cr4={cr4:08x}{}", names::set(*cr4, names::CR4))?;
    writeln!(f, "efer={efer:08x}{} xcr0={:x}", names::set(efer, names::EFER), state.xcr0)?;
    writeln!(f, "dr6={:08x} dr7={:08x}", state.dr[6], state.dr[7])
}

fn recent_line(f: &mut Formatter<'_>, instruction: &RecentInstruction, widths: Widths) -> fmt::Result {
    let offset = widths.offset;
    let RecentInstruction { cs, rip, text, .. } = instruction;
    writeln!(f, "  {cs:04x}:{rip:0offset$x}  {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_x86::Segments;

    fn shown(state: CpuState) -> String {
        let (cs, rip) = (state.segments.cs, state.rip);
        let recent =
            vec![RecentInstruction { cs: cs.selector, rip, linear: cs.base.wrapping_add(rip), text: "ud2".into() }];
        Shown(&CrashReport { state, recent }).to_string()
    }

    #[track_caller]
    fn has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|shown| shown == *line), "{line:?} is not in\n{text}");
        }
    }

    fn real() -> CpuState {
        let segment =
            |selector: u16, attributes| Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes };
        let data = segment(0x1000, 0x93);
        let mut state = CpuState { rip: 0x7c05, rflags: 0x202, ..CpuState::default() };
        state.segments =
            Segments { cs: segment(0x07c0, 0x9b), ss: data, ds: data, es: data, fs: data, gs: data, ..state.segments };
        state.gpr[0] = 0xdead_beef;
        state
    }

    #[test]
    fn sixty_four_bit_code_has_all_registers() {
        let mut state = CpuState {
            rip: 0xffff_ffff_8100_0000,
            cr0: 0x8005_0033,
            cr2: 0xdead_b000,
            cr4: 0x20,
            rflags: 0x1_0086,
            ..CpuState::default()
        };
        state.gpr[3] = 0x1234;
        state.msrs.efer = 0xd01;
        state.segments.cs = Segment::flat_code(0x10, true);
        let lines = [
            "in 64-bit mode, CPL 0, at 0010:ffffffff81000000",
            "rax=0000000000000000 rcx=0000000000000000 rdx=0000000000000000 rbx=0000000000001234",
            " r8=0000000000000000  r9=0000000000000000 r10=0000000000000000 r11=0000000000000000",
            "rip=ffffffff81000000 rflags=00010086 PF SF RF IOPL=0",
            "  cs 0010 base=0000000000000000 limit=ffffffff 64-bit code, read/execute, DPL 0",
            "gdtr      base=0000000000000000 limit=00000000",
            "cr0=80050033 PE MP ET NE WP AM PG",
            "cr2=00000000deadb000 cr3=0000000000000000",
            "cr4=00000020 PAE",
            "efer=00000d01 SCE LME LMA NXE xcr0=1",
            "  0010:ffffffff81000000  ud2",
        ];
        has(&shown(state), &lines);
    }

    #[test]
    fn sixteen_bit_code_has_its_own_registers_and_addresses() {
        let lines = [
            "in real mode, at 07c0:7c05 (linear 0000f805)",
            "eax=deadbeef ecx=00000000 edx=00000000 ebx=00000000",
            "eip=00007c05 eflags=00000202 IF IOPL=0",
            "  cs 07c0 base=00007c00 limit=0000ffff 16-bit code, read/execute, DPL 0",
            "  ds 1000 base=00010000 limit=0000ffff 16-bit data, read/write, DPL 0",
            "  07c0:7c05  ud2",
        ];
        let text = shown(real());
        has(&text, &lines);
        assert!(!text.contains("r8"), "{text}");
    }

    #[test]
    fn every_mode_has_its_name() {
        let mut state = real();
        state.cr0 |= cr0::PE;
        has(&shown(state.clone()), &["in protected mode, 16-bit code, CPL 0, at 07c0:7c05 (linear 0000f805)"]);
        state.segments.cs = Segment::flat_code(8, false);
        state.rip = 0x10_0000;
        has(
            &shown(state.clone()),
            &["in protected mode, 32-bit code, CPL 0, at 0008:00100000", "  0008:00100000  ud2"],
        );
        let v86 = CpuState { cr0: cr0::PE, rflags: rflags::VM | 0x3000, ..real() };
        has(&shown(v86), &["in virtual-8086 mode, at 07c0:7c05 (linear 0000f805)"]);
        state.msrs.efer = efer::LMA;
        has(&shown(state), &["in compatibility mode, 32-bit code, CPL 0, at 0008:0000000000100000"]);
    }

    #[test]
    fn a_report_without_instructions_says_so() {
        let report = CrashReport { state: CpuState::default(), recent: Vec::new() };
        assert!(Shown(&report).to_string().ends_with("the last instructions are not known\n"));
    }
}
