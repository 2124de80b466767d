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
    Interpret,
    /// So is its memory operand: a fault, a device, decoded code, two pages.
    Access,
    /// No exit by itself: where an indirect branch is, and by how much it has moved RSP.
    Branch { moved: i32 },
    /// It was time to look up.
    Poll,
    /// The block needs units whose registers are not loaded.
    Units(u32),
    /// The stack of the block crosses a page, is not in the TLB, or is not plain memory.
    Stack,
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

/// The exit of code that found nothing: its number in [`super::frame::Frame::exit`].
pub const LOOKUP: u32 = 0;
