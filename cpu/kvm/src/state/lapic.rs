//! The local APIC: both sides have the registers of the MMIO page (API, 4.57).

use kvm_bindings::kvm_lapic_state;
use motu_x86::CpuState;

/// Register numbers: MMIO offset divided by 16 (SDM vol. 3, table 11-1).
mod number {
    pub const ID: usize = 0x02;
    pub const VERSION: usize = 0x03;
    pub const DFR: usize = 0x0e;
    pub const SVR: usize = 0x0f;
    pub const LVT_CMCI: usize = 0x2f;
    pub const LVT: std::ops::Range<usize> = 0x32..0x38;
    pub const SELF_IPI: usize = 0x3f;
}

const EXTD: u64 = 1 << 10;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
/// Version 0x14 with six LVT entries and no directed EOI: that of every contract.
const VERSION: u32 = 0x0005_0014;

fn word(kernel: &kvm_lapic_state, number: usize) -> u32 {
    let byte = |i: usize| kernel.regs.get(number * 16 + i).map_or(0, |byte| byte.to_le_bytes()[0]);
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

pub fn read(state: &mut CpuState, kernel: &kvm_lapic_state, base: u64) {
    state.lapic.base_msr = base;
    for (number, register) in state.lapic.registers.iter_mut().enumerate() {
        *register = word(kernel, number);
    }
    // Which the kernel has whether or not it told the guest of it.
    state.lapic.registers[number::VERSION] = VERSION;
    state.lapic.registers[number::LVT_CMCI] = 0;
    // Where `CpuState` has what the software engine detected but does not show yet; here nothing is held back.
    state.lapic.registers[number::SELF_IPI] = 0;
}

pub fn write(state: &CpuState) -> kvm_lapic_state {
    let mut registers = state.lapic.registers;
    registers[number::DFR] |= 0x0fff_ffff;
    registers[number::SELF_IPI] = 0;
    registers[number::LVT_CMCI] = MASKED;
    if registers[number::SVR] & SOFTWARE_ENABLE == 0 {
        // SDM vol. 3, 11.4.7.2.
        registers[number::LVT].iter_mut().for_each(|entry| *entry |= MASKED);
    }
    // The kernel wants the ID where the mode has it.
    if state.lapic.base_msr & EXTD == 0 {
        registers[number::ID] &= 0xff00_0000;
    }
    let mut kernel = kvm_lapic_state::default();
    for (number, register) in registers.iter().enumerate() {
        for (i, byte) in register.to_le_bytes().into_iter().enumerate() {
            if let Some(to) = kernel.regs.get_mut(number * 16 + i) {
                *to = i8::from_le_bytes([byte]);
            }
        }
    }
    kernel
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_come_back_as_they_went() {
        let mut state = CpuState::default();
        for (value, register) in (0x1000..).zip(&mut state.lapic.registers) {
            *register = value;
        }
        state.lapic.registers[number::SVR] = 0x1ff;
        let mut back = CpuState::default();
        read(&mut back, &write(&state), state.lapic.base_msr);
        let registers = &mut state.lapic.registers;
        (registers[number::ID], registers[number::VERSION]) = (0, VERSION);
        (registers[number::SELF_IPI], registers[number::LVT_CMCI]) = (0, 0);
        registers[number::DFR] |= 0x0fff_ffff;
        assert_eq!(back, state);
    }

    #[test]
    fn an_apic_that_is_off_has_its_entries_masked() {
        let written = write(&CpuState::default());
        for number in number::LVT {
            assert_eq!(word(&written, number), MASKED, "register {number:#x}");
        }
    }
}
