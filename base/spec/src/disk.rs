//! A machine's disks.

use crate::{ByteSize, ParseSizeError};
use motu_disk::{Format, ParseFormatError};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Bytes of a disk's serial number at most (virtio 1.2, 5.2.6).
pub const MAX_SERIAL: usize = 20;

/// A disk. Written `PATH` or `path=PATH`, then options: `format=raw|qcow2|auto`, `readonly`, `serial=TEXT`, `size=SIZE`,
/// `io=auto|threads`, each after a comma; `,,` is one comma of the text. Of `io` there is one way only, so that nothing is kept of it
/// (ADR 26).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// A file or a block device.
    pub path: PathBuf,
    /// What it is; left out, it is found out as far as that is safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
    /// What the guest finds as its serial number: 1 to [`MAX_SERIAL`] printable ASCII characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// A disk that does not exist is made with this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
}

/// A text that is no disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDiskError {
    #[error("no disk is named; write a file's name, such as disk.qcow2 or path=disk.raw,format=raw")]
    NoPath,
    #[error(
        "{0:?} is no option of a disk; they are path=, format=, readonly, serial=, size= and io= (,, is one comma of a name)"
    )]
    Option(String),
    #[error("the option {0} of a disk is given twice; give it once")]
    Twice(&'static str),
    #[error("{0:?} is no serial number; it has 1 to {MAX_SERIAL} printable ASCII characters")]
    Serial(String),
    #[error(
        "a disk's requests are not done by io_uring: it was measured, and threads are better on the whole (docs/adr/0026-disk-io.md); \
         write io=threads, or leave it out"
    )]
    IoUring,
    #[error("{0:?} is no way in which a disk's requests are done; write io=threads or io=auto, which mean the same")]
    Io(String),
    #[error(transparent)]
    Format(#[from] ParseFormatError),
    #[error(transparent)]
    Size(#[from] ParseSizeError),
}

/// The options that have a value.
const KEYS: [&str; 5] = ["path", "format", "serial", "size", "io"];

/// Options as they are read.
#[derive(Default)]
struct Options {
    path: Option<OsString>,
    format: Option<Option<Format>>,
    readonly: Option<()>,
    serial: Option<String>,
    size: Option<ByteSize>,
    io: Option<()>,
}

fn once<T>(place: &mut Option<T>, name: &'static str, value: T) -> Result<(), ParseDiskError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParseDiskError::Twice(name)),
    }
}

impl Options {
    fn take(&mut self, item: &OsStr, first: bool) -> Result<(), ParseDiskError> {
        let shown = || item.to_string_lossy().into_owned();
        let mut parts = item.as_bytes().splitn(2, |byte| *byte == b'=');
        let name = parts.next().and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default();
        let value = parts.next().map(OsStr::from_bytes);
        let text = || value.unwrap_or_default().to_string_lossy();
        match (name, value) {
            ("path", Some(value)) => once(&mut self.path, "path", value.to_owned()),
            ("format", Some(_)) => {
                let format = if text() == "auto" { None } else { Some(text().parse()?) };
                once(&mut self.format, "format", format)
            }
            ("serial", Some(_)) => {
                let good = (1..=MAX_SERIAL).contains(&text().len()) && text().chars().all(|c| matches!(c, ' '..='~'));
                let serial = good.then(|| text().into_owned());
                once(&mut self.serial, "serial", serial.ok_or_else(|| ParseDiskError::Serial(text().into_owned()))?)
            }
            ("size", Some(_)) => once(&mut self.size, "size", text().parse()?),
            ("io", Some(_)) => match &*text() {
                "auto" | "threads" => once(&mut self.io, "io", ()),
                "io_uring" => Err(ParseDiskError::IoUring),
                other => Err(ParseDiskError::Io(other.to_owned())),
            },
            // A file's name may have an equals sign in it.
            _ if first && !item.is_empty() && !KEYS.contains(&name) => once(&mut self.path, "path", item.to_owned()),
            ("readonly", None) => once(&mut self.readonly, "readonly", ()),
            _ if first && item.is_empty() => Err(ParseDiskError::NoPath),
            _ => Err(ParseDiskError::Option(shown())),
        }
    }
}

impl DiskSpec {
    /// Reads what a person writes for a disk.
    ///
    /// # Errors
    /// What is wrong with it, and what would have been right.
    pub fn parse(text: &OsStr) -> Result<Self, ParseDiskError> {
        let mut options = Options::default();
        for (n, item) in items(text).iter().enumerate() {
            options.take(item, n == 0)?;
        }
        let path = options.path.filter(|path| !path.is_empty()).ok_or(ParseDiskError::NoPath)?;
        Ok(Self {
            path: path.into(),
            format: options.format.flatten(),
            readonly: options.readonly.is_some(),
            serial: options.serial,
            size: options.size,
        })
    }
}

/// What lies between single commas.
fn items(text: &OsStr) -> Vec<OsString> {
    let mut items = vec![Vec::new()];
    let mut bytes = text.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' if bytes.next_if_eq(&b',').is_none() => items.push(Vec::new()),
            _ => items.last_mut().into_iter().for_each(|item| item.push(byte)),
        }
    }
    items.into_iter().map(OsString::from_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<DiskSpec, ParseDiskError> {
        DiskSpec::parse(text.as_ref())
    }

    fn disk(path: &str) -> DiskSpec {
        DiskSpec { path: path.into(), format: None, readonly: false, serial: None, size: None }
    }

    #[test]
    fn a_name_alone_is_a_disk() {
        for (text, path) in [
            ("disk.qcow2", "disk.qcow2"),
            ("path=a=b", "a=b"),
            ("a=b.raw", "a=b.raw"),
            ("a,,b", "a,b"),
            ("path=a,,,,b,format=auto", "a,,b"),
            ("a,io=auto", "a"),
            ("a,io=threads", "a"),
            ("readonly", "readonly"),
        ] {
            assert_eq!(parse(text), Ok(disk(path)), "{text}");
        }
        let odd = DiskSpec::parse(OsStr::from_bytes(b"\xff,readonly")).unwrap();
        assert_eq!((odd.path.as_os_str().as_bytes(), odd.readonly), (&b"\xff"[..], true));
    }

    #[test]
    fn options_follow() {
        let all = parse("path=d,format=raw,readonly,serial=A 1,size=20G").unwrap();
        let expected = DiskSpec {
            format: Some(Format::Raw),
            readonly: true,
            serial: Some("A 1".into()),
            size: Some(ByteSize::gib(20)),
            ..disk("d")
        };
        assert_eq!(all, expected);
        assert_eq!(parse("size=20G,serial=A 1,path=d,readonly,format=raw").unwrap(), expected);
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<DiskSpec>(&json).unwrap(), all);
    }

    #[test]
    fn what_is_no_disk_says_what_would_be_right() {
        let cases = [
            ("", "no disk is named"),
            ("readonly,format=raw", "no option of a disk"),
            ("path=", "no disk is named"),
            ("format=raw", "no disk is named"),
            ("d,", "no option of a disk"),
            ("d,format=vmdk", "raw, qcow2 and auto"),
            ("d,ro", "readonly"),
            ("d,readonly=on", "readonly"),
            ("d,path=e", "given twice"),
            ("d,size=1G,size=2G", "given twice"),
            ("d,size=big", "512M"),
            ("d,io=io_uring", "io=threads"),
            ("d,io=native", "io=threads or io=auto"),
            ("d,io", "io="),
            ("d,io=auto,io=auto", "given twice"),
            ("io=auto", "no disk is named"),
            ("d,serial=", "printable ASCII"),
            ("d,serial=123456789012345678901", "1 to 20"),
            ("d,serial=\n", "printable ASCII"),
        ];
        for (text, says) in cases {
            match parse(text) {
                Err(error) => assert!(error.to_string().contains(says), "{text}: {error}"),
                // The first item is a name.
                Ok(disk) => assert_eq!(disk.path.to_str(), Some("readonly"), "{text}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(path|format|serial|size|io|readonly|raw|1G|=|,|x){0,12}") {
            let _ = parse(&text);
        }
    }
}
