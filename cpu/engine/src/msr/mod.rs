//! RDMSR and WRMSR (Intel SDM vol. 4): what a contract fixes, then [`table`], else #GP(0).

mod rule;
mod table;
#[cfg(test)]
mod tests;

pub use rule::Rule;
pub use table::STATE;

use crate::cpu::{Cpu, Faulting};
use motu_x86::contract::FixedWrite;

impl Cpu {
    pub fn read_msr(&mut self, number: u32) -> Faulting<u64> {
        if let Some(fixed) = self.contract.fixed_msr(number) {
            return Ok(fixed.value);
        }
        match table::find(self.contract, number).and_then(|msr| msr.read) {
            Some(read) => read(self, number),
            None => self.general_protection(0),
        }
    }

    pub fn write_msr(&mut self, number: u32, value: u64) -> Faulting<()> {
        if let Some(fixed) = self.contract.fixed_msr(number) {
            return match fixed.write {
                FixedWrite::Ignored => Ok(()),
                FixedWrite::Fault => self.general_protection(0),
            };
        }
        let Some(msr) = table::find(self.contract, number) else { return self.general_protection(0) };
        match msr.write {
            Some(write) if msr.rule.allows(self, value) => write(self, number, value),
            _ => self.general_protection(0),
        }
    }

    /// A fixed or variable MTRR: they are kept, and memory is write-back whatever they say.
    fn mtrr(&mut self, number: u32) -> Option<&mut u64> {
        use motu_x86::msr;
        let variable = number.wrapping_sub(msr::MTRR_PHYSBASE0);
        if let Some((base, mask)) = self.msrs.mtrr_variable.get_mut((variable / 2) as usize) {
            return Some(if variable.is_multiple_of(2) { base } else { mask });
        }
        let index = match number {
            msr::MTRR_FIX64K => 0,
            msr::MTRR_FIX16K_80000 => 1,
            msr::MTRR_FIX16K_A0000 => 2,
            _ => 3 + number.checked_sub(msr::MTRR_FIX4K_C0000)? as usize,
        };
        self.msrs.mtrr_fixed.get_mut(index)
    }
}
