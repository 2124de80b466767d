//! What a qcow2 image says of itself (QEMU, docs/interop/qcow2.txt, "Header"), and whether it can be used.
//!
//! Its sizes decide what is allocated, and its backing file's name which other file is read: all bounds are here.

use crate::{MAX_SIZE, SECTOR};

/// What a qcow2 image begins with: "QFI\xfb".
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of the largest cluster there is: all that a header says of itself lies in the first.
pub const MAX_CLUSTER: u64 = 1 << MAX_CLUSTER_BITS;

const MIN_CLUSTER_BITS: u32 = 9;
const MAX_CLUSTER_BITS: u32 = 21;
/// Entries of the first-level table at most; 512 TiB of 64 KiB clusters.
pub const MAX_L1: u32 = 1 << 20;
/// Bytes of the refcount table at most, as in QEMU (block/qcow2.h, QCOW_MAX_REFTABLE_SIZE).
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
const MAX_REFCOUNT_ORDER: u32 = 6;
/// Bits of an offset in the image's file.
const MAX_OFFSET: u64 = (1 << 56) - 1;
const MAX_BACKING_NAME: usize = 1023;
const LEN_V2: usize = 72;
const LEN_V3: usize = 104;

/// Where fields lie.
pub(super) mod at {
    pub const VERSION: usize = 4;
    pub const BACKING_OFFSET: usize = 8;
    pub const BACKING_SIZE: usize = 16;
    pub const CLUSTER_BITS: usize = 20;
    pub const SIZE: usize = 24;
    pub const ENCRYPTION: usize = 32;
    pub const L1_SIZE: usize = 36;
    pub const L1_OFFSET: usize = 40;
    pub const REFCOUNT_OFFSET: usize = 48;
    pub const REFCOUNT_CLUSTERS: usize = 56;
    pub const SNAPSHOTS: usize = 60;
    pub const INCOMPATIBLE: usize = 72;
    pub const AUTOCLEAR: usize = 88;
    pub const REFCOUNT_ORDER: usize = 96;
    pub const HEADER_LEN: usize = 100;
}

/// Incompatible features.
mod feature {
    pub const DIRTY: u64 = 1;
    pub const CORRUPT: u64 = 2;
    pub const EXTERNAL_DATA: u64 = 4;
    pub const COMPRESSION: u64 = 8;
    pub const EXTENDED_L2: u64 = 16;
}

pub(super) mod extension {
    pub const END: u32 = 0;
    pub const BACKING_FORMAT: u32 = 0xe279_2aca;
}

/// A header that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The disk's, in bytes.
    pub size: u64,
    /// log2 of a cluster's bytes.
    pub cluster_bits: u32,
    /// 2 or 3.
    pub version: u32,
    /// Where the first-level table lies, a cluster's start, and its entries.
    pub l1_offset: u64,
    pub l1_size: u32,
    /// Where the refcount table lies, a cluster's start, and its clusters.
    pub refcount_table: u64,
    pub refcount_clusters: u32,
    /// log2 of a refcount's bits, 0 to 6.
    pub refcount_order: u32,
    /// Features that a program which does not know them clears before it writes.
    pub autoclear: u64,
    /// The image has snapshots of its own.
    pub has_snapshots: bool,
    pub backing: Option<BackingName>,
}

/// What an image says of its backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackingName {
    pub name: String,
    pub format: Option<String>,
}

/// Why an image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is none.
    NotQcow2(String),
    /// It is one, but.
    Unusable(String),
}

/// Entries that the first-level table has to have for a disk of `size` bytes: each is for a cluster of such entries of 8 bytes, each
/// of them for a cluster.
pub fn l1_entries(size: u64, cluster_bits: u32) -> u64 {
    size.div_ceil(1 << (2 * cluster_bits - 3))
}

fn unusable(problem: impl Into<String>) -> Problem {
    Problem::Unusable(problem.into())
}

/// Big-endian fields of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, Problem> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, Problem> {
        self.array(at).map(u64::from_be_bytes)
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Problem> {
        let bytes = at.checked_add(N).and_then(|end| self.0.get(at..end)).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| unusable("ends in its header; it is cut off"))
    }
}

impl Header {
    /// Reads what an image begins with: `bytes` are its first [`MAX_CLUSTER`] bytes, or all if it is shorter.
    ///
    /// # Errors
    /// Why it cannot be used; the sentence goes on from its name.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Problem::NotQcow2("it does not begin as one; if it is a raw disk, say format=raw".into()));
        }
        let fields = Fields(bytes);
        let version = fields.u32(at::VERSION)?;
        if !matches!(version, 2 | 3) {
            return Err(unusable(format!(
                "has version {version}; versions 2 and 3 can be used (qemu-img convert -O qcow2)"
            )));
        }
        let cluster_bits = fields.u32(at::CLUSTER_BITS)?;
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
            return Err(unusable(format!(
                "has clusters of 2^{cluster_bits} bytes; it is damaged, as they have 2^9 to 2^21"
            )));
        }
        if fields.u32(at::ENCRYPTION)? != 0 {
            return Err(unusable("is encrypted, which is not supported; decrypt it first (qemu-img convert)"));
        }
        let bytes = bytes.get(..1 << cluster_bits).unwrap_or(bytes);
        let (autoclear, refcount_order) = match version {
            2 => (0, 4),
            _ => (fields.u64(at::AUTOCLEAR)?, fields.u32(at::REFCOUNT_ORDER)?),
        };
        let header = Self {
            size: fields.u64(at::SIZE)?,
            cluster_bits,
            version,
            l1_offset: fields.u64(at::L1_OFFSET)?,
            l1_size: fields.u32(at::L1_SIZE)?,
            refcount_table: fields.u64(at::REFCOUNT_OFFSET)?,
            refcount_clusters: fields.u32(at::REFCOUNT_CLUSTERS)?,
            refcount_order,
            autoclear,
            has_snapshots: fields.u32(at::SNAPSHOTS)? != 0,
            backing: backing(&Fields(bytes), version)?,
        };
        header.check_size()?;
        header.check_tables()?;
        if version == 3 {
            check_features(fields.u64(at::INCOMPATIBLE)?)?;
        }
        Ok(header)
    }

    /// In bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn check_size(&self) -> Result<(), Problem> {
        let size = self.size;
        match size {
            0 => Err(unusable("is of an empty disk; give it a size (qemu-img resize)")),
            _ if size > MAX_SIZE => {
                Err(unusable(format!("is of {size} bytes, more than a disk can have ({MAX_SIZE})")))
            }
            _ if !size.is_multiple_of(SECTOR) => {
                Err(unusable(format!("is of {size} bytes, which are no whole sectors of {SECTOR} (qemu-img resize)")))
            }
            _ => Ok(()),
        }
    }

    fn check_tables(&self) -> Result<(), Problem> {
        let l1_size = self.l1_size;
        let cluster = self.cluster_size();
        let needed = l1_entries(self.size, self.cluster_bits);
        if l1_size > MAX_L1 || needed > MAX_L1.into() {
            let entries = needed.max(l1_size.into());
            return Err(unusable(format!(
                "has a first-level table of {entries} entries, more than the {MAX_L1} that are supported"
            )));
        }
        if u64::from(l1_size) < needed {
            return Err(unusable(format!(
                "has a first-level table of {l1_size} entries where its size takes {needed}; it is damaged"
            )));
        }
        let refcounts = u64::from(self.refcount_clusters) * cluster;
        if refcounts > MAX_REFCOUNT_TABLE {
            return Err(unusable(format!(
                "has a refcount table of {refcounts} bytes, more than {MAX_REFCOUNT_TABLE}; it is damaged"
            )));
        }
        if self.refcount_order > MAX_REFCOUNT_ORDER {
            return Err(unusable(format!(
                "has refcounts of 2^{} bits; it is damaged, as they have 1 to 64",
                self.refcount_order
            )));
        }
        let places = [("first-level", self.l1_offset), ("refcount", self.refcount_table)];
        match places.iter().find(|(_, at)| *at == 0 || *at > MAX_OFFSET || !at.is_multiple_of(cluster)) {
            Some((what, at)) => {
                Err(unusable(format!("has its {what} table at {at}, where none can be; it is damaged")))
            }
            None => Ok(()),
        }
    }
}

fn check_features(incompatible: u64) -> Result<(), Problem> {
    let known = [
        (feature::CORRUPT, "is marked as damaged; mend it first (qemu-img check -r all)"),
        (feature::DIRTY, "was not closed by the program that wrote it last; mend it first (qemu-img check -r all)"),
        (feature::EXTERNAL_DATA, "keeps its data in another file, which is not supported (qemu-img convert)"),
        (feature::COMPRESSION, "is compressed with zstd, which is not supported (qemu-img convert)"),
        (feature::EXTENDED_L2, "has extended L2 entries, which are not supported (qemu-img convert)"),
    ];
    if let Some((_, problem)) = known.iter().find(|(bit, _)| incompatible & bit != 0) {
        return Err(unusable(*problem));
    }
    if incompatible != 0 {
        return Err(unusable(format!("has features {incompatible:#x} that are not known; a newer program made it")));
    }
    Ok(())
}

fn backing(fields: &Fields<'_>, version: u32) -> Result<Option<BackingName>, Problem> {
    let offset = fields.u64(at::BACKING_OFFSET)?;
    if offset == 0 {
        return Ok(None);
    }
    let damaged = || unusable("names its backing file outside its header; it is damaged");
    let len = fields.u32(at::BACKING_SIZE)? as usize;
    let start = usize::try_from(offset).map_err(|_| damaged())?;
    let name = start.checked_add(len).and_then(|end| fields.0.get(start..end)).ok_or_else(damaged)?;
    if !(1..=MAX_BACKING_NAME).contains(&len) {
        return Err(damaged());
    }
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map(str::to_owned);
        text.map_err(|_| unusable("has a backing file whose name is no UTF-8; rename it (qemu-img rebase -u)"))
    };
    Ok(Some(BackingName { name: text(name)?, format: extension(fields, version)?.map(text).transpose()? }))
}

/// The backing file's format, from the header's extensions: type, length, data up to a multiple of 8 bytes.
fn extension<'a>(fields: &Fields<'a>, version: u32) -> Result<Option<&'a [u8]>, Problem> {
    let damaged = || unusable("has a header extension that is cut off; it is damaged");
    let mut at = if version == 2 { LEN_V2 } else { fields.u32(at::HEADER_LEN)? as usize };
    if version == 3 && at < LEN_V3 {
        return Err(unusable(format!("has a header of {at} bytes where {LEN_V3} are the least; it is damaged")));
    }
    // Each turn goes on by 8 bytes at least.
    loop {
        let (kind, len) = (fields.u32(at)?, fields.u32(at.checked_add(4).ok_or_else(damaged)?)? as usize);
        let start = at.checked_add(8).ok_or_else(damaged)?;
        let data = start.checked_add(len).and_then(|end| fields.0.get(start..end)).ok_or_else(damaged)?;
        match kind {
            extension::END => return Ok(None),
            extension::BACKING_FORMAT => return Ok(Some(data)),
            _ => at = len.checked_next_multiple_of(8).and_then(|len| start.checked_add(len)).ok_or_else(damaged)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A header of a 1 GiB image, version 3.
    fn header() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(at::VERSION, &3u32.to_be_bytes());
        put(at::CLUSTER_BITS, &16u32.to_be_bytes());
        put(at::SIZE, &(1u64 << 30).to_be_bytes());
        put(at::L1_SIZE, &2u32.to_be_bytes());
        put(at::L1_OFFSET, &(3u64 << 16).to_be_bytes());
        put(at::REFCOUNT_OFFSET, &(1u64 << 16).to_be_bytes());
        put(at::REFCOUNT_CLUSTERS, &1u32.to_be_bytes());
        put(at::REFCOUNT_ORDER, &4u32.to_be_bytes());
        put(at::HEADER_LEN, &104u32.to_be_bytes());
        bytes
    }

    fn with(changes: &[(usize, &[u8])]) -> Result<Header, Problem> {
        let mut bytes = header();
        for (at, value) in changes {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        Header::parse(&bytes)
    }

    #[test]
    fn a_good_header_is_read() {
        let expected = Header {
            size: 1 << 30,
            cluster_bits: 16,
            version: 3,
            l1_offset: 3 << 16,
            l1_size: 2,
            refcount_table: 1 << 16,
            refcount_clusters: 1,
            refcount_order: 4,
            autoclear: 0,
            has_snapshots: false,
            backing: None,
        };
        assert_eq!(with(&[]), Ok(expected));
    }

    #[test]
    fn a_backing_file_has_a_name_and_a_format() {
        let named: &[(usize, &[u8])] = &[
            (at::BACKING_OFFSET, &200u64.to_be_bytes()),
            (at::BACKING_SIZE, &4u32.to_be_bytes()),
            (200, b"base"),
            // An extension that is not known comes first.
            (104, &[0x12, 0x34, 0, 0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0]),
            (120, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3, b'r', b'a', b'w', 0, 0, 0, 0, 0]),
        ];
        let backing = BackingName { name: "base".into(), format: Some("raw".into()) };
        assert_eq!(with(named).unwrap().backing, Some(backing));
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let cases: &[(usize, &[u8], &str)] = &[
            (at::VERSION, &[0, 0, 0, 4], "version 4"),
            (at::CLUSTER_BITS, &[0, 0, 0, 30], "2^30"),
            (at::CLUSTER_BITS, &[0xff; 4], "damaged"),
            (at::ENCRYPTION, &[0, 0, 0, 2], "encrypted"),
            (at::SIZE, &[0; 8], "empty"),
            (at::SIZE, &[0xff; 8], "more than a disk can have"),
            (at::SIZE, &[0, 0, 0, 0, 0x40, 0, 0, 1], "no whole sectors"),
            (at::SIZE, &(1u64 << 40).to_be_bytes(), "takes 2048"),
            (at::L1_SIZE, &[0xff; 4], "more than"),
            (at::REFCOUNT_CLUSTERS, &[0xff; 4], "refcount table"),
            (at::REFCOUNT_ORDER, &[0, 0, 0, 7], "2^7 bits"),
            (at::L1_OFFSET, &[0; 8], "first-level table at 0"),
            (at::L1_OFFSET + 7, &[8], "first-level table at"),
            (at::REFCOUNT_OFFSET, &[0xff; 8], "refcount table at"),
            (at::INCOMPATIBLE + 7, &[1], "not closed"),
            (at::INCOMPATIBLE + 7, &[3], "marked as damaged"),
            (at::INCOMPATIBLE + 7, &[4], "another file"),
            (at::INCOMPATIBLE + 7, &[8], "zstd"),
            (at::INCOMPATIBLE + 7, &[16], "extended L2"),
            (at::INCOMPATIBLE, &[0x80], "not known"),
            (at::BACKING_OFFSET, &[0xff; 8], "outside its header"),
            (at::BACKING_OFFSET + 7, &[200], "outside its header"),
        ];
        for (at, bytes, says) in cases {
            match with(&[(*at, bytes)]) {
                Err(Problem::Unusable(problem)) => assert!(problem.contains(says), "{at}: {problem}"),
                other => panic!("{at} {says}: {other:?}"),
            }
        }
        assert!(matches!(Header::parse(b""), Err(Problem::NotQcow2(_))));
        assert!(matches!(Header::parse(&MAGIC), Err(Problem::Unusable(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..600), good in prop::collection::vec(any::<bool>(), 600)) {
            let template = header();
            for ((byte, right), good) in bytes.iter_mut().zip(template).zip(good) {
                if good {
                    *byte = right;
                }
            }
            let _ = Header::parse(&bytes);
        }
    }
}
