//! The lines of a trace: docs/trace.md describes them for those who search in them.

use motu_hv::{EventKind, RecentInstruction, TracedEvent};
use motu_machine::{Access, Direction, Space};
use std::fmt::{self, Write};

/// Names of the exceptions by vector (SDM vol. 3, table 6-1).
const EXCEPTIONS: [&str; 22] = [
    "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#9", "#TS", "#NP", "#SS", "#GP", "#PF", "#15",
    "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
];

/// Appends an access's line to `out`.
pub fn access(out: &mut String, cpu: u32, access: &Access) -> fmt::Result {
    let Access { space, direction, address, size, value } = *access;
    // Two digits a byte.
    let digits = size * 2;
    match (space, direction) {
        (Space::Port, Direction::Read) => write!(out, "io cpu{cpu} in port={address:#06x}")?,
        (Space::Port, Direction::Write) => write!(out, "io cpu{cpu} out port={address:#06x}")?,
        (Space::Memory, Direction::Read) => write!(out, "mmio cpu{cpu} read address={address:#018x}")?,
        (Space::Memory, Direction::Write) => write!(out, "mmio cpu{cpu} write address={address:#018x}")?,
    }
    writeln!(out, " size={size} value=0x{value:0digits$x}")
}

/// Appends an event's line to `out`.
pub fn event(out: &mut String, cpu: u32, event: &TracedEvent) -> fmt::Result {
    let TracedEvent { kind, vector, error_code, cs, rip, cpl, ss, rsp, cr2 } = *event;
    let word = match kind {
        EventKind::Exception => "exception",
        EventKind::Interrupt => "interrupt",
        EventKind::Software => "software",
    };
    write!(out, "int cpu{cpu} {word} vector={vector:#04x}")?;
    if kind == EventKind::Exception
        && let Some(name) = EXCEPTIONS.get(usize::from(vector))
    {
        write!(out, " {name}")?;
    }
    if let Some(code) = error_code {
        write!(out, " error={code:#06x}")?;
    }
    write!(out, " at={cs:04x}:{rip:016x} cpl={cpl} stack={ss:04x}:{rsp:016x}")?;
    if let Some(address) = cr2 {
        write!(out, " cr2={address:#018x}")?;
    }
    writeln!(out)
}

/// Appends an instruction's line to `out`.
pub fn instruction(out: &mut String, cpu: u32, instruction: &RecentInstruction) -> fmt::Result {
    let RecentInstruction { cs, rip, linear, text } = instruction;
    writeln!(out, "exec cpu{cpu} at={cs:04x}:{rip:016x} linear={linear:#018x} {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(write: impl FnOnce(&mut String) -> fmt::Result) -> String {
        let mut out = String::new();
        write(&mut out).unwrap();
        out
    }

    #[test]
    fn accesses_have_as_many_digits_as_they_are_wide() {
        let of = |space, direction, address, size, value| {
            line(|out| access(out, 0, &Access { space, direction, address, size, value }))
        };
        assert_eq!(of(Space::Port, Direction::Write, 0x3f8, 1, 0xa), "io cpu0 out port=0x03f8 size=1 value=0x0a\n");
        assert_eq!(of(Space::Port, Direction::Read, 0x40, 2, 0xffff), "io cpu0 in port=0x0040 size=2 value=0xffff\n");
        assert_eq!(
            of(Space::Memory, Direction::Read, 0xfec0_0010, 4, 0x11),
            "mmio cpu0 read address=0x00000000fec00010 size=4 value=0x00000011\n"
        );
        assert_eq!(
            of(Space::Memory, Direction::Write, 0xc000_0000, 8, 1),
            "mmio cpu0 write address=0x00000000c0000000 size=8 value=0x0000000000000001\n"
        );
    }

    #[test]
    fn events_have_what_belongs_to_their_kind() {
        let page_fault = TracedEvent {
            kind: EventKind::Exception,
            vector: 14,
            error_code: Some(6),
            cs: 0x33,
            rip: 0x40_1000,
            cpl: 3,
            ss: 0x2b,
            rsp: 0x7fff_0000,
            cr2: Some(0xdead_b000),
        };
        assert_eq!(
            line(|out| event(out, 1, &page_fault)),
            "int cpu1 exception vector=0x0e #PF error=0x0006 at=0033:0000000000401000 cpl=3 \
             stack=002b:000000007fff0000 cr2=0x00000000deadb000\n"
        );
        let timer = TracedEvent { kind: EventKind::Interrupt, vector: 14, error_code: None, cr2: None, ..page_fault };
        assert_eq!(
            line(|out| event(out, 0, &timer)),
            "int cpu0 interrupt vector=0x0e at=0033:0000000000401000 cpl=3 stack=002b:000000007fff0000\n"
        );
        let call = TracedEvent { kind: EventKind::Software, vector: 0x80, ..timer };
        assert!(line(|out| event(out, 0, &call)).starts_with("int cpu0 software vector=0x80 at="));
        let strange = TracedEvent { kind: EventKind::Exception, vector: 31, ..timer };
        assert!(line(|out| event(out, 0, &strange)).starts_with("int cpu0 exception vector=0x1f at="));
    }

    #[test]
    fn an_instruction_is_its_address_and_text() {
        let recent = RecentInstruction { cs: 0x7c0, rip: 5, linear: 0x7c05, text: "out dx,al".into() };
        assert_eq!(
            line(|out| instruction(out, 0, &recent)),
            "exec cpu0 at=07c0:0000000000000005 linear=0x0000000000007c05 out dx,al\n"
        );
    }
}
