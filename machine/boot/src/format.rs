//! What a file is, told by its content.

use crate::multiboot::Header;

/// How many of a file's first bytes [`Format::of`] wants to see: an ISO 9660 descriptor lies at 32 KiB.
pub(crate) const HEAD: usize = 0x8010;

/// `"HdrS"` at 0x202 (Linux x86 boot protocol, "The Real-Mode Kernel Header").
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const BOOT_FLAG: (usize, &[u8]) = (0x1fe, &[0x55, 0xaa]);
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Magic numbers of what people take for a kernel, and what to say of it.
const LOOKALIKES: &[(usize, &[u8], &str)] = &[
    (0, b"\x1f\x8b", "gzip data inside of gzip data, or an unknown kind of it"),
    (0, b"\xfd7zXZ\0", "xz data (uncompress it first)"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data (uncompress it first)"),
    (0, b"BZh", "bzip2 data (uncompress it first)"),
    (0, b"\x04\x22\x4d\x18", "lz4 data (uncompress it first)"),
    (0, b"\x02\x21\x4c\x18", "lz4 data (uncompress it first)"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"#!", "a script"),
    (0, b"070701", "a cpio archive, such as an initrd"),
    (0, b"070702", "a cpio archive, such as an initrd"),
    (0, b"\xc7\x71", "a cpio archive, such as an initrd"),
    (0, b"!<arch>\n", "an ar archive, such as a .deb package"),
    (0, b"\xed\xab\xee\xdb", "an RPM package"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or a U-Boot FIT image"),
    (0x38, b"ARM\x64", "a kernel for 64-bit ARM"),
    (0x24, b"\x18\x28\x6f\x01", "a kernel for 32-bit ARM"),
    (0x38, b"RSC\x05", "a kernel for RISC-V"),
    (0x101, b"ustar", "a tar archive"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0x438, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"MZ", "a Windows or EFI program"),
    (0x1fe, b"\x55\xaa", "a disk image or a boot sector"),
];

/// What kind of kernel a file claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Linux's own, of any protocol version.
    BzImage,
    /// A file with a multiboot header; an ELF or not.
    Multiboot(Header),
    /// Any other ELF file.
    Elf,
    /// Nothing that boots; says what it looks like.
    Other(String),
}

impl Format {
    /// Judges a file by its first bytes, [`HEAD`] of them where it has so many.
    pub(crate) fn of(head: &[u8]) -> Self {
        let has = |(at, magic): (usize, &[u8])| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
        if has(BOOT_FLAG) && has(BZIMAGE_MAGIC) {
            return Self::BzImage;
        }
        if let Some(header) = Header::find(head) {
            return Self::Multiboot(header);
        }
        if Self::is_elf(head) {
            return Self::Elf;
        }
        let known = LOOKALIKES.iter().find(|(at, magic, _)| has((*at, magic))).map(|(_, _, what)| *what);
        Self::Other(known.unwrap_or_else(|| shape(head)).to_owned())
    }

    pub(crate) fn is_elf(head: &[u8]) -> bool {
        head.starts_with(ELF_MAGIC)
    }
}

fn shape(head: &[u8]) -> &'static str {
    if head.iter().all(|byte| *byte == 0) {
        "nothing but zeros"
    } else if head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "text"
    } else {
        "data of no format known here"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookalikes_are_named() {
        let other = |head: &[u8]| match Format::of(head) {
            Format::Other(what) => what,
            kernel => panic!("{kernel:?}"),
        };
        assert!(other(b"\xfd7zXZ\0\0\0").starts_with("xz data"));
        assert_eq!(other(b"#!/bin/sh\necho\n"), "a script");
        assert_eq!(other(b"hello, world\n"), "text");
        assert_eq!(other(&[0; 5000]), "nothing but zeros");
        let mut disk = vec![0; 1024];
        disk[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(other(&disk), "a disk image or a boot sector");
        let mut iso = vec![0; HEAD];
        iso[0x8001..0x8006].copy_from_slice(b"CD001");
        assert_eq!(other(&iso), "an ISO 9660 image");
        assert_eq!(Format::of(b"\x7fELF\x02"), Format::Elf);
    }
}
