//! What the loaders are given.

use crate::board::BoardTables;
use crate::error::BootError;
use crate::format::Format;
use crate::image::Image;
use crate::module::Module;
use motu_memory::GuestRam;

/// A kernel on its way to guest memory.
#[derive(Debug)]
pub(crate) struct Loading<'a> {
    pub ram: &'a GuestRam,
    pub board: &'a BoardTables,
    /// Uncompressed.
    pub kernel: &'a Image,
    /// The kernel's first bytes, [`crate::format::HEAD`] of them where it has so many.
    pub head: Vec<u8>,
    pub modules: &'a [Module],
    pub cmdline: &'a str,
}

impl Loading<'_> {
    pub fn is_elf(&self) -> bool {
        Format::is_elf(&self.head)
    }

    /// The one module of a kernel that takes one.
    ///
    /// # Errors
    /// There are more.
    pub fn initrd(&self) -> Result<Option<&Image>, BootError> {
        match self.modules {
            [] => Ok(None),
            [initrd] => Ok(Some(initrd.image())),
            more => Err(BootError::OneInitrd { name: self.kernel.name().to_owned(), given: more.len() }),
        }
    }
}
