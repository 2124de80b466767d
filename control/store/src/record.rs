//! What the store writes down about an image, as JSON.

use crate::blobs::write_atomically;
use crate::{Store, StoreError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// The SHA-256 of some bytes, written as 64 small hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    pub(crate) fn finish(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{self}")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        let wrong = || format!("{text:?} is no SHA-256: it has 64 digits of 0-9 and a-f");
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(wrong()) };
        let bytes = pairs.iter().map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?));
        let bytes = bytes.collect::<Result<Vec<u8>, String>>()?;
        bytes.try_into().map(Digest).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Digest, String> {
        text.parse()
    }
}

/// A package that something was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name, `linux-image-6.1.0-56-cloud-amd64`.
    pub name: String,
    /// Its version as its distribution writes it.
    pub version: String,
    /// The digest of its `.deb`.
    pub digest: Digest,
}

/// An image: `images/NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The kernel, a bzImage.
    pub kernel: Digest,
    /// The initial RAM disk, a cpio archive.
    pub initrd: Digest,
    /// The kernel's command line, if nobody asks for another.
    pub cmdline: String,
    /// The agent inside.
    pub agent: Digest,
    /// The way it was made: the number of the recipe in the motu that made it.
    pub recipe: u32,
    /// What it was made from.
    pub packages: Vec<Package>,
}

/// The packages that an image was made from: `packages/NAME.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackagesRecord {
    pub(crate) packages: Vec<Package>,
}

/// Reads a record; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, image: &str) -> Result<Option<T>, StoreError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| StoreError::Damaged {
        image: image.to_owned(),
        path: path.to_owned(),
        found: format!("is no record of this motu's ({error})"),
    })
}

/// Puts a record in its place. To be called with the lock held and after its blobs are in theirs.
pub(crate) fn write<T: Serialize>(store: &Store, path: &Path, record: &T) -> Result<(), StoreError> {
    let mut text =
        serde_json::to_vec_pretty(record).map_err(|error| StoreError::io("write", path)(io::Error::other(error)))?;
    text.push(b'\n');
    write_atomically(&store.tmp(), path, &text)
}
