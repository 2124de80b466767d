//! The words that motu and the agent in the guest exchange.
//!
//! One byte stream in each direction (the virtio-console port [`PORT_NAME`]) carries frames. Nothing
//! here does I/O: [`Message::encode`] appends a frame to a buffer, [`Decoder`] is fed whatever bytes
//! arrived and hands back whole messages.
//!
//! ```text
//! frame    = length: u32 LE, counting what follows (1 ..= MAX_FRAME) | kind: u8 | body
//! u16, u32 = little endian          bytes  = length: u32 | that many bytes
//! option   = 0 | 1 value            list   = count: u32 | that many values
//!
//! host to guest                                         guest to host
//! 01 Exec        id, argv, env, cwd, user, tty, stdin,  81 Hello     "MOTU", version: u16, agent: bytes,
//!                builtin                                             unusable: option
//! 02 Stdin       id, data to the end of the frame       82 Stdout    id, data to the end of the frame
//! 03 StdinClose  id                                     83 Stderr    id, data to the end of the frame
//! 04 Signal      id, signo: u8                          84 Exited    id, 0 code: u8 | 1 signo: u8
//! 05 Resize      id, rows: u16, cols: u16               85 Error     id, status: u8, message: bytes
//! 06 Credit      id, stream: u8, bytes: u32             86 Credit    id, bytes: u32 (of stdin)
//! 07 Shutdown    milliseconds of grace: u32             87 Started   id
//! ```
//!
//! The encoding is by hand and not a derive: both sides are attacker-facing (a guest may send the
//! host anything), so every bound is to be seen in one place; the agent stays small; and the
//! layout above is the contract, not an accident of field order in a Rust type.
//!
//! # A conversation
//! The guest opens with `Hello` each time that the host's end of the port connects. A host that reads
//! another version than [`PROTOCOL_VERSION`] says so and goes no further; kind, magic and version of
//! `Hello` keep their places for ever. A machine whose root disk cannot be used says so in it. Then the host starts
//! commands under ids of its own choice. Each `Exec` is answered by `Error`, or by `Started` and then, after the last of its
//! output, by exactly one `Exited`; then the id is free.
//! Messages for an id that is not running are ignored: they crossed with its end.
//!
//! # Flow control
//! Each of a command's three streams has a window of [`WINDOW`] bytes. A sender may have that many
//! bytes under way; the receiver gives them back by `Credit` as it passes the bytes on. So neither side
//! ever holds more than a window for a stream, however fast the other is ([`SendWindow`],
//! [`ReceiveWindow`]).
#![forbid(unsafe_code)]

mod decoder;
mod message;
#[cfg(test)]
mod tests;
mod window;
mod wire;

pub use decoder::Decoder;
pub use message::{Exec, ExitStatus, GuestMessage, HostMessage, Message, OutputStream, TermSize};
pub use window::{ReceiveWindow, SendWindow, WindowError};

/// The virtio-console port that carries the stream, as its `name` attribute has it.
pub const PORT_NAME: &str = "org.motu.agent.0";

/// The version of the words below; a host and an agent speak only with the same one.
pub const PROTOCOL_VERSION: u16 = 2;

/// Longest frame in bytes, without the four bytes of its length: an `Exec` with its arguments and
/// environment is the only one that comes near.
pub const MAX_FRAME: usize = 256 * 1024;

/// Most data bytes that one `Stdin`, `Stdout` or `Stderr` carries: a larger one would hold up the
/// other commands on the stream.
pub const MAX_DATA: usize = 32 * 1024;

/// Bytes of one stream that may be under way without having been given back.
pub const WINDOW: u32 = 128 * 1024;

/// Most commands that the agent runs at one time.
pub const MAX_EXECS: usize = 64;

/// The status of an `Error` for a command that was not found, as in a shell (POSIX.1-2017 XCU 2.8.2).
pub const STATUS_NOT_FOUND: u8 = 127;

/// The status of an `Error` for a command that is there and cannot be run (POSIX.1-2017 XCU 2.8.2).
pub const STATUS_NOT_EXECUTABLE: u8 = 126;

/// The status of an `Error` that is the agent's trouble and not the command's.
pub const STATUS_AGENT: u8 = 125;

/// What the agent does by itself, as the first word of an [`Exec`] with `builtin`.
pub mod builtin {
    /// Writes what the machine is doing to its standard output, as JSON.
    pub const REPORT: &[u8] = b"report";
    /// Writes a tree of files to its standard output, as motu-copy does: the path, and `follow` or `asis` for a link there.
    pub const PACK: &[u8] = b"pack";
    /// Makes such a tree of its standard input: the path, its name in a folder, `whole` or `contents`, and `owners` or `bits`.
    pub const UNPACK: &[u8] = b"unpack";
    /// Waits until a disk is as large as it is to be, and makes the file system on it as large: its name in `/dev`, and bytes.
    pub const GROW: &[u8] = b"grow";
}

/// Why bytes are no message of this protocol, or a message does not fit into a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtoError {
    /// The length in a frame's first four bytes is 0 or above [`MAX_FRAME`].
    #[error("a frame of {0} bytes: 1 to {MAX_FRAME} are possible")]
    FrameLength(u64),
    /// The frame's kind is none of this direction's.
    #[error("a message of kind {0:#04x}: this direction has none such")]
    Kind(u8),
    /// The frame ends before its body does, or goes on after it.
    #[error("a message of kind {kind:#04x} whose body does not fit its frame of {length} bytes")]
    Body {
        /// The frame's kind.
        kind: u8,
        /// The frame's length.
        length: usize,
    },
    /// A field holds what it cannot mean.
    #[error("a message of kind {kind:#04x} with {value} as its {field}")]
    Field {
        /// The frame's kind.
        kind: u8,
        /// The field's name.
        field: &'static str,
        /// What it held.
        value: u32,
    },
}
