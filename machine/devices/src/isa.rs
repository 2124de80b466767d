//! The 16 ISA interrupts, which reach both interrupt controllers.

use crate::ioapic::IoApic;
use crate::pic::Pic;
use motu_bus::IrqSink;
use std::sync::Arc;

/// The timer's interrupt, the one that is wired to another pin of the I/O APIC.
const TIMER_IRQ: u32 = 0;
/// I/O APIC pin of the timer; the MADT has an override for it.
const TIMER_PIN: u32 = 2;

/// The I/O APIC pin that an ISA interrupt (0 to 15) is wired to.
pub fn isa_gsi(irq: u32) -> u32 {
    if irq == TIMER_IRQ { TIMER_PIN } else { irq }
}

/// Sends each ISA interrupt to the 8259 pair and to the I/O APIC. IRQ 2 is the cascade and goes
/// nowhere.
#[derive(Debug)]
pub struct IsaIrqRouter {
    pic: Arc<Pic>,
    io_apic: Arc<IoApic>,
}

impl IsaIrqRouter {
    pub fn new(pic: Arc<Pic>, io_apic: Arc<IoApic>) -> Self {
        Self { pic, io_apic }
    }
}

impl IrqSink for IsaIrqRouter {
    fn set(&self, pin: u32, level: bool) {
        if pin < 16 && pin != TIMER_PIN {
            self.pic.set(pin, level);
            self.io_apic.set(isa_gsi(pin), level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Wires;
    use motu_bus::Device;

    #[test]
    fn the_timer_reaches_pin_2_of_the_io_apic_and_irq_0_of_the_pic() {
        let wires = Arc::new(Wires::default());
        let io_apic = Arc::new(IoApic::new(wires.clone()));
        let intr = wires.line(0);
        let pic = Arc::new(Pic::new(Box::new(move |level| intr.set(level))));
        let mut registers = io_apic.mmio();
        for pin in [0u8, 2, 4] {
            registers.write(0, &[0x10 + 2 * pin]);
            registers.write(0x10, &(0x30 + u32::from(pin)).to_le_bytes());
        }
        let router = IsaIrqRouter::new(pic.clone(), io_apic);
        router.set(2, true);
        router.set(16, true);
        assert!(wires.take_messages().is_empty() && !wires.level(0));
        router.set(0, true);
        assert_eq!(wires.take_messages(), [(0xfee0_0000, 0x4032)]);
        assert!(wires.level(0));
        assert_eq!(pic.acknowledge() & 7, 0);
    }
}
