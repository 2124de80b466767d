//! Which kernel modules the agent must load, and in which order.

use crate::StoreError;
use crate::deb::Members;
use std::collections::BTreeMap;
use std::io::Read;

/// What the agent needs, by the names that the kernel has for them; the machine's random numbers are
/// good to have. A kernel that has one of them built in needs no module for it.
pub(crate) const ROOTS: [(&str, bool); 3] = [("virtio_pci", true), ("virtio_console", true), ("virtio_rng", false)];

/// What a machine with a disk has on top, loaded only where there is one: the disk's driver, a file system, and the
/// checksums that it asks for by name, the faster one first.
pub(crate) const DISK_ROOTS: [(&str, bool); 4] =
    [("virtio_blk", false), ("crc32c_intel", false), ("crc32c_generic", false), ("ext4", false)];

/// What a machine with a shared folder has on top.
pub(crate) const SHARE_ROOTS: [(&str, bool); 1] = [("virtiofs", false)];

/// What a machine with a disk for cloud-init has on top: its file system.
pub(crate) const SEED_ROOTS: [(&str, bool); 1] = [("isofs", false)];

/// What these need on the kernels that are known, so that one reading of a package is enough.
pub(crate) const LIKELY: [&str; 12] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "rng_core",
    "virtio_vdpa",
    "fuse",
    "jbd2",
    "mbcache",
    "crc16",
    "libcrc32c",
    "cdrom",
];

/// Largest module in bytes after decompression.
const LARGEST: u64 = 32 << 20;

/// Deepest chain of dependencies.
const DEEPEST: usize = 16;

/// A module as it goes into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its path in the image, `lib/modules/.../virtio.ko`.
    pub(crate) path: String,
    pub(crate) data: Vec<u8>,
    pub(crate) needed_by: NeededBy,
}

/// Which machines load a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NeededBy {
    All,
    /// Those with a disk.
    Disks,
    /// Those with a shared folder.
    Shares,
    /// Those with a disk for cloud-init.
    Seeds,
}

/// The kernel's name of a module for a path: without folders and suffixes, with `_` for `-`
/// (modprobe(8)). `None` if the path is no module's.
pub(crate) fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst").then(|| stem.replace('-', "_"))
}

/// What became of the search for all modules.
#[derive(Debug)]
pub(crate) enum Order {
    /// All of them, each after those that it needs.
    Complete(Vec<Module>),
    /// These were not among the package's members that were read.
    Missing(Vec<String>),
}

/// Orders the modules among `members`. `searched` are the names that have been looked for: what is
/// optional and among them, and not there, is left out.
pub(crate) fn order(members: &Members, searched: &[String], package: &str) -> Result<Order, StoreError> {
    let mut search = Search {
        members,
        searched,
        package,
        needed_by: NeededBy::All,
        unpacked: BTreeMap::new(),
        ordered: Vec::new(),
        missing: Vec::new(),
    };
    let groups: [(NeededBy, &[(&str, bool)]); 4] = [
        (NeededBy::All, &ROOTS),
        (NeededBy::Disks, &DISK_ROOTS),
        (NeededBy::Shares, &SHARE_ROOTS),
        (NeededBy::Seeds, &SEED_ROOTS),
    ];
    for (needed_by, roots) in groups {
        search.needed_by = needed_by;
        for &(root, needed) in roots {
            search.visit(root, needed, 0)?;
        }
    }
    if search.missing.is_empty() { Ok(Order::Complete(search.ordered)) } else { Ok(Order::Missing(search.missing)) }
}

struct Search<'a> {
    members: &'a Members,
    searched: &'a [String],
    package: &'a str,
    /// What is found now.
    needed_by: NeededBy,
    /// Whether a module's dependencies have been followed to their end.
    unpacked: BTreeMap<String, bool>,
    ordered: Vec<Module>,
    missing: Vec<String>,
}

impl Search<'_> {
    fn wrong(&self, problem: String) -> StoreError {
        StoreError::Package { package: self.package.to_owned(), problem }
    }

    fn visit(&mut self, name: &str, needed: bool, depth: usize) -> Result<(), StoreError> {
        if self.members.builtin.contains(name) || self.unpacked.get(name) == Some(&true) {
            return Ok(());
        }
        if depth > DEEPEST || self.unpacked.get(name) == Some(&false) {
            return Err(self.wrong(format!("the module {name}, which needs itself")));
        }
        let Some((path, packed)) = self.members.modules.get(name) else {
            if !self.searched.iter().any(|searched| searched == name) {
                self.missing.push(name.to_owned());
            } else if needed {
                return Err(self.wrong(format!("no module {name}, which the agent needs")));
            }
            return Ok(());
        };
        let data = unpack(path, packed).map_err(|problem| self.wrong(format!("{path}, {problem}")))?;
        let needs = depends(&data).ok_or_else(|| self.wrong(format!("{path}, which is no kernel module")))?;
        self.unpacked.insert(name.to_owned(), false);
        for need in needs {
            self.visit(&need, true, depth.saturating_add(1))?;
        }
        self.unpacked.insert(name.to_owned(), true);
        let path = path.split_once(".ko").map_or(path.as_str(), |(stem, _)| stem);
        self.ordered.push(Module { path: format!("{path}.ko"), data, needed_by: self.needed_by });
        Ok(())
    }
}

/// Takes a module out of its compression, which would cost the guest more than the host.
fn unpack(path: &str, packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    let limit = LARGEST.saturating_add(1);
    if path.ends_with(".xz") {
        let xz = lzma_rust2::XzReader::new(packed, true);
        xz.take(limit).read_to_end(&mut data).map_err(|error| format!("which is no xz file ({error})"))?;
    } else if path.ends_with(".zst") {
        let zstd = ruzstd::decoding::StreamingDecoder::new(packed)
            .map_err(|error| format!("which is no zstd file ({error})"))?;
        zstd.take(limit).read_to_end(&mut data).map_err(|error| format!("which is no zstd file ({error})"))?;
    } else {
        data = packed.to_vec();
    }
    if data.len() as u64 > LARGEST { Err(format!("which is larger than {LARGEST} bytes")) } else { Ok(data) }
}

/// The names of the modules that a module needs: `depends=` in its section `.modinfo`, which holds
/// strings with a NUL after each (kernel: include/linux/moduleparam.h, scripts/mod/modpost.c).
/// `None` if the file is no 64-bit little-endian ELF with that section (System V gABI, chapter 4).
fn depends(elf: &[u8]) -> Option<Vec<String>> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let headers = elf.get(usize::try_from(u64_at(elf, 0x28)?).ok()?..)?;
    let size = usize::from(u16_at(elf, 0x3a)?);
    let count = usize::from(u16_at(elf, 0x3c)?);
    let header = |index: usize| headers.get(index.checked_mul(size)?..)?.get(..0x40);
    let contents = |header: &[u8]| {
        let start = usize::try_from(u64_at(header, 0x18)?).ok()?;
        let length = usize::try_from(u64_at(header, 0x20)?).ok()?;
        elf.get(start..start.checked_add(length)?)
    };
    let names = contents(header(usize::from(u16_at(elf, 0x3e)?))?)?;
    for index in 0..count {
        let header = header(index)?;
        let name = names.get(usize::try_from(u32_at(header, 0)?).ok()?..)?;
        if name.starts_with(b".modinfo\0") {
            let info = contents(header)?;
            let list = info.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"depends="))?;
            let list = std::str::from_utf8(list).ok()?;
            return Some(list.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect());
        }
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
pub(crate) mod tests;
