//! Fuzz targets: one for each surface that a guest's bytes, or an image's, reach.
//!
//! A target is a plain function of bytes that must come to an end, panic on nothing and stay within the
//! bounds of [`bound`]. Three drivers feed them: libFuzzer, guided by coverage (`src/libfuzzer.rs`);
//! random inputs, where there is no C++ compiler (`src/main.rs`); and `cargo test`, which replays what is
//! in `corpus/` and `regressions/`. docs/fuzzing.md says what was run; ADR 11 says why so.

mod boot;
mod bound;
mod cpu;
mod devices;
mod disk;
mod ext4;
mod fuse;
mod pci;
mod proto;
pub mod random;
mod registers;
mod rootfs;
mod spec;
mod virtio;
mod virtqueue;

/// A surface, and how it is given bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub about: &'static str,
    /// Longest input worth trying, in bytes.
    pub max_len: usize,
    pub run: fn(&[u8]),
}

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    target("acpi_pm", "ACPI power management's registers and timer", 512, devices::acpi_pm),
    target("agent_proto", "what the agent in the guest sends", 4096, proto::run),
    target("bzimage", "a kernel that begins as a bzImage", 8192, boot::bzimage),
    target("decode", "code of every size, decoded and lowered", 256, cpu::decode),
    target("elf", "a kernel that begins as an ELF", 8192, boot::elf),
    target("ext4", "a file system with bytes changed, that is to be a layer", 256, ext4::run),
    target("fuse", "a guest's messages to a shared folder", 1024, fuse::run),
    target("i8042", "the keyboard controller's registers, and keys", 512, devices::i8042),
    target("interpret", "code, tables and events in every mode of the CPU", 2048, cpu::interpret),
    target("ioapic", "the I/O APIC's registers and pins", 512, devices::ioapic),
    target("kernel", "a kernel of any kind with an initrd and a command line", 8192, boot::kernel),
    target("lapic", "the local APIC's registers and MSRs, messages and timer", 1024, cpu::lapic),
    target("pci", "configuration space, BARs, MSI-X and INTx", 1024, pci::run),
    target("pic", "the 8259 pair's registers and inputs", 512, devices::pic),
    target("pit", "the 8254's registers and port 0x61", 512, devices::pit),
    target("ports", "POST code, debug exit and ports that nothing depends on", 512, devices::ports),
    target("qcow2", "a qcow2 image, and a guest that uses it", 8192, disk::qcow2),
    target("rootfs", "layers, as tar archives, and the file system made of them", 4096, rootfs::run),
    target("rtc", "the MC146818's registers", 512, devices::rtc),
    target("spec", "what a person asks for: sizes, times and JSON", 1024, spec::run),
    target("uart", "the 16550A's registers, and input", 512, devices::uart),
    target("virtio_pci", "virtio's transport, console, disk and entropy device", 2048, virtio::run),
    target("virtqueue", "rings and descriptor chains", 1024, virtqueue::run),
];

const fn target(name: &'static str, about: &'static str, max_len: usize, run: fn(&[u8])) -> Target {
    Target { name, about, max_len, run }
}

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
