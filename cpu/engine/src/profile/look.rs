//! Reading guest memory as a person looks at it: by the guest's page tables, but whatever their rights, without a fault
//! and without a trace in accessed bits, TLB or devices.

use crate::cpu::Cpu;
use crate::mmu::{Control, PAGE, PAGE_MASK, RamMap};

const PRESENT: u64 = 1;
/// The entry maps a page of 2, 4 MiB or 1 GiB.
const LARGE: u64 = 1 << 7;
/// Bits 51 to 12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

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

/// Guest-physical address of the 4 KiB page that holds linear `address` (SDM vol. 3, 4.3 to 4.5).
pub fn physical_page(control: &Control, ram: &RamMap, address: u64) -> Option<u64> {
    let page = address & !PAGE_MASK;
    let wide = |at: u64| ram.read::<8>(at).map(u64::from_le_bytes);
    match (control.paging, control.long, control.pae) {
        (false, ..) => Some(page & 0xffff_ffff),
        (true, true, _) => descend(wide, control.root & ADDRESS, page, 39),
        (true, false, true) => {
            let directory = control.directories.get((address >> 30) as usize & 3).copied()?;
            (directory & PRESENT != 0).then(|| descend(wide, directory & ADDRESS, page, 21))?
        }
        (true, false, false) => legacy(control, ram, page),
    }
}

/// Through tables of 512 entries, from the one at `table`, whose entries map `1 << shift` bytes each.
fn descend(entry: impl Fn(u64) -> Option<u64>, mut table: u64, page: u64, mut shift: u32) -> Option<u64> {
    loop {
        let value = entry(table + ((page >> shift) & 0x1ff) * 8).filter(|value| value & PRESENT != 0)?;
        if shift == 12 || (value & LARGE != 0 && shift < 39) {
            let inside = (1u64 << shift) - 1;
            return Some((value & ADDRESS & !inside) | (page & inside));
        }
        table = value & ADDRESS;
        shift -= 9;
    }
}

/// 32-bit paging: two tables of 1024 entries, large pages with 40 bits of address (PSE-36).
fn legacy(control: &Control, ram: &RamMap, page: u64) -> Option<u64> {
    let entry = |at: u64| ram.read::<4>(at).map(|bytes| u64::from(u32::from_le_bytes(bytes)));
    let present = |value: &u64| value & PRESENT != 0;
    let directory = entry((control.root & 0xffff_f000) + ((page >> 22) & 0x3ff) * 4).filter(present)?;
    if directory & LARGE != 0 && control.pse {
        return Some((directory >> 13 & 0xff) << 32 | (directory & 0xffc0_0000) | (page & 0x003f_ffff));
    }
    let value = entry((directory & 0xffff_f000) + ((page / PAGE) & 0x3ff) * 4).filter(present)?;
    Some(value & 0xffff_f000)
}
