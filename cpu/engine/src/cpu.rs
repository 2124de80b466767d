//! The state of one software CPU, laid out for the interpreter.

use crate::debugger::Debugger;
use crate::decode::Op;
use crate::exec::width::{Arith, Width, arith};
use crate::lapic::Lapic;
use crate::mmu::{Mmu, Privilege};
use crate::native::NativeCache;
use crate::smp::{Processors, Spin, Written};
use motu_hv::{GuestBus, Stats};
use motu_x86::contract::Contract;
use motu_x86::flags::{cr0, cr4, efer, rflags};
use motu_x86::{DescriptorTable, Exception, Msrs, Nanos, Segment, XsaveArea};
use std::ptr::NonNull;
use std::sync::Arc;

/// An exception is waiting in [`Cpu::fault`]. Carries nothing, so that a `Result` stays in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// What a memory access or an instruction gives.
pub type Faulting<T> = Result<T, Fault>;

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with the next instruction of the block.
    Next,
    /// The instruction set RIP; the block is over.
    Jump,
    /// The instruction is complete, but what was decoded or assumed after it may not hold any more.
    Stop,
    /// A repeated instruction was interrupted: RIP stays at it.
    Again,
}

/// How an instruction handler returns.
pub type Done = Faulting<Flow>;

/// Index of a segment register; the order of its encoding (SDM vol. 2, table 2-2 sreg).
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Reasons for the run loop to look up between two blocks.
pub mod alert {
    /// An interrupt or NMI is waiting, deliverable or not.
    pub const EVENT: u8 = 1 << 0;
    /// Interrupts wait for one more instruction (STI, MOV SS).
    pub const SHADOW: u8 = 1 << 1;
    /// In HLT.
    pub const HALTED: u8 = 1 << 2;
    /// After a triple fault.
    pub const SHUTDOWN: u8 = 1 << 3;
    /// The APIC timer may have been set to another time.
    pub const TIMER: u8 = 1 << 4;
    /// A debug trap is due behind the last instruction.
    pub const TRAP: u8 = 1 << 5;
    /// A breakpoint on instructions is enabled, each is to be told of, or the debugger steps: they run one by one.
    pub const BREAKPOINT: u8 = 1 << 6;
    /// An application processor before its start-up message.
    pub const WAIT_FOR_SIPI: u8 = 1 << 7;
}

/// What decoding depends on beside the bytes and the contract, as bits.
pub mod key {
    /// [`super::CodeSize`].
    pub const SIZE: u32 = 0x7f;
    /// ES, SS or DS is no writable segment of 4 GiB: every operand is checked.
    pub const SEGMENTED: u32 = 1 << 8;
    /// Alignment is checked: CPL 3, CR0.AM and RFLAGS.AC.
    pub const ALIGN: u32 = 1 << 9;
    /// A data breakpoint is enabled, the guest's or the host's debugger's.
    pub const WATCH: u32 = 1 << 10;
    /// CS ends below 4 GiB.
    pub const CODE_LIMIT: u32 = 1 << 11;
    /// CPL is 3: code that ring 0 may run is not found by ring 3, nor the other way round.
    pub const USER: u32 = 1 << 12;
    /// Outside of 64-bit mode: CS, ES, SS or DS begins elsewhere than at 0, the stack has 16 bits, or the CPU is not in
    /// protected mode. Nothing is decoded another way; the translator wants to know.
    pub const NOT_FLAT: u32 = 1 << 13;
}

/// Slots of the register file beyond the sixteen general registers.
pub mod slot {
    pub const RAX: u8 = 0;
    pub const RCX: u8 = 1;
    pub const RDX: u8 = 2;
    pub const RBX: u8 = 3;
    pub const RSP: u8 = 4;
    pub const RBP: u8 = 5;
    pub const RSI: u8 = 6;
    pub const RDI: u8 = 7;
    pub const R11: u8 = 11;
    /// Always zero: the base or index of an operand that has none.
    pub const ZERO: u8 = 16;
    /// The address of the running block's first instruction, for RIP-relative operands.
    pub const BLOCK: u8 = 17;
}

/// Register file slots; the byte view of it is exactly what a `u8` can index.
const SLOTS: usize = 32;

/// Operating mode as far as decoding depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CodeSize {
    Bits16 = 16,
    Bits32 = 32,
    Bits64 = 64,
}

pub struct Cpu {
    registers: [u64; SLOTS],
    /// Start of the running block while one runs; the next instruction otherwise.
    pub rip: u64,
    pub arith: Arith,
    /// The flags before a repeated comparison of which a piece has run and no interrupt came since.
    pub repeat_flags: Option<Arith>,
    /// RFLAGS without the arithmetic flags.
    pub system_flags: u64,
    pub fault: Exception,
    pub mmu: Mmu,
    /// Segment bases as address generation uses them: zero for ES, CS, SS and DS in 64-bit mode.
    pub bases: [u64; 8],
    /// Linear addresses are cut by it: all ones in 64-bit mode, 32 ones elsewhere.
    pub linear_mask: u64,
    /// The stack pointer is cut by it: 64, 32 or 16 ones.
    pub stack_mask: u64,
    pub code_size: CodeSize,
    /// Bits of [`key`].
    pub key: u32,
    /// Operands may need more than paging's checks: see [`crate::exec::guard`].
    pub guards: bool,
    /// 0 to 3.
    pub cpl: u8,
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: DescriptorTable,
    pub idtr: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    /// PAE without long mode: what CR3's last load read (SDM vol. 3, 4.4.1).
    pub directories: [u64; 4],
    pub cr4: u64,
    pub xcr0: u64,
    pub dr: [u64; 8],
    pub msrs: Msrs,
    pub fpu: Box<XsaveArea>,
    /// Rights of user pages by protection key: read by RDPKRU, and by data accesses where CR4.PKE is set.
    pub pkru: u32,
    pub native: NativeCache,
    pub lapic: Lapic,
    pub contract: &'static Contract,
    pub id: u32,
    /// All processors of the machine, this one too.
    pub processors: Arc<Processors>,
    /// How long it has been waiting by PAUSE.
    pub spin: Spin,
    /// Guest TSC minus the machine's time in nanoseconds: the guest's TSC counts at 1 GHz.
    pub tsc_offset: u64,
    /// What keeps the run loop from going straight on: bits of [`alert`].
    pub alerts: u8,
    /// Where the program goes on if what is being delivered fails: set by a task switch that got so far.
    pub restart: Option<u64>,
    /// The EXT bit of error codes: an event is being delivered that the program did not ask for.
    pub external: u32,
    /// Bits of DR6 of data breakpoints that the running instruction has hit, and one of the host's debugger.
    pub watch_hits: u64,
    /// What the host's debugger asks for.
    pub debugger: Debugger,
    /// Bits of DR6 of the debug trap that is due.
    pub debug_trap_bits: u64,
    /// A data breakpoint is enabled, the guest's or the host's debugger's.
    pub watches_data: bool,
    /// An I/O breakpoint is enabled.
    pub watches_ports: bool,
    /// The running instruction is not followed by a single-step trap whatever TF was before it.
    pub no_step: bool,
    /// Vector of an external interrupt that a restored state was about to handle: it comes next.
    pub acknowledged: Option<u8>,
    pub nmi_pending: bool,
    /// INIT came.
    pub init_pending: bool,
    pub nmi_blocked: bool,
    /// Operations of the running block that may still run; a store to decoded code lowers it.
    pub limit: usize,
    /// Stores of this CPU's to pages that it holds decoded code of.
    pub code_writes: Vec<Written>,
    /// Operations of the block that is being decoded.
    pub decoded: Vec<Op>,
    pub stats: Stats,
    /// Is told what the CPU does, if anybody wants to know.
    pub tracer: Option<Box<dyn motu_hv::Tracer>>,
    /// Valid while [`motu_hv::Vcpu::run`] is on the stack.
    pub bus: Option<NonNull<dyn GuestBus>>,
}

// SAFETY: `bus` is set only inside `run`, on the thread that runs, and cleared before it returns;
// every other field is owned.
unsafe impl Send for Cpu {}

impl Cpu {
    pub fn new(
        id: u32,
        processors: Arc<Processors>,
        contract: &'static Contract,
        mmu: Mmu,
        native: NativeCache,
    ) -> Self {
        let reset = motu_x86::CpuState::default();
        Self {
            registers: [0; SLOTS],
            rip: 0,
            arith: 0,
            repeat_flags: None,
            system_flags: rflags::FIXED_1,
            fault: Exception::plain(Exception::UD),
            mmu,
            bases: [0; 8],
            linear_mask: 0xffff_ffff,
            stack_mask: 0xffff,
            code_size: CodeSize::Bits16,
            key: CodeSize::Bits16 as u32,
            guards: true,
            cpl: 0,
            segments: [Segment::null(); 6],
            ldtr: Segment::null(),
            tr: Segment::null(),
            gdtr: DescriptorTable::default(),
            idtr: DescriptorTable::default(),
            cr0: reset.cr0,
            cr2: 0,
            cr3: 0,
            directories: [0; 4],
            cr4: 0,
            xcr0: reset.xcr0,
            dr: reset.dr,
            msrs: reset.msrs,
            fpu: Box::new(XsaveArea::at_reset()),
            pkru: 0,
            native,
            lapic: Lapic::new(id, contract),
            contract,
            id,
            processors,
            spin: Spin::default(),
            tsc_offset: 0,
            alerts: 0,
            restart: None,
            external: 0,
            watch_hits: 0,
            debugger: Debugger::default(),
            debug_trap_bits: 0,
            watches_data: false,
            watches_ports: false,
            no_step: false,
            acknowledged: None,
            nmi_pending: false,
            init_pending: false,
            nmi_blocked: false,
            limit: 0,
            code_writes: Vec::new(),
            decoded: Vec::new(),
            stats: Stats::default(),
            tracer: None,
            bus: None,
        }
    }

    /// The board, while the CPU runs.
    pub fn bus(&self) -> &dyn GuestBus {
        match self.bus {
            // SAFETY: set from a reference that outlives the `run` we are called under.
            Some(bus) => unsafe { &*bus.as_ptr() },
            None => &NoBus,
        }
    }

    #[inline(always)]
    pub fn gpr(&self, slot: u8) -> u64 {
        self.registers[(slot & 31) as usize]
    }

    #[inline(always)]
    pub fn set_gpr(&mut self, slot: u8, value: u64) {
        self.registers[(slot & 31) as usize] = value;
    }

    /// The sixteen general registers.
    pub fn gprs(&self) -> &[u64; 16] {
        self.registers.first_chunk().expect("the file has 32 slots")
    }

    pub fn gprs_mut(&mut self) -> &mut [u64; 16] {
        self.registers.first_chunk_mut().expect("the file has 32 slots")
    }

    /// Registers, FPU and stub cache at once, for native execution.
    pub fn native_parts(&mut self) -> (&mut [u64; 16], &mut XsaveArea, &mut NativeCache) {
        let gprs = self.registers.first_chunk_mut().expect("the file has 32 slots");
        (gprs, &mut self.fpu, &mut self.native)
    }

    /// Reads the operand at byte `offset` of the register file.
    #[inline(always)]
    pub fn register<W: Width>(&self, offset: u8) -> W {
        let wide = W::BYTES as usize;
        // SAFETY: the file is 256 bytes and `offset` is aligned to the width (decode sees to it, and
        // the mask repeats it), so the whole operand lies inside; every bit pattern is a valid W.
        unsafe {
            let base = self.registers.as_ptr().cast::<u8>();
            base.add(offset as usize & !(wide - 1)).cast::<W>().read_unaligned()
        }
    }

    /// Writes the operand at byte `offset`: 32-bit results clear the upper half (SDM vol. 1, 3.4.1.1).
    #[inline(always)]
    pub fn set_register<W: Width>(&mut self, offset: u8, value: W) {
        let wide = W::BYTES as usize;
        if wide == 4 {
            self.registers[(offset >> 3) as usize & (SLOTS - 1)] = value.to_u64();
            return;
        }
        // SAFETY: as in `register`.
        unsafe {
            let base = self.registers.as_mut_ptr().cast::<u8>();
            base.add(offset as usize & !(wide - 1)).cast::<W>().write_unaligned(value);
        }
    }

    /// All of RFLAGS.
    pub fn rflags(&self) -> u64 {
        self.system_flags | arith::to_rflags(self.arith)
    }

    /// Sets or clears arithmetic flags, bits of [`arith`]; the others stay.
    #[inline(always)]
    pub fn set_flags(&mut self, flags: Arith, on: bool) {
        self.arith = (self.arith & !flags) | if on { flags } else { 0 };
    }

    /// Replaces all of RFLAGS; reserved bits keep their fixed values.
    pub fn set_rflags(&mut self, value: u64) {
        self.arith = arith::from_rflags(value);
        let new = (value & rflags::DEFINED & !rflags::ARITHMETIC) | rflags::FIXED_1;
        let changed = new ^ self.system_flags;
        self.system_flags = new;
        if changed & rflags::AC != 0 {
            self.privilege_changed();
        }
    }

    #[inline(always)]
    pub fn direction_down(&self) -> bool {
        self.system_flags & rflags::DF != 0
    }

    pub fn interrupts_enabled(&self) -> bool {
        self.system_flags & rflags::IF != 0
    }

    pub fn iopl(&self) -> u8 {
        ((self.system_flags >> 12) & 3) as u8
    }

    /// Long mode is active (IA32_EFER.LMA): 64-bit or compatibility mode.
    pub fn long_mode(&self) -> bool {
        self.msrs.efer & efer::LMA != 0
    }

    /// Protected mode, 64-bit and compatibility mode included; neither real-address nor virtual-8086 mode.
    pub fn protected_mode(&self) -> bool {
        self.cr0 & cr0::PE != 0 && self.system_flags & rflags::VM == 0
    }

    pub fn virtual_8086(&self) -> bool {
        self.system_flags & rflags::VM != 0
    }

    /// Guest TSC at the machine's time `now`.
    pub fn tsc_at(&self, now: Nanos) -> u64 {
        now.0.wrapping_add(self.tsc_offset)
    }

    pub fn tsc(&self) -> u64 {
        self.tsc_at(self.bus().now())
    }

    /// Raises an exception: what a handler returns when it cannot go on.
    #[cold]
    pub fn raise<T>(&mut self, exception: Exception) -> Faulting<T> {
        self.fault = exception;
        Err(Fault)
    }

    /// #GP(`code`).
    #[cold]
    pub fn general_protection<T>(&mut self, code: u32) -> Faulting<T> {
        self.raise(Exception::with_code(Exception::GP, code))
    }

    /// #UD.
    #[cold]
    pub fn undefined<T>(&mut self) -> Faulting<T> {
        self.raise(Exception::plain(Exception::UD))
    }

    pub fn is_alerted(&self, alert: u8) -> bool {
        self.alerts & alert != 0
    }

    pub fn set_alert(&mut self, alert: u8, on: bool) {
        self.alerts = if on { self.alerts | alert } else { self.alerts & !alert };
    }

    /// Recomputes everything that address generation, decoding and the TLB derive from segments,
    /// CR0, CR4, EFER and CPL.
    pub fn mode_changed(&mut self) {
        let cs = self.segments[seg::CS];
        let long = self.long_mode();
        let was_64_bits = self.code_size == CodeSize::Bits64;
        self.code_size = if long && cs.attributes & Segment::L != 0 {
            CodeSize::Bits64
        } else if cs.attributes & Segment::DB != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        };
        let bits64 = self.code_size == CodeSize::Bits64;
        if was_64_bits && !bits64 {
            self.clear_upper_halves();
        }
        for (index, segment) in self.segments.iter().enumerate() {
            let flat = bits64 && index != seg::FS && index != seg::GS;
            self.bases[index] = if flat { 0 } else { segment.base };
        }
        self.linear_mask = if bits64 { u64::MAX } else { 0xffff_ffff };
        self.stack_mask = if bits64 {
            u64::MAX
        } else if self.segments[seg::SS].attributes & Segment::DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        };
        self.key = self.decoding_key();
        self.guards = !bits64 || self.key & (key::ALIGN | key::WATCH) != 0;
        self.mmu.configure(&crate::mmu::Control {
            paging: self.cr0 & cr0::PG != 0,
            write_protect: self.cr0 & cr0::WP != 0,
            pae: self.cr4 & cr4::PAE != 0,
            pse: self.cr4 & cr4::PSE != 0,
            global: self.cr4 & cr4::PGE != 0,
            smep: self.cr4 & cr4::SMEP != 0,
            smap: self.cr4 & cr4::SMAP != 0,
            protection_keys: long && self.cr4 & cr4::PKE != 0,
            pkru: self.pkru,
            directories: self.directories,
            no_execute: self.msrs.efer & efer::NXE != 0,
            long,
            reserved: (1 << 52) - (1 << self.contract.physical_address_bits()),
            privilege: self.data_privilege(),
            root: self.cr3,
        });
    }

    /// The same where nothing has changed but CPL, RFLAGS.AC, CS and SS: from 64-bit code to 64-bit code little depends
    /// on them.
    #[inline(always)]
    pub fn privilege_changed(&mut self) {
        let long = self.long_mode() && self.segments[seg::CS].attributes & Segment::L != 0;
        if !long || self.code_size != CodeSize::Bits64 {
            self.mode_changed();
            return;
        }
        self.key = CodeSize::Bits64 as u32 | self.key_of_privilege();
        self.guards = self.key & (key::ALIGN | key::WATCH) != 0;
        self.mmu.set_privilege(self.data_privilege());
    }

    /// With whose rights the program accesses memory.
    #[inline(always)]
    fn data_privilege(&self) -> Privilege {
        match self.privilege_at(self.cpl) {
            Privilege::SupervisorWithUser if self.cr4 & cr4::SMAP == 0 => Privilege::Supervisor,
            privilege => privilege,
        }
    }

    /// Whether a segment register has a writable segment of 4 GiB, in which outside of 64-bit mode any operand lies.
    pub fn has_whole_segment(&self, index: usize) -> bool {
        let Segment { limit, attributes, .. } = self.segments[index];
        limit == u32::MAX && attributes & (Segment::UNUSABLE | Segment::S | 0b1110) == Segment::S | 0b0010
    }

    /// The upper halves of general registers do not survive the way out of 64-bit mode (SDM vol. 1, 3.4.1.1). Here they are
    /// zero behind it, as code of 32 bits leaves whatever it writes.
    fn clear_upper_halves(&mut self) {
        self.registers.iter_mut().take(8).for_each(|register| *register &= 0xffff_ffff);
    }

    /// Whether the registers that code outside of 64-bit mode has are 32 bits and zeros above.
    #[inline(always)]
    pub fn upper_halves_are_clear(&self) -> bool {
        self.registers.iter().take(8).fold(0, |all, register| all | register) >> 32 == 0
    }

    fn decoding_key(&self) -> u32 {
        let bits64 = self.code_size == CodeSize::Bits64;
        let segmented = !bits64 && ![seg::ES, seg::SS, seg::DS].into_iter().all(|index| self.has_whole_segment(index));
        let code_limit = !bits64 && self.segments[seg::CS].limit != u32::MAX;
        let based = [seg::CS, seg::ES, seg::SS, seg::DS].into_iter().any(|index| self.bases[index] != 0);
        let not_flat = !bits64 && (based || self.stack_mask != 0xffff_ffff || !self.protected_mode());
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        self.code_size as u32
            | bit(segmented, key::SEGMENTED)
            | bit(code_limit, key::CODE_LIMIT)
            | bit(not_flat, key::NOT_FLAT)
            | self.key_of_privilege()
    }

    /// The key's bits that code of every size has.
    #[inline(always)]
    fn key_of_privilege(&self) -> u32 {
        let align = self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.system_flags & rflags::AC != 0;
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        bit(align, key::ALIGN) | bit(self.watches_data, key::WATCH) | bit(self.cpl == 3, key::USER)
    }

    /// Linear address of offset `rip` in the code segment.
    #[inline(always)]
    pub fn code_linear(&self, rip: u64) -> u64 {
        rip.wrapping_add(self.bases[seg::CS]) & self.linear_mask
    }

    /// The part of decoding's key that is not the address.
    #[inline(always)]
    pub fn decode_key(&self) -> u32 {
        self.key
    }
}

impl std::fmt::Debug for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu").field("id", &self.id).field("rip", &self.rip).finish_non_exhaustive()
    }
}

/// Where a CPU that is not on a board looks: nothing answers, time stands still.
struct NoBus;

impl GuestBus for NoBus {
    fn io_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: motu_x86::Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: motu_x86::Gpa, _: &[u8]) {}
    fn acknowledge_interrupt(&self) -> u8 {
        0xff
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> Nanos {
        Nanos(0)
    }
}
