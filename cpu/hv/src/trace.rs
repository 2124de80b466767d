//! What a CPU tells about what it does, while it does it: `--trace exec` and `--trace int`.

use crate::RecentInstruction;

/// What a CPU tells about what it does, as it does it. Called on the vCPU's thread, between guest instructions.
pub trait Tracer: Send {
    /// Whether `instruction` is to be called at all: it makes the CPU run one instruction at a time.
    fn wants_instructions(&self) -> bool;
    /// An instruction that is about to run.
    fn instruction(&mut self, instruction: &RecentInstruction);
    /// An exception or interrupt that was taken; also those of which the delivery faults in its turn.
    fn event(&mut self, event: &TracedEvent);
}

/// An exception or interrupt that was delivered. The registers are those that it interrupted, from
/// before its handler's frame was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedEvent {
    pub kind: EventKind,
    pub vector: u8,
    pub error_code: Option<u32>,
    pub cs: u16,
    /// The return address that the handler finds.
    pub rip: u64,
    /// 0 to 3.
    pub cpl: u8,
    pub ss: u16,
    pub rsp: u64,
    /// The address of a page fault; `None` for every other vector.
    pub cr2: Option<u64>,
}

/// What made the CPU go through the IDT (SDM vol. 3, 6.3 and 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Exception,
    /// An external interrupt or an NMI.
    Interrupt,
    /// `INT n`, `INT3`, `INTO` or `INT1`.
    Software,
}
