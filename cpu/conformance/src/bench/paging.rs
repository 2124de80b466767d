//! Paging structures of a guest.

use super::{Bench, Checked, Problem};
use crate::layout;
use motu_x86::Gpa;

/// Bits of a paging-structure entry.
pub mod page {
    pub const P: u64 = 1 << 0;
    pub const W: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
    /// Present and writable, for the supervisor.
    pub const KERNEL: u64 = P | W;
    /// Present and writable, for everyone.
    pub const USER: u64 = P | W | U;
}

/// How linear addresses are translated (SDM vol. 3, 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Two levels of entries of 4 bytes.
    Bits32,
    /// Three levels; the first has four entries.
    Pae,
    /// Four levels.
    Long,
}

impl Paging {
    fn levels(self) -> u32 {
        match self {
            Self::Bits32 => 2,
            Self::Pae => 3,
            Self::Long => 4,
        }
    }

    /// Where the entry for `linear` of the table at `table` lies.
    fn slot(self, table: u64, linear: u64, level: u32) -> u64 {
        match self {
            Self::Bits32 => table + ((linear >> (2 + 10 * level)) & 0x3ff) * 4,
            Self::Pae | Self::Long => table + ((linear >> (3 + 9 * level)) & 0x1ff) * 8,
        }
    }
}

impl Bench<'_> {
    /// Starts anew with other paging structures, in which nothing is mapped. CR0 and CR4 are the caller's.
    ///
    /// # Errors
    /// There are no more frames for paging structures.
    pub fn set_paging(&mut self, paging: Paging) -> Checked {
        self.paging = paging;
        self.state.cr3 = self.table()?;
        Ok(())
    }

    /// An empty frame for a paging structure.
    ///
    /// # Errors
    /// There are no more.
    pub fn table(&mut self) -> Checked<u64> {
        let table = self.next_table;
        if table >= layout::TABLES_END {
            return Err(Problem::Other("too many paging structures".into()));
        }
        self.next_table += 0x1000;
        Ok(table)
    }

    /// Maps the 4 KiB page at `linear`, with every right in the structures above it.
    ///
    /// # Errors
    /// There are no more frames for paging structures.
    pub fn map(&mut self, linear: u64, physical: u64, flags: u64) -> Checked {
        self.map_at(1, linear, physical, flags)
    }

    /// Maps a page of level 1 (4 KiB), 2 (2 MiB, or 4 MiB where entries have 32 bits) or 3 (1 GiB); the latter two
    /// need [`page::PS`].
    ///
    /// # Errors
    /// There are no more frames for paging structures.
    pub fn map_at(&mut self, level: u32, linear: u64, physical: u64, flags: u64) -> Checked {
        for above in (level + 1..=self.paging.levels()).rev() {
            let at = self.entry(linear, above)?;
            if self.read_entry(at)? & page::P == 0 {
                // The entries of PAE's first level have no rights (SDM vol. 3, table 4-8).
                let rights = if self.paging == Paging::Pae && above == 3 { page::P } else { page::USER };
                let table = self.table()?;
                self.write_entry(at, table | rights)?;
            }
        }
        let at = self.entry(linear, level)?;
        self.write_entry(at, physical | flags)
    }

    /// Where the entry of the highest level (PML4, 4 in 64-bit mode) to 1 (PT) for `linear` lies.
    ///
    /// # Errors
    /// A structure above it is missing.
    pub fn entry(&self, linear: u64, level: u32) -> Checked<u64> {
        let mut table = self.state.cr3 & !0xfff;
        for above in (level + 1..=self.paging.levels()).rev() {
            table = self.read_entry(self.paging.slot(table, linear, above))? & 0x000f_ffff_ffff_f000;
        }
        Ok(self.paging.slot(table, linear, level))
    }

    /// # Errors
    /// Not RAM.
    pub fn read_entry(&self, at: u64) -> Checked<u64> {
        let entry = self.read(at)?;
        Ok(if self.paging == Paging::Bits32 { entry & 0xffff_ffff } else { entry })
    }

    /// # Errors
    /// Not RAM.
    pub fn write_entry(&self, at: u64, entry: u64) -> Checked {
        let size = if self.paging == Paging::Bits32 { 4 } else { 8 };
        Ok(self.ram.write(Gpa(at), entry.to_le_bytes().get(..size).unwrap_or_default())?)
    }
}
