//! The software x86-64 CPU.
//!
//! `decode` turns guest bytes into blocks of operations, `exec` says what each operation does, `mmu` finds
//! memory, `native` lets the host execute what only computes, `lapic` and `event` bring interrupts,
//! `vcpu` runs it all behind the seam of `motu-hv`.

mod alarm;
mod apic;
mod arena;
mod cpu;
mod debugger;
mod decode;
mod event;
mod exec;
pub mod harness;
mod history;
pub mod inventory;
mod lapic;
mod lockstep;
mod mmu;
mod msr;
mod native;
mod options;
mod profile;
mod reset;
mod run;
mod smp;
mod state;
mod translate;
mod vcpu;
mod vm;

pub use options::{Options, Translate};
pub use vm::SoftHypervisor;
