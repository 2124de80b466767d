//! Why translated code leaves.

/// What the run loop does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitKind {
    /// A jump table had nothing for [`super::frame::Frame::target`].
    Lookup,
    /// A jump whose target was not known to have been translated; may be patched to go there.
    Link {
        /// Offset in the code cache of the jump's four-byte distance.
        patch: u32,
    },
    /// The instruction there is the interpreter's.
    Interpret(Within),
    /// So is its memory operand: a fault, a device, decoded code, two pages.
    Access(Within),
    /// No exit by itself: where an indirect branch is, and by how much it has moved RSP.
    Branch { moved: i32 },
    /// It was time to look up.
    Poll,
    /// The block needs units whose registers are not loaded.
    Units(u32),
    /// A group's range crosses a page, or is not plain memory: the rest of the block is to be run with single checks.
    Single {
        /// The operation that the rest begins with.
        op: u16,
        /// As of [`ExitKind::Link`], which this is one of, but to another translation.
        patch: u32,
    },
}

/// Where in its translation an instruction is that the interpreter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    /// Which of the block's operations it is.
    pub op: u16,
    /// Offset in the code cache of what follows it; zero if the run loop is to run it.
    pub resume: u32,
}

/// One way out of translated code.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub kind: ExitKind,
    /// The guest's RIP.
    pub rip: u64,
    /// The translation it belongs to.
    pub translation: u32,
}

impl Exit {
    /// The exit, where offsets become those that `place` gives.
    #[must_use]
    pub fn moved(&self, place: impl Fn(u32) -> u32) -> Self {
        let within = |at: Within| Within { resume: if at.resume == 0 { 0 } else { place(at.resume) }, ..at };
        let kind = match self.kind {
            ExitKind::Link { patch } => ExitKind::Link { patch: place(patch) },
            ExitKind::Single { op, patch } => ExitKind::Single { op, patch: place(patch) },
            ExitKind::Interpret(at) => ExitKind::Interpret(within(at)),
            ExitKind::Access(at) => ExitKind::Access(within(at)),
            kind => kind,
        };
        Self { kind, ..*self }
    }
}

/// The exit of code that found nothing: its number in [`super::frame::Frame::exit`].
pub const LOOKUP: u32 = 0;
