use super::*;
use crate::testing::{Wires, accesses, perform};
use proptest::prelude::*;

struct Board {
    io_apic: Arc<IoApic>,
    mmio: IoApicMmio,
    wires: Arc<Wires>,
}

fn board() -> Board {
    let wires = Arc::new(Wires::default());
    let io_apic = Arc::new(IoApic::new(wires.clone()));
    Board { mmio: io_apic.mmio(), io_apic, wires }
}

impl Board {
    fn read(&mut self, register: u8) -> u32 {
        self.mmio.write(SELECT, &u32::from(register).to_le_bytes());
        let mut data = [0; 4];
        self.mmio.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: u8, value: u32) {
        self.mmio.write(SELECT, &u32::from(register).to_le_bytes());
        self.mmio.write(WINDOW, &value.to_le_bytes());
    }

    fn redirect(&mut self, pin: u8, entry: u64) {
        self.write(0x11 + 2 * pin, (entry >> 32) as u32);
        self.write(0x10 + 2 * pin, entry as u32);
    }
}

#[test]
fn registers_at_power_up() {
    let mut b = board();
    assert_eq!(b.read(1), 0x0017_0020);
    assert_eq!(b.read(0x10), 0x0001_0000);
    b.write(0, 0xff00_0000);
    assert_eq!((b.read(0), b.read(2)), (0x0f00_0000, 0x0f00_0000));
    assert_eq!(b.read(0x40), 0);
    b.redirect(23, u64::MAX);
    assert_eq!((b.read(0x3e), b.read(0x3f)), (0x0001_afff, 0xff00_0000));
}

#[test]
fn edges_are_messages_with_destination_and_mode() {
    let mut b = board();
    b.redirect(4, 0x0300_0000_0000_0931);
    b.io_apic.set(4, true);
    b.io_apic.set(4, true);
    assert_eq!(b.wires.take_messages(), [(0xfee0_3004, 0x4131)]);
    b.io_apic.set(4, false);
    b.io_apic.set(4, true);
    assert_eq!(b.wires.take_messages().len(), 1);
    b.redirect(4, 0x0001_0031);
    b.io_apic.set(4, false);
    b.io_apic.set(4, true);
    b.redirect(4, 0x0000_0031);
    assert!(b.wires.take_messages().is_empty(), "an edge that comes while masked is lost");
}

#[test]
fn a_level_is_delivered_again_after_each_end_of_interrupt() {
    let mut b = board();
    b.redirect(9, 0x8041);
    b.io_apic.set(9, true);
    b.io_apic.set(9, true);
    assert_eq!(b.wires.take_messages(), [(0xfee0_0000, 0xc041)]);
    assert_eq!(b.read(0x10 + 18), 0xc041, "remote IRR");
    b.io_apic.end_of_interrupt(0x40);
    assert!(b.wires.take_messages().is_empty());
    b.io_apic.end_of_interrupt(0x41);
    assert_eq!(b.wires.take_messages().len(), 1);
    b.io_apic.set(9, false);
    b.mmio.write(EOI, &0x41u32.to_le_bytes());
    assert!(b.wires.take_messages().is_empty());
    assert_eq!(b.read(0x10 + 18), 0x8041);
}

#[test]
fn unmasking_delivers_a_level_that_is_up() {
    let mut b = board();
    b.redirect(16, 0x1_8050);
    b.io_apic.set(16, true);
    assert!(b.wires.take_messages().is_empty());
    b.redirect(16, 0x8050);
    assert_eq!(b.wires.take_messages(), [(0xfee0_0000, 0xc050)]);
    b.redirect(16, 0x1_8050);
    b.redirect(16, 0x8050);
    assert!(b.wires.take_messages().is_empty(), "remote IRR outlives the mask");
    b.redirect(16, 0x1_0050);
    b.redirect(16, 0x8050);
    assert_eq!(b.wires.take_messages().len(), 1, "passing through edge mode clears it");
}

#[test]
fn reset_masks_and_keeps_the_levels() {
    let mut b = board();
    b.redirect(16, 0x8050);
    b.mmio.reset();
    b.io_apic.set(16, true);
    assert!(b.wires.take_messages().is_empty());
    b.redirect(16, 0x8050);
    assert_eq!(b.wires.take_messages().len(), 1);
}

proptest! {
    #[test]
    fn random_accesses_never_panic_and_hold_the_invariant(all in accesses(0x50)) {
        let mut b = board();
        for access in &all {
            perform(&mut b.mmio, access);
            b.write(access.3 as u8 & 0x3f, (access.3 >> 8) as u32);
            b.io_apic.set((access.3 >> 40 & 0x1f) as u32, access.3 >> 46 & 1 != 0);
            if access.0 {
                b.io_apic.end_of_interrupt((access.3 >> 48) as u8);
            }
            for pin in 0..24 {
                let entry = b.read(0x10 + 2 * pin);
                prop_assert!(entry & 0xc000 != 0x4000, "an edge entry never has remote IRR");
            }
        }
    }
}
