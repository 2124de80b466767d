//! The local APIC: both sides have the registers of the MMIO page (API, 4.57).

use kvm_bindings::kvm_lapic_state;
use motu_x86::{CpuState, Lapic};

/// Register numbers: MMIO offset divided by 16 (SDM vol. 3, table 11-1).
mod number {
    pub const ID: usize = 0x02;
    pub const VERSION: usize = 0x03;
    pub const DFR: usize = 0x0e;
    pub const SVR: usize = 0x0f;
    pub const ISR: usize = 0x10;
    pub const TMR: usize = 0x18;
    pub const IRR: usize = 0x20;
    pub const LVT_CMCI: usize = 0x2f;
    pub const LVT: std::ops::Range<usize> = 0x32..0x38;
    pub const INITIAL_COUNT: usize = 0x38;
    pub const CURRENT_COUNT: usize = 0x39;
    pub const SELF_IPI: usize = 0x3f;
}

/// Registers that the vectors take.
const WORDS: usize = 8;

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
}

pub const CURRENT_COUNT: usize = number::CURRENT_COUNT;

/// What the timer's count is.
pub fn count(kernel: &kvm_lapic_state) -> u32 {
    word(kernel, CURRENT_COUNT)
}

pub fn set_count(kernel: &mut kvm_lapic_state, count: u32) {
    put(kernel, CURRENT_COUNT, count);
}

/// The timer's interrupt, if its count has come to zero since it was `before`: the kernel takes it in only in KVM_RUN, and whether the
/// last one came before the timer or behind it nobody tells. (That of a deadline it gives as one that has passed.)
pub fn expire(state: &mut CpuState, before: u32) {
    let registers = &mut state.lapic.registers;
    let (entry, count) = (registers[number::LVT.start], registers[CURRENT_COUNT]);
    let expired = match entry >> 17 & 3 {
        0 => before != 0 && count == 0,
        1 => count > before,
        _ => false,
    };
    let vector = entry as u8;
    if expired && entry & MASKED == 0 && state.interrupt != Some(vector) {
        registers[number::IRR + usize::from(vector >> 5)] |= 1 << (vector & 31);
        registers[number::TMR + usize::from(vector >> 5)] &= !(1 << (vector & 31));
    }
}

/// The initial count of a timer that has run out once and stands still. The kernel would have it run out again, so that it is told
/// of none.
pub fn spent_count(lapic: &Lapic) -> Option<u32> {
    let one_shot = lapic.registers[number::LVT.start] >> 17 & 3 == 0;
    let initial = lapic.registers[number::INITIAL_COUNT];
    (one_shot && initial != 0 && lapic.registers[number::CURRENT_COUNT] == 0).then_some(initial)
}

/// Puts it back into a state, unless the timer was started since.
pub fn put_spent_count(state: &mut CpuState, initial: Option<u32>) {
    let count = &mut state.lapic.registers[number::INITIAL_COUNT];
    if *count == 0 {
        *count = initial.unwrap_or(0);
    }
}

/// Where [`motu_x86::Lapic`] has what the software engine's has beside the registers: errors that the ESR does not show yet, and
/// whether an ExtINT message waits.
const EXT_INT_MESSAGE: u32 = 1 << 31;

/// Puts that into a state; the kernel's local APIC has no errors of its own.
pub fn put_extra(state: &mut CpuState, errors: u32, message: bool) {
    state.lapic.registers[number::SELF_IPI] = errors | if message { EXT_INT_MESSAGE } else { 0 };
}

/// The errors, and whether an ExtINT message waits.
pub fn extra(lapic: &Lapic) -> (u32, bool) {
    let extra = lapic.registers[number::SELF_IPI];
    (extra & !EXT_INT_MESSAGE, extra & EXT_INT_MESSAGE != 0)
}

/// Vectors of level-triggered interrupts that are in service or wait.
pub fn level_triggered(lapic: &Lapic) -> impl Iterator<Item = u8> {
    let words: [u32; WORDS] = std::array::from_fn(|n| {
        let of = |first: usize| lapic.registers[first + n];
        of(number::TMR) & (of(number::ISR) | of(number::IRR))
    });
    (16..=u8::MAX).filter(move |vector| words[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0)
}

/// Adds to `new` the interrupts that the kernel has `now` and had not when `last` was read.
pub fn keep_new(new: &mut kvm_lapic_state, now: &kvm_lapic_state, last: &Lapic) {
    for n in 0..WORDS {
        let came = word(now, number::IRR + n) & !last.registers[number::IRR + n];
        let triggers = word(now, number::TMR + n) & came | word(new, number::TMR + n) & !came;
        put(new, number::IRR + n, word(new, number::IRR + n) | came);
        put(new, number::TMR + n, triggers);
    }
}

fn put(kernel: &mut kvm_lapic_state, number: usize, value: u32) {
    for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
        if let Some(to) = kernel.regs.get_mut(number * 16 + i) {
            *to = i8::from_le_bytes([byte]);
        }
    }
}

pub fn write(state: &CpuState) -> kvm_lapic_state {
    let mut registers = state.lapic.registers;
    registers[number::DFR] |= 0x0fff_ffff;
    registers[number::SELF_IPI] = 0;
    registers[number::LVT_CMCI] = MASKED;
    if spent_count(&state.lapic).is_some() {
        registers[number::INITIAL_COUNT] = 0;
    }
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
        put(&mut kernel, number, *register);
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

    #[test]
    fn a_timer_that_has_run_out_does_not_run_out_again() {
        let mut state = CpuState::default();
        state.lapic.registers[number::INITIAL_COUNT] = 1000;
        let kernel = write(&state);
        assert_eq!(word(&kernel, number::INITIAL_COUNT), 0);
        let mut back = CpuState::default();
        read(&mut back, &kernel, 0);
        put_spent_count(&mut back, spent_count(&state.lapic));
        assert_eq!(back.lapic.registers[number::INITIAL_COUNT], 1000);
        // One that counts, and a periodic one.
        for (register, value) in [(number::CURRENT_COUNT, 1), (number::LVT.start, 1 << 17)] {
            let mut runs = state.clone();
            runs.lapic.registers[register] = value;
            assert_eq!(word(&write(&runs), number::INITIAL_COUNT), 1000);
        }
        // The guest has started it again.
        back.lapic.registers[number::INITIAL_COUNT] = 7;
        put_spent_count(&mut back, Some(1000));
        assert_eq!(back.lapic.registers[number::INITIAL_COUNT], 7);
    }

    #[test]
    fn a_timer_that_runs_out_behind_the_last_run_interrupts() {
        let interrupts = |entry: u32, before, count| {
            let mut state = CpuState::default();
            state.lapic.registers[number::LVT.start] = entry | 0x41;
            state.lapic.registers[CURRENT_COUNT] = count;
            expire(&mut state, before);
            state.lapic.registers[0x22] == 1 << 1
        };
        assert!(interrupts(0, 5, 0) && !interrupts(0, 5, 4) && !interrupts(0, 0, 0) && !interrupts(MASKED, 5, 0));
        assert!(interrupts(1 << 17, 5, 900) && !interrupts(1 << 17, 5, 4), "periodic");
        assert!(!interrupts(2 << 17, 5, 0), "a deadline");
        let mut on_its_way = CpuState { interrupt: Some(0x41), ..CpuState::default() };
        on_its_way.lapic.registers[number::LVT.start] = 0x41;
        expire(&mut on_its_way, 5);
        assert_eq!(on_its_way.lapic.registers[0x22], 0, "it was taken in");
    }

    #[test]
    fn what_is_beside_the_registers_comes_back() {
        let mut state = CpuState::default();
        put_extra(&mut state, 0x40, true);
        assert_eq!(extra(&state.lapic), (0x40, true));
        assert_eq!(word(&write(&state), number::SELF_IPI), 0, "it is not the kernel's");
    }

    #[test]
    fn interrupts_that_came_meanwhile_stay() {
        let mut last = CpuState::default();
        last.lapic.registers[0x21] = 1 << 3;
        let mut now = write(&last);
        // One more, level-triggered; and the instruction has taken the other one.
        put(&mut now, 0x21, 1 << 3 | 1 << 5);
        put(&mut now, 0x19, 1 << 5);
        let mut new = write(&CpuState::default());
        keep_new(&mut new, &now, &last.lapic);
        assert_eq!((word(&new, 0x21), word(&new, 0x19)), (1 << 5, 1 << 5));
        let mut state = CpuState::default();
        read(&mut state, &new, 0);
        assert_eq!(level_triggered(&state.lapic).collect::<Vec<_>>(), [0x25]);
    }
}
