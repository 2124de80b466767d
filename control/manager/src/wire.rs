//! What is said on a machine's socket.
//!
//! ```text
//! frame   = length: u32 LE | JSON, LONGEST bytes at most
//!
//! client: frame(Request)    server: frame(Answer)
//! ```
//! After `Request::Command` and its `Answer::Going` both sides go on with the frames of motu-proto, as if they were the host and
//! the agent: the client may say `Stdin`, `StdinClose`, `Signal` and `Resize`, after an `Exec` first unless the machine's own command is
//! asked for; the server `Started`, `Stdout`, `Stderr`, `Credit`, and last `Exited` or `Error`. All have the number 0. Input has
//! the protocol's window; output has none of its own, since a reader that stands still stops the socket.

use motu_spec::Growth;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Longest frame in bytes.
pub const LONGEST: u32 = 1 << 20;

/// The number of the command on a connection.
pub const ID: u32 = 0;

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Whether it is up: answered by `Done` as soon as commands can run.
    Ready,
    /// A command beside the machine's own: `Exec` follows.
    Exec,
    /// The machine's own command, which waits for this when the machine was started to be attached to.
    Main {
        /// Its terminal's lines and columns, if it has one.
        size: (u16, u16),
        /// The kind of terminal that the person sits at.
        term: Option<String>,
        /// Whether `Stdin` follows.
        stdin: bool,
    },
    /// End all processes within the time, then switch off. Answered by `Done` when that has begun.
    Stop {
        /// Milliseconds.
        grace: u32,
    },
    /// Send a signal to the machine's own command.
    Signal {
        /// Its number.
        signo: u8,
    },
    /// Make a disk larger, and write that down. Answered by `Size` when it is.
    GrowDisk {
        /// Which of the machine's, in the order in which the guest has them.
        disk: usize,
        /// What its size is to become.
        growth: Growth,
    },
    /// Switch off at once.
    Kill,
}

/// What the machine's process says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Answer {
    /// It is done, or will be.
    Done,
    /// Frames of motu-proto follow.
    Going,
    /// It is done; so many bytes came of it.
    Size(u64),
    /// It cannot be done; why, for people.
    Refused(String),
}

/// What the machine's process says to who started it, once, on its standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Report {
    /// The machine is up, and its command runs.
    Up,
    /// There is no machine.
    Failed {
        /// What motu exits with.
        status: u8,
        /// For people.
        message: String,
    },
}

/// Writes one frame.
///
/// # Errors
/// The other side takes nothing; `InvalidInput` if it would be too long.
pub fn put<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    to.write_all(&[&length.to_le_bytes(), text.as_slice()].concat())?;
    to.flush()
}

/// Reads one frame; `None` if the other side has gone before it.
///
/// # Errors
/// `InvalidData` if it is none; the host's reason otherwise.
pub fn get<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut text = Vec::new();
    if from.take(length.into()).read_to_end(&mut text)? as u64 != u64::from(length) {
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_spec::ByteSize;
    use proptest::prelude::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        let main = Request::Main { size: (24, 80), term: Some("xterm".into()), stdin: true };
        put(&mut bytes, &main).unwrap();
        put(&mut bytes, &Request::Stop { grace: 10_000 }).unwrap();
        let grow = Request::GrowDisk { disk: 1, growth: Growth::By(ByteSize(u64::MAX)) };
        put(&mut bytes, &grow).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(get(&mut from).unwrap(), Some(main));
        assert_eq!(get(&mut from).unwrap(), Some(Request::Stop { grace: 10_000 }));
        assert_eq!(get(&mut from).unwrap(), Some(grow));
        assert_eq!(get::<Request>(&mut from).unwrap(), None);
        assert!(put(&mut bytes, &Answer::Refused("x".repeat(2 << 20))).is_err());
        assert!(get::<Request>(&mut [0xff; 8].as_slice()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = get::<Request>(&mut bytes.as_slice());
            let _ = get::<Answer>(&mut bytes.as_slice());
        }
    }
}
