//! The page-table walk (Intel SDM vol. 3, 4.3 to 4.8).

use super::{Mmu, PAGE_MASK};
use motu_x86::exception::pf;

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// With whose rights memory is accessed (SDM vol. 3, 4.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privilege {
    /// Also what the processor itself does for any program: descriptor tables and the TSS.
    #[default]
    Supervisor,
    User,
    /// Supervisor mode with RFLAGS.AC set: SMAP does not keep it from user pages.
    SupervisorWithUser,
}

/// The control bits that translation depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub paging: bool,
    pub write_protect: bool,
    pub pae: bool,
    pub pse: bool,
    pub global: bool,
    pub smep: bool,
    pub smap: bool,
    /// CR4.PKE in long mode.
    pub protection_keys: bool,
    /// PKRU; counts only with `protection_keys`.
    pub pkru: u32,
    pub no_execute: bool,
    pub long: bool,
    /// PAE without long mode: the page-directory-pointer-table entries that CR3's last load read.
    pub directories: [u64; 4],
    /// Bits 51 to MAXPHYADDR: reserved in every entry.
    pub reserved: u64,
    /// The program's own.
    pub privilege: Privilege,
    /// CR3.
    pub root: u64,
}

impl Control {
    /// Whether translations made under `self` hold under `other`, privilege and CR3 apart.
    pub fn same_translations(&self, other: &Control) -> bool {
        let neutral = |c: &Control| Control { privilege: Privilege::Supervisor, root: 0, directories: [0; 4], ..*c };
        neutral(self) == neutral(other)
    }

    /// Of privileges that have the same rights, the one whose array of the TLB serves both: without SMAP all of
    /// supervisor mode may access user pages.
    #[inline(always)]
    pub fn effective(&self, privilege: Privilege) -> Privilege {
        match privilege {
            Privilege::SupervisorWithUser if !self.smap => Privilege::Supervisor,
            privilege => privilege,
        }
    }
}

/// A translated page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Guest-physical address of the 4 KiB page.
    pub physical: u64,
    /// Not so where only fetches are allowed, by SMAP or a protection key.
    pub readable: bool,
    pub writable: bool,
    pub executable: bool,
    /// The entry's dirty bit is set (by this access, if it is a write).
    pub dirty: bool,
    pub global: bool,
    /// Part of a page of 2 MiB or more, all of which one INVLPG invalidates.
    pub large: bool,
}

/// Bits of a paging-structure entry (SDM vol. 3, table 4-15 ff.).
mod entry {
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const XD: u64 = 1 << 63;
    /// The lowest bit of the protection key.
    pub const KEY_SHIFT: u32 = 59;
    /// Bits 51 to 12.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

impl Mmu {
    /// Translates `address` for `access` with the rights of `privilege`, setting accessed and dirty bits.
    ///
    /// # Errors
    /// The error code of the page fault to raise.
    pub fn walk(&self, address: u64, access: Access, privilege: Privilege) -> Result<Page, u32> {
        loop {
            if let Some(page) = self.try_walk(address, access, privilege)? {
                return Ok(page);
            }
        }
    }

    /// The same; `None` if another processor changed an entry that was to be marked.
    fn try_walk(&self, address: u64, access: Access, privilege: Privilege) -> Result<Option<Page>, u32> {
        let c = &self.control;
        if !c.paging {
            let physical = address & 0xffff_ffff & !PAGE_MASK;
            let all = true;
            return Ok(Some(Page {
                physical,
                readable: all,
                writable: all,
                executable: all,
                dirty: all,
                global: false,
                large: false,
            }));
        }
        let user = privilege == Privilege::User;
        let fetch_bit = if access == Access::Execute && (c.no_execute || c.smep) { pf::FETCH } else { 0 };
        let code = fetch_bit | if access == Access::Write { pf::WRITE } else { 0 } | if user { pf::USER } else { 0 };
        let found = if c.pae { self.walk_wide(address, code)? } else { self.walk_legacy(address, code)? };
        let Some(found) = found else { return Ok(None) };

        let user_page = found.rights & entry::US != 0;
        let shut = c.smap && user_page && privilege == Privilege::Supervisor;
        let may_write = found.rights & entry::RW != 0 || (!user && !c.write_protect);
        let readable = (user_page || !user) && !shut;
        let writable = readable && may_write;
        let executable = found.rights & entry::XD == 0 && if user { user_page } else { !(c.smep && user_page) };
        let allowed = match access {
            Access::Read => readable,
            Access::Write => writable,
            Access::Execute => executable,
        };
        let keys = self.key_rights(&found, user);
        let denied = match access {
            Access::Read => !keys.read,
            Access::Write => !keys.write,
            Access::Execute => false,
        };
        if !allowed || denied {
            // The key is told of even where the page's own rights forbid as much (SDM vol. 3, 4.7).
            return Err(code | pf::PRESENT | if denied { pf::PROTECTION_KEY } else { 0 });
        }
        if access == Access::Write && found.leaf & entry::D == 0 && !self.set(&found, entry::D) {
            return Ok(None);
        }
        Ok(Some(Page {
            physical: found.physical,
            readable: readable && keys.read,
            writable: writable && keys.write,
            executable,
            dirty: access == Access::Write || found.leaf & entry::D != 0,
            global: c.global && found.leaf & entry::G != 0,
            large: found.large,
        }))
    }

    /// Sets a bit of the entry that a walk ended with. False if that is another by now.
    fn set(&self, found: &Leaf, bit: u64) -> bool {
        self.ram.exchange(found.leaf_at, self.control.pae, found.leaf, found.leaf | bit)
    }

    /// What PKRU leaves of the rights of a user page (SDM vol. 3, 4.6.2).
    fn key_rights(&self, found: &Leaf, user: bool) -> KeyRights {
        let c = &self.control;
        if !c.protection_keys || found.rights & entry::US == 0 {
            return KeyRights { read: true, write: true };
        }
        let key = (found.leaf >> entry::KEY_SHIFT) as u32 & 0xf;
        let bits = c.pkru >> (2 * key);
        let read = bits & 1 == 0;
        KeyRights { read, write: read && (bits & 2 == 0 || (!user && !c.write_protect)) }
    }

    /// PAE and 4-level paging: 8-byte entries.
    fn walk_wide(&self, address: u64, code: u32) -> Result<Option<Leaf>, u32> {
        let c = &self.control;
        let reserved_xd = if c.no_execute { 0 } else { entry::XD };
        let mut rights = entry::RW | entry::US;
        let (mut table, mut shift) = if c.long {
            (c.root & entry::ADDRESS, 39)
        } else {
            let pdpte = c.directories[(address >> 30) as usize & 3];
            if pdpte & entry::P == 0 {
                return Err(code);
            }
            (pdpte & entry::ADDRESS, 21)
        };
        loop {
            let at = table + ((address >> shift) & 0x1ff) * 8;
            let mut value = self.entry(at);
            if value & entry::P == 0 {
                return Err(code);
            }
            let large = value & entry::PS != 0 && (shift == 21 || shift == 30);
            let reserved = reserved_xd
                | c.reserved
                | if shift == 39 { entry::PS } else { 0 }
                | if large { ((1u64 << shift) - 1) & entry::ADDRESS & !(1 << 12) } else { 0 }
                | if c.long { 0 } else { 0x7ff0_0000_0000_0000 };
            if value & reserved != 0 {
                return Err(code | pf::PRESENT | pf::RESERVED);
            }
            rights &= value | entry::XD;
            rights |= value & entry::XD;
            if value & entry::A == 0 {
                if !self.ram.exchange(at, true, value, value | entry::A) {
                    return Ok(None);
                }
                value |= entry::A;
            }
            if large || shift == 12 {
                let offset = (1u64 << shift) - 1;
                let physical = (value & entry::ADDRESS & !offset) | (address & offset & !PAGE_MASK);
                return Ok(Some(Leaf { physical, rights, leaf: value, leaf_at: at, large }));
            }
            table = value & entry::ADDRESS;
            shift -= 9;
        }
    }

    /// The four entries that PAE paging's CR3 points to, or `None` if a reserved bit is set in one (SDM vol. 3, 4.4.1).
    pub fn read_directories(&self, root: u64) -> Option<[u64; 4]> {
        let mut entries = [0; 4];
        for (n, value) in entries.iter_mut().enumerate() {
            *value = self.entry((root & 0xffff_ffe0) + 8 * n as u64);
            let reserved = self.control.reserved | 0xfff0_0000_0000_01e6;
            if *value & entry::P != 0 && *value & reserved != 0 {
                return None;
            }
        }
        Some(entries)
    }

    /// 32-bit paging: 4-byte entries; with PSE 4 MiB pages, whose address has 40 bits (PSE-36).
    fn walk_legacy(&self, address: u64, code: u32) -> Result<Option<Leaf>, u32> {
        let read = |at: u64| self.ram.long(at).map_or(0, u64::from);
        // Marks an entry; gives it as it is then, if nobody has changed it.
        let mark = |at: u64, value: u64| {
            let marked = value | entry::A;
            (marked == value || self.ram.exchange(at, false, value, marked)).then_some(marked)
        };
        let mut rights = entry::RW | entry::US;
        let directory_at = (self.control.root & 0xffff_f000) + ((address >> 22) & 0x3ff) * 4;
        let directory = read(directory_at);
        if directory & entry::P == 0 {
            return Err(code);
        }
        rights &= directory;
        if directory & entry::PS != 0 && self.control.pse {
            // Bits 13 to 20 are address bits 32 to 39, as far as there are so many; bit 21 is reserved.
            let high = (directory >> 13 & 0xff) << 32;
            if directory & 0x0020_0000 != 0 || high & self.control.reserved != 0 {
                return Err(code | pf::PRESENT | pf::RESERVED);
            }
            let Some(leaf) = mark(directory_at, directory) else { return Ok(None) };
            let physical = high | (directory & 0xffc0_0000) | (address & 0x003f_f000);
            return Ok(Some(Leaf { physical, rights, leaf, leaf_at: directory_at, large: true }));
        }
        if mark(directory_at, directory).is_none() {
            return Ok(None);
        }
        let at = (directory & 0xffff_f000) + ((address >> 12) & 0x3ff) * 4;
        let value = read(at);
        if value & entry::P == 0 {
            return Err(code);
        }
        rights &= value;
        let Some(leaf) = mark(at, value) else { return Ok(None) };
        Ok(Some(Leaf { physical: value & 0xffff_f000, rights, leaf, leaf_at: at, large: false }))
    }

    /// An 8-byte entry; where there is no RAM, zero: not present.
    #[inline(always)]
    fn entry(&self, at: u64) -> u64 {
        self.ram.quad(at).unwrap_or(0)
    }
}

/// Which data accesses a protection key allows.
struct KeyRights {
    read: bool,
    write: bool,
}

/// The last entry of a walk, and the rights that all of its levels leave: RW and US set only if
/// set everywhere, XD set if set anywhere.
struct Leaf {
    physical: u64,
    rights: u64,
    leaf: u64,
    leaf_at: u64,
    large: bool,
}
