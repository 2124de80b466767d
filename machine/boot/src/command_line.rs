//! The kernel's command line.

use crate::error::BootError;
use crate::layout::COMMAND_LINE_ROOM;

/// The bytes of `text` with the NUL that ends it.
///
/// # Errors
/// It is longer than `max` bytes or than there is room for, or has a NUL inside.
pub(crate) fn terminated(text: &str, max: usize) -> Result<Vec<u8>, BootError> {
    let max = max.min(COMMAND_LINE_ROOM - 1);
    without_nul(text.as_bytes())?;
    if text.len() > max {
        return Err(BootError::CommandLineTooLong { length: text.len(), max });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// # Errors
/// `text` has a NUL inside.
pub(crate) fn without_nul(text: &[u8]) -> Result<(), BootError> {
    match text.iter().position(|byte| *byte == 0) {
        Some(position) => Err(BootError::CommandLineNul { position }),
        None => Ok(()),
    }
}
