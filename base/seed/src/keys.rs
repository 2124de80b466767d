//! Public keys of SSH, as OpenSSH writes them (sshd(8), AUTHORIZED_KEYS FILE FORMAT): `[OPTIONS] KIND BASE64 [COMMENT]`.

use crate::{Part, PartError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What files with a private key begin with: OpenSSH's and PEM's, PuTTY's.
const PRIVATE: [&str; 2] = ["PRIVATE KEY-----", "PuTTY-User-Key-File"];

/// The keys in a file of them. Comments and empty lines are left out.
///
/// # Errors
/// It has no key, or something else.
pub fn parse(text: &str) -> Result<Vec<String>, PartError> {
    if text.lines().any(|line| line.starts_with(PRIVATE[1]) || (line.starts_with("-----") && line.contains(PRIVATE[0])))
    {
        return Err(PartError::PrivateKey);
    }
    let mut keys = Vec::new();
    for (n, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !is_key(line) {
            return Err(PartError::Key(n));
        }
        keys.push(line.to_owned());
    }
    if keys.is_empty() { Err(PartError::NoKey) } else { Ok(keys) }
}

/// Whether each of these is one key, and all together are not too long.
///
/// # Errors
/// They are not.
pub(crate) fn check(keys: &[String]) -> Result<(), PartError> {
    if keys.iter().map(String::len).sum::<usize>() > Part::SshKeys.limit() {
        return Err(PartError::TooLong(Part::SshKeys.limit()));
    }
    match (1..).zip(keys).find(|(_, key)| key.contains(['\n', '\r']) || !is_key(key)) {
        Some((n, _)) => Err(PartError::Key(n)),
        None => Ok(()),
    }
}

fn is_key(line: &str) -> bool {
    !line.contains('\0') && (names_itself(line) || behind_options(line).is_some_and(names_itself))
}

/// Whether the line is a kind, and data that are of that kind: they begin with its name (RFC 4253, 6.6). So any kind is known, also
/// one that there is not yet.
fn names_itself(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let (Some(kind), Some(data)) = (words.next(), words.next()) else { return false };
    let Ok(data) = STANDARD.decode(data) else { return false };
    let named = data.split_first_chunk().and_then(|(len, rest)| rest.get(..u32::from_be_bytes(*len) as usize));
    named == Some(kind.as_bytes()) && data.len() > 4 + kind.len()
}

/// What follows the options, which may have spaces between quotation marks.
fn behind_options(line: &str) -> Option<&str> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return line.get(at..),
            _ => {}
        }
    }
    None
}
