//! Extended attributes (Documentation/filesystems/ext4, "Extended Attributes"): in the inode if all of them fit, else in a block.

use super::crc32c::crc32c;
use super::fields::Fields;
use crate::output::BLOCK;

pub(crate) const MAGIC: u32 = 0xea02_0000;
/// Behind an inode's fields.
pub(crate) const IN_INODE: usize = super::layout::INODE - super::inode::FIELDS;
const ENTRY: usize = 16;
/// Four bytes of zeros behind the last entry.
const END: usize = 4;
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;

/// What a name begins with, and the number for that. Whole names are of ACLs, whose values Linux and ext4 write differently.
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const ACCESS_ACL: (&[u8], u8) = (b"system.posix_acl_access", 2);
const DEFAULT_ACL: (&[u8], u8) = (b"system.posix_acl_default", 3);

/// An attribute as ext4 keeps it.
#[derive(Debug, PartialEq, Eq)]
struct Attribute {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    fn hash(&self) -> u32 {
        let named = self.name.iter().fold(0u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        self.value.chunks(4).fold(named, |hash, chunk| {
            let word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
            hash.rotate_left(16) ^ word
        })
    }

    /// Bytes that it takes, its value's included.
    fn len(&self) -> usize {
        ENTRY + self.name.len().next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }
}

/// Attributes that fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    all: Vec<Attribute>,
}

/// Whether ext4 can keep an attribute of this name at all. Linux refuses others, too.
pub(crate) fn is_known(name: &[u8]) -> bool {
    let is_acl = name == ACCESS_ACL.0 || name == DEFAULT_ACL.0;
    is_acl || PREFIXES.iter().any(|(prefix, _)| name.strip_prefix(*prefix).is_some_and(|rest| !rest.is_empty()))
}

impl Attributes {
    /// Of names and values as Linux has them; those that are not known are left out. Fails with what is wrong.
    pub(crate) fn new(given: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, String> {
        let mut all = Vec::new();
        for (name, value) in given {
            let shown = String::from_utf8_lossy(name);
            let acl = [ACCESS_ACL, DEFAULT_ACL].into_iter().find(|(acl, _)| name == acl);
            let short = PREFIXES.iter().find_map(|(prefix, index)| Some((name.strip_prefix(*prefix)?, *index)));
            let attribute = match (acl, short) {
                (Some((_, index)), _) => {
                    let value = acl_value(value).ok_or_else(|| format!("whose {shown} is no access control list"))?;
                    Attribute { index, name: Vec::new(), value }
                }
                (None, Some((name, index))) if !name.is_empty() => {
                    Attribute { index, name: name.to_vec(), value: value.clone() }
                }
                _ => continue,
            };
            if attribute.name.len() > usize::from(u8::MAX) {
                return Err(format!(
                    "with an extended attribute whose name has {} bytes; 255 at most can be",
                    name.len()
                ));
            }
            all.push(attribute);
        }
        // The order that they are searched in.
        all.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
        let attributes = Self { all };
        let (needed, room) = (attributes.len(), BLOCK - BLOCK_HEADER - END);
        if needed > room {
            return Err(format!("whose extended attributes need {needed} bytes; {room} at most can be"));
        }
        Ok(attributes)
    }

    fn len(&self) -> usize {
        self.all.iter().map(Attribute::len).sum()
    }

    /// What lies in the inode behind its fields; `None` if it does not fit.
    pub(crate) fn in_inode(&self) -> Option<[u8; IN_INODE]> {
        let mut data = [0; IN_INODE];
        if self.all.is_empty() {
            return Some(data);
        }
        if self.len() > IN_INODE - INODE_HEADER - END {
            return None;
        }
        Fields(&mut data).u32(0, MAGIC);
        self.put(&mut data, INODE_HEADER, INODE_HEADER);
        Some(data)
    }

    /// A block of them, which is to lie at `block`. `seed` is the file system's checksum seed.
    pub(crate) fn in_block(&self, block: u64, seed: u32) -> Vec<u8> {
        let mut data = vec![0; BLOCK];
        let hash = self.put(&mut data, BLOCK_HEADER, 0);
        let mut fields = Fields(&mut data);
        fields.u32(0, MAGIC);
        // One inode uses it; it is one block.
        fields.u32(4, 1);
        fields.u32(8, 1);
        fields.u32(12, hash);
        let checksum = crc32c(crc32c(seed, &block.to_le_bytes()), &data);
        Fields(&mut data).u32(16, checksum);
        data
    }

    /// Entries from `at` on, values from the end on, whose places count from `base`. Returns the hash of all.
    fn put(&self, data: &mut [u8], mut at: usize, base: usize) -> u32 {
        let mut end = data.len();
        let mut fields = Fields(data);
        let mut all = 0u32;
        for attribute in &self.all {
            end = end.saturating_sub(attribute.value.len().next_multiple_of(4));
            let hash = attribute.hash();
            fields.u8(at, attribute.name.len() as u8);
            fields.u8(at + 1, attribute.index);
            // An empty value is nowhere.
            fields.u16(at + 2, if attribute.value.is_empty() { 0 } else { end.saturating_sub(base) as u16 });
            fields.u32(at + 8, attribute.value.len() as u32);
            fields.u32(at + 12, hash);
            fields.bytes(at + ENTRY, &attribute.name);
            fields.bytes(end, &attribute.value);
            at += ENTRY + attribute.name.len().next_multiple_of(4);
            all = all.rotate_left(16) ^ hash;
        }
        // A hash of 0 means that there is none.
        if self.all.iter().any(|attribute| attribute.hash() == 0) { 0 } else { all }
    }
}

/// An attribute's whole name, as Linux has it; `None` if the number in front of it is of none that Linux shows to programs.
pub(crate) fn linux_name(index: u8, name: &[u8]) -> Option<Vec<u8>> {
    let acl = [ACCESS_ACL, DEFAULT_ACL].into_iter().find(|(_, of)| *of == index && name.is_empty());
    let prefix = PREFIXES.iter().find(|(_, of)| *of == index && !name.is_empty());
    acl.map(|(whole, _)| whole.to_vec()).or_else(|| prefix.map(|(prefix, _)| [*prefix, name].concat()))
}

/// From what ext4 has on the disk (fs/ext4/acl.h) to what Linux gives to programs, if the attribute is an ACL; the way back of
/// [`acl_value`].
pub(crate) fn linux_acl(index: u8, value: &[u8]) -> Option<Vec<u8>> {
    if ![ACCESS_ACL.1, DEFAULT_ACL.1].contains(&index) {
        return Some(value.to_vec());
    }
    let (version, mut entries) = value.split_first_chunk::<4>()?;
    if *version != 1u32.to_le_bytes() {
        return None;
    }
    let mut linux = 2u32.to_le_bytes().to_vec();
    while let Some((entry, rest)) = entries.split_first_chunk::<4>() {
        let [low, high, ..] = *entry;
        // Nobody's number where the entry names nobody.
        let (id, rest) = match NAMED.contains(&u16::from_le_bytes([low, high])) {
            true => rest.split_first_chunk::<4>()?,
            false => (&[0xff; 4], rest),
        };
        linux.extend(entry.iter().chain(id));
        entries = rest;
    }
    entries.is_empty().then_some(linux)
}

/// ACL_USER and ACL_GROUP: entries with a number.
const NAMED: [u16; 2] = [0x02, 0x08];

/// From what Linux gives to programs (acl(5); include/uapi/linux/posix_acl_xattr.h) to what ext4 has on the disk (fs/ext4/acl.h).
fn acl_value(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, []) = entries.as_chunks::<8>() else { return None };
    if *version != 2u32.to_le_bytes() {
        return None;
    }
    let mut disk = 1u32.to_le_bytes().to_vec();
    for entry in entries {
        let [tag_low, tag_high, permissions_low, permissions_high, id @ ..] = *entry;
        disk.extend([tag_low, tag_high, permissions_low, permissions_high]);
        if NAMED.contains(&u16::from_le_bytes([tag_low, tag_high])) {
            disk.extend(id);
        }
    }
    Some(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(given: &[(&str, &[u8])]) -> Result<Attributes, String> {
        let given: Vec<_> = given.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect();
        Attributes::new(&given)
    }

    #[test]
    fn few_lie_in_the_inode_and_many_in_a_block() {
        assert_eq!(attributes(&[]).unwrap().in_inode(), Some([0; IN_INODE]));
        let few = attributes(&[("security.capability", &[1; 20])]).unwrap();
        assert!(few.in_inode().is_some());
        let many = attributes(&[("user.a", &[1; 100])]).unwrap();
        assert_eq!(many.in_inode(), None);
        assert_eq!(many.in_block(7, 0)[..4], MAGIC.to_le_bytes());
    }

    #[test]
    fn what_does_not_fit_or_mean_anything_is_said() {
        assert!(attributes(&[("user.a", &[0; 4000])]).is_ok());
        assert!(attributes(&[("user.a", &[0; 4096])]).unwrap_err().contains("at most"));
        assert!(attributes(&[(&format!("user.{}", "a".repeat(256)), b"")]).unwrap_err().contains("255"));
        assert!(attributes(&[("system.posix_acl_access", b"x")]).unwrap_err().contains("no access control list"));
        assert!(attributes(&[("com.apple.provenance", b"x"), ("user.", b"x")]).unwrap().all.is_empty());
    }

    #[test]
    fn an_access_control_list_is_rewritten() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let linux = [&2u32.to_le_bytes()[..], &entry(1, 7, !0), &entry(2, 4, 1000)].concat();
        let disk = [&1u32.to_le_bytes()[..], &entry(1, 7, 0)[..4], &entry(2, 4, 1000)].concat();
        assert_eq!(acl_value(&linux), Some(disk.clone()));
        assert_eq!(linux_acl(ACCESS_ACL.1, &disk), Some(linux));
        assert_eq!(linux_acl(DEFAULT_ACL.1, &disk[..disk.len() - 1]), None, "cut short");
        assert_eq!(linux_acl(1, b"as it is").as_deref(), Some(&b"as it is"[..]));
    }

    #[test]
    fn names_are_whole_again() {
        for name in ["user.a", "security.capability", "trusted.overlay.opaque", "system.posix_acl_default"] {
            let kept = attributes(&[(name, &2u32.to_le_bytes())]).unwrap().all;
            assert_eq!(linux_name(kept[0].index, &kept[0].name).as_deref(), Some(name.as_bytes()));
        }
        assert_eq!((linux_name(1, b""), linux_name(9, b"c")), (None, None));
    }
}
