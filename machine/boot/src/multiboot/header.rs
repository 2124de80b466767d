//! The header that makes a file a multiboot kernel (Multiboot Specification 0.6.96, section 3.1).

use crate::fields::Fields;
use crate::image::Image;
use crate::segment::Segment;

/// How many of a file's first bytes the header lies in.
const SEARCHED: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
const ALIGN: usize = 4;
/// Bits 0 to 15 are what the kernel needs: a loader that does not know one must not boot it. Modules
/// on page boundaries (0), the memory information (1) and a video mode (2) are defined.
const NEEDED_UNKNOWN: u32 = 0xfff8;
const NEEDED_VIDEO: u32 = 1 << 2;
/// The header says itself what is loaded where: the "a.out kludge".
const HAS_ADDRESSES: u32 = 1 << 16;

/// A multiboot header that its checksum proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where it lies in the file.
    at: u64,
    flags: u32,
    /// For files that are no ELF.
    pub addresses: Option<Addresses>,
}

/// What is loaded where, by physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Where the header itself comes to lie.
    header: u32,
    load: u32,
    /// Where the file's content ends; 0 if that is the file's end.
    load_end: u32,
    /// Where the zeros behind it end; 0 if there are none.
    bss_end: u32,
    pub entry: u32,
}

impl Header {
    /// The first header among the first bytes of a file.
    pub fn find(head: &[u8]) -> Option<Self> {
        let searched = head.get(..SEARCHED).unwrap_or(head);
        (0..searched.len()).step_by(ALIGN).find_map(|at| Self::read(searched, at))
    }

    fn read(searched: &[u8], at: usize) -> Option<Self> {
        let fields = Fields(searched.get(at..)?);
        let (flags, checksum) = (fields.u32_at(4)?, fields.u32_at(8)?);
        if fields.u32_at(0)? != MAGIC || MAGIC.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let addresses = if flags & HAS_ADDRESSES == 0 {
            None
        } else {
            Some(Addresses {
                header: fields.u32_at(12)?,
                load: fields.u32_at(16)?,
                load_end: fields.u32_at(20)?,
                bss_end: fields.u32_at(24)?,
                entry: fields.u32_at(28)?,
            })
        };
        Some(Self { at: at as u64, flags, addresses })
    }

    /// The needs that no specification of today has, as bits; zero if there are none.
    pub fn unknown_needs(&self) -> u32 {
        self.flags & NEEDED_UNKNOWN
    }

    pub fn needs_video(&self) -> bool {
        self.flags & NEEDED_VIDEO != 0
    }

    /// The piece of memory that `addresses` speak of; says what is wrong with them.
    pub fn segment(&self, addresses: &Addresses, kernel: &Image) -> Result<Segment, String> {
        let Addresses { header, load, load_end, bss_end, .. } = *addresses;
        let wrong = |what: &str| {
            format!(
                "its multiboot header says {what} (header_addr {header:#x}, load_addr {load:#x}, \
                 load_end_addr {load_end:#x}, bss_end_addr {bss_end:#x})"
            )
        };
        let before = header.checked_sub(load).ok_or_else(|| wrong("that it is loaded behind its own header"))?;
        let offset = self.at.checked_sub(u64::from(before));
        let offset = offset.ok_or_else(|| wrong("that more comes before it than the file has"))?;
        let in_file = kernel.size().saturating_sub(offset);
        let file_len = match load_end {
            0 => in_file,
            end => end.checked_sub(load).ok_or_else(|| wrong("that it ends before it begins"))?.into(),
        };
        if file_len > in_file {
            return Err(wrong("that more is loaded than the file has"));
        }
        let len = match bss_end {
            0 => file_len,
            end => u64::from(end).saturating_sub(load.into()),
        };
        let segment = Segment::new(load.into(), offset, file_len, len);
        segment.ok_or_else(|| wrong("that its zeroed data ends before its content"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Role;
    use proptest::prelude::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn at(offset: usize, flags: u32) -> Vec<u8> {
        let mut file = vec![0xcc; offset];
        file.extend(words(&[MAGIC, flags, 0u32.wrapping_sub(MAGIC).wrapping_sub(flags)]));
        file
    }

    #[test]
    fn a_header_is_aligned_and_whole_and_within_the_first_8_kib() {
        let found = |file: &[u8]| Header::find(file).map(|header| (header.at, header.flags));
        assert_eq!(found(&at(0, 3)), Some((0, 3)));
        assert_eq!(found(&at(SEARCHED - 12, 0)), Some((SEARCHED as u64 - 12, 0)));
        assert_eq!(found(&at(SEARCHED - 8, 0)), None);
        assert_eq!(found(&at(6, 0)), None, "not aligned");
        assert_eq!(found(&at(4, 0)[..15]), None, "cut");
        assert_eq!(found(&at(4, HAS_ADDRESSES)), None, "without its addresses");
        let mut wrong = at(4, 0);
        wrong[8] ^= 1;
        assert_eq!(found(&wrong), None, "checksum");
        assert_eq!(Header::find(&at(0, 0xffff)).unwrap().unknown_needs(), 0xfff8);
    }

    #[test]
    fn a_wrong_header_does_not_hide_a_right_one() {
        let mut file = words(&[MAGIC, 1, 1]);
        file.extend(at(0, 2));
        assert_eq!(Header::find(&file).unwrap().at, 12);
    }

    proptest! {
        #[test]
        fn no_addresses_panic(
            place in 0usize..64, values in prop::array::uniform5(any::<u32>()), near in any::<bool>(),
        ) {
            let values = values.map(|value| if near { value % 0x100 } else { value });
            let mut file = at(place * 4, HAS_ADDRESSES);
            file.extend(words(&values));
            let header = Header::find(&file).unwrap();
            let len = file.len() as u64;
            let image = Image::from_bytes(Role::Kernel, "k", file).unwrap();
            if let Ok(segment) = header.segment(&header.addresses.unwrap(), &image) {
                prop_assert!(segment.in_file().end <= len);
                prop_assert!(segment.range().end <= u64::from(u32::MAX) + len);
            }
        }
    }
}
