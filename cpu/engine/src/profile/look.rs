//! Reading guest memory as a person looks at it: by the guest's page tables, but whatever their rights, without a fault
//! and without a trace in accessed bits, TLB or devices.

use crate::cpu::Cpu;
use crate::mmu::{Control, PAGE_MASK, RamMap};
use motu_x86::Paging;

impl Cpu {
    /// Fills `out` from linear `address` on; false if some of it is not mapped, or is no RAM.
    pub fn look_at(&self, address: u64, out: &mut [u8]) -> bool {
        let mut page = None;
        (0..).zip(out).all(|(n, byte)| {
            let linear = address.wrapping_add(n) & self.linear_mask;
            if linear & PAGE_MASK == 0 || page.is_none() {
                page = physical_page(&self.mmu.control, &self.mmu.ram, linear);
            }
            let found = page.and_then(|page| self.mmu.ram.read::<1>(page | (linear & PAGE_MASK)));
            found.map(|[value]| *byte = value).is_some()
        })
    }
}

/// Guest-physical address of the 4 KiB page that holds linear `address`.
pub fn physical_page(control: &Control, ram: &RamMap, address: u64) -> Option<u64> {
    let Control { paging: enabled, long, pae, pse, root, directories, .. } = *control;
    let paging = Paging { enabled, long, pae, pse, root, directories: Some(directories) };
    paging.physical(address & !PAGE_MASK, |at| ram.quad(at.0)).map(|page| page.0)
}
