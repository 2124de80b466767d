//! PAX extended headers: records of a keyword and a value.

use crate::tree::Time;
use std::collections::BTreeMap;

/// The prefix of extended attributes (star(1); all programs that make OCI layers use it).
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What extended headers say of an entry. An empty value takes back what a global header said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    /// Extended attributes by their names.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sparse: bool,
}

impl Records {
    /// Reads a global header. Names, sizes and attributes are one entry's and never global: they would only take memory.
    pub(crate) fn read_global(&mut self, data: &[u8]) -> Result<(), String> {
        read(data, self)?;
        *self = Self { uid: self.uid, gid: self.gid, mtime: self.mtime, ..Self::default() };
        Ok(())
    }

    /// Takes from a global header what is not said here.
    pub(crate) fn add_missing(&mut self, global: &Records) {
        self.uid = self.uid.or(global.uid);
        self.gid = self.gid.or(global.gid);
        self.mtime = self.mtime.or(global.mtime);
    }
}

/// Reads the records of one header. Fails with what is wrong.
pub(crate) fn read(mut data: &[u8], records: &mut Records) -> Result<(), String> {
    while !data.is_empty() {
        let (keyword, value, rest) = record(data).ok_or("with a damaged extended header")?;
        data = rest;
        take(keyword, value, records).ok_or_else(|| {
            let [keyword, value] = [keyword, value].map(String::from_utf8_lossy);
            format!("with the extended header {keyword}={value:?}, which cannot be read")
        })?;
    }
    Ok(())
}

/// `LENGTH KEYWORD=VALUE\n`, the length in decimal and of all of it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = natural(data.get(..space)?)?.try_into().ok()?;
    let rest = data.get(length..)?;
    let text = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((text.get(..equals)?, text.get(equals + 1..)?, rest))
}

fn take(keyword: &[u8], value: &[u8], records: &mut Records) -> Option<()> {
    let set = !value.is_empty();
    let small = |value| set.then(|| u32::try_from(natural(value)?).ok());
    match keyword {
        b"path" => records.path = set.then(|| value.to_vec()),
        b"linkpath" => records.target = set.then(|| value.to_vec()),
        b"size" => records.size = if set { Some(natural(value)?) } else { None },
        b"uid" => records.uid = small(value).map_or(Some(None), |number| number.map(Some))?,
        b"gid" => records.gid = small(value).map_or(Some(None), |number| number.map(Some))?,
        b"mtime" => records.mtime = if set { Some(time(value)?) } else { None },
        _ if keyword.starts_with(b"GNU.sparse.") => records.sparse = true,
        _ => {
            if let Some(name) = keyword.strip_prefix(XATTR) {
                records.xattrs.insert(name.to_vec(), value.to_vec());
            }
        }
    }
    Some(())
}

fn natural(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if all { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// Seconds since 1970, perhaps negative, perhaps with a fraction.
fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = whole.strip_prefix('-').map_or((false, whole), |digits| (true, digits));
    let seconds = i64::try_from(natural(digits.as_bytes())?).ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        // Nanoseconds count forward.
        (true, nanos) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_global_header_only_owner_and_time_are_kept() {
        let mut global = Records::default();
        global.read_global(b"9 uid=70\n29 SCHILY.xattr.user.a=12345\n").unwrap();
        global.read_global(b"11 mtime=5\n9 path=x\n9 size=7\n").unwrap();
        let mtime = Some(Time { seconds: 5, nanos: 0 });
        assert_eq!(global, Records { uid: Some(70), mtime, ..Records::default() });
    }

    #[test]
    fn times_before_and_after_1970() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("1700000000.5", 1_700_000_000, 500_000_000),
            ("-1.25", -2, 750_000_000),
            ("-3", -3, 0),
            ("1.0000000019", 1, 1),
        ] {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanos }), "{text}");
        }
        for text in ["", "x", "1.x", "--1", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }
}
