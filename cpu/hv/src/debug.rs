//! What a debugger on the host asks of a CPU, which the guest never sees.

/// Where a [`crate::Vcpu`] is to stop. Nothing of it is in guest memory nor in the guest's debug registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Debugging {
    /// Linear addresses of instructions: stop before they run.
    pub breakpoints: Vec<u64>,
    /// Stop behind an instruction that accesses one of them.
    pub watchpoints: Vec<Watchpoint>,
    /// Stop behind one instruction, whatever breakpoints there are. No interrupt comes before it, unless the CPU sleeps. An
    /// exception that it raises counts for it: the CPU stops at the handler.
    pub step: bool,
}

/// Linear addresses that are watched: those of data that the program accesses, not what the CPU itself reads of page
/// tables, and nothing that a device writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    pub linear: u64,
    /// At least 1.
    pub bytes: u64,
    pub kind: WatchKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// An engine that cannot tell reads from writes stops at both.
    Read,
    Write,
    Access,
}

/// Why a CPU stopped for its debugger ([`crate::Exit::Debug`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugStop {
    /// [`Debugging::step`] is done; it has to be asked for again.
    Step,
    /// The instruction at RIP is one of [`Debugging::breakpoints`], and has not run.
    Breakpoint,
    /// The instruction before has accessed it.
    Watchpoint(Watchpoint),
}

impl Watchpoint {
    /// Whether an access of `bytes` (at least 1) at `linear` is one that is watched.
    pub fn is_hit(&self, linear: u64, bytes: u64, write: bool) -> bool {
        let wanted = match self.kind {
            WatchKind::Read => !write,
            WatchKind::Write => write,
            WatchKind::Access => true,
        };
        // Distances, as either may end at the end of the address space.
        let behind = linear.wrapping_sub(self.linear);
        let before = self.linear.wrapping_sub(linear);
        wanted && (behind < self.bytes || before < bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_that_overlap_are_hits() {
        let watched = Watchpoint { linear: 0x1000, bytes: 4, kind: WatchKind::Write };
        for (linear, bytes, hit) in [(0xffc, 4, false), (0xffd, 4, true), (0x1003, 1, true), (0x1004, 8, false)] {
            assert_eq!(watched.is_hit(linear, bytes, true), hit, "{linear:#x}");
            assert!(!watched.is_hit(linear, bytes, false));
        }
        let last = Watchpoint { linear: u64::MAX, bytes: 1, kind: WatchKind::Access };
        assert!(last.is_hit(u64::MAX - 7, 8, false) && !last.is_hit(0, 8, false));
    }
}
