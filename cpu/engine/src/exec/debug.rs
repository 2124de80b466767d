//! Debug registers and debug exceptions (Intel SDM vol. 3, ch. 17).

use crate::cpu::{Cpu, Done, Faulting, Flow, alert, seg};
use crate::decode::Op;
use motu_x86::Exception;
use motu_x86::flags::{cr4, rflags};

/// DR6 bits (SDM vol. 3, 17.2.3).
pub mod dr6 {
    /// The four breakpoints.
    pub const B: u64 = 0xf;
    /// Debug register access detected.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch.
    pub const BT: u64 = 1 << 15;
    /// Bits that software can set or clear.
    pub const WRITABLE: u64 = B | BD | BS | BT;
    /// Bits that read as one.
    pub const ONES: u64 = 0xffff_0ff0;
}

/// DR7 bits (SDM vol. 3, 17.2.4).
mod dr7 {
    /// Access to the debug registers faults.
    pub const GD: u64 = 1 << 13;
    pub const WRITABLE: u64 = 0xffff_2bff;
    pub const ONES: u64 = 0x400;
}

/// The R/W fields of DR7.
const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const PORT: u64 = 2;

/// One enabled breakpoint.
struct Breakpoint {
    /// Of DR6.
    bit: u64,
    kind: u64,
    first: u64,
    last: u64,
}

impl Cpu {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + use<> {
        let control = self.dr[7];
        let registers = [self.dr[0], self.dr[1], self.dr[2], self.dr[3]];
        registers.into_iter().enumerate().filter(move |(n, _)| control >> (2 * n) & 3 != 0).map(move |(n, address)| {
            let field = control >> (16 + 4 * n);
            let bytes = match field >> 2 & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let first = address & !(bytes - 1);
            Breakpoint { bit: 1 << n, kind: field & 3, first, last: first.wrapping_add(bytes - 1) }
        })
    }

    /// Takes over what DR7 and CR4.DE say, and the host's debugger and tracer.
    pub fn breakpoints_changed(&mut self) {
        let ports = self.cr4 & cr4::DE != 0;
        let (mut execute, mut data, mut port) = (false, false, false);
        for breakpoint in self.breakpoints() {
            match breakpoint.kind {
                EXECUTE => execute = true,
                PORT => port = port || ports,
                _ => data = true,
            }
        }
        let traced = self.tracer.as_ref().is_some_and(|tracer| tracer.wants_instructions());
        self.set_alert(alert::BREAKPOINT, execute || traced || self.debugger.steps());
        self.watches_data = data || self.debugger.watches();
        self.watches_ports = port;
        self.mode_changed();
    }

    /// Raises the fault of a breakpoint on the instruction at RIP, if there is one and RF is clear.
    pub fn hit_instruction_breakpoint(&mut self) -> bool {
        if self.system_flags & rflags::RF != 0 {
            return false;
        }
        let at = self.rip.wrapping_add(self.bases[seg::CS]) & self.linear_mask;
        let hits = self.breakpoints().filter(|b| b.kind == EXECUTE && b.first == at).fold(0, |bits, b| bits | b.bit);
        if hits == 0 {
            return false;
        }
        self.dr[6] = (self.dr[6] & !dr6::B) | hits;
        self.fault = Exception::plain(Exception::DB);
        let rip = self.rip;
        self.deliver_exception(rip);
        true
    }

    /// Notes which data breakpoints an access of `bytes` bytes at a linear address hits.
    pub fn watch_access(&mut self, linear: u64, bytes: u64, write: bool) {
        let last = linear.wrapping_add(bytes - 1);
        let watched = |b: &Breakpoint| match b.kind {
            WRITE => write,
            kind => kind == 3,
        };
        let overlaps = |b: &Breakpoint| b.first <= last && linear <= b.last;
        let hits = self.breakpoints().filter(|b| watched(b) && overlaps(b)).fold(0, |bits, b| bits | b.bit);
        self.watch_hits |= hits | self.watch_for_debugger(linear, bytes, write);
    }

    /// Notes which I/O breakpoints an access of `bytes` ports from `port` on hits; they trap behind the instruction.
    pub fn watch_port(&mut self, port: u16, bytes: u64) {
        if self.watches_ports {
            let (first, last) = (u64::from(port), u64::from(port) + bytes - 1);
            let overlaps = |b: &Breakpoint| b.kind == PORT && b.first <= last && first <= b.last;
            let hits = self.breakpoints().filter(overlaps).fold(0, |bits, b| bits | b.bit);
            self.watch_hits |= hits;
            self.note_watch_hits();
        }
    }

    /// The instruction is complete: what it hit traps behind it.
    pub fn note_watch_hits(&mut self) {
        if self.watch_hits != 0 {
            let hits = std::mem::take(&mut self.watch_hits);
            let guests = self.note_debugger_hit(hits);
            if guests != 0 {
                self.note_debug_trap(guests);
            }
        }
    }

    /// A debug trap with these bits of DR6 is due before the next instruction.
    pub fn note_debug_trap(&mut self, bits: u64) {
        self.debug_trap_bits |= bits;
        self.set_alert(alert::TRAP, true);
        self.limit = 0;
    }

    /// Delivers the debug trap that is due.
    pub fn deliver_debug_trap(&mut self) {
        self.set_alert(alert::TRAP, false);
        self.set_alert(alert::HALTED, false);
        self.repeat_flags = None;
        let bits = std::mem::take(&mut self.debug_trap_bits);
        let kept = if bits & dr6::B != 0 { self.dr[6] & !dr6::B } else { self.dr[6] };
        self.dr[6] = kept | bits;
        self.fault = Exception::plain(Exception::DB);
        let rip = self.rip;
        self.deliver_exception(rip);
    }

    /// A debug exception that was delivered for another reason tells of the trap that was due too.
    pub fn merge_debug_trap(&mut self) {
        self.set_alert(alert::TRAP, false);
        self.dr[6] |= std::mem::take(&mut self.debug_trap_bits);
    }

    /// The handler of #DB may use the debug registers.
    pub fn enter_debug_handler(&mut self) {
        self.dr[7] &= !dr7::GD;
    }

    /// DR4 and DR5 are DR6 and DR7 unless CR4.DE is set. #DB where DR7.GD guards the registers.
    fn debug_register(&mut self, number: u64) -> Faulting<usize> {
        let index = match number {
            0..=3 | 6 | 7 => number as usize,
            4 | 5 if self.cr4 & cr4::DE == 0 => number as usize + 2,
            _ => return self.undefined(),
        };
        self.require_cpl0()?;
        if self.dr[7] & dr7::GD != 0 {
            self.dr[6] |= dr6::BD;
            self.system_flags |= rflags::RF;
            return self.raise(Exception::plain(Exception::DB));
        }
        Ok(index)
    }
}

/// MOV r, DRn: `op.imm` is n.
pub fn read(cpu: &mut Cpu, op: &Op) -> Done {
    let index = cpu.debug_register(op.imm)?;
    cpu.set_gpr(op.dst >> 3, cpu.dr[index & 7] & cpu.linear_mask);
    Ok(Flow::Next)
}

/// MOV DRn, r.
pub fn write(cpu: &mut Cpu, op: &Op) -> Done {
    let index = cpu.debug_register(op.imm)?;
    let value = cpu.gpr(op.src >> 3) & cpu.linear_mask;
    if index >= 6 && value >> 32 != 0 {
        return cpu.general_protection(0);
    }
    cpu.dr[index & 7] = match index {
        6 => (value & dr6::WRITABLE) | dr6::ONES,
        7 => (value & dr7::WRITABLE) | dr7::ONES,
        _ => value,
    };
    cpu.breakpoints_changed();
    Ok(Flow::Stop)
}
