//! A guest under construction: memory, tables, start state; and one run of it.

mod legacy;
mod outcome;
mod paging;
mod run;
mod start;

pub use legacy::{Asm, descriptor, gate};
pub use outcome::{Checked, End, Problem, Run, same};
pub use paging::{Paging, page};

use crate::board::{Action, PAGE};
use crate::handlers;
use crate::layout::{self, selector};
use iced_x86::BlockEncoderOptions;
use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use motu_hv::Hypervisor;
use motu_memory::GuestRam;
use motu_x86::{CpuState, Gpa};
use std::sync::Arc;
use std::time::Duration;

/// The processor that the guests are written for.
const CONTRACT: &str = "v2-2026";
/// Code that lies in the guest's memory.
#[derive(Debug)]
pub struct Code(iced_x86::code_asm::CodeAssemblerResult);

impl Code {
    /// Where a label is.
    ///
    /// # Errors
    /// It was never set.
    pub fn at(&self, label: &CodeLabel) -> Checked<u64> {
        Ok(self.0.label_ip(label)?)
    }
}

/// An IDT gate of 64-bit mode.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    pub offset: u64,
    pub selector: u16,
    pub ist: u8,
    pub dpl: u8,
    /// Leaves IF alone.
    pub trap: bool,
    pub present: bool,
}

impl Gate {
    /// An interrupt gate of ring 0 to `offset`.
    pub const fn to(offset: u64) -> Self {
        Self { offset, selector: selector::CODE, ist: 0, dpl: 0, trap: false, present: true }
    }
}

/// A guest's memory and start state.
pub struct Bench<'h> {
    hypervisor: &'h dyn Hypervisor,
    pub ram: GuestRam,
    /// The state that the guest starts in: 64-bit mode, ring 0, interrupts off, RIP at
    /// [`layout::CODE`].
    pub state: CpuState,
    /// The states of processors 1 and up, if there are more: see [`Bench::add_waiting`] and [`Bench::add_running`].
    pub others: Vec<CpuState>,
    /// The processor, by the name of its contract.
    pub contract: &'static str,
    pub action: Option<Arc<Action>>,
    /// Instructions of 16-bit and 32-bit code that are to fault.
    faults: u64,
    paging: Paging,
    next_table: u64,
    patience: Duration,
    pub(crate) runs: Vec<Run>,
}

impl<'h> Bench<'h> {
    pub(crate) fn new(hypervisor: &'h dyn Hypervisor, patience: Duration) -> Checked<Self> {
        let ram = GuestRam::new(layout::RAM)?;
        let next_table = layout::TABLES + 0x1000;
        let mut bench = Self {
            hypervisor,
            ram,
            state: start::long(),
            others: Vec::new(),
            contract: CONTRACT,
            action: None,
            faults: 0,
            paging: Paging::Long,
            next_table,
            patience,
            runs: Vec::new(),
        };
        for at in (0x1000..layout::USER_CODE).step_by(0x1000) {
            bench.map(at, at, page::KERNEL)?;
        }
        for at in (layout::USER_CODE..layout::FRAMES).step_by(0x1000) {
            bench.map(at, at, page::USER)?;
        }
        bench.map(layout::BOARD, PAGE, page::USER | page::NX)?;
        bench.map(layout::APIC, 0xfee0_0000, page::KERNEL | page::NX)?;
        for (index, descriptor) in start::GLOBAL_DESCRIPTORS.iter().enumerate() {
            bench.write(layout::GDT + 8 * index as u64, *descriptor)?;
        }
        bench.write(layout::TSS + 4, layout::RSP0)?;
        bench.write(layout::TSS + 0x24, layout::IST1)?;
        bench.write(layout::TSS + 0x2c, layout::IST2)?;
        bench.ram.write(Gpa(layout::TSS + 0x66), &(layout::IO_MAP as u16).to_le_bytes())?;
        handlers::install(&mut bench)?;
        Ok(bench)
    }

    /// An assembler for 64-bit or 32-bit code.
    ///
    /// # Errors
    /// `bits` is neither 16, 32 nor 64.
    pub fn assembler(&self, bits: u32) -> Checked<CodeAssembler> {
        Ok(CodeAssembler::new(bits)?)
    }

    /// Puts code at an address of the identity mapping.
    ///
    /// # Errors
    /// It cannot be encoded there.
    pub fn load(&mut self, at: u64, assembler: &mut CodeAssembler) -> Checked<Code> {
        self.load_at(at, at, assembler)
    }

    fn load_at(&mut self, at: u64, ip: u64, assembler: &mut CodeAssembler) -> Checked<Code> {
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = assembler.assemble_options(ip, options)?;
        self.ram.write(Gpa(at), &result.inner.code_buffer)?;
        Ok(Code(result))
    }

    /// Eight bytes of physical memory.
    ///
    /// # Errors
    /// Not RAM.
    pub fn read(&self, at: u64) -> Checked<u64> {
        let mut bytes = [0; 8];
        self.ram.read(Gpa(at), &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// # Errors
    /// Not RAM.
    pub fn write(&self, at: u64, value: u64) -> Checked {
        Ok(self.ram.write(Gpa(at), &value.to_le_bytes())?)
    }

    /// Changes one gate of the IDT.
    ///
    /// # Errors
    /// Never, as the IDT is RAM.
    pub fn gate(&self, vector: u8, gate: Gate) -> Checked {
        let at = layout::IDT + 16 * u64::from(vector);
        let kind = if gate.trap { 0xf } else { 0xe } | u64::from(gate.dpl) << 5 | u64::from(gate.present) << 7;
        let low = gate.offset & 0xffff
            | u64::from(gate.selector) << 16
            | u64::from(gate.ist) << 32
            | kind << 40
            | (gate.offset & 0xffff_0000) << 32;
        self.write(at, low)?;
        self.write(at + 8, gate.offset >> 32)
    }

    /// Runs the guest, which must end content.
    ///
    /// # Errors
    /// It did not, or the engine cannot run it.
    pub fn run(&mut self) -> Checked<Run> {
        let run = self.run_anyhow()?;
        same("the end of the guest", run.end, End::Value(0))?;
        Ok(run)
    }
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("state", &self.state).finish_non_exhaustive()
    }
}
