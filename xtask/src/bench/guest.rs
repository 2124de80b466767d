//! The guest that both boot: the same kernel, RAM disk and command line, byte for byte.
//!
//! It is the image `tiny`, with a second archive behind its initial RAM disk (the kernel unpacks one after the
//! other) in which the init is.

use anyhow::{Context, Result, ensure};
use motu_store::{Archive, Store, Watch};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the guest's init prints first.
pub const MARKER: &str = "MOTU-BENCH first line of user space";

/// RAM of the guest in MiB.
pub const MEMORY_MIB: u32 = 512;

const POWER_OFF: &str = "/bench/power-off";
const IDLE: &str = "/bench/idle";
const CPU: &str = "/bench/cpu";
const DISK: &str = "/bench/disk-init";

/// The image `tiny`, of which guests are made.
#[derive(Debug)]
pub struct Image {
    kernel: PathBuf,
    kernel_name: String,
    initrd: Vec<u8>,
    cmdline: String,
}

/// Files of a guest.
#[derive(Debug)]
pub struct Guest {
    pub kernel: PathBuf,
    /// The package that the kernel is from, and its version.
    pub kernel_name: String,
    pub initrd: PathBuf,
    /// The kernel's command line without its `rdinit`.
    pub cmdline: String,
    /// A raw disk, by virtio.
    pub disk: Option<PathBuf>,
    pub cpus: u32,
}

/// What the guest does once it is up.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    PowerOff,
    Idle,
    /// The programs that are measured.
    Cpu,
    /// The program that measures its disk.
    Disk,
}

impl Image {
    /// Finds the image, which `motu` makes if it is not there.
    pub fn tiny(motu: &Path) -> Result<Image> {
        let status = Command::new(motu)
            .args(["run", "--timeout", "10m", "--", "true"])
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("running {}", motu.display()))?;
        ensure!(status.success(), "motu run -- true, which makes the image tiny, ended with {status}");

        let root = motu_store::default_path(|name| std::env::var_os(name))?;
        let store = Store::open(&root)?;
        let image = store.find("tiny").context("motu has made no image tiny")?;
        let tiny = store.boot_files(&image, Watch::silent())?.context("the image tiny has no kernel")?;
        let initrd = tiny.initrd.context("the image tiny has no initrd")?;
        let package = image.record.packages.first().context("the image tiny was made from no package")?;
        Ok(Image {
            kernel: tiny.kernel,
            kernel_name: format!("{} {}", package.name, package.version),
            initrd: fs::read(&initrd).with_context(|| format!("reading {}", initrd.display()))?,
            // What a kernel does against its processor's weaknesses depends on the processor that it
            // is shown, and each of the two shows another.
            cmdline: format!("{} mitigations=off", tiny.cmdline),
        })
    }

    /// A guest with these inits, its initial RAM disk written to the file `initrd`.
    pub fn guest(&self, initrd: PathBuf, inits: &Archive<'_>) -> Result<Guest> {
        let bytes = [self.initrd.as_slice(), &inits.to_bytes()].concat();
        fs::write(&initrd, bytes).with_context(|| format!("writing {}", initrd.display()))?;
        let (kernel, kernel_name, cmdline) = (self.kernel.clone(), self.kernel_name.clone(), self.cmdline.clone());
        Ok(Guest { kernel, kernel_name, initrd, cmdline, disk: None, cpus: 1 })
    }

    /// The program that the guest's shell is.
    pub fn busybox(&self) -> Result<&[u8]> {
        member(&self.initrd, "bin/busybox").context("the image tiny has no bin/busybox")
    }
}

impl Guest {
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
            Init::Cpu => CPU,
            Init::Disk => DISK,
        };
        format!("{} rdinit={path}", self.cmdline)
    }
}

/// The inits that only boot. `idle` is for how many seconds a guest will be watched while it does nothing.
pub fn boot_inits(idle: u64) -> Result<Archive<'static>> {
    let script = |then: &str| format!("#!/bin/busybox sh\necho {MARKER}\n{then}\nexec /bin/busybox poweroff -f\n");
    let mut archive = Archive::new();
    for (path, then) in [(POWER_OFF, String::new()), (IDLE, format!("/bin/busybox sleep {}", idle.saturating_add(60)))]
    {
        archive.file(path.trim_start_matches('/'), 0o755, script(&then).into_bytes())?;
    }
    Ok(archive)
}

/// The init that measures, and the least program, which it starts.
pub fn cpu_init(program: Vec<u8>, tiny: Vec<u8>) -> Result<Archive<'static>> {
    let mut archive = Archive::new();
    archive.file(CPU.trim_start_matches('/'), 0o755, program)?;
    archive.file("bench/tiny", 0o755, tiny)?;
    archive.symlink("bench/busybox", "/bin/busybox")?;
    Ok(archive)
}

/// The init that loads the disk's driver and measures it with `program`, which spends so many milliseconds on each row.
pub fn disk_init(program: Vec<u8>, budget: u32) -> Result<Archive<'static>> {
    let script = format!(
        "#!/bin/busybox sh\necho {MARKER}\n\
         /bin/busybox mount -t proc proc /proc\n\
         /bin/busybox mount -t sysfs sysfs /sys\n\
         /bin/busybox mount -t devtmpfs dev /dev\n\
         for module in $(/bin/busybox cat /etc/motu/modules /etc/motu/modules-disk); do /bin/busybox insmod $module; done\n\
         /bench/disk /dev/vda {budget}\nexec /bin/busybox poweroff -f\n"
    );
    let mut archive = Archive::new();
    archive.file("bench/disk", 0o755, program)?;
    archive.file(DISK.trim_start_matches('/'), 0o755, script.into_bytes())?;
    Ok(archive)
}

/// A file of an archive of the "newc" kind (Documentation/driver-api/early-userspace/buffer-format.rst).
fn member<'a>(archive: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    /// The header: a magic number and 13 numbers of 8 hexadecimal digits each.
    const HEADER: usize = 6 + 13 * 8;
    let mut at = 0;
    loop {
        let header = archive.get(at..)?.get(..HEADER)?;
        let number = |index: usize| {
            let digits = header.get(6 + 8 * index..)?.get(..8)?;
            usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (size, name_size) = (number(6)?, number(11)?);
        let name = archive.get(at + HEADER..)?.get(..name_size.checked_sub(1)?)?;
        let start = (at + HEADER + name_size).next_multiple_of(4);
        if name == wanted.as_bytes() {
            return archive.get(start..)?.get(..size);
        }
        at = (start + size).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_archive_is_found_by_its_name() {
        let mut archive = Archive::new();
        archive.file("bin/other", 0o755, &b"odd"[..]).unwrap();
        archive.file("bin/busybox", 0o755, &b"program"[..]).unwrap();
        archive.file("empty", 0o644, &b""[..]).unwrap();
        let bytes = archive.to_bytes();
        assert_eq!(member(&bytes, "bin/busybox"), Some(&b"program"[..]));
        assert_eq!(member(&bytes, "empty"), Some(&b""[..]));
        assert_eq!(member(&bytes, "bin/sh"), None);
        assert_eq!(member(b"no archive", "bin/sh"), None);
    }
}
