//! The states that guests start in.

use super::descriptor;
use crate::layout::{self, legacy, selector};
use motu_x86::contract::MISC_ENABLE_RESET;
use motu_x86::flags::{cr0, cr4, efer, xcr0};
use motu_x86::{CpuState, DescriptorTable, Segment};

/// The GDT by [`selector`]; accessed bits are set, so that loads do not write.
pub const GLOBAL_DESCRIPTORS: [u64; 16] = {
    let mut table = [0; 16];
    table[1] = 0x00af_9b00_0000_ffff;
    table[2] = 0x00cf_9300_0000_ffff;
    table[3] = 0x00cf_9b00_0000_ffff;
    table[4] = 0x00cf_fb00_0000_ffff;
    table[5] = 0x00cf_f300_0000_ffff;
    table[6] = 0x00af_fb00_0000_ffff;
    table[7] = 0x0000_8b00_0000_0000 | (layout::TSS & 0xff_ffff) << 16 | TSS_LIMIT as u64;
    table[9] = 0x00cf_1300_0000_ffff;
    table[10] = 0x00af_9f00_0000_ffff;
    table[11] = 0x00af_1b00_0000_ffff;
    table[12] = 0x00cf_9100_0000_ffff;
    table
};

/// Without a permission map: every port is refused to ring 3.
const TSS_LIMIT: u32 = 0x67;

/// 64-bit mode, ring 0.
pub fn long() -> CpuState {
    let mut state = CpuState {
        rip: layout::CODE,
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
        cr3: layout::TABLES,
        cr4: cr4::DE | cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE,
        xcr0: xcr0::X87 | xcr0::SSE,
        gdtr: DescriptorTable { base: layout::GDT, limit: 0x7f },
        idtr: DescriptorTable { base: layout::IDT, limit: 0xfff },
        ..CpuState::default()
    };
    state.gpr[4] = layout::STACK;
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.msrs.misc_enable = MISC_ENABLE_RESET;
    let data = Segment::flat_data(selector::DATA);
    state.segments.cs = Segment::flat_code(selector::CODE, true);
    (state.segments.ss, state.segments.ds, state.segments.es) = (data, data, data);
    (state.segments.fs, state.segments.gs) = (data, data);
    state.segments.ldtr = Segment::null();
    state.segments.tr =
        Segment { selector: selector::TASK, base: layout::TSS, limit: TSS_LIMIT, attributes: 0xb | Segment::PRESENT };
    let registers = &mut state.lapic.registers;
    registers[0x0e] = u32::MAX;
    registers[0x0f] = 0x1ff;
    registers[0x32..0x38].fill(0x1_0000);
    state
}

/// The legacy GDT by [`selector`] and [`legacy`]; accessed bits are set, so that loads do not write.
pub const LEGACY_DESCRIPTORS: [u64; 15] = {
    let mut table = [0; 15];
    table[1] = descriptor(0, 0xfffff, 0xc09b);
    table[2] = descriptor(0, 0xfffff, 0xc093);
    table[3] = descriptor(layout::CODE, 0xffff, 0x9b);
    table[4] = descriptor(0, 0xffff, 0x93);
    table[5] = descriptor(0, 0xfffff, 0xc0f3);
    table[6] = descriptor(0, 0xfffff, 0xc0fb);
    table[7] = descriptor(layout::TSS, legacy::TSS_LIMIT, 0x8b);
    table[8] = descriptor(legacy::LDT, 0xff, 0x82);
    table[9] = descriptor(0, 0xfffff, 0xc013);
    table[10] = descriptor(0, 0xfffff, 0xc09f);
    table[11] = descriptor(0, 0xfffff, 0xc01b);
    table[12] = descriptor(0, 0xfffff, 0xc091);
    table[13] = descriptor(legacy::STACK_BASE, 0xffff, 0x93);
    table
};

/// 32-bit protected mode without paging, ring 0.
pub fn protected() -> CpuState {
    let mut state = long();
    state.cr0 &= !cr0::PG;
    state.cr4 &= !cr4::PAE;
    state.cr3 = 0;
    state.msrs.efer = 0;
    state.gdtr.limit = legacy::GDT_LIMIT;
    state.idtr.limit = 0x7ff;
    state.segments.cs = Segment::flat_code(selector::CODE, false);
    state.segments.tr.limit = legacy::TSS_LIMIT as u32;
    state
}

/// 16-bit protected mode, ring 0.
pub fn protected16() -> CpuState {
    let mut state = protected();
    let segment = |selector, base, attributes| Segment { selector, base, limit: 0xffff, attributes };
    state.segments.cs = segment(legacy::CODE16, layout::CODE, 0x9b);
    state.segments.ss = segment(legacy::STACK16, legacy::STACK_BASE, 0x93);
    let data = segment(legacy::DATA16, 0, 0x93);
    (state.segments.ds, state.segments.es, state.segments.fs, state.segments.gs) = (data, data, data, data);
    state.rip = 0;
    state.gpr[4] = layout::STACK - legacy::STACK_BASE;
    state
}

/// Real-address mode.
pub fn real() -> CpuState {
    let mut state = protected();
    state.cr0 &= !cr0::PE;
    state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
    let segment = |base: u64| Segment { selector: (base >> 4) as u16, base, limit: 0xffff, attributes: 0x93 };
    state.segments.cs = segment(layout::CODE);
    state.segments.ss = segment(legacy::STACK_BASE);
    let data = segment(0);
    (state.segments.ds, state.segments.es, state.segments.fs, state.segments.gs) = (data, data, data, data);
    state.rip = 0;
    state.gpr[4] = layout::STACK - legacy::STACK_BASE;
    state
}
