//! Why a machine cannot be started from what a person gave.

use motu_memory::MemoryError;
use std::{fmt, io};

/// Which of a person's files an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Kernel,
    Initrd,
    /// A file that comes with a multiboot kernel.
    Module,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Kernel => "kernel",
            Role::Initrd => "initrd",
            Role::Module => "module",
        })
    }
}

/// A number of bytes as a person reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes if bytes < MIB => write!(f, "{bytes} bytes"),
            bytes if bytes.is_multiple_of(MIB) => write!(f, "{} MiB", bytes / MIB),
            bytes => write!(f, "{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB),
        }
    }
}

/// Why nothing can be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the {role} {name} cannot be opened: {source}")]
    Open { role: Role, name: String, source: io::Error },
    #[error("the {role} {name} is {what}; a regular file is needed")]
    NotAFile { role: Role, name: String, what: &'static str },
    #[error("the {role} {name} is empty")]
    Empty { role: Role, name: String },
    #[error("reading {bytes} bytes at offset {offset} of the {role} {name}: {source}")]
    Read { role: Role, name: String, offset: u64, bytes: usize, source: io::Error },
    #[error(
        "{name} is no kernel that can be booted: it looks like {looks_like}; an x86 bzImage, or an x86 ELF with a \
         PVH entry or a multiboot header, is needed (any other binary needs an address: --kernel-address)"
    )]
    NotAKernel { name: String, looks_like: String },
    #[error("the kernel {name} is truncated: its header speaks of {needs} bytes, the file has {has}")]
    Truncated { name: String, needs: u64, has: u64 },
    #[error("uncompressing the kernel {name}: {source}")]
    Gzip { name: String, source: io::Error },
    #[error("the kernel {name} uncompresses to more than the {} that there is room for", Size(*.max))]
    GzipTooLarge { name: String, max: u64 },
    #[error(
        "the bzImage {name} speaks boot protocol {}.{:02}; 2.02 or newer is needed (Linux 2.4 or newer)",
        .version >> 8, .version & 0xff
    )]
    OldProtocol { name: String, version: u16 },
    #[error("the kernel {name} is damaged: {what}")]
    Damaged { name: String, what: String },
    #[error(
        "the kernel {name} needs memory up to {}, and the machine has {} there; give it more memory",
        Size(*.needs), Size(*.has)
    )]
    KernelTooLarge { name: String, needs: u64, has: u64 },
    #[error(
        "the {role} {name} of {} does not fit: beside the kernel {} are free; give the machine more memory",
        Size(*.bytes), Size(*.free)
    )]
    InitrdTooLarge { role: Role, name: String, bytes: u64, free: u64 },
    #[error("the kernel {name} takes one initrd, and {given} files are given")]
    OneInitrd { name: String, given: usize },
    #[error(
        "a module has no name in {text:?}; for a multiboot kernel write FILE or 'FILE ARG...,FILE ARG...', \
         with ,, for a comma of the text"
    )]
    NoModuleName { text: String },
    #[error(
        "the kernel {name} needs what no loader of Multiboot version 1 has (flags {needs:#x} of its header); \
         a kernel for version 0.6.96 of the specification is needed"
    )]
    MultibootNeeds { name: String, needs: u32 },
    #[error(
        "the command lines of the kernel and its modules come to {bytes} bytes, and there is room for {room}; \
         shorten them"
    )]
    MultibootInfoTooLong { bytes: usize, room: usize },
    #[error("the kernel {name} would lie at {start:#x} to {end:#x}, where the {what} must be")]
    Overlap { name: String, start: u64, end: u64, what: &'static str },
    #[error(
        "the binary {name} would lie at {start:#x} to {end:#x}, and the machine's memory there ends at {ram:#x}; \
         give a lower address or more memory"
    )]
    FlatOutside { name: String, start: u64, end: u64, ram: u64 },
    #[error(
        "real mode cannot start at {address:#x}; give an address below 0x10000, or a multiple of 16 below 0x100000"
    )]
    FlatRealEntry { address: u64 },
    #[error("the binary {name} is started as it is, and nothing would read the {what}; leave out the {what}")]
    FlatTakesNo { name: String, what: &'static str },
    #[error("the machine has {} of memory; at least {} are needed to boot anything", Size(*.has), Size(*.needs))]
    TooLittleMemory { has: u64, needs: u64 },
    #[error("the kernel command line has {length} bytes; this kernel takes at most {max}")]
    CommandLineTooLong { length: usize, max: usize },
    #[error("the kernel command line has a NUL byte at position {position}, and the kernel would stop reading there")]
    CommandLineNul { position: usize },
    #[error("the board cannot be described to the guest: {0}")]
    Board(String),
    #[error("placing the {what}: {source}")]
    Memory { what: &'static str, source: MemoryError },
}
