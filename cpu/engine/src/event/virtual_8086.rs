//! INT n in virtual-8086 mode, and the virtual-8086 mode extensions (Intel SDM vol. 3, 20.3 and table 20-2).

use super::Event;
use crate::cpu::{Cpu, Faulting};
use motu_x86::flags::{cr4, rflags};

/// Where the I/O permission map's offset stands in a 32-bit TSS.
const IO_MAP_BASE: u64 = 0x66;
/// The software interrupt redirection bit map lies right before the I/O permission map.
const REDIRECTION_BYTES: u64 = 32;

impl Cpu {
    pub(super) fn deliver_virtual_8086(&mut self, event: &Event) -> Faulting<()> {
        if self.cr4 & cr4::VME != 0 && !self.is_redirected(event.vector)? {
            return self.deliver_to_8086_program(event);
        }
        if self.iopl() < 3 {
            return self.general_protection(0);
        }
        self.deliver_protected(event)
    }

    /// Whether the bit map has INT `vector` go through the IDT.
    fn is_redirected(&mut self, vector: u8) -> Faulting<bool> {
        if self.tr.kind() & 0b1101 != 0b1001 || u64::from(self.tr.limit) < IO_MAP_BASE + 1 {
            return self.general_protection(0);
        }
        let map = u64::from(u16::from_le_bytes(self.read_system(self.tr.base.wrapping_add(IO_MAP_BASE))?));
        let at = map.wrapping_sub(REDIRECTION_BYTES).wrapping_add(u64::from(vector / 8));
        if map < REDIRECTION_BYTES || at > u64::from(self.tr.limit) {
            return self.general_protection(0);
        }
        let [bits] = self.read_system::<1>(self.tr.base.wrapping_add(at))?;
        Ok(bits >> (vector % 8) & 1 != 0)
    }

    /// Through the program's own vector table at linear address 0. Below IOPL 3 it is the virtual interrupt flag
    /// that is pushed and cleared.
    fn deliver_to_8086_program(&mut self, event: &Event) -> Faulting<()> {
        let flags = self.rflags();
        let own = self.iopl() == 3;
        let kept = self.system_flags & rflags::IF;
        let pushed = if own { flags } else { self.flags_with_virtual_interrupt() };
        self.enter_vector(u64::from(event.vector) * 4, pushed, event.rip)?;
        if !own {
            self.system_flags = (self.system_flags & !rflags::VIF) | kept;
        }
        Ok(())
    }

    /// FLAGS as a program in virtual-8086 mode with VME sees them below IOPL 3: VIF for IF, and IOPL 3.
    pub fn flags_with_virtual_interrupt(&self) -> u64 {
        let flags = self.rflags() & !rflags::IF;
        let virtual_if = if flags & rflags::VIF != 0 { rflags::IF } else { 0 };
        flags | virtual_if | rflags::IOPL
    }
}
