//! The host CPU as the guest's FPU, SIMD and bit-manipulation unit.
//!
//! An instruction that only computes on registers and one memory operand is executed by the host's own
//! instruction, in a stub that loads the guest's registers, runs it and stores what it wrote. The stub
//! is made once for each distinct instruction, whatever its address operand: memory is staged in a
//! buffer, so that translation, permission and alignment stay with the interpreter.
//!
//! What the interpreter does for an instruction that [`NativeCache::compile`] accepted:
//!
//! 1. #UD and #NM as [`Thunk::unit`] says; #MF if [`Thunk::is_waiting_x87`] and [`pending_x87_exception`].
//! 2. If [`Thunk::memory`]: check [`MemoryOperand::alignment`] (#GP(0)); if it reads, copy `size` bytes from
//!    the guest into the [`Staging`]; if it writes, make sure that the write will succeed.
//! 3. [`NativeCache::run`]. On [`Outcome::Done`] copy `size` bytes back if it writes, then
//!    [`Thunk::record_x87_pointers`] if the unit is x87. Any other outcome has changed no destination.
//!
//! In the live state the bytes of the [`XsaveArea`] are the registers: XSTATE_BV is not consulted.

mod builtin;
mod classify;
mod elements;
mod environment;
mod image;
mod simd;
mod stub;
mod templates;
mod x87;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub use classify::required_alignment;
pub use classify::{NotNative, Unit, unit};
pub use elements::{ElementAddress, ElementMemory, run_elements};
pub use environment::{
    EnvironmentFormat, StateImage, fldenv, fninit, fnsave_image, fnstenv_image, frstor, mask_x87_exceptions,
};
pub use image::{FXSAVE_SIZE, ImageForm, fxrstor_image, fxsave_image, make_live, xrstor_image, xsave_image};
pub use simd::mxcsr;
pub use x87::{control as x87_control, pending_x87_exception, status as x87_status};

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use iced_x86::{Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use motu_x86::XsaveArea;

use crate::arena::Arena;
use builtin::Builtin;
use stub::Plan;
use templates::Templates;

/// Bytes of machine code that one cache holds at most.
const ARENA_SIZE: usize = 2 << 20;
/// Stubs that one cache holds at most; bounds the table beside the arena.
const MAX_STUBS: usize = 16 << 10;
/// The longest memory operand of an instruction that runs natively.
const MAX_OPERAND: usize = 64;

/// Numbers every filling of every cache, so that a thunk fits only the code it was compiled for.
static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);

/// The memory operand of a thunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// In bytes, 1 to 64.
    pub size: u16,
    pub reads: bool,
    pub writes: bool,
    /// In bytes, a power of two; an address that is no multiple of it is #GP(0).
    pub alignment: u16,
}

/// Where the interpreter puts the source and finds the result of a memory operand.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Staging(pub [u8; MAX_OPERAND]);

impl Default for Staging {
    fn default() -> Self {
        Self([0; MAX_OPERAND])
    }
}

impl Staging {
    fn word(&self) -> u16 {
        self.0.first_chunk().copied().map_or(0, u16::from_le_bytes)
    }

    fn dword(&self) -> u32 {
        self.0.first_chunk().copied().map_or(0, u32::from_le_bytes)
    }

    fn set_word(&mut self, value: u16) {
        if let Some(bytes) = self.0.first_chunk_mut() {
            *bytes = value.to_le_bytes();
        }
    }

    fn set_dword(&mut self, value: u32) {
        if let Some(bytes) = self.0.first_chunk_mut() {
            *bytes = value.to_le_bytes();
        }
    }
}

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It ran; registers, flags and staging hold its results.
    Done,
    /// An unmasked SIMD floating-point exception: #XM, or #UD if CR4.OSXMMEXCPT is clear. MXCSR's flags are
    /// set, no destination is.
    SimdException,
    /// An x87 exception of an earlier instruction is pending: #MF. The instruction has not run.
    X87Exception,
    /// LDMXCSR of a value with reserved bits: #GP(0).
    GeneralProtection,
    /// The cache was cleared since the thunk was compiled: compile the instruction again.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Registers only, no exceptions.
    Plain(u32),
    /// Depends on MXCSR.
    Simd(u32),
    /// Goes through FXRSTOR and FXSAVE.
    X87(u32),
    /// Both: the conversions between MMX and packed floating point.
    MmxSimd {
        offset: u32,
        /// Names an MMX register, so that the transition to MMX precedes a SIMD exception.
        transition: bool,
    },
    Builtin(Builtin),
}

/// A compiled instruction. It is good for the cache that made it, until that is cleared.
#[derive(Clone, Copy, Debug)]
pub struct Thunk {
    generation: u64,
    action: Action,
    unit: Unit,
    vex: bool,
    waiting: bool,
    memory: Option<MemoryOperand>,
    touches_flags: bool,
    /// The source of VCVTPS2PH, which flushes nothing to zero: vector register, and how many lanes.
    halves: Option<(usize, usize)>,
    /// What the x87 pointers record; `None` for anything but a non-control x87 instruction.
    opcode: Option<u16>,
}

impl Thunk {
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// VEX-encoded: #UD in real and virtual-8086 mode.
    pub fn is_vex(&self) -> bool {
        self.vex
    }

    pub fn memory(&self) -> Option<MemoryOperand> {
        self.memory
    }

    /// Reads or writes arithmetic flags. If not, [`NativeCache::run`] may be given any value for them.
    pub fn touches_flags(&self) -> bool {
        self.touches_flags
    }

    /// Changes FPU state beside its destination: x87 and MMX (stack, tags, flags), and what writes MXCSR.
    pub fn changes_state(&self) -> bool {
        !matches!(self.action, Action::Plain(_))
    }

    /// Computes by one host instruction on general and vector registers, MXCSR and memory.
    pub fn is_computation(&self) -> bool {
        matches!(self.action, Action::Plain(_) | Action::Simd(_))
    }

    /// Raises a pending x87 exception before it does anything: all of x87 and MMX but the `fn` forms.
    pub fn is_waiting_x87(&self) -> bool {
        self.waiting
    }

    /// Sets FIP, FDP and FOP after an x87 instruction at offset `rip` with its memory operand at offset `data`
    /// in its segment. Control instructions leave them as they were. FOP is recorded only with an unmasked
    /// exception, as on every CPU without FOP compatibility mode, and so is FDP, as CPUID.7.EBX, bit 6 says (SDM
    /// vol. 1, 8.1.8 and 8.1.9).
    pub fn record_x87_pointers(&self, fpu: &mut XsaveArea, rip: u64, data: Option<u64>) {
        let Some(opcode) = self.opcode else { return };
        x87::set_instruction_pointer(fpu, rip);
        if pending_x87_exception(fpu) {
            x87::set_opcode(fpu, opcode);
            if let Some(data) = data {
                x87::set_data_pointer(fpu, data);
            }
        }
    }
}

/// A stub as the table keeps it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    action: Action,
    memory: Option<MemoryOperand>,
}

/// Machine code of one instruction with its address operand removed, padded with its length.
type Key = [u8; 16];

/// The stubs of one virtual CPU.
pub struct NativeCache {
    arena: Arena,
    stubs: HashMap<Key, Entry>,
    info: InstructionInfoFactory,
    templates: Templates,
    generation: u64,
    max_stubs: usize,
}

impl std::fmt::Debug for NativeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeCache").field("stubs", &self.stubs.len()).field("generation", &self.generation).finish()
    }
}

impl NativeCache {
    /// An empty cache. Fails when the host refuses executable memory.
    pub fn new() -> io::Result<Self> {
        Self::with_limits(ARENA_SIZE, MAX_STUBS)
    }

    fn with_limits(bytes: usize, max_stubs: usize) -> io::Result<Self> {
        Ok(Self {
            arena: Arena::new(bytes)?,
            stubs: HashMap::new(),
            info: InstructionInfoFactory::new(),
            templates: Templates::new().map_err(io::Error::other)?,
            generation: next_generation(),
            max_stubs,
        })
    }

    /// Changes whenever thunks of this cache have become stale; never the same for two caches.
    #[cfg(test)]
    fn generation(&self) -> u64 {
        self.generation
    }

    /// Compiles `instruction`, or finds its stub. When the cache is full it is emptied first.
    pub fn compile(&mut self, instruction: &Instruction) -> Result<Thunk, NotNative> {
        classify::admit(instruction)?;
        let plain = stub::without_address(instruction);
        let key = key(&plain).ok_or(NotNative::Interpreted)?;
        let entry = match self.stubs.get(&key) {
            Some(&entry) if Builtin::of(instruction).is_none() => entry,
            _ => self.add(instruction, &plain, key)?,
        };
        let unit = classify::unit(instruction);
        let mnemonic = instruction.mnemonic();
        let waiting = matches!(unit, Unit::X87 | Unit::Mmx | Unit::Wait) && !classify::is_non_waiting(instruction);
        let records = unit == Unit::X87 && !classify::is_x87_control(mnemonic);
        Ok(Thunk {
            generation: self.generation,
            action: entry.action,
            unit,
            vex: instruction.code().encoding() == iced_x86::EncodingKind::VEX,
            waiting,
            memory: entry.memory,
            touches_flags: stub::touches_flags(&plain),
            halves: (mnemonic == Mnemonic::Vcvtps2ph)
                .then(|| (instruction.op1_register().number(), instruction.op1_register().size() / 4)),
            opcode: records.then(|| x87_opcode(instruction)),
        })
    }

    fn add(&mut self, instruction: &Instruction, plain: &Instruction, key: Key) -> Result<Entry, NotNative> {
        let builtin = Builtin::of(instruction);
        let memory = match builtin {
            Some(builtin) if builtin.ignores_memory() => None,
            _ => memory_operand(plain, &mut self.info)?,
        };
        if let Some(builtin) = builtin {
            return Ok(Entry { action: Action::Builtin(builtin), memory });
        }
        let unit = classify::unit(plain);
        let simd = simd::depends_on_mxcsr(plain.mnemonic());
        let plan = Plan::new(plain, unit, simd, &mut self.info).ok_or(NotNative::Interpreted)?;
        let code = plan.assemble(&mut self.templates).map_err(|_| NotNative::Interpreted)?;
        if self.stubs.len() >= self.max_stubs {
            self.clear();
        }
        let offset = match self.arena.push(&code) {
            Some(offset) => offset,
            None => {
                self.clear();
                self.arena.push(&code).ok_or(NotNative::Interpreted)?
            }
        };
        let action = match unit {
            Unit::X87 | Unit::Mmx if simd => {
                Action::MmxSimd { offset, transition: (0..plain.op_count()).any(|i| plain.op_register(i).is_mm()) }
            }
            Unit::X87 | Unit::Mmx => Action::X87(offset),
            _ if simd => Action::Simd(offset),
            _ => Action::Plain(offset),
        };
        let entry = Entry { action, memory };
        self.stubs.insert(key, entry);
        Ok(entry)
    }

    /// Drops all stubs: thunks of before are stale.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.stubs.clear();
        self.generation = next_generation();
    }

    /// Runs an instruction on general registers (the first 16 of `gpr`, in encoding order), RFLAGS, the FPU
    /// state and the staged memory operand. Of `flags` only the six arithmetic flags change.
    #[inline]
    pub fn run<const N: usize>(
        &self,
        thunk: &Thunk,
        gpr: &mut [u64; N],
        flags: &mut u64,
        fpu: &mut XsaveArea,
        memory: &mut Staging,
    ) -> Outcome {
        const { assert!(N >= 16, "sixteen general registers") };
        if thunk.generation != self.generation {
            return Outcome::Stale;
        }
        let Some(gpr) = gpr.first_chunk_mut::<16>() else { return Outcome::Stale };
        let mut state = Registers { gpr, flags, fpu, memory };
        match thunk.action {
            Action::Plain(offset) => {
                self.call(offset, &mut state);
                Outcome::Done
            }
            Action::Simd(offset) => self.run_simd(thunk, offset, &mut state),
            Action::X87(offset) => self.run_x87(thunk, &mut state, |state| {
                self.call(offset, state);
                Outcome::Done
            }),
            Action::MmxSimd { offset, transition } => self.run_x87(thunk, &mut state, |state| {
                let outcome = self.run_simd(thunk, offset, state);
                if outcome == Outcome::SimdException && transition {
                    x87::enter_mmx(state.fpu);
                }
                outcome
            }),
            Action::Builtin(builtin) => {
                if thunk.waiting && pending_x87_exception(state.fpu) {
                    return Outcome::X87Exception;
                }
                let [rax, ..] = state.gpr;
                builtin.run(rax, state.fpu, state.memory)
            }
        }
    }

    #[inline]
    fn run_simd(&self, thunk: &Thunk, offset: u32, state: &mut Registers<'_>) -> Outcome {
        if simd::mxcsr(state.fpu) & simd::UNDERFLOW_MASK == 0 && self.raises_with_underflow(thunk, offset, state) {
            return Outcome::SimdException;
        }
        match self.call(offset, state) {
            0 => Outcome::Done,
            raised => {
                simd::record_unmasked(state.fpu, raised);
                Outcome::SimdException
            }
        }
    }

    /// An unmasked underflow is raised by every tiny result, a masked one only by those that are inexact too
    /// (SDM vol. 1, 4.9.1.5). The stub runs masked, so the exact ones are found by flushing to zero, which
    /// reports all of them, but for VCVTPS2PH, whose source is looked at. PE may be reported with an unmasked underflow or overflow although the result would
    /// be exact with an unbounded exponent. Works on copies; sets the guest's flags when anything unmasked is raised.
    #[cold]
    fn raises_with_underflow(&self, thunk: &Thunk, offset: u32, state: &mut Registers<'_>) -> bool {
        let guest = simd::mxcsr(state.fpu);
        let probe = |control: u32| {
            let (mut gpr, mut flags) = (*state.gpr, *state.flags);
            let (mut fpu, mut memory) = (state.fpu.clone(), state.memory.clone());
            simd::set_mxcsr(&mut fpu, (guest & !0x3f) | simd::MXCSR_DEFAULT | control);
            self.call(offset, &mut Registers { gpr: &mut gpr, flags: &mut flags, fpu: &mut fpu, memory: &mut memory });
            simd::mxcsr(&fpu) & 0x3f
        };
        let tiny = match thunk.halves {
            Some((register, lanes)) if simd::has_exact_tiny_half(state.fpu, register, lanes) => simd::UNDERFLOW_FLAG,
            _ => 0,
        };
        let raised = tiny | probe(0) | (probe(simd::FLUSH_TO_ZERO) & simd::UNDERFLOW_FLAG);
        if raised & !(guest >> 7) == 0 {
            return false;
        }
        simd::record_unmasked(state.fpu, raised);
        true
    }

    /// What surrounds a stub that goes through FXRSTOR and FXSAVE.
    fn run_x87(
        &self,
        thunk: &Thunk,
        state: &mut Registers<'_>,
        execute: impl FnOnce(&mut Registers<'_>) -> Outcome,
    ) -> Outcome {
        // With one pending the host would raise it, in the host.
        if thunk.waiting && pending_x87_exception(state.fpu) {
            return Outcome::X87Exception;
        }
        // FXRSTOR faults on reserved bits, which a foreign image may have.
        simd::set_mxcsr(state.fpu, simd::mxcsr(state.fpu));
        let pointers = x87::pointers(state.fpu);
        let outcome = execute(state);
        x87::set_pointers(state.fpu, &pointers);
        outcome
    }

    /// Calls the stub at `offset`. Returns the MXCSR flags raised, zero when the results are stored.
    #[inline]
    fn call(&self, offset: u32, state: &mut Registers<'_>) -> u32 {
        type Stub = unsafe extern "sysv64" fn(*mut u64, *mut u8, u64, u64, *mut u8, *mut u64) -> u32;
        let address = self.arena.executable(offset);
        // SAFETY: `offset` came from `Arena::push` in this generation, so a whole stub lies there, in memory
        // that is mapped executable and that nothing writes.
        let stub: Stub = unsafe { std::mem::transmute::<*const u8, Stub>(address) };
        // SAFETY: a stub touches only the sixteen registers, the legacy and YMM parts of the image (which is
        // 64-byte aligned), at most MAX_OPERAND bytes of staging and the flags, all borrowed mutably here;
        // it keeps the ABI's saved registers and restores MXCSR and the x87 state.
        unsafe {
            stub(
                state.gpr.as_mut_ptr(),
                state.fpu.0.as_mut_ptr(),
                0,
                0,
                state.memory.0.as_mut_ptr(),
                std::ptr::from_mut(state.flags),
            )
        }
    }
}

/// The guest state that a stub works on.
struct Registers<'a> {
    gpr: &'a mut [u64; 16],
    flags: &'a mut u64,
    fpu: &'a mut XsaveArea,
    memory: &'a mut Staging,
}

fn next_generation() -> u64 {
    NEXT_GENERATION.fetch_add(1, Ordering::Relaxed)
}

fn key(plain: &Instruction) -> Option<Key> {
    let mut encoder = Encoder::new(64);
    let length = encoder.encode(plain, 0).ok()?;
    let mut key = [0; 16];
    let code = encoder.take_buffer();
    key.get_mut(..code.len())?.copy_from_slice(&code);
    *key.last_mut()? = u8::try_from(length).ok()?;
    Some(key)
}

/// The memory operand of `plain`, or an error when it is one that cannot be staged.
fn memory_operand(plain: &Instruction, info: &mut InstructionInfoFactory) -> Result<Option<MemoryOperand>, NotNative> {
    if !plain.op_kinds().any(|kind| kind == OpKind::Memory) {
        return Ok(None);
    }
    let used = info.info(plain);
    let [memory] = used.used_memory() else { return Err(NotNative::Interpreted) };
    let size = memory.memory_size().size();
    let (reads, writes) = match memory.access() {
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write => (false, true),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite | OpAccess::CondWrite => (true, true),
        _ => return Err(NotNative::Interpreted),
    };
    if size == 0 || size > MAX_OPERAND {
        return Err(NotNative::Interpreted);
    }
    let size = u16::try_from(size).map_err(|_| NotNative::Interpreted)?;
    Ok(Some(MemoryOperand { size, reads, writes, alignment: classify::required_alignment(plain, size) }))
}

/// FOP: the low three bits of the first opcode byte and the ModRM byte (SDM vol. 1, 8.1.9).
fn x87_opcode(instruction: &Instruction) -> u16 {
    let mut encoder = Encoder::new(match instruction.code_size() {
        iced_x86::CodeSize::Code16 => 16,
        iced_x86::CodeSize::Code32 => 32,
        _ => 64,
    });
    if encoder.encode(instruction, instruction.ip()).is_err() {
        return 0;
    }
    let code = encoder.take_buffer();
    let escape = code.iter().position(|&byte| (0xd8..=0xdf).contains(&byte)).unwrap_or(0);
    match code.get(escape..escape + 2) {
        Some(&[first, modrm]) => u16::from(first & 7) << 8 | u16::from(modrm),
        _ => 0,
    }
}
