//! Entries of the tables that say where a cluster of the disk lies in the image's file (QEMU,
//! docs/interop/qcow2.txt, "Cluster mapping").

/// The refcount of what is pointed to is exactly one: it may be written in place.
pub const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros; version 3 only.
pub const ZERO: u64 = 1;
/// Bits 9 to 55: where it lies.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Compressed data is counted in these.
const SECTOR: u64 = 512;

/// Where a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// The backing file's; zeros where there is none.
    Below,
    Zeros,
    /// At this offset of the image's file; `own` if nobody else refers to it.
    Data {
        offset: u64,
        own: bool,
    },
    /// Compressed, in these bytes.
    Compressed {
        offset: u64,
        len: u64,
    },
    /// No entry is like this.
    Damaged,
}

/// Where a table's entry points; `None` to nothing, or to what is no cluster's start.
pub fn table_offset(entry: u64, cluster_bits: u32) -> Option<u64> {
    let offset = entry & OFFSET;
    (offset >> cluster_bits << cluster_bits == offset && offset != 0).then_some(offset)
}

/// Reads an entry of a second-level table.
pub fn decode(entry: u64, cluster_bits: u32, version: u32) -> Cluster {
    if entry & COMPRESSED != 0 {
        // The further a cluster reaches, the more bits say how long it is.
        let bits = 62 - (cluster_bits - 8);
        let (offset, sectors) = (entry & ((1 << bits) - 1), (entry & !(COPIED | COMPRESSED)) >> bits);
        return Cluster::Compressed { offset, len: (sectors + 1) * SECTOR - offset % SECTOR };
    }
    if entry & ZERO != 0 && version >= 3 {
        return Cluster::Zeros;
    }
    if entry & OFFSET == 0 {
        return Cluster::Below;
    }
    match table_offset(entry, cluster_bits) {
        Some(offset) => Cluster::Data { offset, own: entry & COPIED != 0 },
        None => Cluster::Damaged,
    }
}

/// The clusters of the file that an entry refers to: the first, and how many.
pub fn refers_to(entry: u64, cluster_bits: u32, version: u32) -> (u64, u64) {
    let cluster = decode(entry, cluster_bits, version);
    match (cluster, table_offset(entry, cluster_bits)) {
        (Cluster::Compressed { offset, len }, _) => {
            let first = offset >> cluster_bits;
            (first, ((offset + len - 1) >> cluster_bits) - first + 1)
        }
        // Zeros may keep their place.
        (Cluster::Data { .. } | Cluster::Zeros, Some(offset)) => (offset >> cluster_bits, 1),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_what_the_format_says() {
        assert_eq!(decode(0, 16, 3), Cluster::Below);
        assert_eq!(decode(1, 16, 3), Cluster::Zeros);
        assert_eq!(decode(0x5_0001, 16, 3), Cluster::Zeros);
        assert_eq!(refers_to(0x5_0001, 16, 3), (5, 1));
        assert_eq!(decode(COPIED | 0x5_0000, 16, 3), Cluster::Data { offset: 0x5_0000, own: true });
        assert_eq!(decode(0x5_0000, 16, 2), Cluster::Data { offset: 0x5_0000, own: false });
        assert_eq!(decode(0x5_0200, 16, 3), Cluster::Damaged);
        // 3 sectors from 0x5_fe10 on: they end in the next cluster.
        let compressed = COMPRESSED | 2 << 54 | 0x5_fe10;
        assert_eq!(decode(compressed, 16, 3), Cluster::Compressed { offset: 0x5_fe10, len: 3 * 512 - 0x10 });
        assert_eq!(refers_to(compressed, 16, 3), (5, 2));
    }

    proptest! {
        #[test]
        fn no_entry_panics(entry: u64, cluster_bits in 9..22u32, version in 2..4u32) {
            let _ = decode(entry, cluster_bits, version);
            let (first, count) = refers_to(entry, cluster_bits, version);
            prop_assert!(first.checked_add(count).is_some());
        }
    }
}
