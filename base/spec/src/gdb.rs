//! Where gdb may attach.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// A stub for gdb. Written `ADDR` or `ADDR,wait`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gdb {
    pub address: GdbAddress,
    /// The machine stands still until gdb lets it go on, as with QEMU's `-S`.
    pub wait: bool,
}

/// Written `HOST:PORT`, `:PORT` or `PORT` for this host alone, or a socket's path, which has a slash in it or
/// begins with `unix:`. QEMU's `tcp:` before it is taken, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GdbAddress {
    /// A name or an address, without brackets. Port 0 stands for any that is free.
    Tcp {
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

/// What `:PORT` stands for.
const THIS_HOST: &str = "127.0.0.1";

/// A text that is no place where gdb can attach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseGdbError {
    #[error(
        "{0:?} is no address for gdb; write 127.0.0.1:1234, :1234, [::1]:1234 or a socket's path such as ./gdb.sock"
    )]
    Address(String),
    #[error("{0:?} is no port for gdb; ports are 0 to 65535, such as in 127.0.0.1:1234")]
    Port(String),
    #[error("{0:?} is nothing that gdb's address may be followed by; only wait is, such as in 127.0.0.1:1234,wait")]
    Option(String),
}

impl FromStr for Gdb {
    type Err = ParseGdbError;

    fn from_str(text: &str) -> Result<Self, ParseGdbError> {
        match text.rsplit_once(',') {
            Some((address, "wait")) => Ok(Self { address: address.parse()?, wait: true }),
            // A path may have a comma in it.
            Some((_, option)) if !text.contains('/') => Err(ParseGdbError::Option(option.to_owned())),
            _ => Ok(Self { address: text.parse()?, wait: false }),
        }
    }
}

impl FromStr for GdbAddress {
    type Err = ParseGdbError;

    fn from_str(text: &str) -> Result<Self, ParseGdbError> {
        let wrong = || ParseGdbError::Address(text.to_owned());
        let path = text.strip_prefix("unix:").or(text.contains('/').then_some(text));
        if let Some(path) = path {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let rest = text.strip_prefix("tcp:").unwrap_or(text);
        let (host, port) = match rest.rsplit_once(':') {
            None if rest.chars().all(|c| c.is_ascii_digit()) => ("", rest),
            None => return Err(wrong()),
            Some(parts) => parts,
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) if host.parse::<Ipv6Addr>().is_ok() => host,
            None if !host.contains([':', '[', ']', ' ']) => host,
            _ => return Err(wrong()),
        };
        // The standard library's parsing takes a sign.
        let is_number = port.chars().all(|c| c.is_ascii_digit());
        let number = port.parse().ok().filter(|_| is_number).ok_or_else(|| ParseGdbError::Port(port.to_owned()))?;
        let host = if host.is_empty() { THIS_HOST } else { host };
        Ok(Self::Tcp { host: host.to_owned(), port: number })
    }
}

impl fmt::Display for GdbAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Gdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.address, if self.wait { ",wait" } else { "" })
    }
}

impl Serialize for Gdb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Gdb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> GdbAddress {
        GdbAddress::Tcp { host: host.into(), port }
    }

    #[test]
    fn addresses_are_as_people_write_them() {
        let cases = [
            ("127.0.0.1:1234", tcp("127.0.0.1", 1234)),
            (":1234", tcp("127.0.0.1", 1234)),
            ("1234", tcp("127.0.0.1", 1234)),
            ("tcp::1234", tcp("127.0.0.1", 1234)),
            ("tcp:0.0.0.0:0", tcp("0.0.0.0", 0)),
            ("localhost:65535", tcp("localhost", 65535)),
            ("[::1]:1234", tcp("::1", 1234)),
            ("unix:gdb", GdbAddress::Unix("gdb".into())),
            ("./a,b:1", GdbAddress::Unix("./a,b:1".into())),
            ("/run/gdb.sock", GdbAddress::Unix("/run/gdb.sock".into())),
        ];
        for (text, address) in cases {
            for wait in [false, true] {
                let text = format!("{text}{}", if wait { ",wait" } else { "" });
                let gdb: Gdb = text.parse().unwrap();
                assert_eq!(gdb, Gdb { address: address.clone(), wait }, "{text}");
                assert_eq!(gdb.to_string().parse(), Ok(gdb));
            }
        }
    }

    #[test]
    fn what_is_none_says_what_would_be_right() {
        let cases = [
            ("", "ports are"),
            ("localhost", "no address"),
            ("localhost:", "ports are"),
            (":65536", "ports are"),
            (":+1", "ports are"),
            ("::1:1234", "no address"),
            ("[localhost]:1", "no address"),
            ("unix:", "no address"),
            (":1234,stop", "only wait"),
            ("tcp:x", "no address"),
        ];
        for (text, says) in cases {
            let error = text.parse::<Gdb>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
