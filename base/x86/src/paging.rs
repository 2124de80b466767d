//! Which physical page a linear address has, for whoever looks on: by the page tables, but whatever their rights, without a
//! fault and without a trace in accessed bits.

use crate::flags::{cr0, cr4, efer};
use crate::{CpuState, Gpa};

/// Address bits inside a page of 4 KiB.
const PAGE_MASK: u64 = 0xfff;
const PRESENT: u64 = 1;
/// The entry maps a page of 2, 4 MiB or 1 GiB.
const LARGE: u64 = 1 << 7;
/// Bits 51 to 12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What of a CPU's control registers the translation of addresses depends on (SDM vol. 3, 4.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    pub enabled: bool,
    pub long: bool,
    pub pae: bool,
    pub pse: bool,
    /// CR3.
    pub root: u64,
    /// PAE without long mode: the page-directory-pointer-table entries that CR3's last load read, if that is known; else
    /// what memory has of them now.
    pub directories: Option<[u64; 4]>,
}

impl Paging {
    pub fn of(state: &CpuState) -> Self {
        Self {
            enabled: state.cr0 & cr0::PG != 0,
            long: state.msrs.efer & efer::LMA != 0,
            pae: state.cr4 & cr4::PAE != 0,
            pse: state.cr4 & cr4::PSE != 0,
            root: state.cr3,
            directories: None,
        }
    }

    /// Guest-physical address of linear `address` (SDM vol. 3, 4.3 to 4.5); `None` if it has none. `quad` reads the eight
    /// bytes at an address that is a multiple of eight, where there is RAM.
    pub fn physical(&self, address: u64, quad: impl Fn(Gpa) -> Option<u64>) -> Option<Gpa> {
        let (page, offset) = (address & !PAGE_MASK, address & PAGE_MASK);
        let wide = |at: u64| quad(Gpa(at)).filter(|value| value & PRESENT != 0);
        let found = match (self.enabled, self.long, self.pae) {
            (false, ..) => page & 0xffff_ffff,
            (true, true, _) => {
                let canonical = (address as i64) << 16 >> 16 == address as i64;
                canonical.then(|| descend(wide, self.root & ADDRESS, page, 39))??
            }
            (true, false, true) => {
                let number = address >> 30 & 3;
                let directory = match self.directories {
                    Some(known) => known.get(number as usize).copied()?,
                    None => quad(Gpa((self.root & 0xffff_ffe0) + 8 * number))?,
                };
                (directory & PRESENT != 0).then(|| descend(wide, directory & ADDRESS, page, 21))??
            }
            (true, false, false) => self.legacy(page, quad)?,
        };
        Some(Gpa(found | offset))
    }

    /// 32-bit paging: two tables of 1024 entries, large pages with 40 bits of address (PSE-36).
    fn legacy(&self, page: u64, quad: impl Fn(Gpa) -> Option<u64>) -> Option<u64> {
        let entry = |at: u64| {
            let value = quad(Gpa(at & !7))? >> (8 * (at & 4)) & 0xffff_ffff;
            (value & PRESENT != 0).then_some(value)
        };
        let directory = entry((self.root & 0xffff_f000) + ((page >> 22) & 0x3ff) * 4)?;
        if directory & LARGE != 0 && self.pse {
            return Some((directory >> 13 & 0xff) << 32 | (directory & 0xffc0_0000) | (page & 0x003f_f000));
        }
        let value = entry((directory & 0xffff_f000) + ((page >> 12) & 0x3ff) * 4)?;
        Some(value & 0xffff_f000)
    }
}

/// Through tables of 512 entries, from the one at `table`, whose entries map `1 << shift` bytes each.
fn descend(entry: impl Fn(u64) -> Option<u64>, mut table: u64, page: u64, mut shift: u32) -> Option<u64> {
    loop {
        let value = entry(table + ((page >> shift) & 0x1ff) * 8)?;
        if shift == 12 || (value & LARGE != 0 && shift < 39) {
            let inside = (1u64 << shift) - 1;
            return Some((value & ADDRESS & !inside) | (page & inside));
        }
        table = value & ADDRESS;
        shift -= 9;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn physical(paging: &Paging, entries: &[(u64, u64)], address: u64) -> Option<u64> {
        let memory: HashMap<_, _> = entries.iter().copied().collect();
        paging.physical(address, |at| memory.get(&at.0).copied()).map(|at| at.0)
    }

    #[test]
    fn without_paging_an_address_is_its_own() {
        assert_eq!(physical(&Paging::default(), &[], 0x1234_5678), Some(0x1234_5678));
    }

    #[test]
    fn four_levels_and_large_pages() {
        let paging = Paging { enabled: true, long: true, pae: true, root: 0x1000, ..Paging::default() };
        let linear = 0xffff_8000_4020_3abc;
        // Index 256, then 1, 1, 3.
        let tables = [(0x1800, 0x2003), (0x2008, 0x3003), (0x3008, 0x4003), (0x4018, 0x8000_0000_0009_9003)];
        assert_eq!(physical(&paging, &tables, linear), Some(0x9_9abc));
        let large = [(0x1800, 0x2003), (0x2008, 0x3003), (0x3008, 0x60_0083)];
        assert_eq!(physical(&paging, &large, linear), Some(0x60_3abc));
        let absent = [(0x1800, 0x2003), (0x2008, 0x3002)];
        assert_eq!(physical(&paging, &absent, linear), None);
        assert_eq!(physical(&paging, &tables, linear & 0x0000_ffff_ffff_ffff), None, "not canonical");
    }

    #[test]
    fn pae_has_its_directories_in_a_register_or_in_memory() {
        let paging = Paging { enabled: true, pae: true, root: 0x1020, ..Paging::default() };
        let tables = [(0x1038, 0x2001), (0x2008, 0x3003), (0x3010, 0x7003)];
        assert_eq!(physical(&paging, &tables, 0xc020_2123), Some(0x7123));
        let known = Paging { directories: Some([0, 0, 0, 0]), ..paging };
        assert_eq!(physical(&known, &tables, 0xc020_2123), None);
    }

    #[test]
    fn entries_of_four_bytes() {
        let paging = Paging { enabled: true, pse: true, root: 0x1000, ..Paging::default() };
        // Directory entry 1 and table entry 3 are upper halves.
        let tables = [(0x1000, 0x2003 << 32), (0x2008, 0x5003 << 32), (0x1008, 0x0120_2083)];
        assert_eq!(physical(&paging, &tables, 0x40_3fff), Some(0x5fff));
        assert_eq!(physical(&paging, &tables, 0x81_2345), Some(0x1_0101_2345), "PSE-36");
    }
}
