//! Reads and writes an uncompressed cpio archive of the "newc" kind, as the kernel does
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// Magic, then 13 numbers of 8 hexadecimal digits each.
const HEADER: usize = 6 + 13 * 8;
const MODE: usize = 1;
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
/// The bits of a mode that say what kind of file it is, and a regular one's.
const KIND: usize = 0o170_000;
const REGULAR: usize = 0o100_000;

/// The bytes of the regular file at `path`, as the archive writes it: without a slash in front.
///
/// # Errors
/// No such file, or the archive is damaged before it.
pub fn file<'a>(archive: &'a [u8], path: &str) -> Result<&'a [u8], String> {
    let mut at = 0;
    loop {
        let entry = entry(archive, at).ok_or_else(|| format!("no entry of a newc archive at byte {at}"))?;
        match entry.name {
            b"TRAILER!!!" => return Err(format!("the archive has no regular file {path}")),
            name if name == path.as_bytes() && entry.mode & KIND == REGULAR => return Ok(entry.data),
            _ => at = entry.end,
        }
    }
}

/// One member of an archive. The last one of an archive is called `TRAILER!!!`.
///
/// # Panics
/// The data are 4 GiB or more.
pub fn member(name: &str, mode: u32, data: &[u8]) -> Vec<u8> {
    let len = |len: usize| u32::try_from(len).expect("a member's length has 32 bits");
    let numbers = [1, mode, 0, 0, 1, 0, len(data.len()), 0, 0, 0, 0, len(name.len() + 1), 0];
    let mut bytes = b"070701".to_vec();
    bytes.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
    bytes.extend(name.bytes().chain([0]));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

struct Entry<'a> {
    name: &'a [u8],
    mode: usize,
    data: &'a [u8],
    /// Where the next one starts.
    end: usize,
}

fn entry(archive: &[u8], at: usize) -> Option<Entry<'_>> {
    let header = archive.get(at..at.checked_add(HEADER)?)?.strip_prefix(b"070701")?;
    let number = |index: usize| {
        let digits = header.get(index * 8..index * 8 + 8)?;
        usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let name_at = at.checked_add(HEADER)?;
    let name_end = name_at.checked_add(number(NAME_SIZE)?)?;
    let data_at = name_end.checked_next_multiple_of(4)?;
    let data_end = data_at.checked_add(number(FILE_SIZE)?)?;
    Some(Entry {
        name: archive.get(name_at..name_end)?.strip_suffix(b"\0")?,
        mode: number(MODE)?,
        data: archive.get(data_at..data_end)?,
        end: data_end.checked_next_multiple_of(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{file, member};

    fn archive() -> Vec<u8> {
        let entries = [
            member("bin", 0o040_755, b""),
            member("bin/sh", 0o120_777, b"busybox"),
            member("bin/busybox", 0o100_755, b"12345"),
            member("TRAILER!!!", 0, b""),
        ];
        entries.concat()
    }

    #[test]
    fn a_regular_file_is_found_by_its_path() {
        assert_eq!(file(&archive(), "bin/busybox"), Ok(b"12345".as_slice()));
        for path in ["bin", "bin/sh", "busybox", ""] {
            let error = file(&archive(), path).unwrap_err();
            assert!(error.contains("no regular file"), "{path}: {error}");
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_is_refused() {
        let whole = archive();
        let busybox = member("bin", 0, b"").len() + member("bin/sh", 0, b"busybox").len();
        for len in 0..busybox + member("bin/busybox", 0, b"12345").len() - 3 {
            assert!(file(&whole[..len], "bin/busybox").is_err(), "{len} bytes");
        }
    }
}
