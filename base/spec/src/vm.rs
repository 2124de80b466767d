//! One machine as asked for, and the rules it must keep.

use crate::{
    ByteSize, DiskSpec, EngineChoice, Gdb, GuestAddress, ParseShareError, Period, Profile, ShareSpec, Timeout, Trace,
    Turn,
};
use motu_seed::{SeedError, SeedSpec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The image that `motu run` uses when none is named.
pub const DEFAULT_IMAGE: &str = "tiny";
/// RAM of a machine that does not say.
pub const DEFAULT_MEMORY: ByteSize = ByteSize::mib(512);
/// Below this no Linux kernel of today comes up.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(16);
/// What 40 physical address bits reach, less the hole below 4 GiB and room for devices.
pub const MAX_MEMORY: ByteSize = ByteSize::gib(512);
/// Virtual CPUs at most: what 8-bit APIC identifiers reach.
pub const MAX_CPUS: u32 = 254;
/// Disks at most: PCI slots that are left beside the devices that every machine has.
pub const MAX_DISKS: usize = 28;
/// Bytes of a kernel command line at most, without its terminating zero: Linux's
/// COMMAND_LINE_SIZE on x86 is 2048.
pub const MAX_CMDLINE: usize = 2047;

/// What a person asks a machine to be. Every key may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Image to boot; with `kernel` it must not be given. Neither means [`DEFAULT_IMAGE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Kernel to boot instead of an image: a bzImage, a PVH ELF, a multiboot kernel, or any binary if
    /// `kernel_address` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for `kernel`. For a multiboot kernel, its modules: `FILE ARG...,FILE ARG...`, where
    /// `,,` is one comma of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// `kernel` is loaded here as it is, and started at its first byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_address: Option<GuestAddress>,
    /// The processor's mode at `kernel_address`; protected mode when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_mode: Option<KernelMode>,
    /// Kernel command line; appended to the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// RAM in bytes: [`MIN_MEMORY`] to [`MAX_MEMORY`], a multiple of 4096, not more than the host has.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// Virtual CPUs: 1 to what the engine can run.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// In the order in which the guest finds them; no file twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// Folders of the host; no two at one place in the guest. Each takes the room of a disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareSpec>,
    /// What cloud-init in the guest is given: a disk behind all others, which takes the room of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<SeedSpec>,
    #[serde(default)]
    pub engine: EngineChoice,
    /// How often the machine goes over to the other of two engines that take turns; with one engine it must not be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_every: Option<Period>,
    /// CPU contract; the highest that the host can keep when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Where the serial console goes; its default depends on what is booted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<Console>,
    /// The machine is stopped when it has run this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// The machine has QEMU's `isa-debug-exit` at port 0xf4: a write ends it with a status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub debug_exit: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<Trace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gdb: Option<Gdb>,
}

/// The mode that the processor starts a binary in which is loaded at an address of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelMode {
    /// 16-bit real mode.
    Real,
    /// 32-bit protected mode, flat, without paging.
    #[default]
    Protected,
    /// 64-bit mode, the first 4 GiB mapped to themselves.
    Long,
}

/// A text that names no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mode that a kernel starts in; the modes are real, protected and long")]
pub struct ParseModeError(String);

/// Where the first serial port's output goes. Written `stdio`, `none` or a file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// This terminal, or the standard streams; input too.
    Stdio,
    /// Thrown away.
    None,
    /// Written to this file, which is made or emptied first.
    File(PathBuf),
}

/// What this host and the chosen engine can do; [`VmSpec::validate`] checks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits<'a> {
    /// The engine, as `--engine` names it.
    pub engine: &'a str,
    /// Virtual CPUs that the engine can run.
    pub max_cpus: u32,
    /// CPU contracts that this host can keep, highest first.
    pub contracts: &'a [&'a str],
    /// Bytes of memory and swap that the host has.
    pub host_memory: u64,
}

/// What is wrong with a spec, and what would have been right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{0} of memory is too little; give at least {MIN_MEMORY}")]
    TooLittleMemory(ByteSize),
    #[error(
        "{0} bytes of memory is less than a machine needs; a number without a unit is bytes: \
         write {0}M for mebibytes (at least {MIN_MEMORY})"
    )]
    UnitForgotten(u64),
    #[error("{asked} of memory is more than this host can give; it has {have}")]
    TooMuchMemory { asked: ByteSize, have: ByteSize },
    #[error("{0} of memory is more than a machine can have; give at most {MAX_MEMORY}")]
    BeyondAddressSpace(ByteSize),
    #[error("{asked} bytes of memory is not a multiple of 4096; {nearest} is the next that is", nearest = asked.next_multiple_of(4096))]
    OddMemory { asked: u64 },
    #[error("a machine needs at least 1 virtual CPU")]
    NoCpus,
    #[error("{asked} virtual CPUs is more than the {engine} engine can run; give at most {max}")]
    TooManyCpus { asked: u32, engine: String, max: u32 },
    #[error(
        "to switch every {every} takes two engines, and {engine} is one; name two, such as --engine kvm,soft, or leave \
         --switch-every out"
    )]
    SwitchOfOneEngine { every: Period, engine: EngineChoice },
    #[error(
        "two engines take turns: say how often the machine goes from one to the other, such as --switch-every 10ms, or name \
         one (kvm by itself has soft run what it cannot)"
    )]
    TurnsWithoutPeriod,
    #[error("{asked:?} is no CPU contract that this host can keep; it can keep {}", have.join(", "))]
    UnknownCpu { asked: String, have: Vec<String> },
    #[error("an image and a kernel cannot both be given; leave out one of image {image:?} and kernel {kernel:?}")]
    ImageAndKernel { image: String, kernel: PathBuf },
    #[error("an initrd needs a kernel to load it; give a kernel too, or leave the initrd out")]
    InitrdWithoutKernel,
    #[error("an address needs a kernel to load there; give a kernel too, or leave the kernel's address out")]
    AddressWithoutKernel,
    #[error(
        "a kernel's mode needs its address; give the address to load it at too, or leave the mode out (a kernel's \
         format says what mode it starts in)"
    )]
    ModeWithoutAddress,
    #[error(
        "{0} disks and shared folders are more than a machine has room for; give at most {MAX_DISKS} of both (what cloud-init is \
         given is a disk, too)"
    )]
    TooManyDisks(usize),
    #[error("the disk {} is given twice; give it once", .0.display())]
    DiskTwice(PathBuf),
    #[error("two folders are to be at {0} in the guest; give each a place of its own")]
    TargetTwice(String),
    #[error(transparent)]
    Share(#[from] ParseShareError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error("the kernel command line is {0} bytes long; Linux takes at most {MAX_CMDLINE}")]
    CmdlineTooLong(usize),
    #[error("the kernel command line has a zero byte in it; write it as plain text")]
    CmdlineZero,
}

fn default_memory() -> ByteSize {
    DEFAULT_MEMORY
}

fn default_cpus() -> u32 {
    1
}

impl Default for VmSpec {
    fn default() -> Self {
        Self {
            image: None,
            kernel: None,
            initrd: None,
            kernel_address: None,
            kernel_mode: None,
            cmdline: None,
            memory: DEFAULT_MEMORY,
            cpus: default_cpus(),
            disks: Vec::new(),
            shares: Vec::new(),
            seed: None,
            engine: EngineChoice::default(),
            switch_every: None,
            cpu: None,
            console: None,
            timeout: None,
            debug_exit: false,
            traces: Vec::new(),
            profile: None,
            gdb: None,
        }
    }
}

impl VmSpec {
    /// The image to boot; `None` when a kernel is given.
    pub fn image_name(&self) -> Option<&str> {
        match (&self.kernel, &self.image) {
            (Some(_), _) => None,
            (None, image) => Some(image.as_deref().unwrap_or(DEFAULT_IMAGE)),
        }
    }

    /// The engines that take turns, if there are two, and how often.
    ///
    /// # Errors
    /// There are two and no period, or one and a period.
    pub fn turns(&self) -> Result<Option<(&[Turn; 2], Period)>, SpecError> {
        match (&self.engine, self.switch_every) {
            (EngineChoice::Turns(engines), Some(every)) => Ok(Some((engines, every))),
            (EngineChoice::Turns(_), None) => Err(SpecError::TurnsWithoutPeriod),
            (engine, Some(every)) => Err(SpecError::SwitchOfOneEngine { every, engine: engine.clone() }),
            (_, None) => Ok(None),
        }
    }

    /// Checks every rule that does not need the files themselves.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self, limits: &Limits<'_>) -> Result<(), SpecError> {
        self.turns()?;
        self.validate_sources()?;
        self.validate_memory(limits)?;
        self.validate_disks()?;
        self.validate_cpus(limits)
    }

    fn validate_disks(&self) -> Result<(), SpecError> {
        let together = self.disks.len() + self.shares.len() + usize::from(self.seed.is_some());
        if together > MAX_DISKS {
            return Err(SpecError::TooManyDisks(together));
        }
        for (n, disk) in self.disks.iter().enumerate() {
            if self.disks.iter().take(n).any(|other| other.path == disk.path) {
                return Err(SpecError::DiskTwice(disk.path.clone()));
            }
        }
        for (n, share) in self.shares.iter().enumerate() {
            share.check()?;
            // By parts: `/a/` is `/a`.
            let place = Path::new(&share.target);
            if self.shares.iter().take(n).any(|other| Path::new(&other.target) == place) {
                return Err(SpecError::TargetTwice(share.target.clone()));
            }
        }
        Ok(self.seed.as_ref().map_or(Ok(()), SeedSpec::check)?)
    }

    fn validate_sources(&self) -> Result<(), SpecError> {
        if let (Some(image), Some(kernel)) = (&self.image, &self.kernel) {
            return Err(SpecError::ImageAndKernel { image: image.clone(), kernel: kernel.clone() });
        }
        if self.initrd.is_some() && self.kernel.is_none() {
            return Err(SpecError::InitrdWithoutKernel);
        }
        if self.kernel_address.is_some() && self.kernel.is_none() {
            return Err(SpecError::AddressWithoutKernel);
        }
        if self.kernel_mode.is_some() && self.kernel_address.is_none() {
            return Err(SpecError::ModeWithoutAddress);
        }
        let cmdline = self.cmdline.as_deref().unwrap_or_default();
        if cmdline.len() > MAX_CMDLINE {
            return Err(SpecError::CmdlineTooLong(cmdline.len()));
        }
        if cmdline.contains('\0') {
            return Err(SpecError::CmdlineZero);
        }
        Ok(())
    }

    fn validate_memory(&self, limits: &Limits<'_>) -> Result<(), SpecError> {
        let asked = self.memory;
        if asked < MIN_MEMORY {
            // Nobody asks for less than a page per megabyte that they meant.
            return Err(if (1..ByteSize::kib(64).0).contains(&asked.0) {
                SpecError::UnitForgotten(asked.0)
            } else {
                SpecError::TooLittleMemory(asked)
            });
        }
        if asked.0 > limits.host_memory {
            let have = ByteSize(limits.host_memory & !(ByteSize::mib(1).0 - 1));
            return Err(SpecError::TooMuchMemory { asked, have });
        }
        if asked > MAX_MEMORY {
            return Err(SpecError::BeyondAddressSpace(asked));
        }
        if !asked.0.is_multiple_of(4096) {
            return Err(SpecError::OddMemory { asked: asked.0 });
        }
        Ok(())
    }

    fn validate_cpus(&self, limits: &Limits<'_>) -> Result<(), SpecError> {
        if self.cpus == 0 {
            return Err(SpecError::NoCpus);
        }
        let max = limits.max_cpus.min(MAX_CPUS);
        if self.cpus > max {
            return Err(SpecError::TooManyCpus { asked: self.cpus, engine: limits.engine.to_owned(), max });
        }
        match &self.cpu {
            Some(asked) if !limits.contracts.contains(&asked.as_str()) => Err(SpecError::UnknownCpu {
                asked: asked.clone(),
                have: limits.contracts.iter().map(|&c| c.to_owned()).collect(),
            }),
            _ => Ok(()),
        }
    }
}

impl FromStr for KernelMode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        match text {
            "real" => Ok(Self::Real),
            "protected" => Ok(Self::Protected),
            "long" => Ok(Self::Long),
            _ => Err(ParseModeError(text.to_owned())),
        }
    }
}

impl From<&str> for Console {
    fn from(text: &str) -> Self {
        match text {
            "stdio" => Self::Stdio,
            "none" => Self::None,
            path => Self::File(path.into()),
        }
    }
}

impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.write_str("stdio"),
            Self::None => f.write_str("none"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for Console {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Refuses a path that is not UTF-8 instead of changing it.
            Self::File(path) => path.serialize(serializer),
            Self::Stdio | Self::None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Console {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(deserializer)?.as_str()))
    }
}

#[cfg(test)]
mod tests;
