//! The CPU's side of its local APIC: register accesses, actions, timer, and interrupt delivery.

use crate::cpu::{Cpu, Fault, Faulting, alert};
use crate::lapic::{Action, Message, Moment, Signal};
use motu_x86::Nanos;

impl Cpu {
    /// The time on both clocks that the APIC timer knows.
    pub fn moment(&self) -> Moment {
        let now = self.bus().now();
        Moment { now, tsc: self.tsc_at(now) }
    }

    pub fn lapic_read(&mut self, offset: u32) -> u32 {
        let at = self.moment();
        self.lapic.mmio_read(offset, at)
    }

    pub fn lapic_write(&mut self, offset: u32, value: u32) {
        let at = self.moment();
        let action = self.lapic.mmio_write(offset, value, at);
        self.act(action);
    }

    /// IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC registers.
    pub fn read_apic_msr(&mut self, number: u32) -> Faulting<u64> {
        let at = self.moment();
        self.lapic.msr_read(number, at).map_err(|exception| {
            self.fault = exception;
            Fault
        })
    }

    pub fn write_apic_msr(&mut self, number: u32, value: u64) -> Faulting<()> {
        let at = self.moment();
        match self.lapic.msr_write(number, value, at) {
            Ok(action) => {
                self.act(action);
                Ok(())
            }
            Err(exception) => self.raise(exception),
        }
    }

    fn act(&mut self, action: Action) {
        self.set_alert(alert::TIMER, true);
        match action {
            Action::None => {}
            Action::EndOfInterrupt { vector } => self.bus().end_of_interrupt(vector),
            Action::Send(message) => self.send(message),
        }
        self.note_events();
    }

    /// Notes whether an event waits. To be called after every change of the APIC or of NMI.
    pub fn note_events(&mut self) {
        let waiting = self.lapic.pending_interrupt().is_some() || self.lapic.ext_int_pending();
        self.set_alert(alert::EVENT, waiting || self.acknowledged.is_some() || (self.nmi_pending && !self.nmi_blocked));
        self.tell_address();
    }

    /// Lets the other processors know what messages this one takes.
    pub fn tell_address(&self) {
        self.processors.set_address(self.id, self.lapic.address(), self.lapic.processor_priority());
    }

    fn send(&mut self, message: Message) {
        // What the write has just changed counts.
        self.tell_address();
        let to = self.processors.destinations(&message);
        let own = 1 << self.id;
        self.processors.send(to & !own, message);
        if to & own != 0 {
            self.receive(message);
        }
    }

    /// Takes a message, which is for this CPU.
    pub fn receive(&mut self, message: Message) {
        let signal = self.lapic.deliver(message);
        self.signal(signal);
    }

    pub fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Nmi => self.nmi_pending = true,
            // It takes effect behind the instruction that may have sent it.
            Signal::Init => {
                self.init_pending = true;
                self.limit = 0;
                self.set_alert(alert::TIMER, true);
            }
            Signal::StartUp { page } => self.start_up(page),
            Signal::None => {}
        }
    }

    /// When the APIC timer wants attention.
    pub fn timer_deadline(&self, at: Moment) -> Option<Nanos> {
        self.lapic.next_deadline(at)
    }

    /// Whether an event would be delivered, or would end HLT, now.
    pub fn has_event(&self) -> bool {
        if self.is_alerted(alert::WAIT_FOR_SIPI) {
            return false;
        }
        if self.acknowledged.is_some() || (self.nmi_pending && !self.nmi_blocked) {
            return true;
        }
        self.interrupts_enabled() && (self.lapic.pending_interrupt().is_some() || self.lapic.ext_int_pending())
    }

    /// Delivers the most urgent event, if one may be delivered at this boundary.
    pub fn deliver_events(&mut self) {
        if !self.has_event() {
            return;
        }
        self.set_alert(alert::HALTED, false);
        let vector = if let Some(vector) = self.acknowledged.take() {
            vector
        } else if self.nmi_pending && !self.nmi_blocked {
            self.nmi_pending = false;
            self.nmi_blocked = true;
            motu_x86::Exception::NMI
        } else if self.lapic.ext_int_pending() {
            self.lapic.acknowledge_ext_int();
            self.bus().acknowledge_interrupt()
        } else {
            self.lapic.acknowledge()
        };
        self.note_events();
        self.deliver_interrupt(vector);
    }
}
