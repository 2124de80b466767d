//! tiny's init, which runs a person's command.
//!
//! The agent is the first process of an image. It makes the machine usable ([`boot`]), moves to the root disk if the image
//! has one ([`root`]), opens the virtio-console port that leads to the host ([`port`]) and then does what the host says
//! until it is told to power off ([`session`], [`exec`]; the words are motu-proto's). Where no such port is, the
//! initrd was booted by something else than motu: then a person gets a shell on the console.
//!
//! It writes to no disk once it serves, and what it holds in memory is bounded by the protocol's windows, so that neither a full
//! disk nor a machine out of memory (where the kernel spares it) ends it. What takes more (reports, copies, file systems that grow) is done
//! by processes of its own program that it starts like commands.
//!
//! One thread, one poll loop, no timers while nothing happens: on a CPU made of software each
//! instruction is dear, and a machine that idles must be seen to idle.

mod boot;
mod copy;
mod exec;
mod grow;
mod mounts;
mod port;
mod power;
mod report;
mod root;
mod session;
mod shares;
mod signals;
mod users;

use motu_proto::builtin;
use std::io::ErrorKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return builtin();
    }
    let unusable = boot::prepare().err();
    let signals = match signals::Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("motu-agent: signalfd: {error}");
            power::off();
        }
    };
    match port::Port::find() {
        Ok(port) => {
            if let Err(error) = session::serve(port, &signals, unusable.as_deref()) {
                eprintln!("motu-agent: the port to the host: {error}");
            }
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                eprintln!("motu-agent: the port to the host: {error}");
            }
            if let Some(message) = &unusable {
                eprintln!("motu-agent: {message}");
            }
            boot::console_shell(&signals);
        }
    }
    power::off();
}

/// What the agent does as a command of its own.
fn builtin() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    let done = match name.as_encoded_bytes() {
        builtin::REPORT => report::write(),
        builtin::PACK => copy::send(&arguments),
        builtin::UNPACK => copy::receive(&arguments),
        builtin::GROW => grow::run(&arguments),
        _ => {
            eprintln!("motu-agent: this is the init of a machine that motu runs: it does nothing elsewhere");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
