use super::*;
use crate::pci::feature;
use crate::testing::Driver;
use motu_memory::GuestRam;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use vm_memory::{Bytes, GuestAddress};

/// A source that counts, so that order and amount can be told.
fn counting() -> Driver {
    let mut next = 0u8;
    let mut driver = Driver::new(Box::new(Rng::new(Box::new(move |bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(1);
        }
    }))));
    driver.negotiate(feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC);
    driver.setup_all_queues();
    driver.driver_ok();
    driver
}

fn expected(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| i as u8).collect()
}

#[test]
fn buffers_are_filled_in_order() {
    let mut d = counting();
    let (a, b) = (d.alloc(100), d.alloc(5000));
    let first = d.add(0, &[(a, 100, true)]);
    let second = d.add_indirect(0, &[(b, 3000, true), (b + 3000, 2000, true)]);
    d.notify(0);
    assert_eq!(d.used(0), [(first, 100), (second, 5000)]);
    assert_eq!(d.bytes(a, 100), expected(0, 100));
    assert_eq!(d.bytes(b, 5000), expected(100, 5000));
}

#[test]
fn one_request_gets_a_bounded_amount() {
    let mut d = counting();
    let buffer = d.alloc(1 << 20);
    d.add(0, &[(buffer, 1 << 20, true)]);
    d.notify(0);
    assert_eq!(d.used(0), [(0, MAX_FILL as u32)]);
    assert_eq!(d.bytes(buffer + MAX_FILL as u64, 1), [0]);
}

#[test]
fn many_rounds_of_the_ring() {
    let mut d = counting();
    let buffer = d.alloc(16);
    for round in 0..70_000u32 {
        assert!(d.wants_notification(0), "round {round}");
        d.add(0, &[(buffer, 16, true)]);
        d.notify(0);
        assert_eq!(d.used(0).len(), 1, "round {round}");
    }
    assert!(d.line());
}

#[test]
fn a_full_ring_at_once() {
    let mut d = counting();
    let buffer = d.alloc(16);
    for _ in 0..64 {
        d.add(0, &[(buffer, 16, true)]);
    }
    d.notify(0);
    assert_eq!(d.used(0).len(), 64);
    assert!(d.wants_notification(0));
}

#[test]
fn a_driver_that_never_stops_adding_gets_a_bounded_turn() {
    // Each buffer that is filled makes the next available, as another processor of the guest could.
    let ring: Arc<Mutex<Option<(GuestRam, u64, u16)>>> = Arc::default();
    let other = Arc::clone(&ring);
    let fills = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&fills);
    let source = move |_: &mut [u8]| {
        count.fetch_add(1, Ordering::Relaxed);
        if let Some((ram, available, next)) = other.lock().unwrap().as_mut() {
            *next = next.wrapping_add(1);
            ram.mmap().write_slice(&next.to_le_bytes(), GuestAddress(*available + 2)).unwrap();
        }
    };
    let mut d = Driver::new(Box::new(Rng::new(Box::new(source))));
    d.negotiate(feature::RING_EVENT_IDX);
    d.setup_all_queues();
    d.driver_ok();
    let buffer = d.alloc(16);
    *ring.lock().unwrap() = Some((d.ram.clone(), d.rings[&0].available, 1));
    d.add(0, &[(buffer, 16, true)]);
    d.notify(0);
    let turn = fills.load(Ordering::Relaxed);
    assert_eq!(turn, 4 * u32::from(QUEUE_SIZE));
    d.isr();
    assert_eq!(fills.load(Ordering::Relaxed), 2 * turn, "the next access goes on");
    *ring.lock().unwrap() = None;
    d.isr();
    d.isr();
    assert_eq!(fills.load(Ordering::Relaxed), 2 * turn + 1, "until there is none left");
    assert_eq!(d.used(0).len(), 2 * turn as usize + 1);
}
