//! The parts of a stub that do not depend on its instruction's operands, assembled once per cache.
//!
//! Registers are as [`super::stub`] has them: RDI general registers, RSI image, R9 RFLAGS, R11 scratch.
//! RAX, RCX and RDX are free before the registers are loaded and after they are stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Offset of MXCSR in the image.
const MXCSR: i32 = 24;
/// Host MXCSR at entry, below RSP in the red zone.
const HOST_MXCSR: i32 = -8;
/// What is in force when the instruction begins.
const START_MXCSR: i32 = -16;
const SCRATCH: i32 = -24;
/// All exceptions masked, round to nearest, no flags: what Rust code runs with.
const MXCSR_DEFAULT: i32 = 0x1f80;
/// Masks, rounding control, FZ and DAZ without the flags.
const MXCSR_CONTROL: i32 = 0xffc0;
const MXCSR_FLAGS: i32 = 0x3f;

/// What a stub does besides moving registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    /// The state goes through FXRSTOR and FXSAVE: x87 and MMX.
    pub(super) fxsave: bool,
    /// The instruction depends on MXCSR.
    pub(super) simd: bool,
    /// The instruction uses vector registers through VEX.
    pub(super) vex: bool,
}

/// Code before and after the instruction of every stub with the same frame.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Before anything is loaded.
    pub(super) enter: Vec<u8>,
    /// Right after the instruction: leaves with an unmasked exception.
    pub(super) check: Vec<u8>,
    /// After everything is stored.
    pub(super) leave: Vec<u8>,
}

/// Fixed code blocks.
#[derive(Debug)]
pub(super) struct Templates {
    blocks: HashMap<Frame, Blocks>,
    /// Code that replaces the flags of a mask.
    merges: HashMap<u64, Vec<u8>>,
    pub(super) load_flags: Vec<u8>,
    pub(super) capture_flags: Vec<u8>,
}

impl Templates {
    pub(super) fn new() -> Result<Self, IcedError> {
        Ok(Self {
            blocks: HashMap::new(),
            merges: HashMap::new(),
            load_flags: assemble(load_flags)?,
            capture_flags: assemble(capture_flags)?,
        })
    }

    pub(super) fn blocks(&mut self, frame: Frame) -> Result<&Blocks, IcedError> {
        Ok(match self.blocks.entry(frame) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Blocks {
                enter: assemble(|a| enter(a, frame))?,
                check: if frame.simd { assemble(|a| check_mxcsr(a, frame))? } else { Vec::new() },
                leave: assemble(|a| leave(a, frame))?,
            }),
        })
    }

    /// Replaces the flags of `mask` by those that [`Self::capture_flags`] took.
    pub(super) fn merge_flags(&mut self, mask: u64) -> Result<&[u8], IcedError> {
        Ok(match self.merges.entry(mask) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(assemble(|a| merge_flags(a, mask as i32))?),
        })
    }
}

fn assemble(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    write(&mut a)?;
    a.assemble(0)
}

fn enter(a: &mut CodeAssembler, frame: Frame) -> Result<(), IcedError> {
    if frame.simd || frame.fxsave {
        a.stmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
    }
    if frame.fxsave {
        a.fxrstor64(ptr(rsi))?;
    }
    if frame.simd { guest_mxcsr(a, frame) } else { Ok(()) }
}

/// Puts the guest's rounding and denormal control in force, with all exceptions masked. LDMXCSR followed by
/// STMXCSR is slow on many CPUs, so nothing is loaded in the usual case: both sides have the default control,
/// and the host's sticky flags are some of the guest's, so that what the instruction adds to them can simply
/// be added to the guest's as well. Host code cares for no flags.
fn guest_mxcsr(a: &mut CodeAssembler, frame: Frame) -> Result<(), IcedError> {
    let mut load = a.create_label();
    let mut ready = a.create_label();
    a.mov(eax, dword_ptr(rsi + MXCSR))?;
    if !frame.fxsave {
        a.mov(ecx, dword_ptr(rsp + HOST_MXCSR))?;
        a.mov(dword_ptr(rsp + START_MXCSR), ecx)?;
        for value in [eax, ecx] {
            a.mov(edx, value)?;
            a.or(edx, MXCSR_FLAGS)?;
            a.cmp(edx, MXCSR_DEFAULT | MXCSR_FLAGS)?;
            a.jne(load)?;
        }
        a.mov(edx, eax)?;
        a.not(edx)?;
        a.test(ecx, edx)?;
        a.je(ready)?;
    }
    a.set_label(&mut load)?;
    a.and(eax, MXCSR_CONTROL)?;
    a.or(eax, MXCSR_DEFAULT)?;
    a.mov(dword_ptr(rsp + START_MXCSR), eax)?;
    a.ldmxcsr(dword_ptr(rsp + START_MXCSR))?;
    a.set_label(&mut ready)?;
    a.zero_bytes()
}

/// Leaves with the raised flags if the guest has one of them unmasked; otherwise adds them to the guest's.
/// R11 is the only register free here.
fn check_mxcsr(a: &mut CodeAssembler, frame: Frame) -> Result<(), IcedError> {
    let mut unchanged = a.create_label();
    let mut masked = a.create_label();
    let mut commit = a.create_label();
    a.stmxcsr(dword_ptr(rsp + SCRATCH))?;
    a.mov(r11d, dword_ptr(rsp + SCRATCH))?;
    a.cmp(r11d, dword_ptr(rsp + START_MXCSR))?;
    a.je(unchanged)?;
    a.and(r11d, MXCSR_FLAGS)?;
    a.mov(dword_ptr(rsp + SCRATCH), r11d)?;
    a.mov(r11d, dword_ptr(rsi + MXCSR))?;
    a.not(r11d)?;
    a.shr(r11d, 7)?;
    a.and(r11d, dword_ptr(rsp + SCRATCH))?;
    a.je(masked)?;
    a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
    a.mov(eax, dword_ptr(rsp + SCRATCH))?;
    if frame.fxsave {
        a.fninit()?;
    }
    if frame.vex {
        a.vzeroupper()?;
    }
    a.ret()?;
    a.set_label(&mut masked)?;
    a.mov(r11d, dword_ptr(rsp + SCRATCH))?;
    a.or(dword_ptr(rsi + MXCSR), r11d)?;
    a.set_label(&mut unchanged)?;
    // The default control is the host's own: it may stay, with its flags.
    a.mov(r11d, dword_ptr(rsp + START_MXCSR))?;
    a.or(r11d, MXCSR_FLAGS)?;
    a.cmp(r11d, MXCSR_DEFAULT | MXCSR_FLAGS)?;
    a.je(commit)?;
    a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
    a.set_label(&mut commit)?;
    a.zero_bytes()
}

fn leave(a: &mut CodeAssembler, frame: Frame) -> Result<(), IcedError> {
    if frame.fxsave {
        // The MXCSR that is in force now is not the guest's; neither is the host's MXCSR_MASK.
        a.mov(r11d, dword_ptr(rsi + MXCSR))?;
        a.fxsave64(ptr(rsi))?;
        a.mov(dword_ptr(rsi + MXCSR), r11d)?;
        a.mov(dword_ptr(rsi + (MXCSR + 4)), super::simd::MXCSR_MASK as i32)?;
        a.ldmxcsr(dword_ptr(rsp + HOST_MXCSR))?;
        // Host code must find an empty x87 stack and nothing pending.
        a.fninit()?;
    }
    if frame.vex {
        // Host code is compiled for SSE: it must not find dirty upper halves.
        a.vzeroupper()?;
    }
    a.xor(eax, eax)?;
    a.ret()
}

/// All six flags from `[r9]`, without POPF: nothing but arithmetic flags can come from there.
fn load_flags(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, dword_ptr(r9))?;
    a.bt(eax, 11)?;
    a.mov(ah, al)?;
    a.setb(al)?;
    // 1 + 127 overflows, 0 + 127 does not.
    a.add(al, 127)?;
    a.sahf()
}

/// OF to AL, the other five to AH.
fn capture_flags(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.seto(al)?;
    a.lahf()
}

fn merge_flags(a: &mut CodeAssembler, mask: i32) -> Result<(), IcedError> {
    a.movzx(ecx, ah)?;
    a.movzx(eax, al)?;
    a.shl(eax, 11)?;
    a.or(eax, ecx)?;
    a.and(eax, mask)?;
    a.mov(rcx, qword_ptr(r9))?;
    a.and(rcx, !mask)?;
    a.or(rcx, rax)?;
    a.mov(qword_ptr(r9), rcx)
}
