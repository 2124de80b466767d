//! A guest's crash, for a person to read.

use motu_hv::CrashReport;
use motu_x86::{CpuState, Segment};
use std::fmt::{self, Display, Formatter};

const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Shows registers and the last instructions.
pub struct Shown<'a>(pub &'a CrashReport);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        registers(f, &self.0.state)?;
        if self.0.recent.is_empty() {
            return Ok(());
        }
        writeln!(f, "last instructions, the newest at the end:")?;
        self.0.recent.iter().try_for_each(|i| writeln!(f, "  {:016x}  {}", i.rip, i.text))
    }
}

fn registers(f: &mut Formatter<'_>, state: &CpuState) -> fmt::Result {
    for (names, values) in GPR.chunks(4).zip(state.gpr.chunks(4)) {
        for (name, value) in names.iter().zip(values) {
            write!(f, "{name:>3}={value:016x} ")?;
        }
        writeln!(f)?;
    }
    writeln!(f, "rip={:016x} rflags={:08x} {:?}", state.rip, state.rflags, state.activity)?;
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
    segments.iter().try_for_each(|(name, segment)| segment_line(f, name, segment))?;
    writeln!(f, "gdtr base={:016x} limit={:04x}", state.gdtr.base, state.gdtr.limit)?;
    writeln!(f, "idtr base={:016x} limit={:04x}", state.idtr.base, state.idtr.limit)?;
    writeln!(f, "cr0={:08x} cr2={:016x} cr3={:016x} cr4={:08x}", state.cr0, state.cr2, state.cr3, state.cr4)?;
    writeln!(f, "efer={:08x} xcr0={:x} dr6={:08x} dr7={:08x}", state.msrs.efer, state.xcr0, state.dr[6], state.dr[7])
}

fn segment_line(f: &mut Formatter<'_>, name: &str, segment: &Segment) -> fmt::Result {
    let Segment { selector, base, limit, attributes } = segment;
    writeln!(f, "{name:>4} {selector:04x} base={base:016x} limit={limit:08x} attributes={attributes:05x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_hv::RecentInstruction;

    #[test]
    fn a_person_finds_the_registers_and_the_last_instruction() {
        let mut state = CpuState { rip: 0xffff_ffff_8100_0000, cr2: 0xdead_b000, ..CpuState::default() };
        state.gpr[3] = 0x1234;
        let recent = vec![RecentInstruction { rip: 0x1000, text: "ud2".into() }];
        let shown = Shown(&CrashReport { state, recent }).to_string();
        for expected in ["rip=ffffffff81000000", "rbx=0000000000001234", "cr2=00000000deadb000", "1000  ud2"] {
            assert!(shown.contains(expected), "{expected} is not in\n{shown}");
        }
    }
}
