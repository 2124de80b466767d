//! A kernel of the person's own, its serial console on this terminal.

use super::stdin::{self, Sink};
use super::{Request, Run, outputs};
use crate::terminal;
use crate::terminal::signals::{Asked, Watch};
use crate::vmm::{Boot, Disks, Vmm, Why};
use anyhow::{Context, Result, bail};
use motu_machine::{Flat, FlatMode, OnReset, SerialInput};
use motu_spec::{Console, KernelMode, VmSpec};

pub fn run(request: &Request) -> Result<Run> {
    let spec = &request.spec;
    let Some(kernel) = spec.kernel.clone() else { bail!("no kernel is given") };
    if !request.command.is_empty() {
        bail!("a command needs an image to run in; with --kernel, leave out what follows --");
    }
    let boot = Boot {
        kernel,
        initrd: spec.initrd.clone(),
        cmdline: spec.cmdline.clone().unwrap_or_default(),
        flat: flat(spec),
        ports: Vec::new(),
        disks: Disks::open(&spec.disks)?,
        on_reset: OnReset::Restart,
    };
    let outputs = outputs(spec, Console::Stdio)?;
    let mut vmm = Vmm::new(spec, boot, &request.engine, outputs.clone())?;
    let ending = vmm.ending();
    let on_signal = vmm.ending();
    Watch::start(move |asked| {
        if let Asked::End(signo) = asked {
            on_signal.end(Why::Signal(signo));
        }
    })
    .context("handling signals")?;
    if spec.console.is_none() || spec.console == Some(Console::Stdio) {
        if terminal::is_interactive() {
            eprintln!("motu: Ctrl-] leaves");
            terminal::enter_raw().context("putting the terminal into raw mode")?;
        }
        stdin::forward(Serial(vmm.machine().serial()), ending).context("starting the thread for stdin")?;
    }
    Ok(Run::Ended(Box::new(vmm.run(spec)?), outputs.console))
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
