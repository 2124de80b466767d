//! A guest under construction: memory, tables, start state; and one run of it.

use crate::board::{Action, Board, Event, PAGE, Trap};
use crate::handlers;
use crate::layout::{self, selector};
use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use iced_x86::{BlockEncoderOptions, IcedError};
use motu_hv::{CrashReport, Exit, HvError, Hypervisor, VmConfig};
use motu_memory::{GuestRam, MemoryError};
use motu_x86::contract::MISC_ENABLE_RESET;
use motu_x86::flags::{cr0, cr4, efer, xcr0};
use motu_x86::{CpuState, DescriptorTable, Gpa, Segment};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The processor that the guests are written for.
const CONTRACT: &str = "v2-2026";
/// A guest that has not ended by then never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bits of a paging-structure entry.
pub mod page {
    pub const P: u64 = 1 << 0;
    pub const W: u64 = 1 << 1;
    pub const U: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const NX: u64 = 1 << 63;
    /// Present and writable, for the supervisor.
    pub const KERNEL: u64 = P | W;
    /// Present and writable, for everyone.
    pub const USER: u64 = P | W | U;
}

/// Why a guest does not conform, or could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("assembling the guest: {0}")]
    Assemble(#[from] IcedError),
    #[error("building the guest: {0}")]
    Memory(#[from] MemoryError),
    #[error("the engine: {0}")]
    Engine(#[from] HvError),
    #[error("{what} is {found} and must be {expected}")]
    Differs { what: String, found: String, expected: String },
    #[error("{0}")]
    Other(String),
}

/// What most functions here give.
pub type Checked<T = ()> = Result<T, Problem>;

/// # Errors
/// The two differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: impl Into<String>, found: T, expected: T) -> Checked {
    if found == expected {
        return Ok(());
    }
    let text = |value: T| format!("{value:x?}");
    Err(Problem::Differs { what: what.into(), found: text(found), expected: text(expected) })
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest said so, with this value; 0 is what it says when it is content.
    Value(u32),
    /// Triple fault.
    Shutdown,
    /// It had to be stopped.
    Endless,
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Run {
    pub end: End,
    pub events: Vec<Event>,
    pub report: CrashReport,
}

impl Run {
    /// The values that the guest logged.
    pub fn values(&self) -> Vec<u64> {
        let value = |event: &Event| if let Event::Value(value) = event { Some(*value) } else { None };
        self.events.iter().filter_map(value).collect()
    }

    /// The exceptions and interrupts that the common handler took.
    pub fn traps(&self) -> Vec<Trap> {
        let trap = |event: &Event| if let Event::Trap(trap) = event { Some(*trap) } else { None };
        self.events.iter().filter_map(trap).collect()
    }

    /// Vector and error code of each trap.
    pub fn faults(&self) -> Vec<(u64, u64)> {
        self.traps().iter().map(|trap| (trap.vector, trap.error)).collect()
    }

    /// The trap number `index`.
    ///
    /// # Errors
    /// There were fewer.
    pub fn trap(&self, index: usize) -> Checked<Trap> {
        let missing = || Problem::Other(format!("trap number {index} did not come; there were {:x?}", self.faults()));
        self.traps().get(index).copied().ok_or_else(missing)
    }
}

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
    pub action: Option<Arc<Action>>,
    next_table: u64,
    pub(crate) last: Option<Run>,
}

impl<'h> Bench<'h> {
    pub(crate) fn new(hypervisor: &'h dyn Hypervisor) -> Checked<Self> {
        let ram = GuestRam::new(layout::RAM)?;
        let next_table = layout::TABLES + 0x1000;
        let mut bench = Self { hypervisor, ram, state: start(), action: None, next_table, last: None };
        for at in (0x1000..layout::USER_CODE).step_by(0x1000) {
            bench.map(at, at, page::KERNEL)?;
        }
        for at in (layout::USER_CODE..layout::FRAMES).step_by(0x1000) {
            bench.map(at, at, page::USER)?;
        }
        bench.map(layout::BOARD, PAGE, page::USER | page::NX)?;
        bench.map(layout::APIC, 0xfee0_0000, page::KERNEL | page::NX)?;
        for (index, descriptor) in GLOBAL_DESCRIPTORS.iter().enumerate() {
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
        let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
        let result = assembler.assemble_options(at, options)?;
        self.ram.write(Gpa(at), &result.inner.code_buffer)?;
        Ok(Code(result))
    }

    /// Maps the 4 KiB page at `linear`, with every right in the structures above it.
    ///
    /// # Errors
    /// There are no more frames for paging structures.
    pub fn map(&mut self, linear: u64, physical: u64, flags: u64) -> Checked {
        self.map_at(1, linear, physical, flags)
    }

    /// Maps a page of level 1 (4 KiB), 2 (2 MiB) or 3 (1 GiB); the latter two need [`page::PS`].
    ///
    /// # Errors
    /// There are no more frames for paging structures.
    pub fn map_at(&mut self, level: u32, linear: u64, physical: u64, flags: u64) -> Checked {
        for above in (level + 1..=4).rev() {
            let at = self.entry(linear, above)?;
            if self.read(at)? & page::P == 0 {
                if self.next_table >= layout::TABLES_END {
                    return Err(Problem::Other("too many paging structures".into()));
                }
                self.write(at, self.next_table | page::USER)?;
                self.next_table += 0x1000;
            }
        }
        let at = self.entry(linear, level)?;
        self.write(at, physical | flags)
    }

    /// Where the entry of level 4 (PML4) to 1 (PT) for `linear` lies, in the identity mapping.
    ///
    /// # Errors
    /// A structure above it is missing.
    pub fn entry(&self, linear: u64, level: u32) -> Checked<u64> {
        let mut table = self.state.cr3 & !0xfff;
        for above in (level + 1..=4).rev() {
            table = self.read(slot(table, linear, above))? & 0x000f_ffff_ffff_f000;
        }
        Ok(slot(table, linear, level))
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

    /// Runs the guest to whatever end.
    ///
    /// # Errors
    /// The engine cannot run it.
    pub fn run_anyhow(&mut self) -> Checked<Run> {
        let config = VmConfig { ram: self.ram.clone(), contract: CONTRACT, vcpus: 1 };
        let vm = self.hypervisor.create_vm(config)?;
        let mut vcpu = vm.create_vcpu(0)?;
        vcpu.restore(&self.state)?;
        let board = Board::new(vm, self.ram.clone(), vcpu.kicker(), self.action.clone());
        let (done, waiting) = std::sync::mpsc::channel::<()>();
        let endless = AtomicBool::new(false);
        let shutdown = std::thread::scope(|scope| {
            let (kick, endless) = (vcpu.kicker(), &endless);
            scope.spawn(move || {
                if waiting.recv_timeout(PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    endless.store(true, Ordering::SeqCst);
                    kick.kick();
                }
            });
            let shutdown = loop {
                match vcpu.run(&board) {
                    Exit::Shutdown => break true,
                    Exit::Kicked if board.ended.load(Ordering::SeqCst) || endless.load(Ordering::SeqCst) => {
                        break false;
                    }
                    Exit::Kicked => {}
                }
            };
            drop(done);
            shutdown
        });
        let (events, value) = board.take();
        let end = match value {
            _ if shutdown => End::Shutdown,
            Some(value) => End::Value(value),
            None => End::Endless,
        };
        let run = Run { end, events, report: vcpu.crash_report() };
        self.last = Some(run.clone());
        Ok(run)
    }
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("state", &self.state).finish_non_exhaustive()
    }
}

fn slot(table: u64, linear: u64, level: u32) -> u64 {
    table + ((linear >> (3 + 9 * level)) & 0x1ff) * 8
}

/// The GDT by [`selector`]; accessed bits are set, so that loads do not write.
const GLOBAL_DESCRIPTORS: [u64; 16] = {
    let mut table = [0; 16];
    table[1] = 0x00af_9b00_0000_ffff;
    table[2] = 0x00cf_9300_0000_ffff;
    table[3] = 0x00cf_9b00_0000_ffff;
    table[4] = 0x00cf_fb00_0000_ffff;
    table[5] = 0x00cf_f300_0000_ffff;
    table[6] = 0x00af_fb00_0000_ffff;
    table[7] = 0x0000_8b00_0000_0000 | (layout::TSS & 0xff_ffff) << 16 | TSS_LIMIT as u64;
    table[9] = 0x00cf_1300_0000_ffff;
    table[10] = 0x00af_9f00_0000_ffff;
    table[11] = 0x00af_1b00_0000_ffff;
    table[12] = 0x00cf_9100_0000_ffff;
    table
};

/// Without a permission map: every port is refused to ring 3.
const TSS_LIMIT: u32 = 0x67;

fn start() -> CpuState {
    let mut state = CpuState {
        rip: layout::CODE,
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
        cr3: layout::TABLES,
        cr4: cr4::DE | cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE,
        xcr0: xcr0::X87 | xcr0::SSE,
        gdtr: DescriptorTable { base: layout::GDT, limit: 0x7f },
        idtr: DescriptorTable { base: layout::IDT, limit: 0xfff },
        ..CpuState::default()
    };
    state.gpr[4] = layout::STACK;
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.msrs.misc_enable = MISC_ENABLE_RESET;
    let data = Segment::flat_data(selector::DATA);
    state.segments.cs = Segment::flat_code(selector::CODE, true);
    (state.segments.ss, state.segments.ds, state.segments.es) = (data, data, data);
    (state.segments.fs, state.segments.gs) = (data, data);
    state.segments.ldtr = Segment::null();
    state.segments.tr =
        Segment { selector: selector::TASK, base: layout::TSS, limit: TSS_LIMIT, attributes: 0xb | Segment::PRESENT };
    let registers = &mut state.lapic.registers;
    registers[0x0e] = u32::MAX;
    registers[0x0f] = 0x1ff;
    registers[0x32..0x38].fill(0x1_0000);
    state
}
