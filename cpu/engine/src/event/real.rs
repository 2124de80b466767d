//! The interrupt vector table of real-address mode (Intel SDM vol. 3, 20.1.4).

use super::Event;
use crate::cpu::{Cpu, Faulting, seg};
use motu_x86::Exception;
use motu_x86::flags::rflags;

/// An entry: offset, then segment, 16 bits each.
const ENTRY: u64 = 4;

impl Cpu {
    pub(super) fn deliver_real(&mut self, event: &Event) -> Faulting<()> {
        let offset = u64::from(event.vector) * ENTRY;
        if offset + ENTRY - 1 > u64::from(self.idtr.limit) {
            return self.raise_code(Exception::GP, event.gate_code());
        }
        let entry = self.idtr.base.wrapping_add(offset);
        let flags = self.rflags();
        self.enter_vector(entry, flags, event.rip)
    }

    /// Goes where the vector table's entry at linear `entry` says; `flags` are what the handler's IRET restores.
    pub(super) fn enter_vector(&mut self, entry: u64, flags: u64, rip: u64) -> Faulting<()> {
        let pointer = u32::from_le_bytes(self.read_system(entry)?);
        let cs = self.segments[seg::CS].selector;
        let stack = self.current_stack();
        let top = self.push_frame(&stack, &[flags, u64::from(cs), rip], 2)?;
        self.use_stack(top);
        self.system_flags &= !(rflags::TF | rflags::RF | rflags::AC | rflags::IF);
        self.load_real_code((pointer >> 16) as u16);
        self.rip = u64::from(pointer & 0xffff);
        Ok(())
    }
}
