//! The texts that a seed is made of, and what cloud-init takes for each.

use crate::yaml::{self, Top};
use crate::{PartError, keys};
use std::fmt;

/// A text of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    UserData,
    MetaData,
    NetworkConfig,
    /// Lines of an `authorized_keys`.
    SshKeys,
}

/// What user-data begin with, in small letters, and what their YAML has to be. Of two that begin alike the longer one is first
/// (cloud-init: `cloudinit/handlers/__init__.py`, `INCLUSION_TYPES_MAP` and `type_from_starts_with`).
const HEADERS: [(&str, Body); 8] = [
    ("#cloud-config-archive", Body::List),
    ("#cloud-config-jsonp", Body::Other),
    ("#cloud-config", Body::Mapping),
    ("#cloud-boothook", Body::Other),
    ("#include", Body::Other),
    ("#part-handler", Body::Other),
    ("#!", Body::Other),
    // What it becomes is known in the guest only.
    ("## template: jinja", Body::Other),
];

/// Where a MIME message says that it is one, if it does (cloud-init: `cloudinit/user_data.py`, `convert_string`).
const MIME: (&str, usize) = ("mime-version:", 4096);

/// Characters of a line that are shown.
const SHOWN: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Mapping,
    List,
    /// No YAML, or not yet.
    Other,
}

impl Part {
    /// Bytes at most. User-data: what the most generous of the clouds takes. Their sum, escaped as JSON, still goes into a machine's
    /// record.
    pub const fn limit(self) -> usize {
        match self {
            Part::UserData => 256 << 10,
            Part::MetaData | Part::NetworkConfig | Part::SshKeys => 64 << 10,
        }
    }

    /// The text of a file's bytes, if they are one.
    ///
    /// # Errors
    /// They are too many, or no text.
    pub fn text(self, bytes: Vec<u8>) -> Result<String, PartError> {
        if bytes.len() > self.limit() {
            return Err(PartError::TooLong(self.limit()));
        }
        // RFC 1952, 2.3.1.
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(PartError::Compressed);
        }
        String::from_utf8(bytes).map_err(|_| PartError::NotText)
    }

    /// Whether cloud-init can use the text.
    ///
    /// # Errors
    /// What it cannot.
    pub fn check(self, text: &str) -> Result<(), PartError> {
        if text.len() > self.limit() {
            return Err(PartError::TooLong(self.limit()));
        }
        if text.contains('\0') {
            return Err(PartError::Zero);
        }
        if text.trim().is_empty() {
            return Err(PartError::Empty);
        }
        match self {
            Part::UserData => user_data(text),
            Part::MetaData => has_key(text, &["instance-id"], PartError::NoInstanceId),
            Part::NetworkConfig => has_key(text, &["version", "network"], PartError::NoVersion),
            Part::SshKeys => keys::parse(text).map(drop),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::UserData => "user-data",
            Part::MetaData => "meta-data",
            Part::NetworkConfig => "network-config",
            Part::SshKeys => "SSH key",
        })
    }
}

fn user_data(text: &str) -> Result<(), PartError> {
    let begins = text.bytes().take(MIME.1).map(|byte| byte.to_ascii_lowercase()).collect::<Vec<_>>();
    if begins.windows(MIME.0.len()).any(|window| window == MIME.0.as_bytes()) {
        return Ok(());
    }
    let start = text.trim_start();
    let begins = |header: &str| start.get(..header.len()).is_some_and(|start| start.eq_ignore_ascii_case(header));
    let Some((_, body)) = HEADERS.iter().find(|(header, _)| begins(header)) else {
        let line = start.lines().next().unwrap_or_default();
        return Err(PartError::Header(line.chars().take(SHOWN).collect()));
    };
    match body {
        Body::Other => Ok(()),
        Body::Mapping => match yaml::top(text)? {
            Top::Mapping(_) | Top::Nothing => Ok(()),
            Top::List | Top::Scalar => Err(PartError::NoMapping),
        },
        Body::List => match yaml::top(text)? {
            Top::List | Top::Nothing => Ok(()),
            Top::Mapping(_) | Top::Scalar => Err(PartError::NoList),
        },
    }
}

fn has_key(text: &str, wanted: &[&str], lacking: PartError) -> Result<(), PartError> {
    match yaml::top(text)? {
        Top::Mapping(keys) if keys.iter().any(|key| wanted.contains(&key.as_str())) => Ok(()),
        Top::Mapping(_) | Top::Nothing => Err(lacking),
        Top::List | Top::Scalar => Err(PartError::NoMapping),
    }
}
