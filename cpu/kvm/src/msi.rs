//! Message-signalled interrupts (SDM vol. 3, 11.11) on their way to the kernel's local APICs.

use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi, kvm_msi};
use motu_hv::Msi;

/// Vectors below are the processor's own.
const FIRST_VECTOR: u32 = 16;
/// Pins of I/O APICs that the kernel looks through for level-triggered interrupts. It keeps their number in 8 bits, though it takes
/// greater ones.
pub const PINS: u32 = 240;

/// Data of a message: a level, which is asserted.
pub const LEVEL_ASSERTED: u32 = LEVEL | ASSERT;
const LEVEL: u32 = 1 << 15;
const ASSERT: u32 = 1 << 14;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// No CPU takes it.
    Nobody,
    /// The kernel delivers it.
    Kernel { level_triggered: bool },
    /// It is the 8259 pair's interrupt by message, whose vector comes from there.
    ExtInt,
}

impl Delivery {
    pub fn of(msi: Msi) -> Self {
        if msi.address >> 20 != 0xfee {
            return Self::Nobody;
        }
        match msi.data >> 8 & 7 {
            // Fixed and lowest priority.
            0 | 1 if msi.data & (LEVEL | ASSERT) == LEVEL => Self::Nobody,
            0 | 1 => Self::Kernel { level_triggered: msi.data & LEVEL != 0 },
            // NMI and INIT are edges whatever they say.
            4 | 5 => Self::Kernel { level_triggered: false },
            7 => Self::ExtInt,
            // SMI: there is no system management mode. 3 and start-up are reserved.
            _ => Self::Nobody,
        }
    }
}

pub fn kernel_message(msi: Msi) -> kvm_msi {
    kvm_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        ..kvm_msi::default()
    }
}

/// Level-triggered messages, whose ends the kernel is to tell of (API, 4.52 and KVM_CAP_SPLIT_IRQCHIP: it looks through the
/// routes of the I/O APIC's pins). Each message has a pin here, as long as there are pins; an older one loses its to a new one.
/// The kernel tells of what is in service or waits for it all the same.
#[derive(Debug, Default)]
pub struct Levels {
    messages: Vec<Msi>,
    /// The pin of the next message when all are taken.
    next: usize,
}

impl Levels {
    /// Notes a level-triggered message; the routes, if it is new.
    pub fn note(&mut self, msi: Msi) -> Option<KvmIrqRouting> {
        if msi.data & 0xff < FIRST_VECTOR || self.messages.contains(&msi) {
            return None;
        }
        if self.messages.len() < PINS as usize {
            self.messages.push(msi);
        } else if let Some(message) = self.messages.get_mut(self.next) {
            *message = msi;
            self.next = (self.next + 1) % PINS as usize;
        }
        let entries: Vec<_> = (0..).zip(&self.messages).map(|(pin, &msi)| route(pin, msi)).collect();
        KvmIrqRouting::from_entries(&entries).ok()
    }
}

fn route(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        ..Default::default()
    };
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(address: u64, data: u32) -> Delivery {
        Delivery::of(Msi { address, data })
    }

    #[test]
    fn only_what_a_processor_understands_reaches_the_kernel() {
        assert_eq!(delivery(0xfee0_0000, 0x41), Delivery::Kernel { level_triggered: false });
        assert_eq!(delivery(0xfee0_0000, 0xc141), Delivery::Kernel { level_triggered: true });
        assert_eq!(delivery(0xfee0_0000, 0x8041), Delivery::Nobody, "a level that is not asserted");
        assert_eq!(delivery(0xfed0_0000, 0x41), Delivery::Nobody, "not an APIC's address");
        assert_eq!(delivery(0xfee0_0000, 0x200), Delivery::Nobody, "SMI");
        assert_eq!(delivery(0xfee0_0000, 0x8400), Delivery::Kernel { level_triggered: false }, "NMI");
        assert_eq!(delivery(0xfee0_0000, 0x600), Delivery::Nobody, "start-up");
        assert_eq!(delivery(0xfee0_0000, 0x700), Delivery::ExtInt);
    }

    #[test]
    fn routes_change_only_with_new_messages() {
        let mut levels = Levels::default();
        let message = |data| Msi { address: 0xfee0_0000, data };
        assert_eq!(levels.note(message(0xc031)).unwrap().as_slice().len(), 1);
        assert!(levels.note(message(0xc031)).is_none());
        let routes = levels.note(message(0xc032)).unwrap();
        assert_eq!(routes.as_slice().iter().map(|r| r.gsi).collect::<Vec<_>>(), [0, 1]);
        let of_other = levels.note(Msi { address: 0xfee0_1000, data: 0xc031 }).unwrap();
        assert_eq!(of_other.as_slice().len(), 3, "another CPU's vector of that number");
        assert!(levels.note(message(0xc00f)).is_none(), "no interrupt");
    }

    #[test]
    fn there_are_no_more_routes_than_pins() {
        let mut levels = Levels::default();
        let message = |n: u64| Msi { address: 0xfee0_0000 | n << 12, data: 0xc031 };
        let routes: Vec<_> = (0..2 * u64::from(PINS)).map(|n| levels.note(message(n)).unwrap()).collect();
        assert_eq!(routes.last().unwrap().as_slice().len(), PINS as usize);
        assert!(levels.note(message(u64::from(PINS))).is_none() && levels.note(message(0)).is_some());
    }
}
