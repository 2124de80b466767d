//! Guests on the host's own CPU: `motu-hv` on the Linux kernel's KVM (Documentation/virt/kvm/api.rst, "API" below).
//!
//! The kernel has the CPU and its local APIC (split irqchip: every other interrupt controller is the board's). What it
//! cannot finish alone comes back as an exit, which [`vcpu`] answers by [`motu_hv::GuestBus`]:
//!
//! ```text
//!   kick? -> 8259's interrupt? -> KVM_RUN --exit--> port, MMIO, MSR, EOI: answered, and on
//!     |                             ^                                              |
//!     +-> run returns, when KVM_RUN has said EINTR, so that nothing is half done --+
//! ```
//!
//! `facts` says what a host's KVM can do and how that differs from a CPU contract; `backing` whether there is hardware
//! behind it at all.

mod backing;
mod cpuid;
mod debug;
mod dirty;
mod facts;
mod host;
mod kick;
mod memory;
mod msi;
mod msr;
mod profile;
mod stand;
mod state;
mod tell;
mod time;
mod vcpu;
mod vm;

#[cfg(test)]
mod tests;

pub use backing::{Backing, cpu_has_virtualization};
pub use facts::{EXTENSIONS, Extension};
pub use host::{OpenError, open};
pub use vm::KvmHypervisor;
