//! Trees of files as a stream, between a machine and its host: [`pack()`] at one end, [`unpack()`] at the other.
//!
//! ```text
//! stream  = item ...                      u16, u32, u64, i64 = little endian
//! item    = 'd' name meta                 a folder; what follows is in it, until
//!         | 'u'                             its end
//!         | 'f' name meta number: u64     a file; its pieces follow, until 'e'. Links to it name the number; 0 if there are none
//!         | 'b' length: u32 bytes           bytes of the file, PIECE at most
//!         | 'h' length: u64                 zeros of the file
//!         | 'e'                             its end
//!         | 's' name meta target          a symbolic link
//!         | 'l' name number: u64          another name of a file that came before
//!         | 'z'                           the stream's end
//! name, target = length: u16 | bytes      meta = mode: u16, uid: u32, gid: u32, seconds: i64, nanoseconds: u32
//! ```
//! The first item's name is empty: the receiver knows where it goes. Every other name is one part of a path. So there are
//! no paths in the stream: whatever a hostile sender says, an item goes into the folder that was entered last, which
//! was opened without following a link; and `..` is no name. A stream without its end is one that broke off.
//!
//! Both ends run the same code: the agent as a process of its own in the guest, motu on the host.
#![forbid(unsafe_code)]

mod error;
mod pack;
mod place;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;

pub use error::CopyError;
pub use pack::{Packed, pack};
pub use unpack::{Rights, Target, Unpacked, unpack};

/// Most bytes of a file in one piece.
pub const PIECE: usize = 64 * 1024;

/// Deepest folder: each takes a descriptor while it is entered.
pub const DEEPEST: usize = 400;

/// Bytes of paths that are kept for hard links at most.
pub const MOST_LINKS: usize = 64 << 20;
