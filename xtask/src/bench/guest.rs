//! The guest that both boot: the same kernel, RAM disk and command line, byte for byte.

use anyhow::{Context, Result, ensure};
use motu_store::{Archive, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the guest's init prints first.
pub const MARKER: &str = "MOTU-BENCH first line of user space";

/// RAM of the guest in MiB.
pub const MEMORY_MIB: u32 = 512;

const POWER_OFF: &str = "/bench/power-off";
const IDLE: &str = "/bench/idle";

/// Files of a guest.
#[derive(Debug)]
pub struct Guest {
    pub kernel: PathBuf,
    /// The package that the kernel is from, and its version.
    pub kernel_name: String,
    pub initrd: PathBuf,
    /// The kernel's command line without its `rdinit`.
    pub cmdline: String,
}

/// What the guest does once it is up.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    PowerOff,
    Idle,
}

impl Guest {
    /// Makes the guest's files in `folder` from the image `tiny`, which `motu` makes if it is not there.
    /// `idle` is for how many seconds it will be watched while it does nothing.
    pub fn prepare(motu: &Path, folder: &Path, idle: u64) -> Result<Guest> {
        let status = Command::new(motu)
            .args(["run", "--timeout", "10m", "--", "true"])
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("running {}", motu.display()))?;
        ensure!(status.success(), "motu run -- true, which makes the image tiny, ended with {status}");

        let root = motu_store::default_path(|name| std::env::var_os(name))?;
        let images = Store::open(&root)?.images()?;
        let (_, tiny) = images.into_iter().find(|(name, _)| name == "tiny").context("motu has made no image tiny")?;
        let blob = |digest: motu_store::Digest| root.join("blobs/sha256").join(digest.to_string());
        let tiny_initrd = blob(tiny.initrd);
        let mut bytes = fs::read(&tiny_initrd).with_context(|| format!("reading {}", tiny_initrd.display()))?;
        bytes.extend(inits(idle)?);
        let initrd = folder.join("initrd");
        fs::write(&initrd, bytes).with_context(|| format!("writing {}", initrd.display()))?;
        let package = tiny.packages.first().context("the image tiny was made from no package")?;
        Ok(Guest {
            kernel: blob(tiny.kernel),
            kernel_name: format!("{} {}", package.name, package.version),
            initrd,
            // What a kernel does against its processor's weaknesses depends on the processor that it
            // is shown, and each of the two shows another.
            cmdline: format!("{} mitigations=off", tiny.cmdline),
        })
    }

    /// The same with more parameters for the kernel.
    pub fn with_parameters(mut self, parameters: &str) -> Guest {
        if !parameters.is_empty() {
            self.cmdline = format!("{} {parameters}", self.cmdline);
        }
        self
    }

    /// The whole command line.
    pub fn cmdline(&self, init: Init) -> String {
        let path = match init {
            Init::PowerOff => POWER_OFF,
            Init::Idle => IDLE,
        };
        format!("{} rdinit={path}", self.cmdline)
    }
}

/// An archive with the guest's inits.
fn inits(idle: u64) -> Result<Vec<u8>> {
    let script = |then: &str| format!("#!/bin/busybox sh\necho {MARKER}\n{then}\nexec /bin/busybox poweroff -f\n");
    let mut archive = Archive::new();
    for (path, then) in [(POWER_OFF, String::new()), (IDLE, format!("/bin/busybox sleep {}", idle.saturating_add(60)))]
    {
        archive.file(path.trim_start_matches('/'), 0o755, script(&then).into_bytes())?;
    }
    Ok(archive.to_bytes())
}
