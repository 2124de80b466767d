//! One header of 512 bytes.

use super::{BLOCK, TarError};

/// A header's fields, as they are.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) path: Vec<u8>,
    pub(crate) mode: u16,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) kind: u8,
    pub(crate) target: Vec<u8>,
    pub(crate) device: (u32, u32),
}

impl Header {
    /// Fails with what is wrong with it.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Self, String> {
        let field = |at: usize, len: usize| block.get(at..at + len).unwrap_or_default();
        let said = number(field(148, 8)).ok_or("a header without a checksum")?;
        // The checksum's own field counts as spaces. Some old programs added signed bytes.
        let bytes = || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
        let unsigned: i64 = bytes().map(i64::from).sum();
        let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
        if said != unsigned && said != signed {
            return Err("a header with a wrong checksum".to_owned());
        }
        let kind = block[156];
        let name = text(field(0, 100));
        // GNU's magic is "ustar  ", and has other things where the prefix is.
        let is_posix = field(257, 6) == b"ustar\0";
        let prefix = if is_posix { text(field(345, 155)) } else { &[] };
        let path = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        let number_at = |what: &str, at, len| {
            let bytes = field(at, len);
            number(bytes).ok_or_else(|| format!("a header whose {what} is {:?}", String::from_utf8_lossy(bytes)))
        };
        let natural_at = |what: &str, at, len| {
            let value = number_at(what, at, len)?;
            u64::try_from(value).map_err(|_| format!("a header whose {what} is {value}"))
        };
        let is_device = matches!(kind, b'3' | b'4');
        let device_at = |what, at| {
            let value = if is_device { number_at(what, at, 8)? } else { 0 };
            u32::try_from(value).map_err(|_| format!("a header whose {what} is {value}"))
        };
        Ok(Self {
            path,
            // What is above is the kind, which some programs put there.
            mode: (number_at("mode", 100, 8)? & 0o7777) as u16,
            uid: natural_at("owner", 108, 8)?,
            gid: natural_at("group", 116, 8)?,
            size: natural_at("size", 124, 12)?,
            mtime: number_at("time", 136, 12)?,
            kind,
            target: text(field(157, 100)).to_vec(),
            device: (device_at("major number", 329)?, device_at("minor number", 337)?),
        })
    }

    pub(crate) fn refuse(&self, problem: String) -> TarError {
        TarError::Entry { path: self.path.clone(), problem }
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between spaces and NULs, nothing being 0; or base 256, big-endian, two's complement, marked by the highest bit (GNU tar's
/// manual, "Extensions to ustar").
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 == 0 {
        let digits = field.split(|byte| *byte == 0).next()?.trim_ascii();
        return digits.iter().try_fold(0i64, |number, digit| match digit {
            b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        });
    }
    // The sign is the bit after the mark.
    let first = i128::from(((first << 1).cast_signed()) >> 1);
    let number = rest.iter().try_fold(first, |number, byte| number.checked_mul(256)?.checked_add(i128::from(*byte)))?;
    i64::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_as_programs_write_them() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b" 644 \0\0\0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"77777777777\0", 0o77777777777),
            (b"777777777777", 0o777777777777),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", 0x2_0000_0000),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", -1),
        ] {
            assert_eq!(number(field), Some(value), "{field:?}");
        }
        for field in [&b"0000648\0"[..], b"-1\0\0\0\0\0\0", b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b""] {
            assert_eq!(number(field), None, "{field:?}");
        }
    }
}
