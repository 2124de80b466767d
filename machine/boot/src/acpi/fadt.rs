//! Fixed ACPI Description Table (ACPI 6.5, section 5.2.9).

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::board::BoardTables;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

/// IA-PC boot architecture flags (ACPI 6.5, table 5.10).
const LEGACY_DEVICES: u16 = 1 << 0;
const HAS_8042: u16 = 1 << 1;
const NO_VGA: u16 = 1 << 2;
/// Above the 100 and 1000 µs that would say that C2 and C3 are there.
const NO_C2: u16 = 0x0fff;
const NO_C3: u16 = 0x0fff;
const EVENT_BYTES: u8 = 4;
const CONTROL_BYTES: u8 = 2;
const TIMER_BYTES: u8 = 4;

/// The table for `board`, pointing to the FACS and the DSDT below 4 GiB.
pub(super) fn fadt(board: &BoardTables, facs: u64, dsdt: u64) -> FADT {
    let power = &board.power;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(u32::try_from(facs).unwrap_or(0))
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    // Both pointers to the DSDT, and equal: older systems read the 32-bit one only.
    fadt.dsdt = u32::try_from(dsdt).unwrap_or(0).into();
    // No SMI command port: the machine is always in ACPI mode.
    fadt.sci_int = u16::from(power.sci).into();
    fadt.pm1a_evt_blk = u32::from(power.event).into();
    fadt.pm1a_cnt_blk = u32::from(power.control).into();
    fadt.pm_tmr_blk = u32::from(power.timer).into();
    fadt.pm1_evt_len = EVENT_BYTES;
    fadt.pm1_cnt_len = CONTROL_BYTES;
    fadt.pm_tmr_len = TIMER_BYTES;
    // The event block is two registers of 16 bits.
    fadt.x_pm1a_evt_blk = port(power.event, EVENT_BYTES, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(power.control, CONTROL_BYTES, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = port(power.timer, TIMER_BYTES, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = board.century_register;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | HAS_8042 | NO_VGA).into();
    fadt.reset_reg = port(power.reset, 1, AccessSize::ByteAccess);
    fadt.reset_value = power.reset_value;
    fadt.finalize()
}

fn port(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, u64::from(port))
}
