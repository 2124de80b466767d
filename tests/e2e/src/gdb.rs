//! gdb's side of its remote serial protocol (gdb's manual, appendix E), as far as the tests need it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr};
use std::time::Duration;

/// A connection to motu's stub.
#[derive(Debug)]
pub struct Gdb(TcpStream);

/// The address that motu says gdb can attach at, and what else it says.
///
/// # Panics
/// It does not say so.
pub fn address(motu: &mut Child) -> (String, BufReader<ChildStderr>) {
    let mut said = BufReader::new(motu.stderr.take().expect("stderr is a pipe"));
    let mut line = String::new();
    loop {
        line.clear();
        assert!(said.read_line(&mut line).expect("stderr can be read") > 0, "motu says where gdb attaches");
        if let Some((_, rest)) = line.split_once("target remote ") {
            let address = rest.split([';', '\n']).next().unwrap_or_default();
            return (address.to_owned(), said);
        }
    }
}

impl Gdb {
    /// # Panics
    /// Nobody listens there.
    pub fn attach(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("motu listens");
        // A stub that hangs fails the test.
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket has timeouts");
        Self(stream)
    }

    /// Sends bytes that need be no packet.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        // A stub that has turned away does not hear it.
        let _ = self.0.write_all(bytes);
    }

    pub fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.send_raw(format!("${packet}#{sum:02x}").as_bytes());
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        (self.0.read(&mut byte).ok()? == 1).then_some(byte[0])
    }

    /// The next packet; `None` where none comes any more.
    pub fn receive(&mut self) -> Option<String> {
        while self.byte()? != b'$' {}
        let mut packet = String::new();
        loop {
            match self.byte()? {
                b'#' => break,
                // So many more of the last one.
                b'*' => {
                    let (last, count) = (packet.chars().last()?, self.byte()?.checked_sub(29)?);
                    packet.extend((0..count).map(|_| last));
                }
                byte => packet.push(byte.into()),
            }
        }
        self.byte()?;
        self.byte()?;
        self.send_raw(b"+");
        Some(packet)
    }

    /// # Panics
    /// There is no answer.
    pub fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive().unwrap_or_else(|| panic!("no answer to {packet}"))
    }

    /// A register of 64 bits by its number in the description.
    ///
    /// # Panics
    /// It is none such.
    pub fn register(&mut self, number: usize) -> u64 {
        let hex = self.ask(&format!("p{number:x}"));
        u64::from_str_radix(&hex, 16).unwrap_or_else(|_| panic!("{hex} is no register")).swap_bytes()
    }

    /// # Panics
    /// It stops for another reason than a breakpoint, or elsewhere.
    pub fn run_to(&mut self, address: u64) {
        assert_eq!(self.ask(&format!("Z1,{address:x},1")), "OK");
        let stop = self.ask("vCont;c");
        assert!(stop.contains("hwbreak"), "{stop}");
        assert_eq!(self.register(RIP), address);
        assert_eq!(self.ask(&format!("z1,{address:x},1")), "OK");
    }
}

/// Its number, behind the general registers.
pub const RIP: usize = 16;
