//! What is mounted, as the kernel lists it (proc(5), /proc/PID/mounts).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

/// A line of the list. No part of it need be UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    pub device: OsString,
    pub path: OsString,
    pub kind: OsString,
}

/// All of them, in the order in which they were mounted.
pub fn all() -> Vec<Mount> {
    parse(&fs::read("/proc/mounts").unwrap_or_default())
}

fn parse(list: &[u8]) -> Vec<Mount> {
    let lines = list.split(|&byte| byte == b'\n');
    let mounts = lines.filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ').map(|field| OsString::from_vec(unescaped(field)));
        Some(Mount { device: fields.next()?, path: fields.next()?, kind: fields.next()? })
    });
    mounts.collect()
}

/// Undoes `\040` and its like (fstab(5)).
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        let value = digits.map(|digits| digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_any_paths() {
        let mount = |device: &str, path: &[u8], kind: &str| Mount {
            device: device.into(),
            path: OsString::from_vec(path.to_vec()),
            kind: kind.into(),
        };
        let list = b"/dev/vda / ext4 rw 0 0\n/dev/vdb /a\\040b\\134\xff\\9\\04 xfs ro 0 0\n\nodd\n";
        assert_eq!(parse(list), [mount("/dev/vda", b"/", "ext4"), mount("/dev/vdb", b"/a b\\\xff\\9\\04", "xfs")]);
    }
}
