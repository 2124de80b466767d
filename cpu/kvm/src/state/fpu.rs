//! x87 and vector registers: the kernel's image is the host's standard format (API, 4.42).

use kvm_bindings::kvm_xsave;
use motu_x86::contract::Contract;
use motu_x86::flags::xcr0;
use motu_x86::{CpuState, XSAVE_SIZE, XsaveArea};

/// Where PKRU lies in the host's images, which is its CPU's choice (SDM vol. 2, CPUID leaf 0xd, sub-leaf 9).
fn pkru_offset() -> usize {
    std::arch::x86_64::__cpuid_count(0xd, 9).ebx as usize
}

fn byte(image: &kvm_xsave, index: usize) -> u8 {
    image.region.get(index / 4).map_or(0, |word| word.to_le_bytes()[index % 4])
}

fn put(image: &mut kvm_xsave, offset: usize, bytes: &[u8]) {
    for (index, byte) in (offset..).zip(bytes) {
        if let Some(word) = image.region.get_mut(index / 4) {
            let mut all = word.to_le_bytes();
            all[index % 4] = *byte;
            *word = u32::from_le_bytes(all);
        }
    }
}

/// Components of a machine's vector state: those of its contract that the host's KVM has.
#[derive(Clone, Copy, Debug)]
pub struct Components(u64);

impl Components {
    pub fn new(contract: &Contract, host: u64) -> Self {
        Self(contract.xcr0_mask() & (host | xcr0::X87 | xcr0::SSE))
    }

    fn has_pkru(self) -> bool {
        self.0 & xcr0::PKRU != 0
    }

    /// Those of [`CpuState::xsave`].
    fn in_image(self) -> u64 {
        self.0 & !xcr0::PKRU
    }
}

/// The header says that all components are there: the kernel writes out the initial ones, too.
pub fn read(state: &mut CpuState, image: &kvm_xsave, components: Components) {
    let mut area = [0; XSAVE_SIZE];
    for (index, to) in area.iter_mut().enumerate() {
        *to = byte(image, index);
    }
    let header = &mut area[XsaveArea::XSTATE_BV..XsaveArea::YMM_HIGH];
    header.fill(0);
    header[..8].copy_from_slice(&components.in_image().to_le_bytes());
    // Software's own bytes (SDM vol. 1, 10.5.1).
    area[464..512].fill(0);
    state.xsave = XsaveArea(area);
    state.xsave.set_mxcsr_mask();
    if components.has_pkru() {
        let offset = pkru_offset();
        state.pkru = u32::from_le_bytes(std::array::from_fn(|i| byte(image, offset + i)));
    }
}

pub fn write(state: &CpuState, components: Components) -> kvm_xsave {
    let mut image = kvm_xsave::default();
    put(&mut image, 0, &state.xsave.0);
    let in_use = state.xsave.0[XsaveArea::XSTATE_BV..XsaveArea::XSTATE_BV + 8].try_into().map_or(0, u64::from_le_bytes);
    let mut header = in_use & components.in_image();
    if components.has_pkru() {
        header |= xcr0::PKRU;
        put(&mut image, pkru_offset(), &state.pkru.to_le_bytes());
    }
    put(&mut image, XsaveArea::XSTATE_BV, &header.to_le_bytes());
    put(&mut image, XsaveArea::XSTATE_BV + 8, &[0; 56]);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn components(contract: &str) -> Components {
        Components::new(Contract::by_name(contract).unwrap(), u64::MAX)
    }

    proptest! {
        #[test]
        fn vector_registers_come_back_as_they_went(bytes in proptest::collection::vec(any::<u8>(), 416)) {
            let components = components("v3-2026");
            let mut state = CpuState::default();
            state.xsave.0[..416].copy_from_slice(&bytes);
            state.xsave.0[XsaveArea::YMM_HIGH..].copy_from_slice(&bytes[..256]);
            state.xsave.0[XsaveArea::XSTATE_BV] = 7;
            state.xsave.set_mxcsr_mask();
            let mut back = CpuState::default();
            read(&mut back, &write(&state, components), components);
            prop_assert_eq!(back, state);
        }
    }

    #[test]
    fn a_state_does_not_tell_whose_processor_it_comes_from() {
        let mut image = kvm_xsave::default();
        // AMD's, with the bit for misaligned operands.
        put(&mut image, 24, &[0x80, 0x1f, 0, 0, 0xff, 0xff, 2, 0]);
        let mut state = CpuState::default();
        read(&mut state, &image, components("v3-2026"));
        assert_eq!(state.xsave.0[24..32], [0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    }

    #[test]
    fn components_that_no_contract_has_do_not_reach_the_kernel() {
        let mut state = CpuState::default();
        state.xsave.0[XsaveArea::XSTATE_BV] = 0xff;
        let image = write(&state, components("v2-2026"));
        assert_eq!(image.region[XsaveArea::XSTATE_BV / 4], 3);
    }
}
