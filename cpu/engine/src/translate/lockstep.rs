//! What a comparison with the interpreter asks of the translator: the instructions of a block, and code that runs one
//! piece at a time.

use super::block::{BlockTranslator, Place};
use super::exit::{ExitKind, LOOKUP};
use super::frame::Code;
use super::select::{Kind, Repeated};
use super::{Translator, copy_code, flags, place};
use crate::cpu::{Cpu, seg};
use crate::decode::{Block, BlockCache};
use crate::mmu::is_canonical;
use iced_x86::{CodeSize, Instruction, OpAccess, Register, UsedMemory};
use std::rc::Rc;

/// One instruction of a block.
#[derive(Clone, Debug)]
pub struct Step {
    pub instruction: Instruction,
    pub translated: bool,
    /// It needs vector registers.
    pub vectors: bool,
    pub memory: Vec<Touched>,
    /// REP MOVS or REP STOS.
    pub repeated: Option<Repeated>,
    /// Flags that matter before it.
    pub live: u32,
    /// Flags that are defined before it, if all are at the block's beginning, and behind it.
    pub defined: u32,
    pub defined_behind: u32,
    /// Flags that it writes whatever its operands are.
    pub written: u32,
    /// Where a direct branch or the way on from here leads, and which flags matter there.
    pub ways: [(u64, u32); 2],
}

/// An access to memory.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    base: Option<u8>,
    index: Option<u8>,
    scale: u64,
    displacement: u64,
    /// Of the effective address.
    mask: u64,
    segment: Option<usize>,
    pub bytes: u64,
    pub write: bool,
}

impl Touched {
    fn of(memory: &UsedMemory) -> Option<Self> {
        if matches!(memory.access(), OpAccess::None | OpAccess::NoMemAccess) {
            return None;
        }
        let slot = |register: Register| (register != Register::None).then(|| register.full_register().number() as u8);
        let relative = memory.base().is_ip();
        Some(Self {
            base: if relative { None } else { slot(memory.base()) },
            index: slot(memory.index()),
            scale: u64::from(memory.scale()),
            displacement: memory.displacement(),
            mask: if memory.address_size() == CodeSize::Code32 { u32::MAX.into() } else { u64::MAX },
            segment: match memory.segment() {
                Register::FS => Some(seg::FS),
                Register::GS => Some(seg::GS),
                _ => None,
            },
            bytes: memory.memory_size().size() as u64,
            write: !matches!(memory.access(), OpAccess::Read | OpAccess::CondRead),
        })
    }

    /// The linear address.
    pub fn address(&self, cpu: &Cpu) -> u64 {
        let base = self.base.map_or(0, |slot| cpu.gpr(slot));
        let index = self.index.map_or(0, |slot| cpu.gpr(slot).wrapping_mul(self.scale));
        let effective = base.wrapping_add(index).wrapping_add(self.displacement) & self.mask;
        effective.wrapping_add(self.segment.map_or(0, |segment| cpu.bases[segment])) & cpu.linear_mask
    }
}

impl BlockTranslator {
    /// The instructions of `block`.
    pub fn describe(&mut self, block: &Block, place: &Place<'_>) -> Option<Vec<Step>> {
        self.select(block, place)?;
        self.find_live(place);
        let mut undefined = 0;
        let mut steps = Vec::new();
        for ((instruction, selected), &live) in self.steps.iter().zip(&self.live) {
            let way = |rip| (rip, self.flags_at(rip, place));
            let ways = [way(instruction.near_branch_target()), way(instruction.next_ip())];
            let defined = flags::ALL & !undefined;
            undefined = (undefined & !instruction.rflags_modified()) | instruction.rflags_undefined();
            steps.push(Step {
                instruction: *instruction,
                translated: selected.kind != Kind::Interpret,
                vectors: selected.units != 0,
                memory: self.info.info(instruction).used_memory().iter().filter_map(Touched::of).collect(),
                repeated: if let Kind::Repeat(repeated) = selected.kind { Some(repeated) } else { None },
                live,
                defined,
                defined_behind: flags::ALL & !undefined,
                written: flags::written(instruction),
                ways,
            });
        }
        Some(steps)
    }
}

/// A block and its translation.
#[derive(Clone, Debug)]
pub struct Comparable {
    /// Of the interpreter's cache.
    pub block: u32,
    /// Where its code is entered.
    pub code: Code,
    pub steps: Rc<[Step]>,
}

/// Where a piece of code has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// At an operation of the block, which is the interpreter's to run.
    Before(usize),
    /// Where it was entered, from where it is to go on.
    Again,
    /// Before an operation, from where it is to go on.
    Single(usize),
    /// At RIP, where another block begins.
    Behind,
    /// By an indirect branch that led to no address: it has to be taken back.
    Nowhere,
}

impl Translator {
    /// The block at RIP, if it has a translation.
    pub fn comparable(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> Option<Comparable> {
        self.keep_up(cpu, cache);
        let number = self.find(cpu, cache).ok()??;
        let index = self.translations.get(number as usize)?.block;
        let known = self.described.get(number as usize).cloned().flatten();
        let steps = match known {
            Some(steps) => steps,
            None => {
                let block = cache.get_mut(index);
                let page = copy_code(cpu, block, &mut self.page)?;
                let steps: Rc<[Step]> = self.blocks.describe(block, &place(cpu, page)?)?.into();
                self.described.resize(self.described.len().max(number as usize + 1), None);
                *self.described.get_mut(number as usize)? = Some(Rc::clone(&steps));
                steps
            }
        };
        Some(Comparable { block: index, code: self.indirect(number), steps })
    }

    /// Runs code, which is linked to no other block's, until it leaves. RIP is where it left then, but what it left for has
    /// yet to be done.
    pub fn run_piece(&mut self, cpu: &mut Cpu, code: Code) -> Left {
        self.enter(cpu, code);
        // SAFETY: translated code has left; the frame is plain data.
        let (number, target) = unsafe { ((*self.frame.as_ptr()).exit, (*self.frame.as_ptr()).target) };
        if number == LOOKUP {
            cpu.rip = target;
            return if is_canonical(target) { Left::Behind } else { Left::Nowhere };
        }
        let Some(exit) = self.exits.get(number as usize) else { return Left::Behind };
        cpu.rip = exit.rip;
        match exit.kind {
            ExitKind::Interpret(at) | ExitKind::Access(at) => Left::Before(at.op.into()),
            ExitKind::Units(_) => Left::Again,
            ExitKind::Single { op, .. } => Left::Single(op.into()),
            ExitKind::Lookup | ExitKind::Branch { .. } | ExitKind::Link { .. } | ExitKind::Poll => Left::Behind,
        }
    }
}
