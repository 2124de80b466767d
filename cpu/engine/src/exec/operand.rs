//! Where operands come from and go to, as types, so that each combination is compiled on its own.

use super::width::Width;
use crate::cpu::{Cpu, Fault, Faulting, seg};
use crate::decode::Op;

/// Something that is read.
pub trait Source {
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W>;
}

/// Something that is read, changed and written.
pub trait Place: Source {
    /// It is the memory operand.
    const IN_MEMORY: bool;
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Faulting<()>;
    /// `change` may run more than once, each time from the same arithmetic flags.
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()>;
}

/// The register named by `op.dst`.
pub enum Dst {}
/// The register named by `op.src`.
pub enum Src {}
/// The memory operand.
pub enum Mem {}
/// The memory operand, changed in one step for all processors.
pub enum Locked {}
/// The immediate.
pub enum Imm {}

impl Source for Dst {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W> {
        Ok(cpu.register(op.dst))
    }
}

impl Place for Dst {
    const IN_MEMORY: bool = false;

    #[inline(always)]
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Faulting<()> {
        cpu.set_register(op.dst, value);
        Ok(())
    }

    #[inline(always)]
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, mut change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()> {
        let old = cpu.register(op.dst);
        let new = change(cpu, old);
        cpu.set_register(op.dst, new);
        Ok(())
    }
}

impl Source for Src {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W> {
        Ok(cpu.register(op.src))
    }
}

impl Source for Imm {
    #[inline(always)]
    fn get<W: Width>(_: &mut Cpu, op: &Op) -> Faulting<W> {
        Ok(W::from_u64(op.imm))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W> {
        let address = op.linear(cpu);
        cpu.load(address).map_err(|fault| in_segment(cpu, op, fault))
    }
}

impl Place for Mem {
    const IN_MEMORY: bool = true;

    #[inline(always)]
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Faulting<()> {
        let address = op.linear(cpu);
        cpu.store(address, value).map_err(|fault| in_segment(cpu, op, fault))
    }

    #[inline(always)]
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()> {
        let address = op.linear(cpu);
        cpu.modify(address, change).map_err(|fault| in_segment(cpu, op, fault))
    }
}

impl Source for Locked {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, op: &Op) -> Faulting<W> {
        Mem::get(cpu, op)
    }
}

impl Place for Locked {
    const IN_MEMORY: bool = true;

    #[inline(always)]
    fn set<W: Width>(cpu: &mut Cpu, op: &Op, value: W) -> Faulting<()> {
        Mem::set(cpu, op, value)
    }

    #[inline(always)]
    fn update<W: Width>(cpu: &mut Cpu, op: &Op, change: impl FnMut(&mut Cpu, W) -> W) -> Faulting<()> {
        let address = op.linear(cpu);
        cpu.modify_locked(address, change).map_err(|fault| in_segment(cpu, op, fault))
    }
}

/// Turns the fault of a memory operand into what its segment makes of it.
#[cold]
pub fn in_segment(cpu: &mut Cpu, op: &Op, fault: Fault) -> Fault {
    if usize::from(op.segment) == seg::SS { cpu.stack_fault() } else { fault }
}
