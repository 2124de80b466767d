//! What two engines made of one run.

use crate::bench::Run;
use motu_x86::{CpuState, Segment};
use std::fmt::Debug;

/// Local APIC registers that time moves, or that hold what one engine keeps to itself, by number.
const MOVING: [usize; 2] = [0x39, 0x3f];

/// Where `found` ended otherwise than `expected`, in words: its end, what the guest told, and the CPU's last state but for
/// what time moves.
pub fn differences(expected: &Run, found: &Run) -> Vec<String> {
    let mut differ = Differ(Vec::new());
    differ.same("the end", &expected.end, &found.end);
    differ.same("the events", &expected.events, &found.events);
    differ.states(&expected.report.state, &found.report.state);
    differ.0
}

struct Differ(Vec<String>);

impl Differ {
    fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.0.push(format!("{what}: {found:x?}, and {expected:x?} expected"));
        }
    }

    fn states(&mut self, expected: &CpuState, found: &CpuState) {
        self.same("general registers", &expected.gpr, &found.gpr);
        self.same("RIP", &expected.rip, &found.rip);
        self.same("RFLAGS", &expected.rflags, &found.rflags);
        let segments = |state: &CpuState| {
            let s = state.segments;
            [s.es, s.cs, s.ss, s.ds, s.fs, s.gs, s.ldtr, s.tr].map(visible)
        };
        self.same("ES, CS, SS, DS, FS, GS, LDTR, TR", &segments(expected), &segments(found));
        self.same("GDTR", &expected.gdtr, &found.gdtr);
        self.same("IDTR", &expected.idtr, &found.idtr);
        let control = |s: &CpuState| [s.cr0, s.cr2, s.cr3, s.cr4, s.xcr0];
        self.same("CR0, CR2, CR3, CR4, XCR0", &control(expected), &control(found));
        self.same("debug registers", &expected.dr, &found.dr);
        self.same("MSRs", &expected.msrs, &found.msrs);
        self.same("x87 and vector registers", &expected.xsave, &found.xsave);
        self.same("PKRU", &expected.pkru, &found.pkru);
        let lapic = |state: &CpuState| {
            let mut registers = state.lapic.registers;
            MOVING.iter().for_each(|&number| registers[number] = 0);
            (state.lapic.base_msr, registers)
        };
        self.same("local APIC", &lapic(expected), &lapic(found));
        let events =
            |s: &CpuState| (s.activity, s.interrupt_shadow, s.interrupt, s.pending_debug, s.nmi_pending, s.nmi_blocked);
        self.same(
            "activity, shadow, interrupt and debug trap on their way in, NMI pending and blocked",
            &events(expected),
            &events(found),
        );
    }
}

/// What can be seen of a segment: nothing but its base and selector if it is unusable.
fn visible(segment: Segment) -> Segment {
    if segment.attributes & Segment::UNUSABLE == 0 {
        return segment;
    }
    Segment { limit: 0, attributes: Segment::UNUSABLE, ..segment }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::End;
    use motu_hv::{CrashReport, Stats};

    fn ended(state: CpuState) -> Run {
        let report = CrashReport { state, recent: Vec::new() };
        Run { end: End::Value(0), events: Vec::new(), report, stats: Stats::default(), cpus: 1 }
    }

    #[test]
    fn time_is_no_difference_and_registers_are() {
        let one = ended(CpuState::default());
        let mut other = CpuState { tsc: 1, ..CpuState::default() };
        other.lapic.registers[0x39] = 1;
        other.segments.ds = Segment::null();
        assert_eq!(differences(&one, &ended(other.clone())).len(), 1, "a null segment is not an empty one");
        other.segments.ds = Segment::default();
        assert_eq!(differences(&one, &ended(other.clone())), [""; 0]);
        other.gpr[3] = 1;
        assert!(differences(&one, &ended(other)).concat().starts_with("general registers"));
    }
}
