//! A kernel of the person's own, its serial console on this terminal.

use super::{Face, Request, Run, outputs};
use crate::commands::machine::stdin::{self, Sink};
use crate::terminal;
use crate::terminal::signals::{Asked, Watch};
use crate::vmm::{Boot, Disks, Outputs, Sizes, Vmm, Why};
use anyhow::{Context, Result, bail};
use motu_machine::{Flat, FlatMode, OnReset, SerialInput};
use motu_spec::{Console, KernelMode, VmSpec};

pub fn run(request: &Request) -> Result<Run> {
    let spec = &request.spec;
    let Some(kernel) = spec.kernel.clone() else { bail!("no kernel is given") };
    if !request.command.is_empty() {
        bail!("a command needs an image to run in; with --kernel, leave out what follows --");
    }
    let mut disks = Disks::open(&spec.disks, Sizes::Exact)?;
    disks.add_seed(spec.seed.as_ref(), None);
    let boot = Boot {
        kernel,
        initrd: spec.initrd.clone(),
        cmdline: spec.cmdline.clone().unwrap_or_default(),
        flat: flat(spec),
        ports: Vec::new(),
        disks,
        on_reset: OnReset::Restart,
    };
    let outputs = outputs(spec, Console::Stdio, Face::Console)?;
    on_console(request, boot, outputs, None)
}

/// A machine whose serial console is on this terminal. `signals` are what signals do so far, if somebody has said that.
///
/// # Errors
/// It cannot be made, or the host's trouble.
pub fn on_console(request: &Request, boot: Boot, outputs: Outputs, signals: Option<&Watch>) -> Result<Run> {
    let spec = &request.spec;
    let mut vmm = Vmm::new(spec, boot, &request.engine, outputs.clone())?;
    let ending = vmm.ending();
    let on_signal = vmm.ending();
    let end = move |asked| {
        if let Asked::End(signo) = asked {
            on_signal.end(Why::Signal(signo));
        }
    };
    match signals {
        Some(signals) => signals.replace(end),
        None => drop(Watch::start(end).context("handling signals")?),
    }
    if spec.console.is_none() || spec.console == Some(Console::Stdio) {
        if terminal::is_interactive() {
            tell!("motu: Ctrl-] leaves");
            terminal::enter_raw().context("putting the terminal into raw mode")?;
        }
        let leave = move || {
            ending.end(Why::Left);
        };
        stdin::forward(Serial(vmm.machine().serial()), leave).context("starting the thread for stdin")?;
    }
    Ok(Run::Ended(Box::new(vmm.run(spec)?), outputs.console, Face::Console))
}

/// Where and how the kernel starts that is not told by its content.
fn flat(spec: &VmSpec) -> Option<Flat> {
    let mode = match spec.kernel_mode.unwrap_or_default() {
        KernelMode::Real => FlatMode::Real,
        KernelMode::Protected => FlatMode::Protected,
        KernelMode::Long => FlatMode::Long,
    };
    spec.kernel_address.map(|address| Flat { address: address.0, mode })
}

struct Serial(SerialInput);

impl Sink for Serial {
    fn input(&mut self, data: &[u8]) -> bool {
        self.0.send(data);
        true
    }

    /// A serial line has no end.
    fn end(&mut self) {}
}
