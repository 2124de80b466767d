//! tiny's init, which runs a person's command.
//!
//! The agent is the first process of the `tiny` image. It makes the machine usable ([`boot`]), opens
//! the virtio-console port that leads to the host ([`port`]) and then does what the host says until it
//! is told to power off ([`session`], [`exec`]; the words are motu-proto's). Where no such port is, the
//! initrd was booted by something else than motu: then a person gets a shell on the console.
//!
//! One thread, one poll loop, no timers while nothing happens: on a CPU made of software each
//! instruction is dear, and a machine that idles must be seen to idle.

mod boot;
mod exec;
mod port;
mod power;
mod session;
mod signals;

use std::io::ErrorKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("motu-agent: this is the init of a machine that motu runs: it does nothing elsewhere");
        return ExitCode::FAILURE;
    }
    boot::prepare();
    let signals = match signals::Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("motu-agent: signalfd: {error}");
            power::off();
        }
    };
    match port::Port::find() {
        Ok(port) => {
            if let Err(error) = session::serve(port, &signals) {
                eprintln!("motu-agent: the port to the host: {error}");
            }
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                eprintln!("motu-agent: the port to the host: {error}");
            }
            boot::console_shell(&signals);
        }
    }
    power::off();
}
