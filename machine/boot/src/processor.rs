//! How firmware leaves the processors: the state in which the kernel finds them.

use crate::board::BoardTables;
use crate::error::BootError;
use crate::{layout, put};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::flags::{cr0, cr4, efer};
use motu_x86::{Activity, CpuState, DescriptorTable, Lapic, Msrs, Segment, Segments};

/// Code and data selectors of the Linux boot protocol (`__BOOT_CS`, `__BOOT_DS`).
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
/// Limit of a 32-bit or 64-bit task state segment (SDM vol. 3, 8.2.1 and 8.7).
const TASK_LIMIT: u32 = 0x67;
/// Busy 32-bit TSS in protected mode, busy 64-bit TSS in long mode (SDM vol. 3, table 3-2).
const TASK_BUSY: u32 = 0xb;
const LDT: u32 = 0x2;

pub(crate) const RSP: usize = 4;

/// The mode that a kernel is entered in; for real mode see [`in_real_mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// 64-bit with the first 4 GiB mapped to themselves.
    Long,
    /// 32-bit protected, flat, without paging.
    Protected,
}

/// The boot processor about to enter a kernel at `rip`: GDT and page tables are written to `ram`,
/// interrupts are off.
pub(crate) fn boot_processor(ram: &GuestRam, board: &BoardTables, mode: Mode, rip: u64) -> Result<CpuState, BootError> {
    let long = mode == Mode::Long;
    let segments = flat_segments(long);
    let mut state = CpuState {
        rip,
        segments,
        gdtr: write_gdt(ram, &segments)?,
        cr0: cr0::PE | cr0::ET | cr0::NE,
        msrs: firmware_msrs(board),
        lapic: virtual_wire_lapic(board),
        ..CpuState::default()
    };
    state.gpr[RSP] = layout::STACK_TOP;
    if long {
        state.cr3 = write_identity_map(ram)?;
        state.cr4 = cr4::PAE;
        state.cr0 |= cr0::PG;
        state.msrs.efer = efer::LME | efer::LMA;
    }
    Ok(state)
}

/// The boot processor in real mode about to run what lies at `address`, as a BIOS leaves it: interrupt
/// vectors at 0, interrupts off. Below 64 KiB, CS is 0; else `address` is where CS begins. `None` if
/// it can be neither.
pub(crate) fn in_real_mode(board: &BoardTables, address: u64) -> Option<CpuState> {
    let (selector, rip) = match u16::try_from(address) {
        Ok(offset) => (0, u64::from(offset)),
        Err(_) if !address.is_multiple_of(16) => return None,
        Err(_) => (u16::try_from(address >> 4).ok()?, 0),
    };
    let code = Segment { attributes: REAL_CODE, ..real_data(selector) };
    Some(CpuState {
        rip,
        segments: Segments { cs: code, ..real_segments(real_data(0)) },
        // No GDT is there yet; the interrupt vectors are (SDM vol. 3, 21.1.4).
        gdtr: DescriptorTable { base: 0, limit: 0xffff },
        idtr: DescriptorTable { base: 0, limit: 0x3ff },
        cr0: cr0::ET,
        msrs: firmware_msrs(board),
        lapic: virtual_wire_lapic(board),
        ..CpuState::default()
    })
}

/// Present, accessed, writable (SDM vol. 3, table 10-1: the data segments after reset).
const REAL_DATA: u32 = 0x3 | Segment::S | Segment::PRESENT;
/// Present, accessed, readable code.
const REAL_CODE: u32 = 0xb | Segment::S | Segment::PRESENT;

/// A segment as real mode makes it of a selector.
fn real_data(selector: u16) -> Segment {
    Segment { selector, base: u64::from(selector) << 4, limit: 0xffff, attributes: REAL_DATA }
}

/// All segment registers alike, as after reset.
fn real_segments(data: Segment) -> Segments {
    let (ldtr, tr) = (system_segment(LDT), system_segment(TASK_BUSY));
    Segments { es: data, cs: data, ss: data, ds: data, fs: data, gs: data, ldtr, tr }
}

/// Application processor number `id` (which is its APIC ID) after firmware: at reset but for the
/// MTRRs, which have to be alike on all processors, and waiting for its start-up IPI.
pub fn application_processor(id: u32, board: &BoardTables) -> CpuState {
    let code = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: REAL_CODE };
    let table = DescriptorTable { base: 0, limit: 0xffff };
    CpuState {
        rip: 0xfff0,
        segments: Segments { cs: code, ..real_segments(real_data(0)) },
        gdtr: table,
        idtr: table,
        cr0: cr0::CD | cr0::NW | cr0::ET,
        msrs: firmware_msrs(board),
        lapic: reset_lapic(id, u64::from(board.local_apic)),
        activity: Activity::WaitForSipi,
        ..CpuState::default()
    }
}

fn system_segment(kind: u32) -> Segment {
    Segment { selector: 0, base: 0, limit: 0xffff, attributes: kind | Segment::PRESENT }
}

fn flat_segments(long: bool) -> Segments {
    let data = Segment::flat_data(DATA);
    Segments {
        es: data,
        cs: Segment::flat_code(CODE, long),
        ss: data,
        ds: data,
        fs: data,
        gs: data,
        ldtr: system_segment(LDT),
        tr: Segment { selector: TASK, base: 0, limit: TASK_LIMIT, attributes: TASK_BUSY | Segment::PRESENT },
    }
}

/// Packs a segment into its descriptor (SDM vol. 3, 3.4.5).
fn descriptor(segment: &Segment) -> u64 {
    let granular = segment.attributes & Segment::G != 0;
    let limit = u64::from(if granular { segment.limit >> 12 } else { segment.limit });
    let attributes = u64::from(segment.attributes & 0xf0ff);
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | attributes << 40
        | (limit >> 16 & 0xf) << 48
        | (segment.base >> 24 & 0xff) << 56
}

fn write_gdt(ram: &GuestRam, segments: &Segments) -> Result<DescriptorTable, BootError> {
    // Two null descriptors put code at 0x10; the TSS has the 16 bytes that long mode reads.
    let entries = [0, 0, descriptor(&segments.cs), descriptor(&segments.ds), descriptor(&segments.tr), 0];
    let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    put(ram, layout::GDT, &bytes, "GDT")?;
    Ok(DescriptorTable { base: layout::GDT, limit: (size_of_val(&entries) - 1) as u16 })
}

/// Maps the first 4 GiB to themselves by 2 MiB pages (SDM vol. 3, 4.5.4); answers CR3.
fn write_identity_map(ram: &GuestRam) -> Result<u64, BootError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    const ENTRIES: u64 = 512;
    const DIRECTORIES: u64 = 4;
    let pointers = layout::PAGE_TABLES + PAGE_SIZE;
    let directories = pointers + PAGE_SIZE;
    let table = |entries: &mut dyn Iterator<Item = u64>| -> Vec<u8> {
        let mut bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE as usize), 0);
        bytes
    };
    let mut tables = table(&mut std::iter::once(pointers | PRESENT_WRITABLE));
    tables.extend(table(&mut (0..DIRECTORIES).map(|n| (directories + n * PAGE_SIZE) | PRESENT_WRITABLE)));
    tables.extend(table(&mut (0..DIRECTORIES * ENTRIES).map(|n| (n << 21) | LARGE | PRESENT_WRITABLE)));
    put(ram, layout::PAGE_TABLES, &tables, "page tables")?;
    Ok(layout::PAGE_TABLES)
}

/// Memory types as a PC's firmware sets them: write-back, but for the adapter area below 1 MiB and
/// the last GiB below 4 GiB (SDM vol. 3, 12.11.2).
fn firmware_msrs(board: &BoardTables) -> Msrs {
    const WRITE_BACK: u64 = 6;
    const ENABLE_ALL: u64 = 0b11 << 10;
    const WRITE_BACK_X8: u64 = 0x0606_0606_0606_0606;
    const VALID: u64 = 1 << 11;
    // 0 to 0x7ffff, 0x80000, 0xa0000 (adapters: uncached), then eight of 32 KiB from 0xc0000.
    let mut fixed = [WRITE_BACK_X8; 11];
    fixed[2] = 0;
    let mut variable = [(0, 0); 8];
    let gib_mask = (1u64 << board.physical_bits.min(52)) - (1 << 30);
    variable[0] = (0xc000_0000, gib_mask | VALID);
    Msrs {
        // Fast string operations on, as every processor has it after reset (SDM vol. 4, 1A0H).
        misc_enable: 1,
        mtrr_def_type: ENABLE_ALL | WRITE_BACK,
        mtrr_fixed: fixed,
        mtrr_variable: variable,
        ..CpuState::default().msrs
    }
}

/// Indexes of local APIC registers: MMIO offset divided by 16 (SDM vol. 3, table 11-1).
mod apic {
    pub const ID: usize = 0x02;
    pub const VERSION: usize = 0x03;
    pub const DESTINATION_FORMAT: usize = 0x0e;
    pub const SPURIOUS: usize = 0x0f;
    pub const LVT_TIMER: usize = 0x32;
    pub const LVT_LINT0: usize = 0x35;
    pub const LVT_LINT1: usize = 0x36;
    pub const LVT_ERROR: usize = 0x37;
    /// Six LVT entries, version 0x14: an integrated APIC.
    pub const VERSION_VALUE: u32 = 0x0005_0014;
    pub const MASKED: u32 = 1 << 16;
    pub const SOFTWARE_ENABLE: u32 = 1 << 8;
    pub const DELIVER_NMI: u32 = 0b100 << 8;
    pub const DELIVER_EXTINT: u32 = 0b111 << 8;
    /// IA32_APIC_BASE bits.
    pub const BASE_BSP: u64 = 1 << 8;
    pub const BASE_ENABLE: u64 = 1 << 11;
}

/// A local APIC after reset (SDM vol. 3, 11.4.7.1).
fn reset_lapic(id: u32, base: u64) -> Lapic {
    let mut registers = [0; 64];
    registers[apic::ID] = id << 24;
    registers[apic::VERSION] = apic::VERSION_VALUE;
    registers[apic::DESTINATION_FORMAT] = 0xffff_ffff;
    registers[apic::SPURIOUS] = 0xff;
    registers[apic::LVT_TIMER..=apic::LVT_ERROR].fill(apic::MASKED);
    Lapic { base_msr: base | apic::BASE_ENABLE, registers, tsc_deadline: 0 }
}

/// The boot processor's local APIC in virtual-wire mode: the 8259's interrupts come through it, NMI
/// at LINT1 (MultiProcessor Specification 1.4, section 3.6.2.2).
fn virtual_wire_lapic(board: &BoardTables) -> Lapic {
    let mut lapic = reset_lapic(0, u64::from(board.local_apic));
    lapic.base_msr |= apic::BASE_BSP;
    lapic.registers[apic::SPURIOUS] |= apic::SOFTWARE_ENABLE;
    lapic.registers[apic::LVT_LINT0] = apic::DELIVER_EXTINT;
    lapic.registers[apic::LVT_LINT1] = apic::DELIVER_NMI;
    lapic
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_x86::Gpa;

    fn read_u64(ram: &GuestRam, at: u64) -> u64 {
        let mut bytes = [0; 8];
        ram.read(Gpa(at), &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn descriptors_are_those_of_the_boot_protocol() {
        assert_eq!(descriptor(&Segment::flat_code(CODE, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&Segment::flat_code(CODE, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&Segment::flat_data(DATA)), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn every_address_below_four_gib_maps_to_itself() {
        let ram = GuestRam::new(2 << 20).unwrap();
        let state = boot_processor(&ram, &BoardTables::default(), Mode::Long, 0x100_0200).unwrap();
        for address in [0, 0x1234_5678, 0xbfff_ffff, 0xfee0_0000, 0xffff_ffffu64] {
            const FRAME: u64 = 0x000f_ffff_ffff_f000;
            let pml4e = read_u64(&ram, state.cr3 + (address >> 39 & 511) * 8);
            let pdpte = read_u64(&ram, (pml4e & FRAME) + (address >> 30 & 511) * 8);
            let pde = read_u64(&ram, (pdpte & FRAME) + (address >> 21 & 511) * 8);
            assert_eq!(pde & 0x83, 0x83);
            assert_eq!(pde & FRAME | address & 0x1f_ffff, address);
        }
        assert_eq!(read_u64(&ram, layout::PAGE_TABLES + 8), 0, "nothing above");
        assert_eq!(state.rflags & motu_x86::flags::rflags::IF, 0);
        assert_eq!(read_u64(&ram, state.gdtr.base + u64::from(CODE)), 0x00af_9b00_0000_ffff);
    }

    #[test]
    fn processors_agree_on_memory_types() {
        let board = BoardTables { cpus: 2, ..BoardTables::default() };
        let ram = GuestRam::new(2 << 20).unwrap();
        let boot = boot_processor(&ram, &board, Mode::Long, 0).unwrap();
        let other = application_processor(1, &board);
        assert_eq!(boot.msrs.mtrr_def_type, 0xc06);
        assert_eq!(boot.msrs.mtrr_variable, other.msrs.mtrr_variable);
        assert_eq!(boot.msrs.mtrr_fixed, other.msrs.mtrr_fixed);
        assert_eq!(boot.msrs.mtrr_variable[0].1, 0xff_c000_0800, "1 GiB of 40 bits");
        assert_eq!(boot.lapic.base_msr, 0xfee0_0900);
        assert_eq!(other.lapic.base_msr, 0xfee0_0800);
        assert_eq!(other.activity, Activity::WaitForSipi);
    }
}
