use super::common::NO_VECTOR;
use super::*;
use crate::rng::Rng;
use crate::testing::{Driver, RAM, SLOT};
use motu_memory::{CodeWrite, Listener};
use std::collections::BTreeSet;
use std::sync::Arc;

const INDIRECT: u16 = 4;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

fn driver() -> Driver {
    Driver::new(Box::new(Rng::new(Box::new(|bytes| bytes.fill(0xa5)))))
}

fn ready() -> Driver {
    let mut driver = driver();
    driver.negotiate(0);
    driver.setup_all_queues();
    driver.driver_ok();
    assert_eq!(driver.status(), 15);
    driver
}

#[test]
fn identity_and_capabilities_are_a_modern_device_s() {
    let mut d = driver();
    assert_eq!(d.config32(0), 0x1044_1af4);
    assert!(d.config8(8) >= 1, "revision");
    assert!(d.config32(0x2c) >> 16 >= 0x40, "subsystem id");
    let kinds: Vec<_> = d.structures.iter().map(|s| s.kind).collect();
    assert_eq!(kinds, [1, 2, 3, 5], "no device configuration for the entropy device");
    let common = d.structures[0];
    assert!(common.length >= 56 && common.offset.is_multiple_of(4));
    assert!(d.structures[1].length >= 2);
    assert_ne!(d.multiplier, 0);
    assert_ne!(d.msix_cap, 0);
    assert_eq!(d.config8(0x3d), 1, "INTA");
    assert_eq!(SLOT, 3);
}

#[test]
fn feature_words_follow_their_select() {
    let mut d = driver();
    assert_eq!(d.device_features(), feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC);
    d.write_common(0, &2u32.to_le_bytes());
    assert_eq!(d.common32(4), 0);
    d.set_features(0x1234_5678_9abc_def0);
    d.write_common(8, &0u32.to_le_bytes());
    assert_eq!(d.common32(0xc), 0x9abc_def0);
    d.write_common(8, &1u32.to_le_bytes());
    assert_eq!(d.common32(0xc), 0x1234_5678);
    d.write_common(8, &7u32.to_le_bytes());
    d.write_common(0xc, &u32::MAX.to_le_bytes());
    assert_eq!(d.common32(0xc), 0);
}

#[test]
fn features_that_do_not_fit_are_not_ok() {
    for features in [0, feature::RING_EVENT_IDX, feature::VERSION_1 | 1 << 50] {
        let mut d = driver();
        d.set_status(1);
        d.set_status(3);
        d.set_features(features);
        d.set_status(11);
        assert_eq!(d.status(), 3, "{features:#x}");
        // The driver may try again with fewer.
        d.set_features(feature::VERSION_1);
        d.set_status(11);
        assert_eq!(d.status(), 11);
        d.set_features(0);
        d.write_common(8, &1u32.to_le_bytes());
        assert_eq!(d.common32(0xc), 1, "negotiation is over");
    }
}

#[test]
fn a_queue_that_does_not_exist_reads_as_zero() {
    let mut d = driver();
    d.select_queue(1);
    assert_eq!(d.common16(0x16), 1);
    for at in [0x18, 0x1c, 0x1e, 0x20, 0x24, 0x28, 0x30] {
        assert_eq!(d.common16(at), 0, "{at:#x}");
    }
    d.write_common(0x18, &16u16.to_le_bytes());
    d.write_common(0x1c, &1u16.to_le_bytes());
    assert_eq!((d.common16(0x18), d.common16(0x1c)), (0, 0));
    assert_eq!(d.common16(0x12), 1, "num_queues");
    assert_eq!(d.status(), 0);
}

#[test]
fn vectors_read_back_or_say_there_is_none() {
    let mut d = driver();
    d.select_queue(0);
    assert_eq!((d.common16(0x10), d.common16(0x1a)), (NO_VECTOR, NO_VECTOR));
    d.write_common(0x10, &0u16.to_le_bytes());
    d.write_common(0x1a, &1u16.to_le_bytes());
    assert_eq!((d.common16(0x10), d.common16(0x1a)), (0, 1));
    d.write_common(0x10, &2u16.to_le_bytes());
    d.write_common(0x1a, &500u16.to_le_bytes());
    assert_eq!((d.common16(0x10), d.common16(0x1a)), (NO_VECTOR, NO_VECTOR), "there are two vectors");
}

#[test]
fn queue_registers_are_fixed_once_enabled() {
    let mut d = ready();
    d.select_queue(0);
    let before = (d.common32(0x20), d.common16(0x18));
    d.write_common(0x20, &0x5000u32.to_le_bytes());
    d.write_common(0x18, &8u16.to_le_bytes());
    d.write_common(0x1c, &0u16.to_le_bytes());
    assert_eq!((d.common32(0x20), d.common16(0x18)), before);
    assert_eq!(d.common16(0x1c), 1);
    d.set_status(0);
    assert_eq!((d.common32(0x20), d.common16(0x1c)), (0, 0), "reset clears them");
    assert_eq!(d.common16(0x16), 0);
}

#[test]
fn an_address_may_be_written_whole_or_by_halves() {
    let mut d = driver();
    d.write_common(0x20, &0x0012_3456_7890u64.to_le_bytes());
    assert_eq!((d.common32(0x20), d.common32(0x24)), (0x3456_7890, 0x12));
    d.write_common(0x24, &7u32.to_le_bytes());
    assert_eq!((d.common32(0x20), d.common32(0x24)), (0x3456_7890, 7));
    // Odd widths and places are no accesses of this structure.
    d.write_common(0x22, &[0xff; 4]);
    d.write_common(0x20, &[0xff]);
    d.write_common(0x14, &[1, 0, 0, 0]);
    assert_eq!((d.common32(0x20), d.status()), (0x3456_7890, 0));
}

#[test]
fn status_bits_out_of_order_need_a_reset() {
    for sequence in [&[2][..], &[4], &[8], &[1, 5], &[1, 9], &[1, 3, 7], &[1, 3, 1], &[1, 3, 2]] {
        let mut d = driver();
        d.set_features(feature::VERSION_1);
        for &status in sequence {
            d.set_status(status);
        }
        d.assert_needs_reset(&format!("{sequence:?}"));
    }
    let mut d = driver();
    d.set_status(1);
    d.set_status(0x80 | 1);
    assert_eq!(d.status(), 0x81, "a driver may always give up");
}

#[test]
fn interrupts_by_intx_until_msix_is_on() {
    let mut d = ready();
    let buffer = d.alloc(64);
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert!(d.line());
    assert_eq!(d.isr(), 1);
    assert!(!d.line(), "reading the ISR status acknowledges");
    assert_eq!(d.isr(), 0);

    d.enable_msix(2);
    d.write_common(0x1a, &1u16.to_le_bytes());
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert_eq!((d.take_messages(), d.line(), d.isr()), (vec![0x41], false, 0));
}

#[test]
fn a_masked_vector_stays_pending() {
    let mut d = ready();
    d.enable_msix(2);
    d.write_common(0x1a, &1u16.to_le_bytes());
    let (table, pending) = (d.bar(1), d.bar(1) + u64::from(MsixBar::PENDING));
    let buffer = d.alloc(64);
    let mut bits = [0; 8];
    d.memory.write(table + 16 + 12, &1u32.to_le_bytes());
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    d.memory.read(pending, &mut bits);
    assert_eq!((bits[0], d.take_messages()), (2, vec![]));
    d.memory.write(table + 16 + 12, &0u32.to_le_bytes());
    d.memory.read(pending, &mut bits);
    assert_eq!((bits[0], d.take_messages()), (0, vec![0x41]));
    // The same for the whole function.
    let control = d.msix_cap + 2;
    d.config_write(control, &0xc000u16.to_le_bytes());
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert!(d.take_messages().is_empty());
    d.config_write(control, &0x8000u16.to_le_bytes());
    assert_eq!(d.take_messages(), [0x41]);
}

#[test]
fn no_interrupt_that_the_driver_does_not_want() {
    let mut d = ready();
    let (buffer, available) = (d.alloc(64), d.rings[&0].available);
    d.write16(available, 1);
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert_eq!((d.used(0).len(), d.line()), (1, false), "NO_INTERRUPT");

    d.negotiate(feature::RING_EVENT_IDX);
    d.setup_all_queues();
    d.driver_ok();
    let (available, size) = (d.rings[&0].available, d.rings[&0].size);
    d.write16(available + 4 + 2 * u64::from(size), 1);
    for interrupts in [false, true] {
        d.add(0, &[(buffer, 64, true)]);
        d.notify(0);
        assert_eq!(d.line(), interrupts, "only after the second, as used_event says");
    }
}

#[test]
fn notifications_before_driver_ok_and_elsewhere_do_nothing() {
    let mut d = driver();
    d.negotiate(0);
    d.setup_all_queues();
    let buffer = d.alloc(64);
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert!(d.used(0).is_empty());
    d.driver_ok();
    let notify = d.structure(2);
    d.memory.write(notify + 4, &1u16.to_le_bytes());
    d.memory.write(notify + 0xffc, &0xffffu16.to_le_bytes());
    assert!(d.used(0).is_empty());
    d.notify(0);
    assert_eq!(d.used(0).len(), 1);
}

#[test]
fn configuration_access_capability_reaches_the_registers() {
    let mut d = driver();
    let cap = d.structures.iter().find(|s| s.kind == 5).unwrap().cap;
    let access = |d: &mut Driver, offset: u32, len: u32, write: Option<u32>| {
        d.config_write(cap + 4, &[0]);
        d.config_write(cap + 8, &offset.to_le_bytes());
        d.config_write(cap + 12, &len.to_le_bytes());
        if let Some(value) = write {
            d.config_write(cap + 16, &value.to_le_bytes());
        }
        d.config32(cap + 16)
    };
    assert_eq!(access(&mut d, 0x14, 1, Some(3)), 3, "status");
    assert_eq!(d.status(), 3);
    assert_eq!(access(&mut d, 0x12, 2, None), 1, "num_queues");
    assert_eq!(access(&mut d, 0x00, 4, Some(1)), 1, "device_feature_select");
    assert_eq!(access(&mut d, 0x04, 4, None), 1, "VERSION_1");
    // What cannot be an access is none.
    assert_eq!(access(&mut d, 0x14, 3, Some(0)), 0);
    assert_eq!(access(&mut d, 0x15, 2, Some(0)), 0);
    assert_eq!(access(&mut d, 0xffff_fff0, 4, Some(0)), 0);
    assert_eq!(d.status(), 3);
}

#[test]
fn queues_set_up_wrongly_need_a_reset() {
    type Break = fn(&mut Driver);
    let cases: [(&str, Break); 7] = [
        ("size 0", |d| d.write_common(0x18, &0u16.to_le_bytes())),
        ("size no power of two", |d| d.write_common(0x18, &24u16.to_le_bytes())),
        ("size too large", |d| d.write_common(0x18, &0x8000u16.to_le_bytes())),
        ("misaligned descriptors", |d| d.write_common(0x20, &0x10_0008u32.to_le_bytes())),
        ("available ring outside RAM", |d| d.write_common(0x28, &(RAM as u32 - 2).to_le_bytes())),
        ("used ring far outside", |d| d.write_common(0x34, &u32::MAX.to_le_bytes())),
        ("no rings", |d| d.write_common(0x28, &0u64.to_le_bytes())),
    ];
    for (case, spoil) in cases {
        let mut d = driver();
        d.negotiate(0);
        d.place_queue(0);
        spoil(&mut d);
        d.write_common(0x1c, &1u16.to_le_bytes());
        assert_eq!(d.common16(0x1c), 0, "{case}");
        d.driver_ok();
        assert_eq!(d.status() & status::DRIVER_OK, 0, "{case}");
        d.assert_needs_reset(case);
    }
}

#[test]
fn malformed_rings_need_a_reset_and_interrupt() {
    type Break = fn(&mut Driver);
    let cases: [(&str, Break); 14] = [
        ("index too far ahead", |d| d.write16(d.rings[&0].available + 2, 65)),
        ("head outside the table", |d| d.publish(0, 64)),
        ("chain that loops", |d| {
            let table = d.rings[&0].descriptors;
            d.write_descriptor(table, 0, (0x1000, 16), NEXT | WRITE, 1);
            d.write_descriptor(table, 1, (0x1000, 16), NEXT | WRITE, 0);
            d.publish(0, 0);
        }),
        ("next outside the table", |d| {
            d.write_descriptor(d.rings[&0].descriptors, 0, (0x1000, 16), NEXT | WRITE, 64);
            d.publish(0, 0);
        }),
        ("buffer outside RAM", |d| _ = d.add(0, &[(RAM - 8, 16, true)])),
        ("address that wraps", |d| _ = d.add(0, &[(u64::MAX - 8, 16, true)])),
        ("absurd length", |d| _ = d.add(0, &[(0x1000, u32::MAX, true)])),
        ("lengths that overflow", |d| _ = d.add(0, &[(0, RAM as u32, true); 64].map(|p| (p.0, u32::MAX, p.2)))),
        ("nothing to fill", |d| _ = d.add(0, &[(0x1000, 16, false)])),
        ("zero length", |d| _ = d.add(0, &[(0x1000, 0, true)])),
        ("readable after writable", |d| _ = d.add(0, &[(0x1000, 16, true), (0x2000, 16, false)])),
        ("indirect in indirect", |d| {
            d.write_descriptor(0x8000, 0, (0x8000, 16), INDIRECT, 0);
            d.write_descriptor(d.rings[&0].descriptors, 0, (0x8000, 16), INDIRECT, 0);
            d.publish(0, 0);
        }),
        ("indirect table of no whole size", |d| {
            d.write_descriptor(d.rings[&0].descriptors, 0, (0x8000, 15), INDIRECT, 0);
            d.publish(0, 0);
        }),
        ("endless indirect table", |d| {
            for index in 0..u16::MAX {
                d.write_descriptor(0x8000, index, (0x1000, 1), NEXT | WRITE, index + 1);
            }
            d.write_descriptor(d.rings[&0].descriptors, 0, (0x8000, 0xf_fff0), INDIRECT, 0);
            d.publish(0, 0);
        }),
    ];
    for (case, spoil) in cases {
        let mut d = ready();
        d.write_common(0x10, &0u16.to_le_bytes());
        spoil(&mut d);
        assert_eq!(d.isr(), 0, "{case}");
        d.notify(0);
        assert_eq!(d.isr() & 2, 2, "{case}: a configuration change notification");
        let before = d.malformed();
        d.notify(0);
        assert_eq!(d.malformed(), before, "{case}: nothing happens until the reset");
        d.assert_needs_reset(case);

        d.negotiate(0);
        d.setup_all_queues();
        d.driver_ok();
        let buffer = d.alloc(64);
        d.add(0, &[(buffer, 64, true)]);
        d.notify(0);
        assert_eq!(d.used(0), [(0, 64)], "{case}: works again");
    }
}

#[test]
fn device_writes_to_code_pages_are_seen() {
    let mut d = ready();
    let (used, buffer) = (d.rings[&0].used, d.alloc(64));
    let tracker = d.ram.regions().next().unwrap().tracker;
    for address in [used, buffer] {
        tracker.hold(address / 4096, 0);
    }
    let (told, heard) = std::sync::mpsc::channel();
    let listener: Listener = Arc::new(move |write: CodeWrite| told.send(write.page).unwrap());
    tracker.listen(&listener);
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    let written: BTreeSet<_> = heard.try_iter().collect();
    assert_eq!(written, BTreeSet::from([used / 4096, buffer / 4096]));
}

#[test]
fn a_machine_reset_forgets_the_driver() {
    let mut d = ready();
    let buffer = d.alloc(64);
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert!(d.line());
    d.bus.reset();
    assert!(!d.line());
    d.bus.assign_resources().unwrap();
    assert_eq!((d.status(), d.isr()), (0, 0));
    d.negotiate(0);
    d.setup_all_queues();
    d.driver_ok();
    d.add(0, &[(buffer, 64, true)]);
    d.notify(0);
    assert_eq!(d.used(0), [(0, 64)]);
}
