use super::*;
use proptest::collection::btree_map;
use proptest::prelude::*;

/// An entry as a reader of the archive sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: String,
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

/// Reads an archive after the format's description, and checks what the kernel relies on.
fn read(mut bytes: &[u8]) -> Vec<Seen> {
    let whole = bytes.len();
    assert_eq!(whole % 512, 0);
    let mut seen = Vec::new();
    loop {
        let (header, _) = bytes.split_at(110);
        assert_eq!(&header[..6], b"070701");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&header[6 + 8 * index..][..8]).expect("digits");
            u32::from_str_radix(digits, 16).expect("a hexadecimal number")
        };
        let padded = |length: usize| length.next_multiple_of(4);
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name = &bytes[110..110 + name_size];
        let (name, nul) = name.split_at(name_size - 1);
        assert_eq!(nul, [0]);
        let start = padded(110 + name_size);
        let data = bytes[start..start + size].to_vec();
        bytes = &bytes[padded(start + size)..];
        let path = String::from_utf8(name.to_vec()).expect("text");
        if path == "TRAILER!!!" {
            assert!(bytes.iter().all(|byte| *byte == 0));
            return seen;
        }
        assert_eq!((field(2), field(3), field(5), field(12)), (0, 0, 0, 0), "owner, group, time, check");
        seen.push(Seen { path, mode: field(1), device: (field(9), field(10)), data });
    }
}

fn sample() -> Archive<'static> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, b"#!".as_slice()).expect("init");
    archive.file("a/b/c", 0o644, vec![7; 5]).expect("a/b/c");
    archive.symlink("a/link", "b/c").expect("a/link");
    archive.folder("tmp", 0o1777).expect("tmp");
    archive.character_device("dev/console", 0o600, (5, 1)).expect("console");
    archive
}

#[test]
fn folders_come_before_what_is_in_them() {
    let seen = read(&sample().to_bytes());
    let paths: Vec<_> = seen.iter().map(|entry| (entry.path.as_str(), entry.mode)).collect();
    assert_eq!(
        paths,
        [
            ("a", 0o040_755),
            ("a/b", 0o040_755),
            ("a/b/c", 0o100_644),
            ("a/link", 0o120_777),
            ("dev", 0o040_755),
            ("dev/console", 0o020_600),
            ("init", 0o100_755),
            ("tmp", 0o041_777),
        ]
    );
    assert_eq!(seen[3].data, b"b/c");
    assert_eq!(seen[5].device, (5, 1));
}

#[test]
fn an_empty_archive_is_its_trailer() {
    assert_eq!(read(&Archive::new().to_bytes()), []);
}

#[test]
fn what_cannot_be_unpacked_is_refused() {
    let mut archive = sample();
    for path in ["", "/etc", "a//b", "a/./b", "../x", "a/", "nul\0"] {
        assert_eq!(archive.file(path, 0o644, b"".as_slice()), Err(CpioError::Path(path.to_owned())));
    }
    assert_eq!(archive.file("x".repeat(4096).as_str(), 0o644, b"".as_slice()).map_err(|_| ()), Err(()));
    assert_eq!(archive.symlink("empty", ""), Err(CpioError::Path(String::new())));
    assert_eq!(archive.file("init", 0o644, b"".as_slice()), Err(CpioError::Taken("init".into())));
    assert_eq!(archive.file("init/x", 0o644, b"".as_slice()), Err(CpioError::Taken("init".into())));
    assert_eq!(archive.folder("init", 0o755), Err(CpioError::Taken("init".into())));
    assert_eq!(archive.folder("a", 0o700), Ok(()));
}

proptest! {
    #[test]
    fn files_round_trip(files in btree_map("[a-z]{1,6}(/[a-z]{1,9}){0,3}", prop::collection::vec(any::<u8>(), 0..70), 0..12)) {
        let mut archive = Archive::new();
        let mut added = Vec::new();
        for (path, data) in &files {
            if archive.file(path, 0o644, data.as_slice()).is_ok() {
                added.push((path.clone(), data.clone()));
            }
        }
        let bytes = archive.to_bytes();
        let seen = read(&bytes);
        prop_assert!(seen.is_sorted_by_key(|entry| entry.path.clone()));
        let found: Vec<_> =
            seen.into_iter().filter(|entry| entry.mode == 0o100_644).map(|entry| (entry.path, entry.data)).collect();
        prop_assert_eq!(&found, &added);

        let mut reversed = Archive::new();
        for (path, data) in added.iter().rev() {
            prop_assert_eq!(reversed.file(path, 0o644, data.as_slice()), Ok(()));
        }
        prop_assert_eq!(reversed.to_bytes(), bytes, "the order of adding does not matter");
    }
}
