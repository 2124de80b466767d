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
fn nmi_init_and_ext_int_are_edges_whatever_the_entry_says() {
    for mode in [0x200, 0x400, 0x500, 0x700] {
        let mut b = board();
        b.redirect(2, 0x8000 | mode);
        b.io_apic.set(2, true);
        b.io_apic.set(2, true);
        assert_eq!(b.wires.take_messages(), [(0xfee0_0000, 0x4000 | mode as u32)], "{mode:#x}");
        assert_eq!(b.read(0x14), 0x8000 | mode as u32, "no remote IRR");
        b.redirect(2, 0x8000 | mode);
        assert!(b.wires.take_messages().is_empty(), "a write is no edge");
        b.io_apic.set(2, false);
        b.io_apic.set(2, true);
        assert_eq!(b.wires.take_messages().len(), 1);
    }
}

#[test]
fn what_is_read_only_stays() {
    let mut b = board();
    for (register, expected) in [(1, 0x0017_0020), (2, 0x0500_0000), (3, 0), (0x40, 0), (0xff, 0)] {
        b.write(0, 0x0500_0000);
        b.write(register, u32::MAX);
        assert_eq!(b.read(register), expected, "register {register:#x}");
    }
    // Delivery status and remote IRR can be neither set nor cleared.
    b.redirect(7, 0x1_d041);
    assert_eq!(b.read(0x1e), 0x1_8041);
    b.redirect(7, 0x8041);
    b.io_apic.set(7, true);
    b.redirect(7, 0x8041);
    assert_eq!(b.read(0x1e), 0xc041);
    assert_eq!(b.wires.take_messages().len(), 1);
}

#[test]
fn the_window_takes_whole_words_and_the_index_any_width() {
    let mut b = board();
    b.write(0x10, 0x8041);
    b.mmio.write(WINDOW, &[0x55, 0x55]);
    assert_eq!(b.read(0x10), 0x8041);
    b.mmio.write(SELECT, &[1]);
    let mut data = [0; 2];
    b.mmio.read(WINDOW, &mut data);
    assert_eq!(data, [0x20, 0x00]);
    b.mmio.read(SELECT, &mut data);
    assert_eq!(data, [1, 0]);
    b.mmio.read(EOI, &mut data);
    assert_eq!(data, [0, 0], "write-only");
}

#[test]
fn the_end_of_an_interrupt_is_for_all_pins_of_its_vector() {
    let mut b = board();
    for pin in [16, 17] {
        b.redirect(pin, 0x8060);
        b.io_apic.set(pin.into(), true);
    }
    assert_eq!(b.wires.take_messages().len(), 2);
    b.io_apic.set(16, false);
    b.io_apic.end_of_interrupt(0x60);
    assert_eq!(b.wires.take_messages().len(), 1, "only 17 is still asserted");
    assert_eq!((b.read(0x30), b.read(0x32)), (0x8060, 0xc060));
    // Masked in between: delivered when it is unmasked.
    b.redirect(17, 0x1_8060);
    b.io_apic.end_of_interrupt(0x60);
    assert!(b.wires.take_messages().is_empty());
    b.redirect(17, 0x8060);
    assert_eq!(b.wires.take_messages().len(), 1);
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
