//! Messages, destinations, commands, pins and errors.

use super::*;

const ICR_SELF: u32 = 1 << 18;
const ICR_ALL: u32 = 2 << 18;
const ICR_OTHERS: u32 = 3 << 18;

fn command(lapic: &mut Lapic, destination: u32, low: u32) -> Action {
    write(lapic, number::ICR_HIGH, destination << 24);
    write(lapic, number::ICR_LOW, low)
}

#[test]
fn commands_become_messages() {
    let mut lapic = enabled(2);
    assert_eq!(command(&mut lapic, 1, 0xfd), Action::Send(fixed(Destination::Physical(1), 0xfd)));
    assert_eq!(command(&mut lapic, 6, 0x8fd), Action::Send(fixed(Destination::Logical(6), 0xfd)));
    assert_eq!(command(&mut lapic, 0xff, 0x40fd), Action::Send(fixed(Destination::All, 0xfd)));
    assert_eq!(command(&mut lapic, 0, ICR_ALL | 0xfd), Action::Send(fixed(Destination::All, 0xfd)));
    assert_eq!(command(&mut lapic, 0, ICR_OTHERS | 0xfd), Action::Send(fixed(Destination::AllBut(2), 0xfd)));
    let with = |mode, vector| {
        Action::Send(Message { destination: Destination::Physical(1), mode, vector, trigger: Trigger::Edge })
    };
    assert_eq!(command(&mut lapic, 1, 0x400), with(DeliveryMode::Nmi, 0));
    assert_eq!(command(&mut lapic, 1, 0xc500), with(DeliveryMode::Init, 0));
    assert_eq!(command(&mut lapic, 1, 0x8500), Action::None, "INIT level de-assert");
    assert_eq!(command(&mut lapic, 1, 0x699), with(DeliveryMode::StartUp, 0x99));
    assert_eq!(command(&mut lapic, 1, 0x200), Action::None, "SMI");
    assert_eq!(read(&mut lapic, number::ICR_HIGH), 1 << 24);
    assert_eq!(read(&mut lapic, number::ICR_LOW), 0x200);
}

#[test]
fn an_interrupt_to_itself_stays() {
    let mut lapic = enabled(2);
    assert_eq!(command(&mut lapic, 0, ICR_SELF | 0x41), Action::None);
    assert_eq!(lapic.acknowledge(), 0x41);
    assert_eq!(command(&mut lapic, 2, 0x51), Action::None);
    assert_eq!(lapic.acknowledge(), 0x51);
}

#[test]
fn messages_do_what_they_say() {
    let mut lapic = enabled(1);
    let with = |mode| Message { mode, ..fixed(Destination::All, 0x9a) };
    assert_eq!(lapic.deliver(with(DeliveryMode::Nmi)), Signal::Nmi);
    assert_eq!(lapic.deliver(with(DeliveryMode::Init)), Signal::Init);
    assert_eq!(lapic.deliver(with(DeliveryMode::StartUp)), Signal::StartUp { page: 0x9a });
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(lapic.deliver(with(DeliveryMode::LowestPriority)), Signal::None);
    assert_eq!(lapic.pending_interrupt(), Some(0x9a));
    lapic.msr_write(msr::APIC_BASE, 0xfee0_0000, at(0)).unwrap();
    assert!(!lapic.is_destination(Destination::All));
    assert_eq!(lapic.deliver(with(DeliveryMode::Nmi)), Signal::None);
}

#[test]
fn physical_and_shorthand_destinations() {
    let lapic = enabled(3);
    let hits = |destination| lapic.is_destination(destination);
    assert!(hits(Destination::Physical(3)) && hits(Destination::All) && hits(Destination::AllBut(2)));
    assert!(!hits(Destination::Physical(2)) && !hits(Destination::AllBut(3)));
}

#[test]
fn logical_destinations_of_the_flat_and_cluster_models() {
    let mut lapic = enabled(3);
    write(&mut lapic, number::LDR, 0x0800_0000);
    assert!(lapic.is_destination(Destination::Logical(0x0f)));
    assert!(!lapic.is_destination(Destination::Logical(0x07)));
    assert!(!lapic.is_destination(Destination::Logical(0)));
    write(&mut lapic, number::DFR, 0);
    write(&mut lapic, number::LDR, 0x2400_0000);
    assert_eq!(read(&mut lapic, number::DFR), 0x0fff_ffff);
    assert!(lapic.is_destination(Destination::Logical(0x2c)));
    assert!(!lapic.is_destination(Destination::Logical(0x28)));
    assert!(!lapic.is_destination(Destination::Logical(0x34)));
    assert!(lapic.is_destination(Destination::Logical(0xff)));
}

#[test]
fn msis_become_messages() {
    let parse = |address, data| Message::from_msi(Msi { address, data });
    assert_eq!(parse(0xfee0_3000, 0x41), Some(fixed(Destination::Physical(3), 0x41)));
    assert_eq!(parse(0xfeef_f000, 0x4041), Some(fixed(Destination::All, 0x41)));
    let lowest = Message { mode: DeliveryMode::LowestPriority, ..fixed(Destination::Logical(3), 0x41) };
    assert_eq!(parse(0xfee0_3004, 0x141), Some(lowest));
    assert_eq!(parse(0xfee0_300c, 0x041), Some(lowest), "the redirection hint");
    let level = Message { trigger: Trigger::Level, ..fixed(Destination::Physical(0), 0x41) };
    assert_eq!(parse(0xfee0_0000, 0xc041), Some(level));
    assert_eq!(parse(0xfee0_0000, 0x400).map(|message| message.mode), Some(DeliveryMode::Nmi));
    assert_eq!(parse(0xfee0_0000, 0x741).map(|message| message.mode), Some(DeliveryMode::ExtInt));
    // Not an MSI's address, SMI, the reserved mode, start-up, a level that goes away.
    for (address, data) in [
        (0xfed0_0000, 0x41),
        (0x1_fee0_0000, 0x41),
        (0xfee0_0000, 0x241),
        (0xfee0_0000, 0x341),
        (0xfee0_0000, 0x641),
        (0xfee0_0000, 0x8041),
    ] {
        assert_eq!(parse(address, data), None, "{address:#x} {data:#x}");
    }
}

#[test]
fn the_8259_pair_comes_through_lint0() {
    let mut lapic = Lapic::new(0, contract());
    lapic.set_lint0(true);
    assert!(!lapic.ext_int_pending(), "masked after reset");
    write(&mut lapic, number::SVR, 0x1ff);
    write(&mut lapic, 0x35, 0x700);
    assert!(lapic.ext_int_pending());
    write(&mut lapic, number::TPR, 0xff);
    assert!(lapic.ext_int_pending(), "the task priority does not hold ExtINT");
    lapic.set_lint0(false);
    assert!(!lapic.ext_int_pending());
    // With the APIC off the pin is INTR.
    lapic.msr_write(msr::APIC_BASE, 0xfee0_0100, at(0)).unwrap();
    assert!(!lapic.ext_int_pending());
    lapic.set_lint0(true);
    assert!(lapic.ext_int_pending());
}

#[test]
fn lint0_can_carry_other_interrupts() {
    let mut lapic = enabled(0);
    write(&mut lapic, 0x35, 0x31);
    assert_eq!(lapic.set_lint0(true), Signal::None);
    assert_eq!(lapic.acknowledge(), 0x31);
    write(&mut lapic, number::EOI, 0);
    lapic.set_lint0(true);
    assert_eq!(lapic.pending_interrupt(), None, "no edge");
    write(&mut lapic, 0x35, 0x400);
    lapic.set_lint0(false);
    assert_eq!(lapic.set_lint0(true), Signal::Nmi);
    assert_eq!(lapic.set_lint0(true), Signal::None);
}

#[test]
fn a_level_on_lint0_comes_again_until_it_falls() {
    let mut lapic = enabled(0);
    write(&mut lapic, 0x35, 0x8031);
    lapic.set_lint0(true);
    assert_eq!(read(&mut lapic, 0x35), 0xc031, "remote IRR");
    assert_eq!(lapic.acknowledge(), 0x31);
    write(&mut lapic, number::EOI, 0);
    assert_eq!(lapic.acknowledge(), 0x31);
    lapic.set_lint0(false);
    write(&mut lapic, number::EOI, 0);
    assert_eq!(lapic.pending_interrupt(), None);
    assert_eq!(read(&mut lapic, 0x35), 0x8031);
}

#[test]
fn errors_are_latched_and_interrupt_once() {
    let mut lapic = enabled(0);
    write(&mut lapic, 0x37, 0xfe);
    assert_eq!(command(&mut lapic, 1, 0x0f), Action::None);
    assert_eq!(lapic.acknowledge(), 0xfe);
    write(&mut lapic, number::EOI, 0);
    assert_eq!(read(&mut lapic, number::ESR), 0, "not before a write");
    command(&mut lapic, 1, 0x0f);
    lapic.accept(3, Trigger::Edge);
    assert_eq!(read(&mut lapic, 0x2f), 0, "no CMCI entry");
    assert_eq!(lapic.pending_interrupt(), None, "not armed");
    write(&mut lapic, number::ESR, 0);
    assert_eq!(read(&mut lapic, number::ESR), 0xe0);
    assert_eq!(read(&mut lapic, number::ESR), 0xe0);
    lapic.accept(3, Trigger::Edge);
    assert_eq!(lapic.acknowledge(), 0xfe, "armed by the write");
    write(&mut lapic, number::ESR, 0);
    assert_eq!(read(&mut lapic, number::ESR), 0x40);
    write(&mut lapic, number::ESR, 0);
    assert_eq!(read(&mut lapic, number::ESR), 0);
}

#[test]
fn an_ext_int_message_waits_until_it_is_taken() {
    let mut lapic = enabled(0);
    let message = Message { mode: DeliveryMode::ExtInt, ..fixed(Destination::All, 0x33) };
    assert_eq!(lapic.deliver(message), Signal::None);
    write(&mut lapic, number::TPR, 0xff);
    assert!(lapic.ext_int_pending(), "the task priority does not hold it");
    assert_eq!(lapic.pending_interrupt(), None, "its vector is the 8259 pair's");
    let mut other = Lapic::new(0, contract());
    other.restore(&lapic.save(at(0)), at(0)).unwrap();
    assert!(other.ext_int_pending());
    lapic.acknowledge_ext_int();
    assert!(!lapic.ext_int_pending());
    assert_eq!(command(&mut lapic, 0, ICR_ALL | 0x700), Action::None, "reserved in the command register");
}

#[test]
fn an_error_interrupt_with_an_illegal_vector_ends() {
    let mut lapic = enabled(0);
    write(&mut lapic, 0x37, 0x01);
    command(&mut lapic, 1, 0x0f);
    write(&mut lapic, number::ESR, 0);
    assert_eq!(read(&mut lapic, number::ESR), 0x60);
}
