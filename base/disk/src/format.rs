//! What kind of image a file is.

use crate::DiskError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// How a disk's content lies in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's format (QEMU, docs/interop/qcow2.txt).
    Qcow2,
}

/// A text that names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no disk format; the formats are raw, qcow2 and auto")]
pub struct ParseFormatError(pub String);

impl Format {
    /// What a file's name says.
    pub fn by_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "raw" | "img" => Some(Self::Raw),
            "qcow2" | "qcow" => Some(Self::Qcow2),
            _ => None,
        }
    }

    /// What an existing file is that nobody said it of. `begins` is what it begins with.
    ///
    /// A guest can write a qcow2 header, naming other files of the host, to the start of a raw disk. So content
    /// never overrules a name, and a raw disk that is to be written and whose name does not say so is not guessed.
    pub(crate) fn guess(path: &Path, begins: &[u8], read_only: bool) -> Result<Self, DiskError> {
        let found = if begins.starts_with(&crate::qcow2::header::MAGIC) { Self::Qcow2 } else { Self::Raw };
        match Self::by_name(path) {
            Some(named) if named == found => Ok(found),
            // An image that is no qcow2 whatever its name says: a better error comes of reading its header.
            Some(Self::Qcow2) => Ok(Self::Qcow2),
            Some(named) => Err(DiskError::NameDisagrees { path: path.to_owned(), named, found }),
            None if found == Self::Raw && !read_only => Err(DiskError::Unsaid(path.to_owned())),
            None => Ok(found),
        }
    }
}

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, ParseFormatError> {
        match text {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(ParseFormatError(text.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QCOW2: &[u8] = b"QFI\xfb\0\0\0\x03";

    fn guess(name: &str, begins: &[u8], read_only: bool) -> Option<Format> {
        Format::guess(Path::new(name), begins, read_only).ok()
    }

    #[test]
    fn a_name_is_not_overruled_by_what_a_guest_may_have_written() {
        for read_only in [false, true] {
            assert_eq!(guess("a.raw", QCOW2, read_only), None);
            assert_eq!(guess("a.IMG", QCOW2, read_only), None);
            assert_eq!(guess("a.img", b"", read_only), Some(Format::Raw));
            assert_eq!(guess("a.qcow2", QCOW2, read_only), Some(Format::Qcow2));
            assert_eq!(guess("a", QCOW2, read_only), Some(Format::Qcow2));
        }
    }

    #[test]
    fn a_raw_disk_that_is_written_is_not_guessed() {
        assert_eq!(guess("disk", &[0; 512], false), None);
        assert_eq!(guess("disk", &[0; 512], true), Some(Format::Raw));
        assert_eq!(guess("disk.vmdk", b"", false), None);
    }
}
