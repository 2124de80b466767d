//! IRR, ISR, TPR and the end of interrupts.

use super::*;

#[test]
fn the_highest_vector_comes_first_and_nests() {
    let mut lapic = enabled(0);
    for vector in [0x31, 0x92, 0x45] {
        assert!(lapic.accept(vector, Trigger::Edge));
    }
    assert_eq!(lapic.acknowledge(), 0x92);
    // The others are of lower classes than the one in service.
    assert_eq!(lapic.pending_interrupt(), None);
    lapic.accept(0x9f, Trigger::Edge);
    assert_eq!(lapic.pending_interrupt(), None, "the same class does not nest");
    lapic.accept(0xa0, Trigger::Edge);
    assert_eq!(lapic.acknowledge(), 0xa0);
    assert_eq!(read(&mut lapic, number::PPR), 0xa0);
    write(&mut lapic, number::EOI, 0);
    assert_eq!(read(&mut lapic, number::PPR), 0x90);
    write(&mut lapic, number::EOI, 0);
    let order: Vec<u8> = std::iter::from_fn(|| {
        lapic.pending_interrupt()?;
        let vector = lapic.acknowledge();
        write(&mut lapic, number::EOI, 0);
        Some(vector)
    })
    .collect();
    assert_eq!(order, [0x9f, 0x45, 0x31]);
}

#[test]
fn the_task_priority_masks_its_class_and_below() {
    let mut lapic = enabled(0);
    lapic.accept(0x4f, Trigger::Edge);
    write(&mut lapic, number::TPR, 0x40);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!((lapic.cr8(), read(&mut lapic, number::PPR)), (4, 0x40));
    lapic.set_cr8(3);
    assert_eq!(read(&mut lapic, number::TPR), 0x30);
    assert_eq!(lapic.pending_interrupt(), Some(0x4f));
}

#[test]
fn the_processor_priority_is_the_greater_of_task_and_service() {
    let mut lapic = enabled(0);
    lapic.accept(0x52, Trigger::Edge);
    lapic.acknowledge();
    write(&mut lapic, number::TPR, 0x4c);
    assert_eq!(read(&mut lapic, number::PPR), 0x50);
    write(&mut lapic, number::TPR, 0x63);
    assert_eq!(read(&mut lapic, number::PPR), 0x63);
}

#[test]
fn a_vector_can_wait_behind_itself() {
    let mut lapic = enabled(0);
    lapic.accept(0x80, Trigger::Edge);
    lapic.acknowledge();
    lapic.accept(0x80, Trigger::Edge);
    assert_eq!(lapic.pending_interrupt(), None);
    write(&mut lapic, number::EOI, 0);
    assert_eq!(lapic.pending_interrupt(), Some(0x80));
}

#[test]
fn only_level_interrupts_tell_the_io_apic_of_their_end() {
    let mut lapic = enabled(0);
    lapic.accept(0x61, Trigger::Level);
    lapic.accept(0x51, Trigger::Edge);
    assert_eq!(read(&mut lapic, number::TMR + 3), 1 << 1);
    assert_eq!(lapic.acknowledge(), 0x61);
    assert_eq!(write(&mut lapic, number::EOI, 0), Action::EndOfInterrupt { vector: 0x61 });
    assert_eq!(lapic.acknowledge(), 0x51);
    assert_eq!(write(&mut lapic, number::EOI, 0), Action::None);
    assert_eq!(write(&mut lapic, number::EOI, 0), Action::None, "nothing is in service");
    // The same vector, now as an edge, is no longer broadcast.
    lapic.accept(0x61, Trigger::Edge);
    lapic.acknowledge();
    assert_eq!(write(&mut lapic, number::EOI, 0), Action::None);
}

#[test]
fn what_went_away_is_spurious() {
    let mut lapic = enabled(0);
    write(&mut lapic, number::SVR, 0x1ef);
    lapic.accept(0x70, Trigger::Edge);
    write(&mut lapic, number::TPR, 0xf0);
    assert_eq!(lapic.acknowledge(), 0xef);
    assert_eq!(read(&mut lapic, number::ISR + 7), 0, "a spurious interrupt is not in service");
}

#[test]
fn a_software_disabled_apic_holds_what_it_has_and_takes_nothing() {
    let mut lapic = enabled(0);
    lapic.accept(0x70, Trigger::Edge);
    write(&mut lapic, 0x35, 0x700);
    write(&mut lapic, number::SVR, 0xff);
    assert!(!lapic.accept(0x80, Trigger::Edge));
    assert_eq!(read(&mut lapic, 0x35), 0x1_0700, "the vector table is masked");
    write(&mut lapic, 0x35, 0x700);
    assert_eq!(read(&mut lapic, 0x35), 0x1_0700, "and stays so");
    assert_eq!(lapic.acknowledge(), 0x70, "the processor handles what is held");
    assert_eq!(read(&mut lapic, number::ISR + 3), 1 << 16);
    write(&mut lapic, number::SVR, 0x1ff);
    assert_eq!(read(&mut lapic, 0x35), 0x1_0700, "enabling unmasks nothing");
}

#[test]
fn a_software_disabled_apic_answers_to_nmi_init_and_start_up() {
    let mut lapic = enabled(0);
    write(&mut lapic, number::SVR, 0xff);
    let with = |mode| Message { mode, ..fixed(Destination::All, 0x10) };
    assert_eq!(lapic.deliver(with(DeliveryMode::Nmi)), Signal::Nmi);
    assert_eq!(lapic.deliver(with(DeliveryMode::Init)), Signal::Init);
    assert_eq!(lapic.deliver(with(DeliveryMode::StartUp)), Signal::StartUp { page: 0x10 });
    lapic.deliver(with(DeliveryMode::ExtInt));
    assert!(!lapic.ext_int_pending());
    write(&mut lapic, number::ICR_HIGH, 1 << 24);
    assert_eq!(write(&mut lapic, number::ICR_LOW, 0x4041), Action::Send(fixed(Destination::Physical(1), 0x41)));
}

#[test]
fn bitmaps_find_their_highest() {
    let mut vectors = Vectors::default();
    assert_eq!(vectors.highest(), None);
    for vector in 0..=255 {
        vectors.insert(vector);
        assert_eq!(vectors.highest(), Some(vector));
    }
    for vector in (0..=255).rev() {
        assert!(vectors.contains(vector));
        vectors.remove(vector);
        assert_eq!(vectors.highest(), vector.checked_sub(1));
    }
}
