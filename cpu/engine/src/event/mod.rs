//! Delivering exceptions and interrupts (Intel SDM vol. 3, ch. 6 and ch. 20).
//!
//! [`Cpu::deliver`] chooses by mode: the IVT of real mode, the IDT's 16-byte gates of long mode or the 8-byte gates
//! and task gates of protected mode, or what virtual-8086 mode makes of INT n.

mod long;
mod protected;
mod real;
mod virtual_8086;

use crate::cpu::{Cpu, Done, Faulting, Flow, alert};
use motu_hv::{EventKind, TracedEvent};
use motu_x86::Exception;
use motu_x86::flags::rflags;

/// Where an event comes from: decides the EXT bit of error codes and whether the gate's DPL counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// An interrupt line or NMI.
    External,
    /// An exception of an instruction; INT1.
    Exception,
    /// INT n.
    Software,
    /// INT3 and INTO: as INT n, but not sensitive to IOPL in virtual-8086 mode.
    ShortSoftware,
}

impl Source {
    fn is_software(self) -> bool {
        matches!(self, Self::Software | Self::ShortSoftware)
    }
}

/// What is to be delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub vector: u8,
    pub error_code: Option<u32>,
    /// The address to return to.
    pub rip: u64,
    pub source: Source,
}

/// Error code bit: the selector is an IDT index (SDM vol. 3, 6.13).
const IDT: u32 = 2;
/// Error code bit: an event external to the program was being delivered.
const EXT: u32 = 1;

impl Event {
    /// The error code of what is wrong with this event's gate.
    fn gate_code(&self) -> u32 {
        u32::from(self.vector) * 8 + IDT
    }
}

/// Exceptions that make a double fault when they meet (SDM vol. 3, table 6-5).
fn is_contributory(vector: u8) -> bool {
    matches!(vector, Exception::DE | Exception::TS..=Exception::GP)
}

fn makes_double_fault(first: u8, second: u8) -> bool {
    match first {
        Exception::PF => second == Exception::PF || is_contributory(second),
        Exception::DF => true,
        _ => is_contributory(first) && is_contributory(second),
    }
}

impl Cpu {
    /// Delivers the exception in `fault`, raised by the instruction at `rip`. Ends in the handler, or
    /// in shutdown.
    pub fn deliver_exception(&mut self, rip: u64) {
        let mut pending = self.fault;
        self.watch_hits = 0;
        let mut rip = self.restart.take().unwrap_or(rip);
        loop {
            self.stats.exceptions += 1;
            self.note_page_fault();
            // Faults restart the instruction with RF set, so that a breakpoint does not hit again.
            if pending.vector != Exception::DB {
                self.system_flags |= rflags::RF;
            }
            let Exception { vector, error_code, .. } = pending;
            if self.deliver(Event { vector, error_code, rip, source: Source::Exception }).is_ok() {
                return;
            }
            // A task switch on the way may have left the program where it was.
            rip = self.restart.take().unwrap_or(rip);
            if pending.vector == Exception::DF {
                self.note_page_fault();
                self.set_alert(alert::SHUTDOWN, true);
                self.rip = rip;
                return;
            }
            pending = if makes_double_fault(pending.vector, self.fault.vector) {
                Exception::with_code(Exception::DF, 0)
            } else {
                self.fault
            };
        }
    }

    /// Every page fault writes CR2, those that end in a double or triple fault too (SDM vol. 3, 6.15,
    /// interrupt 14).
    fn note_page_fault(&mut self) {
        if self.fault.vector == Exception::PF {
            self.cr2 = self.fault.cr2;
        }
    }

    /// Delivers an external interrupt or an NMI at an instruction boundary.
    pub fn deliver_interrupt(&mut self, vector: u8) {
        self.stats.interrupts += 1;
        self.repeat_flags = None;
        let rip = self.rip;
        if self.deliver(Event { vector, error_code: None, rip, source: Source::External }).is_err() {
            self.deliver_exception(rip);
        }
    }

    /// INT n with the return address `back`.
    pub fn software_interrupt(&mut self, vector: u8, back: u64) -> Done {
        self.deliver_software(vector, back, Source::Software)
    }

    /// INT3 and INTO.
    pub fn short_software_interrupt(&mut self, vector: u8, back: u64) -> Done {
        self.deliver_software(vector, back, Source::ShortSoftware)
    }

    fn deliver_software(&mut self, vector: u8, back: u64, source: Source) -> Done {
        self.deliver(Event { vector, error_code: None, rip: back, source })?;
        self.no_step = true;
        Ok(Flow::Jump)
    }

    /// #DB after the instruction before `back`.
    pub fn debug_trap(&mut self, back: u64) -> Done {
        self.deliver(Event { vector: Exception::DB, error_code: None, rip: back, source: Source::Exception })?;
        // What was held back behind MOV SS is told of by the same exception.
        self.merge_debug_trap();
        self.no_step = true;
        Ok(Flow::Jump)
    }

    fn deliver(&mut self, event: Event) -> Faulting<()> {
        self.external = if event.source.is_software() { 0 } else { EXT };
        if self.tracer.is_some() {
            // Told before it is known whether its delivery faults: what leads to a triple fault is to be seen.
            let traced = self.traced(&event);
            self.tracer.iter_mut().for_each(|tracer| tracer.event(&traced));
        }
        let result = if self.long_mode() {
            self.deliver_long(&event)
        } else if self.cr0 & motu_x86::flags::cr0::PE == 0 {
            self.deliver_real(&event)
        } else if self.virtual_8086() && event.source == Source::Software {
            self.deliver_virtual_8086(&event)
        } else {
            self.deliver_protected(&event)
        };
        self.external = 0;
        if result.is_ok() && event.vector == Exception::DB {
            self.enter_debug_handler();
        }
        result
    }

    /// `event` and where it came, for a person.
    fn traced(&self, event: &Event) -> TracedEvent {
        use crate::cpu::{seg, slot};
        TracedEvent {
            kind: match event.source {
                Source::External => EventKind::Interrupt,
                Source::Exception => EventKind::Exception,
                Source::Software | Source::ShortSoftware => EventKind::Software,
            },
            vector: event.vector,
            error_code: event.error_code,
            cs: self.segments[seg::CS].selector,
            rip: event.rip,
            cpl: self.cpl,
            ss: self.segments[seg::SS].selector,
            rsp: self.gpr(slot::RSP),
            cr2: (event.vector == Exception::PF).then_some(self.cr2),
        }
    }

    /// The flags with which every handler begins; `interrupt` clears IF too.
    fn enter_handler(&mut self, interrupt: bool) {
        self.system_flags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if interrupt {
            self.system_flags &= !rflags::IF;
        }
    }
}
