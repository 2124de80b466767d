//! A folder of the host that the guest finds.

use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of the guest's path at most: it goes by the kernel's command line.
pub const MAX_TARGET: usize = 255;

/// A shared folder. Written `HOST:GUEST`, `HOST:GUEST:ro` or `HOST:GUEST:rw`, as Docker has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareSpec {
    /// A folder of the host.
    pub path: PathBuf,
    /// Where the guest finds it: an absolute path, made if it is not there.
    pub target: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readonly: bool,
}

/// A text that is no shared folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseShareError {
    #[error("{0:?} shares no folder; write HOST:GUEST, such as ./src:/src or /data:/data:ro")]
    Form(String),
    #[error(
        "{0:?} is the name of a volume, which motu has none of; a folder of the host is written with a slash, such as ./{0}"
    )]
    Volume(String),
    #[error(
        "{0:?} is no place in the guest for a folder; it must begin with /, be longer than that, and have no . or .. in it"
    )]
    Target(String),
    #[error("a guest's path of {0} bytes is too long; it has {MAX_TARGET} at most")]
    Long(usize),
    #[error("{0:?} is no option of a shared folder; the options are ro and rw")]
    Option(String),
}

impl ShareSpec {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &OsStr) -> Result<Self, ParseShareError> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut parts = text.as_bytes().split(|&byte| byte == b':');
        let (Some(host), Some(guest), option, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(ParseShareError::Form(shown(text.as_bytes())));
        };
        if host.is_empty() {
            return Err(ParseShareError::Form(shown(text.as_bytes())));
        }
        if !host.contains(&b'/') && !matches!(host, b"." | b"..") {
            return Err(ParseShareError::Volume(shown(host)));
        }
        let target = std::str::from_utf8(guest).map_err(|_| ParseShareError::Target(shown(guest)))?.to_owned();
        let readonly = match option {
            None | Some(b"rw") => false,
            Some(b"ro") => true,
            Some(other) => return Err(ParseShareError::Option(shown(other))),
        };
        let share = Self { path: Path::new(OsStr::from_bytes(host)).into(), target, readonly };
        share.check().map(|()| share)
    }

    /// Whether the guest's path can be one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), ParseShareError> {
        let target = &self.target;
        let is_place = |name: &str| !matches!(name, "." | "..");
        let names = target.strip_prefix('/').filter(|rest| rest.split('/').any(|name| !name.is_empty()));
        if !names.is_some_and(|rest| rest.split('/').all(is_place)) || target.contains('\0') {
            return Err(ParseShareError::Target(target.clone()));
        }
        if target.len() > MAX_TARGET { Err(ParseShareError::Long(target.len())) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ShareSpec, ParseShareError> {
        ShareSpec::parse(text.as_ref())
    }

    #[test]
    fn folders_are_written_as_dockers() {
        let share =
            |path: &str, target: &str, readonly| ShareSpec { path: path.into(), target: target.into(), readonly };
        assert_eq!(parse("./src:/src"), Ok(share("./src", "/src", false)));
        assert_eq!(parse("/a b:/c d/e:ro"), Ok(share("/a b", "/c d/e", true)));
        assert_eq!(parse(".:/w:rw"), Ok(share(".", "/w", false)));
        let json = serde_json::to_string(&share("/a", "/b", true)).unwrap();
        assert_eq!(serde_json::from_str::<ShareSpec>(&json).unwrap(), share("/a", "/b", true));
    }

    #[test]
    fn what_is_none_is_told() {
        for text in ["", "/a", ":/b", "/a:/b:ro:x"] {
            assert_eq!(parse(text), Err(ParseShareError::Form(text.into())), "{text:?}");
        }
        for target in ["", "b", "/", "//", "/../b", "/b/..", "/b/./c"] {
            assert_eq!(parse(&format!("/a:{target}")), Err(ParseShareError::Target(target.into())), "{target:?}");
        }
        assert_eq!(parse("data:/b"), Err(ParseShareError::Volume("data".into())));
        assert_eq!(parse("/a:/b:z"), Err(ParseShareError::Option("z".into())));
        assert_eq!(parse(&format!("/a:/{}", "b".repeat(300))), Err(ParseShareError::Long(301)));
    }
}
