//! Where gdb connects to: a TCP port or a Unix socket.

use motu_spec::GdbAddress;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why nobody can listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("the address for gdb, {address}, is in use; choose another port, or stop what listens there")]
    InUse { address: String },
    #[error("{} is there already, and is no socket; choose another path for gdb's", .0.display())]
    NoSocket(PathBuf),
    #[error("listening for gdb at {address}: {source}")]
    Io { address: String, source: io::Error },
}

/// What listens.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A socket's file, which goes with it.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever has removed it before has done what is done here.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// # Errors
    /// The address is in use, or this host has none such.
    pub fn bind(address: &GdbAddress) -> Result<Self, ListenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address: address.to_string() },
            _ => ListenError::Io { address: address.to_string(), source },
        };
        match address {
            GdbAddress::Tcp { host, port } => {
                let addresses = (host.as_str(), *port).to_socket_addrs().map_err(failed)?;
                let listener = TcpListener::bind(addresses.collect::<Vec<_>>().as_slice()).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener))
            }
            GdbAddress::Unix(path) => {
                clear_away(path)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = SocketFile(path.clone());
                // Whoever can connect owns the guest.
                std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    /// What gdb's `target remote` takes.
    pub fn shown(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().as_ref().map_or_else(io::Error::to_string, SocketAddr::to_string)
            }
            Self::Unix(_, SocketFile(path)) => path.display().to_string(),
        }
    }

    /// Whether others than this host's users can connect.
    pub fn is_exposed(&self) -> bool {
        match self {
            Self::Tcp(listener) => !listener.local_addr().is_ok_and(|address| is_loopback(address.ip())),
            Self::Unix(..) => false,
        }
    }

    /// The next connection, if there is one waiting.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Takes away a socket that nobody listens at any more: what a machine that was killed leaves behind.
fn clear_away(path: &Path) -> Result<(), ListenError> {
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(ListenError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let address = path.display().to_string();
            std::fs::remove_file(path).map_err(|source| ListenError::Io { address, source })
        }
        _ => Err(ListenError::InUse { address: path.display().to_string() }),
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// Reads do not wait; writes do, for `limit` at most.
    pub fn prepare(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(limit))
            }
            Self::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_write_timeout(Some(limit))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_in_use_is_named() {
        let any = GdbAddress::Tcp { host: "127.0.0.1".into(), port: 0 };
        let first = Listener::bind(&any).unwrap();
        assert!(!first.is_exposed());
        let port = first.shown().rsplit_once(':').unwrap().1.parse().unwrap();
        let error = Listener::bind(&GdbAddress::Tcp { host: "127.0.0.1".into(), port }).unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains(&port.to_string()), "{error}");
        assert!(Listener::bind(&GdbAddress::Tcp { host: "0.0.0.0".into(), port: 0 }).unwrap().is_exposed());
        let nowhere = GdbAddress::Tcp { host: "192.0.2.1".into(), port: 1234 };
        assert!(Listener::bind(&nowhere).unwrap_err().to_string().contains("192.0.2.1:1234"));
    }

    #[test]
    fn a_sockets_file_goes_with_it_and_what_was_left_behind_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gdb");
        let address = GdbAddress::Unix(path.clone());
        let listener = Listener::bind(&address).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Listener::bind(&address), Err(ListenError::InUse { .. })));
        drop(listener);
        assert!(!path.exists());
        // A socket without a listener.
        drop(UnixListener::bind(&path).unwrap());
        drop(Listener::bind(&address).unwrap());
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Listener::bind(&address), Err(ListenError::NoSocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
