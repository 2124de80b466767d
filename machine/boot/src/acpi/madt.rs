//! Multiple APIC Description Table (ACPI 6.5, section 5.2.12).

use super::{OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::board::BoardTables;
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

const HEADER: u32 = 36;
const REVISION: u8 = 5;
/// There is a pair of 8259s too.
const PCAT_COMPAT: u32 = 1;
const INTERRUPT_SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const ISA: u8 = 0;
/// MPS INTI flags: polarity in bits 0 and 1, trigger mode in bits 2 and 3; 0 as the bus has it.
const AS_THE_BUS: u16 = 0;
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
const TIMER_IRQ: u8 = 0;
const TIMER_GSI: u32 = 2;
const ALL_PROCESSORS: u8 = 0xff;
const LINT1: u8 = 1;

/// The table for `board`.
pub(super) fn madt(board: &BoardTables) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&board.local_apic.to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in (0..=u8::MAX).take(board.cpus as usize) {
        madt.append_slice(&bytes(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    }
    let io_apic_id = board.cpus.min(BoardTables::MAX_CPUS) as u8;
    madt.append_slice(&bytes(&IoApic::new(io_apic_id, board.io_apic, 0)));
    madt.append_slice(&interrupt_override(TIMER_IRQ, TIMER_GSI, AS_THE_BUS));
    madt.append_slice(&interrupt_override(board.power.sci, u32::from(board.power.sci), ACTIVE_HIGH_LEVEL));
    let [flags_low, flags_high] = AS_THE_BUS.to_le_bytes();
    madt.append_slice(&[LOCAL_APIC_NMI, 6, ALL_PROCESSORS, flags_low, flags_high, LINT1]);
    madt
}

fn interrupt_override(irq: u8, gsi: u32, flags: u16) -> [u8; 10] {
    let [g0, g1, g2, g3] = gsi.to_le_bytes();
    let [f0, f1] = flags.to_le_bytes();
    [INTERRUPT_SOURCE_OVERRIDE, 10, ISA, irq, g0, g1, g2, g3, f0, f1]
}
