//! Folders of the host, by virtio-fs: `motu.mount=TAG,ro,PATH` on the kernel's command line, as often as there are any. A path has
//! `%XX` for bytes that the command line cannot have.

use rustix::mount::{MountFlags, mount};
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What the command line says of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    tag: String,
    readonly: bool,
    path: Vec<u8>,
}

/// All of them, in order.
pub fn parse(cmdline: &str) -> Vec<Share> {
    let words = cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix("motu.mount="));
    words.filter_map(parse_one).collect()
}

fn parse_one(text: &str) -> Option<Share> {
    let mut parts = text.splitn(3, ',');
    let (tag, way, path) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Share { tag: tag.to_owned(), readonly: way == "ro", path: decode(path) })
}

fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let hex = behind.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    bytes
}

impl Share {
    /// Mounts it; its folder is made if it is not there.
    ///
    /// # Errors
    /// For people: what could not be done.
    pub fn mount(&self) -> Result<(), String> {
        let path = Path::new(OsStr::from_bytes(&self.path));
        let failed = |error: &dyn std::fmt::Display| format!("the shared folder {}: {error}", path.display());
        fs::create_dir_all(path).map_err(|error| failed(&error))?;
        let target = CString::new(self.path.as_slice()).map_err(|error| failed(&error))?;
        let mut flags = MountFlags::NODEV | MountFlags::NOSUID;
        flags.set(MountFlags::RDONLY, self.readonly);
        mount(self.tag.as_str(), target.as_c_str(), "virtiofs", flags, c"").map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_tells_of_folders() {
        let share = |tag: &str, readonly, path: &[u8]| Share { tag: tag.into(), readonly, path: path.to_vec() };
        let cmdline = "quiet motu.mount=share0,ro,/src motu.mount=share1,rw,/a%20b/%c3%bc,%zz% motu.mount=x";
        let expected = [share("share0", true, b"/src"), share("share1", false, "/a b/ü,%zz%".as_bytes())];
        assert_eq!(parse(cmdline), expected);
    }
}
