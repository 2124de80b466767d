//! A person at a terminal.

use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};

/// motu on a pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    /// Keeps the terminal alive after motu has ended.
    line: File,
    child: Child,
    seen: String,
}

impl Terminal {
    /// Starts `command` on a terminal of 33 lines of 111 columns.
    pub fn start(mut command: Command) -> Self {
        let person: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&person).and_then(|()| unlockpt(&person)).expect("its other end can be opened");
        let name = ptsname(&person, Vec::new()).expect("its other end has a name");
        let size = Winsize { ws_row: 33, ws_col: 111, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&person, size).expect("it has a size");
        let name = name.to_str().expect("a device's name is ASCII");
        let line = OpenOptions::new().read(true).write(true).open(name).expect("its other end opens");
        let end = || line.try_clone().expect("a file can be shared");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("motu starts");
        Self { person: person.into(), line, child, seen: String::new() }
    }

    pub fn type_in(&mut self, text: &str) {
        self.person.write_all(text.as_bytes()).expect("a terminal takes input");
    }

    /// Reads until `text` is on the terminal, and forgets everything up to it; gives what was before.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let before = self.seen.drain(..at + text.len()).collect::<String>();
                return before.trim_end_matches(text).to_owned();
            }
            let mut buffer = [0; 4096];
            let read = self.person.read(&mut buffer).expect("a terminal gives output");
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    }

    /// motu's process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether the terminal echoes what is typed, as it does when nobody has changed it.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.line).expect("it is a terminal").local_modes.contains(LocalModes::ECHO)
    }

    /// Waits until motu has ended.
    pub fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("motu ends")
    }
}
