use super::registers::number;
use super::saved::RestoreError;
use super::*;
use motu_hv::Msi;
use motu_x86::{Exception, msr};
use proptest::prelude::*;

const GP: Exception = Exception::with_code(Exception::GP, 0);

/// A TSC that is 1000 ahead of the machine's time.
fn at(nanos: u64) -> Moment {
    Moment { now: Nanos(nanos), tsc: nanos + 1000 }
}

fn contract() -> &'static Contract {
    Contract::by_name("v3-2026").expect("the contract exists")
}

/// Processor `id`, software-enabled with spurious vector 0xff.
fn enabled(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id, contract());
    write(&mut lapic, number::SVR, 0x1ff);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = enabled(id);
    let base = lapic.msr_read(msr::APIC_BASE, at(0)).unwrap();
    lapic.msr_write(msr::APIC_BASE, base | 0xc00, at(0)).unwrap();
    lapic
}

fn write_at(lapic: &mut Lapic, register: u32, value: u32, nanos: u64) -> Action {
    lapic.mmio_write(register << 4, value, at(nanos))
}

fn write(lapic: &mut Lapic, register: u32, value: u32) -> Action {
    write_at(lapic, register, value, 0)
}

fn read_at(lapic: &mut Lapic, register: u32, nanos: u64) -> u32 {
    lapic.mmio_read(register << 4, at(nanos))
}

fn read(lapic: &mut Lapic, register: u32) -> u32 {
    read_at(lapic, register, 0)
}

fn fixed(destination: Destination, vector: u8) -> Message {
    Message { destination, mode: DeliveryMode::Fixed, vector, trigger: Trigger::Edge }
}

mod priority;
mod reach;
mod state;
mod timing;
mod x2apic;
