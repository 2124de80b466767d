//! Instructions that the host executes for the guest: x87, MMX, SSE, AVX, BMI and their kin.
//!
//! [`crate::native`] runs the instruction; here is what surrounds it in a guest: whether the unit may be
//! used, the memory operand, and the exceptions.

use super::operand::in_segment;
use crate::cpu::{Cpu, Done, Fault, Faulting, Flow};
use crate::decode::{Handler, Op};
use crate::exec::system;
use crate::native::{
    NativeCache, Outcome, Staging, Thunk, Unit, mxcsr, pending_x87_exception, x87_control, x87_status,
};
use iced_x86::Instruction;
use motu_x86::flags::{cr0, cr4, xcr0};
use motu_x86::{Exception, XsaveArea};

/// The exception masks of MXCSR (SDM vol. 1, 10.2.3).
const MXCSR_MASKS: u32 = 0x1f80;

/// Chooses the handler, and compiles the stub.
pub fn lower(instruction: &Instruction, native: &mut NativeCache) -> (Handler, Option<Thunk>) {
    match native.compile(instruction) {
        Ok(thunk) => (run, Some(thunk)),
        Err(_) => (super::fpu::handler(instruction).unwrap_or(system::undefined), None),
    }
}

impl Cpu {
    /// #UD or #NM unless the unit may be used now (SDM vol. 2, 2.4; vol. 3, 2.5).
    pub fn check_unit(&mut self, unit: Unit) -> Faulting<()> {
        let c0 = self.cr0;
        let emulated = c0 & cr0::EM != 0;
        let absent = match unit {
            Unit::Mmx => emulated,
            Unit::Sse => emulated || self.cr4 & cr4::OSFXSR == 0,
            Unit::Avx => {
                let both = xcr0::SSE | xcr0::AVX;
                self.cr4 & cr4::OSXSAVE == 0 || self.xcr0 & both != both
            }
            Unit::Integer | Unit::X87 | Unit::Wait => false,
        };
        if absent {
            return self.undefined();
        }
        let switched = c0 & cr0::TS != 0;
        let unavailable = match unit {
            Unit::Integer => false,
            Unit::X87 => emulated || switched,
            Unit::Wait => switched && c0 & cr0::MP != 0,
            Unit::Mmx | Unit::Sse | Unit::Avx => switched,
        };
        if unavailable {
            return self.raise(Exception::plain(Exception::NM));
        }
        Ok(())
    }

    /// Whether vector instructions may run as they are: no check of the unit fails, and none raises an exception.
    pub fn vectors_usable(&mut self, avx: bool) -> bool {
        let allowed = self.check_unit(if avx { Unit::Avx } else { Unit::Sse }).is_ok();
        allowed && mxcsr(&self.fpu) & MXCSR_MASKS == MXCSR_MASKS
    }

    /// #MF for an x87 exception that is waiting to be told.
    pub fn check_x87(&mut self) -> Faulting<()> {
        if pending_x87_exception(&self.fpu) {
            return self.raise(Exception::plain(Exception::MF));
        }
        Ok(())
    }
}

fn run(cpu: &mut Cpu, op: &Op) -> Done {
    let Some(extra) = &op.extra else { return cpu.undefined() };
    let Some(mut thunk) = extra.thunk else { return cpu.undefined() };
    if thunk.is_vex() && !cpu.protected_mode() {
        return cpu.undefined();
    }
    cpu.check_unit(thunk.unit())?;
    if thunk.is_waiting_x87() {
        cpu.check_x87()?;
    }
    let Some(memory) = thunk.memory() else {
        return execute(cpu, op, &mut thunk, &mut Staging::default());
    };
    let address = op.linear(cpu);
    if address & u64::from(memory.alignment - 1) != 0 {
        return cpu.general_protection(0);
    }
    let guard = extra.guard.as_ref();
    let size = usize::from(memory.size);
    let mut staging = Staging::default();
    let Some(bytes) = staging.0.get_mut(..size) else { return cpu.undefined() };
    if memory.reads {
        if let Some(guard) = guard {
            guard.check_operand(cpu, op)?;
        }
        let readable = if memory.writes { cpu.check_write(address, size as u64) } else { Ok(()) };
        readable.and_then(|()| cpu.read_operand(address, bytes)).map_err(|fault| in_segment(cpu, op, fault))?;
    }
    if !memory.writes {
        let done = execute(cpu, op, &mut thunk, &mut staging)?;
        cpu.note_watch_hits();
        return Ok(done);
    }
    // A store comes last, and its fault takes back what the instruction did to the FPU.
    let changes_fpu = !matches!(thunk.unit(), Unit::Integer) && thunk.changes_state();
    let revocable = changes_fpu && (guard.is_some() || !cpu.store_cannot_fault(address, size as u64));
    let before = revocable.then(|| cpu.fpu.clone());
    execute(cpu, op, &mut thunk, &mut staging)?;
    if thunk.unit() == Unit::X87 && thunk.is_waiting_x87() && withholds_store(&cpu.fpu) {
        return Ok(Flow::Next);
    }
    let Some(bytes) = staging.0.get(..size) else { return cpu.undefined() };
    let allowed = match guard {
        Some(guard) if !memory.reads => guard.check_operand(cpu, op),
        _ => Ok(()),
    };
    if allowed.and_then(|()| cpu.write_operand(address, bytes)).is_err() {
        if let Some(before) = before {
            cpu.fpu = before;
        }
        return Err(in_segment(cpu, op, Fault));
    }
    cpu.note_watch_hits();
    Ok(Flow::Next)
}

/// Whether an x87 store that has run does not reach memory: an unmasked exception other than
/// inexactness became pending (SDM vol. 1, 8.5).
fn withholds_store(fpu: &XsaveArea) -> bool {
    const INEXACT: u16 = 1 << 5;
    let pending = x87_status(fpu) & !x87_control(fpu) & 0x3f;
    pending & !INEXACT != 0
}

/// Runs the stub and raises what it found.
#[inline(always)]
fn execute(cpu: &mut Cpu, op: &Op, thunk: &mut Thunk, staging: &mut Staging) -> Done {
    let mut flags = if thunk.touches_flags() { cpu.rflags() } else { 0 };
    let mut outcome = cpu.run_native(thunk, &mut flags, staging);
    if outcome == Outcome::Stale {
        let Some(extra) = &op.extra else { return cpu.undefined() };
        match cpu.native.compile(&extra.instruction) {
            Ok(fresh) => *thunk = fresh,
            Err(_) => return cpu.undefined(),
        }
        outcome = cpu.run_native(thunk, &mut flags, staging);
    }
    match outcome {
        Outcome::Done => {}
        Outcome::SimdException if cpu.cr4 & cr4::OSXMMEXCPT != 0 => {
            return cpu.raise(Exception::plain(Exception::XM));
        }
        Outcome::X87Exception => return cpu.raise(Exception::plain(Exception::MF)),
        Outcome::GeneralProtection => return cpu.general_protection(0),
        Outcome::SimdException | Outcome::Stale => return cpu.undefined(),
    }
    if thunk.touches_flags() {
        cpu.arith = super::width::arith::from_rflags(flags);
    }
    if thunk.unit() == Unit::X87 {
        let data = thunk.memory().map(|_| op.effective(cpu));
        let rip = op.rip(cpu);
        thunk.record_x87_pointers(&mut cpu.fpu, rip, data);
    }
    Ok(Flow::Next)
}

impl Cpu {
    #[inline(always)]
    fn run_native(&mut self, thunk: &Thunk, flags: &mut u64, staging: &mut Staging) -> Outcome {
        let (gprs, fpu, native) = self.native_parts();
        native.run(thunk, gprs, flags, fpu, staging)
    }

    /// Reads a memory operand: in pieces of the TLB's fast path where it lies in one page.
    #[inline(always)]
    fn read_operand(&mut self, address: u64, out: &mut [u8]) -> Faulting<()> {
        match out.len() {
            4 => out.copy_from_slice(&self.load::<u32>(address)?.to_le_bytes()),
            8 => out.copy_from_slice(&self.load::<u64>(address)?.to_le_bytes()),
            _ => self.read_bytes(address, out)?,
        }
        Ok(())
    }

    #[inline(always)]
    fn write_operand(&mut self, address: u64, data: &[u8]) -> Faulting<()> {
        match *data {
            [a, b, c, d] => self.store(address, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => self.store(address, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => self.write_bytes(address, data),
        }
    }
}
