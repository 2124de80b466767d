//! Saving, restoring, and what holds whatever the guest does.

use super::*;

#[test]
fn power_up_is_as_in_the_manual() {
    let mut lapic = Lapic::new(3, contract());
    let expected = [
        (number::ID, 3 << 24),
        (number::VERSION, 0x5_0014),
        (number::TPR, 0),
        (number::LDR, 0),
        (number::DFR, u32::MAX),
        (number::SVR, 0xff),
        (number::ESR, 0),
        (number::ICR_LOW, 0),
        (number::LVT, lvt::MASKED),
        (0x37, lvt::MASKED),
        (number::DIVIDE, 0),
    ];
    for (register, value) in expected {
        assert_eq!(read(&mut lapic, register), value, "{register:#x}");
    }
    assert_eq!(lapic.msr_read(msr::APIC_BASE, at(0)), Ok(0xfee0_0800), "not the boot processor");
}

#[test]
fn a_due_timer_is_saved_as_its_interrupt() {
    let mut lapic = enabled(0);
    write(&mut lapic, number::LVT, 0xec);
    write(&mut lapic, number::INITIAL_COUNT, 10);
    let saved = lapic.save(at(100_000));
    let mut other = Lapic::new(0, contract());
    other.restore(&saved, at(0)).unwrap();
    assert_eq!(other.pending_interrupt(), Some(0xec));
}

#[test]
fn a_running_timer_goes_on_from_its_count() {
    let mut lapic = enabled(0);
    write(&mut lapic, number::LVT, 1 << 17 | 0xec);
    write(&mut lapic, number::INITIAL_COUNT, 10);
    let saved = lapic.save(at(160));
    let mut other = Lapic::new(0, contract());
    other.restore(&saved, at(1_000_000)).unwrap();
    assert_eq!(other.next_deadline(at(1_000_000)), Some(Nanos(1_000_000 + 8 * 80)));
    other.expire(at(1_000_640));
    assert_eq!(other.next_deadline(at(1_000_640)), Some(Nanos(1_001_440)));
}

#[test]
fn impossible_states_are_refused() {
    let saved = enabled(1).save(at(0));
    let mut lapic = Lapic::new(0, contract());
    assert_eq!(lapic.restore(&saved, at(0)), Err(RestoreError::Id { found: 1, expected: 0 }));
    for base_msr in [0xfee0_0400, 0xfee0_0801, 1 << 50 | 0x800] {
        let bad = motu_x86::Lapic { base_msr, ..enabled(0).save(at(0)) };
        assert_eq!(lapic.restore(&bad, at(0)), Err(RestoreError::Base { value: base_msr }));
    }
    assert_eq!(lapic.save(at(0)), Lapic::new(0, contract()).save(at(0)), "nothing has changed");
}

/// What a guest, a device or time can do.
#[derive(Clone, Debug)]
enum Step {
    MmioRead(u32),
    MmioWrite(u32, u32),
    MsrRead(u32),
    MsrWrite(u32, u64),
    Base(u64),
    Deadline(u64),
    Cr8(u64),
    Accept(u8, bool),
    Msi(u64, u32),
    Lint0(bool),
    Acknowledge,
    Wait(u64),
    Init,
}

fn step() -> impl Strategy<Value = Step> {
    let value =
        prop_oneof![any::<u32>(), 0u32..0x300, (0u32..3, 0u32..256).prop_map(|(mode, vector)| mode << 17 | vector)];
    let wide =
        prop_oneof![any::<u64>(), (0u64..0x200), (0u64..4, 0u64..0x800).prop_map(|(high, low)| high << 32 | low)];
    let base = prop_oneof![Just(0xfee0_0000u64), Just(0xfee0_0800), Just(0xfee0_0c00), any::<u64>()];
    prop_oneof![
        (0u32..0x1000).prop_map(Step::MmioRead),
        ((0u32..0x40).prop_map(|register| register << 4), value)
            .prop_map(|(offset, value)| Step::MmioWrite(offset, value)),
        (0x800u32..0x900).prop_map(Step::MsrRead),
        (0x800u32..0x840, wide).prop_map(|(number, value)| Step::MsrWrite(number, value)),
        base.prop_map(Step::Base),
        (0u64..1_000_000).prop_map(Step::Deadline),
        (0u64..16).prop_map(Step::Cr8),
        any::<(u8, bool)>().prop_map(|(vector, level)| Step::Accept(vector, level)),
        (0u64..0x10_0000, any::<u32>()).prop_map(|(low, data)| Step::Msi(0xfee0_0000 | low, data)),
        any::<bool>().prop_map(Step::Lint0),
        Just(Step::Acknowledge),
        prop_oneof![0u64..100_000, any::<u64>()].prop_map(Step::Wait),
        Just(Step::Init),
    ]
}

/// Enabled half of the time, in either mode, so that deep states are reached.
fn start() -> impl Strategy<Value = Lapic> {
    prop_oneof![Just(enabled(0)), Just(x2apic(0)), Just(Lapic::new(0, contract()))]
}

fn take(lapic: &mut Lapic, step: &Step, nanos: &mut u64) {
    let moment = Moment { now: Nanos(*nanos), tsc: nanos.wrapping_add(1000) };
    match *step {
        Step::MmioRead(offset) => {
            lapic.mmio_read(offset, moment);
        }
        Step::MmioWrite(offset, value) => {
            lapic.mmio_write(offset, value, moment);
        }
        Step::MsrRead(number) => {
            lapic.msr_read(number, moment).ok();
        }
        Step::MsrWrite(number, value) => {
            lapic.msr_write(number, value, moment).ok();
        }
        Step::Base(value) => {
            lapic.msr_write(msr::APIC_BASE, value, moment).ok();
        }
        Step::Deadline(value) => {
            lapic.msr_write(msr::TSC_DEADLINE, value, moment).ok();
        }
        Step::Cr8(class) => lapic.set_cr8(class),
        Step::Accept(vector, level) => {
            lapic.accept(vector, if level { Trigger::Level } else { Trigger::Edge });
        }
        Step::Msi(address, data) => {
            if let Some(message) = Message::from_msi(Msi { address, data })
                && lapic.is_destination(message.destination)
            {
                lapic.deliver(message);
            }
        }
        Step::Lint0(level) => {
            lapic.set_lint0(level);
        }
        Step::Acknowledge => {
            let (promised, spurious) = (lapic.pending_interrupt(), lapic.svr as u8);
            assert_eq!(lapic.acknowledge(), promised.unwrap_or(spurious));
            assert_ne!(lapic.pending_interrupt(), promised.or(Some(0)), "what was taken does not interrupt itself");
        }
        Step::Wait(time) => {
            *nanos = nanos.saturating_add(time);
            lapic.expire(Moment { now: Nanos(*nanos), tsc: nanos.wrapping_add(1000) });
        }
        Step::Init => lapic.init(),
    }
}

/// The pending interrupt by the definition, without any cache.
fn expected_pending(lapic: &Lapic) -> Option<u8> {
    let highest = |vectors: &Vectors| (0..=255).rev().find(|&vector| vectors.contains(vector));
    let class = (lapic.tpr >> 4).max(highest(&lapic.isr).map_or(0, |vector| vector >> 4));
    highest(&lapic.irr).filter(|vector| vector >> 4 > class && lapic.is_enabled())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_the_invariants_hold(mut lapic in start(), steps in prop::collection::vec(step(), 0..80)) {
        let mut nanos = 0;
        for step in &steps {
            take(&mut lapic, step, &mut nanos);
            prop_assert_eq!(lapic.pending_interrupt(), expected_pending(&lapic), "after {:?}", step);
            prop_assert!(lapic.irr.word(0) & 0xffff == 0 && lapic.isr.word(0) & 0xffff == 0);
            prop_assert!(lapic.is_enabled() || !lapic.is_x2apic());
            let moment = Moment { now: Nanos(nanos), tsc: nanos.wrapping_add(1000) };
            if let (Step::Wait(_), Some(next)) = (step, lapic.next_deadline(moment)) {
                prop_assert!(next > Nanos(nanos) || nanos == u64::MAX, "expire left nothing due");
            }
        }
    }

    #[test]
    fn a_restored_apic_saves_the_same(mut lapic in start(), steps in prop::collection::vec(step(), 0..80)) {
        let mut nanos = 0;
        for step in &steps {
            take(&mut lapic, step, &mut nanos);
        }
        let moment = Moment { now: Nanos(nanos), tsc: nanos.wrapping_add(1000) };
        let saved = lapic.save(moment);
        let mut other = Lapic::new(0, contract());
        other.restore(&saved, moment).unwrap();
        lapic.expire(moment);
        prop_assert_eq!(other.pending_interrupt(), lapic.pending_interrupt());
        prop_assert_eq!(other.save(moment), saved);
    }

    #[test]
    fn any_registers_restore_or_are_refused(
        words in prop::collection::vec(any::<u32>(), 64),
        base_msr in prop_oneof![Just(0xfee0_0800u64), Just(0xfee0_0c00), any::<u64>()],
        tsc_deadline: u64,
        steps in prop::collection::vec(step(), 0..20),
    ) {
        let mut saved = motu_x86::Lapic { base_msr, registers: [0; 64], tsc_deadline };
        saved.registers.copy_from_slice(&words);
        saved.registers[number::ID as usize] = 0;
        let mut lapic = Lapic::new(0, contract());
        let mut nanos = 0;
        if lapic.restore(&saved, at(0)).is_ok() {
            prop_assert_eq!(lapic.pending_interrupt(), expected_pending(&lapic));
            for step in &steps {
                take(&mut lapic, step, &mut nanos);
                prop_assert_eq!(lapic.pending_interrupt(), expected_pending(&lapic));
            }
        }
    }
}
