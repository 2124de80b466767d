//! Files that come with a kernel: an initrd, or what a multiboot kernel calls modules.

use crate::error::{BootError, Role};
use crate::format::{Format, HEAD};
use crate::gzip;
use crate::image::Image;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file that comes with a kernel.
#[derive(Debug)]
pub struct Module {
    image: Image,
    /// What a multiboot kernel is told of it, without a NUL.
    command_line: Vec<u8>,
}

impl Module {
    /// A module that a multiboot kernel is told `command_line` of; its first word is a name. Other
    /// kernels are not told.
    pub fn new(image: Image, command_line: Vec<u8>) -> Self {
        Self { image, command_line }
    }

    /// Opens what comes with `kernel`. For a multiboot kernel `text` is a list as QEMU's `-initrd`
    /// takes it: `FILE ARG...,FILE ARG...`, where a file's name ends at the first space and `,,`
    /// is one comma of the text. For all other kernels, `text` is the initrd's name, whatever is in it.
    ///
    /// # Errors
    /// A name is missing, a file is not there or not readable, not a regular file, or empty; or
    /// `kernel` cannot be read.
    pub fn open_all(kernel: &Image, text: &OsStr) -> Result<Vec<Self>, BootError> {
        if !matches!(Format::of(&gzip::head(kernel, HEAD)?), Format::Multiboot(_)) {
            let image = Image::open(Role::Initrd, Path::new(text))?;
            return Ok(vec![Self::new(image, Vec::new())]);
        }
        split(text.as_bytes())
            .into_iter()
            .map(|command_line| {
                let file = command_line.split(|byte| *byte == b' ').next().unwrap_or_default();
                if file.is_empty() {
                    return Err(BootError::NoModuleName { text: text.to_string_lossy().into_owned() });
                }
                let image = Image::open(Role::Module, Path::new(OsStr::from_bytes(file)))?;
                Ok(Self::new(image, command_line))
            })
            .collect()
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn command_line(&self) -> &[u8] {
        &self.command_line
    }
}

/// Splits at single commas; two are one comma of the text. Nothing follows a comma at the end.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' if bytes.next_if_eq(&b',').is_some() => part.push(b','),
            b',' => {
                parts.push(std::mem::take(&mut part));
                if bytes.peek().is_none() {
                    return parts;
                }
            }
            other => part.push(other),
        }
    }
    parts.push(part);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commas_separate_and_two_are_one() {
        let parts = |text: &str| -> Vec<String> {
            split(text.as_bytes()).into_iter().map(|part| String::from_utf8(part).unwrap()).collect()
        };
        assert_eq!(parts("a"), ["a"]);
        assert_eq!(parts("a x=1 y,b"), ["a x=1 y", "b"]);
        assert_eq!(parts("a x=1,,2,b"), ["a x=1,2", "b"]);
        assert_eq!(parts("a,,,b"), ["a,", "b"]);
        assert_eq!(parts("a,"), ["a"]);
        assert_eq!(parts(",a"), ["", "a"]);
        assert_eq!(parts(""), [""]);
    }

    proptest! {
        #[test]
        fn what_is_joined_splits_again(parts in prop::collection::vec("[ab ][ab ,]{0,5}", 1..5)) {
            let text = parts.iter().map(|part| part.replace(',', ",,")).collect::<Vec<_>>().join(",");
            let expected: Vec<_> = parts.iter().map(|part| part.clone().into_bytes()).collect();
            prop_assert_eq!(split(text.as_bytes()), expected);
        }
    }
}
