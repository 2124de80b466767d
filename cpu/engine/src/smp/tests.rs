//! Routing against the manual's rules, written down a second time; one processor alone; waiting.

use super::*;
use crate::lapic::{DeliveryMode, Destination, Trigger};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

/// A local APIC by the manual's registers.
#[derive(Clone, Copy, Debug)]
struct Apic {
    /// IA32_APIC_BASE bits 11 and 10.
    mode: Mode,
    /// SVR bit 8.
    software_enabled: bool,
    /// LDR bits 31 to 24, where it can be written.
    ldr: u8,
    /// DFR bits 31 to 28.
    dfr: u8,
    ppr: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Disabled,
    Xapic,
    X2apic,
}

impl Apic {
    /// The LDR as it reads (SDM vol. 3, 11.12.10.2 for x2APIC mode).
    fn logical(&self, id: u32) -> u32 {
        match self.mode {
            Mode::X2apic => (id / 16) << 16 | 1 << (id % 16),
            _ => u32::from(self.ldr) << 24,
        }
    }

    fn address(&self, id: u32) -> Address {
        Address {
            enabled: self.mode != Mode::Disabled,
            x2apic: self.mode == Mode::X2apic,
            accepts: self.mode != Mode::Disabled && self.software_enabled,
            logical: self.logical(id),
            model: self.dfr,
        }
    }

    /// SDM vol. 3, 11.6.2.1 and 11.6.2.2; 11.12.10 for x2APIC mode.
    fn is_meant(&self, id: u32, destination: Destination) -> bool {
        if self.mode == Mode::Disabled {
            return false;
        }
        let logical = match destination {
            Destination::All => return true,
            Destination::AllBut(sender) => return sender != id,
            Destination::Physical(to) => return to == id,
            Destination::Logical(logical) => logical,
        };
        if self.mode == Mode::X2apic {
            let (cluster, member) = (logical >> 16, logical & 0xffff);
            return logical == 0xffff_ffff || (cluster == id / 16 && member >> (id % 16) & 1 == 1);
        }
        let address = logical as u8;
        match self.dfr {
            0b1111 => (0..8).any(|bit| address >> bit & 1 == 1 && self.ldr >> bit & 1 == 1),
            0b0000 if address == 0xff => true,
            0b0000 => address >> 4 == self.ldr >> 4 && (0..4).any(|bit| address >> bit & self.ldr >> bit & 1 == 1),
            // Reserved.
            _ => false,
        }
    }
}

fn apics() -> impl Strategy<Value = Vec<Apic>> {
    let mode = prop_oneof![1 => Just(Mode::Disabled), 5 => Just(Mode::Xapic), 5 => Just(Mode::X2apic)];
    let dfr = prop_oneof![4 => Just(0xfu8), 4 => Just(0u8), 1 => 0u8..16];
    let apic = (mode, any::<bool>(), any::<u8>(), dfr, any::<u8>())
        .prop_map(|(mode, software_enabled, ldr, dfr, ppr)| Apic { mode, software_enabled, ldr, dfr, ppr });
    proptest::collection::vec(apic, 1..=64)
}

fn destinations() -> impl Strategy<Value = Destination> {
    let logical = prop_oneof![
        0u32..0x100,
        Just(u32::MAX),
        any::<u32>(),
        (0u32..4, any::<u16>()).prop_map(|(c, m)| c << 16 | u32::from(m))
    ];
    prop_oneof![
        (0u32..80).prop_map(Destination::Physical),
        logical.prop_map(Destination::Logical),
        Just(Destination::All),
        (0u32..64).prop_map(Destination::AllBut),
    ]
}

fn table(apics: &[Apic]) -> Processors {
    let processors = Processors::new(apics.len() as u32);
    (0..).zip(apics).for_each(|(id, apic)| processors.set_address(id, apic.address(id), apic.ppr));
    processors
}

fn message(destination: Destination, mode: DeliveryMode) -> Message {
    Message { destination, mode, vector: 0x41, trigger: Trigger::Edge }
}

proptest! {
    #[test]
    fn a_message_goes_to_whom_the_manual_says(apics in apics(), destination in destinations()) {
        let expected: Set = (0..).zip(&apics).map(|(id, apic)| Set::from(apic.is_meant(id, destination)) << id).sum();
        let processors = table(&apics);
        for mode in [DeliveryMode::Fixed, DeliveryMode::Nmi, DeliveryMode::Init, DeliveryMode::StartUp] {
            prop_assert_eq!(processors.destinations(&message(destination, mode)), expected);
        }
    }

    #[test]
    fn the_lowest_priority_takes_it(apics in apics(), destination in destinations()) {
        let takes = |&(id, apic): &(u32, &Apic)| apic.software_enabled && apic.is_meant(id, destination);
        let candidates: Vec<_> = (0..).zip(&apics).filter(takes).collect();
        let least = candidates.iter().map(|(_, apic)| apic.ppr).min();
        let chosen = table(&apics).destinations(&message(destination, DeliveryMode::LowestPriority));
        let Some(least) = least else {
            prop_assert_eq!(chosen, 0);
            return Ok(());
        };
        let allowed = candidates.iter().filter(|(_, apic)| apic.ppr == least).fold(0, |all: Set, (id, _)| all | 1 << id);
        prop_assert_eq!((chosen.count_ones(), chosen & !allowed), (1, 0));
    }

    #[test]
    fn an_address_survives_being_packed(logical: u32, model in 0u8..16, enabled: bool, x2apic: bool, accepts: bool) {
        let address = Address { enabled, x2apic, accepts, logical, model };
        prop_assert_eq!(Address::unpack(address.pack()), address);
    }
}

#[test]
fn equals_take_turns() {
    let apic = Apic { mode: Mode::Xapic, software_enabled: true, ldr: 1, dfr: 0xf, ppr: 0 };
    let processors = table(&[apic; 3]);
    let lowest = message(Destination::All, DeliveryMode::LowestPriority);
    let chosen: Vec<Set> = (0..6).map(|_| processors.destinations(&lowest)).collect();
    assert_eq!(chosen, [1, 2, 4, 1, 2, 4]);
}

#[test]
fn sixty_four_processors_are_a_set() {
    assert_eq!(Processors::new(1).all(), 1);
    assert_eq!(Processors::new(64).all(), Set::MAX);
    assert_eq!(members(1 << 63 | 1).collect::<Vec<_>>(), [0, 63]);
}

/// Threads that stand for processors: each looks up now and then, adds to a sum in two steps while the others stand still, or rests.
#[test]
fn only_one_processor_is_alone() {
    const COUNT: u32 = 4;
    const ROUNDS: u32 = 200;
    let processors = Processors::new(COUNT);
    let running = AtomicU32::new(0);
    let (sum, disturbed) = (Mutex::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for id in 0..COUNT {
            let (processors, running, sum, disturbed) = (&processors, &running, &sum, &disturbed);
            scope.spawn(move || {
                let mailbox = processors.mailbox(id);
                mailbox.set_rests(false);
                for round in 0..ROUNDS {
                    mailbox.take();
                    processors.exclusive().make_way(id);
                    running.fetch_add(1, Ordering::SeqCst);
                    std::hint::spin_loop();
                    running.fetch_sub(1, Ordering::SeqCst);
                    if round % 4 == id {
                        processors.stop_others(id);
                        let before = running.load(Ordering::SeqCst);
                        *sum.lock().unwrap() += 1;
                        let others = running.load(Ordering::SeqCst);
                        disturbed.fetch_or(before != 0 || others != 0, Ordering::SeqCst);
                        processors.resume_others();
                    } else if round % 16 == 5 {
                        mailbox.wait(Some(Duration::from_micros(100)));
                    }
                }
                mailbox.set_rests(true);
                processors.exclusive().rests();
            });
        }
    });
    assert_eq!(*sum.lock().unwrap(), COUNT * ROUNDS / 4);
    assert!(!disturbed.load(Ordering::SeqCst), "another one ran meanwhile");
}
