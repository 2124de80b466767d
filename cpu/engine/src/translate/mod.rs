//! The translator: guest code as host code.
//!
//! It makes nothing run that the interpreter would not run the same way: every block may be denied to it, and only the
//! speed changes. [`block`] turns one decoded block into host code ([`step`] by step), [`thunks`] enter it and leave it, this module
//! keeps what was made and decides what runs next. The [`frame`] is what both sides share.

mod asm;
mod block;
mod emit;
mod exit;
mod flags;
mod frame;
mod jumps;
#[cfg(test)]
mod proof;
mod registers;
mod select;
mod stack;
mod step;
mod thunks;

pub use frame::{Frame, Workspace};

use crate::arena::Arena;
use crate::cpu::{CodeSize, Cpu, key, seg, slot};
use crate::decode::{Block, BlockCache, decoder_options};
use crate::mmu::{ENTRIES, PAGE, PAGE_MASK, Privilege, is_canonical};
use crate::options::{Options, Translate};
pub use block::Step;
use block::{BlockTranslator, Place};
use exit::{Exit, ExitKind, LOOKUP};
pub use flags::in_rflags;
use frame::{Code, JUMPS, unit};
use jumps::Jumps;
use motu_hv::TranslatorStats;
use motu_x86::flags::rflags;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

/// Bytes of host code at most.
const CODE_SIZE: usize = 16 << 20;
/// Exits at most, 24 bytes each; about as many as that much code has.
const MAX_EXITS: usize = 300_000;
/// Times that the interpreter runs a block before it is translated.
const HOT: u32 = 24;
/// Runs of a block that is not to be translated.
const NEVER: u32 = u32::MAX;
/// Backward jumps between two looks at the clock.
const BUDGET: u32 = 4096;
/// Times that the stack check of a translation may fail before its accesses are checked one by one.
const STACK_MISSES: u32 = 16;

/// One block's host code.
#[derive(Debug)]
struct Translation {
    rip: u64,
    /// Units that it needs.
    units: u32,
    /// Offsets in the code cache: the way in by a jump table, the direct one, the one for code that has the units, the way
    /// out when it is dropped.
    indirect: u32,
    direct: u32,
    inner: u32,
    stale: u32,
    user: bool,
    dropped: bool,
    stack_misses: u32,
}

/// What the run loop does after translated code has run, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Goes on as always.
    Continue,
    /// Has the interpreter run the block at RIP.
    Block,
    /// Has the interpreter run the instruction at RIP.
    Instruction,
    /// Looks up.
    Attend,
}

pub struct Translator {
    code: Arena,
    frame: NonNull<Frame>,
    blocks: BlockTranslator,
    translations: Vec<Translation>,
    exits: Vec<Exit>,
    jumps: Jumps,
    /// Counts up whenever everything was dropped.
    generation: u64,
    /// The jump table's entry for RIP is another address's.
    missed: bool,
    /// Runs of a block before it is translated.
    hot: u32,
    options: Options,
    stats: TranslatorStats,
    /// For lock-step: the instructions of each translation.
    described: Vec<Option<Rc<[Step]>>>,
    /// What the stress mode draws budgets from.
    random: u64,
}

// SAFETY: the frame belongs to the CPU that the translator runs with, and moves with it.
unsafe impl Send for Translator {}

/// Whether the host has the instructions that checks are made of.
pub fn host_suffices() -> bool {
    is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("avx")
}

impl Translator {
    /// A translator for the CPU with this frame.
    ///
    /// # Errors
    /// The host refuses executable memory.
    pub fn new(frame: NonNull<Frame>, options: &Options) -> io::Result<Self> {
        let mut translator = Self {
            code: Arena::new(CODE_SIZE)?,
            frame,
            blocks: BlockTranslator::new(),
            translations: Vec::new(),
            exits: Vec::new(),
            jumps: Jumps::new(frame),
            generation: 0,
            missed: false,
            hot: if options.stress.is_some() { 0 } else { HOT },
            options: options.clone(),
            stats: TranslatorStats::default(),
            described: Vec::new(),
            random: options.stress.unwrap_or_default(),
        };
        translator.prepare_frame();
        translator.exits.push(Exit { kind: ExitKind::Lookup, rip: 0, translation: 0 });
        Ok(translator)
    }

    /// What it did so far.
    pub fn stats(&self) -> TranslatorStats {
        TranslatorStats { cache_bytes: self.code.used() as u64, ..self.stats }
    }

    fn frame(&mut self) -> *mut Frame {
        self.frame.as_ptr()
    }

    fn prepare_frame(&mut self) {
        let frame = self.frame();
        // SAFETY: the frame lives as long as the CPU; only this thread uses it, and no translated code runs.
        unsafe {
            (*frame).tlb_bits = (ENTRIES as u64 - 1) * PAGE;
            (*frame).page_bits = !PAGE_MASK;
            (*frame).jump_bits = (JUMPS as u64 - 1) << 1;
            (*frame).lower_unit = u64::from(unit::SSE);
            (*frame).upper_unit = u64::from(unit::AVX);
            (*frame).low_4 = 15;
            (*frame).low_5 = 31;
            (*frame).host_mxcsr = thunks::HOST_MXCSR;
            (*frame).leave = thunks::leave as Code;
            (*frame).refill = thunks::refill as Code;
            (*frame).fill = thunks::fill as *const u8;
            (*frame).budget = BUDGET;
        }
    }

    /// Whether translated code may run in the mode the CPU is in.
    #[inline(always)]
    pub fn may_run(cpu: &Cpu) -> bool {
        let user = cpu.cpl == 3;
        let plain = CodeSize::Bits64 as u32 | if user { key::USER } else { 0 };
        let privilege = if user { Privilege::User } else { Privilege::Supervisor };
        cpu.key == plain && cpu.mmu.control.privilege == privilege && cpu.system_flags & rflags::TF == 0
    }

    /// Drops jump table entries whose translation of addresses may not hold any more, and what was made of blocks that are
    /// no more.
    #[inline(always)]
    fn keep_up(&mut self, cpu: &Cpu, cache: &mut BlockCache) {
        self.jumps.keep_up(&cpu.mmu);
        if cache.has_dropped() {
            for number in cache.take_dropped() {
                self.drop_translation(number);
            }
        }
    }

    #[cold]
    fn drop_translation(&mut self, number: u32) {
        let Some(translation) = self.translations.get_mut(number as usize) else { return };
        if std::mem::replace(&mut translation.dropped, true) {
            return;
        }
        self.stats.invalidated += 1;
        let (rip, user) = (translation.rip, translation.user);
        let (indirect, direct) = (translation.indirect, translation.direct);
        let (inner, stale) = (translation.inner, translation.stale);
        self.patch_jump(direct, stale);
        if inner != direct {
            self.patch_jump(inner, stale);
        }
        self.jumps.forget(user, rip, self.code.executable(indirect));
    }

    /// Makes the five bytes at `from` a jump to `to`.
    fn patch_jump(&mut self, from: u32, to: u32) {
        let mut code = [0xe9; 5];
        code[1..].copy_from_slice(&to.wrapping_sub(from + 5).to_le_bytes());
        self.code.patch(from, &code);
    }

    /// Drops everything, blocks of the interpreter included.
    fn clear(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) {
        cache.clear(cpu);
        self.stats.evictions += cache.take_dropped().len() as u64;
        self.jumps.forget_all();
        self.translations.clear();
        self.described.clear();
        self.exits.truncate(1);
        self.code.clear();
        self.generation += 1;
    }

    /// Runs translated code from RIP on, if there is any.
    #[inline(always)]
    pub fn run(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> Next {
        self.keep_up(cpu, cache);
        let listed = if std::mem::take(&mut self.missed) { None } else { self.jumps.get(cpu.cpl == 3, cpu.rip) };
        let mut code = match listed {
            Some(code) => code,
            None => match self.find(cpu, cache) {
                Ok(Some(number)) => self.indirect(number),
                Ok(None) | Err(_) => return Next::Block,
            },
        };
        loop {
            self.enter(cpu, code);
            match self.after(cpu, cache) {
                Ok(again) => code = again,
                Err(next) => return next,
            }
        }
    }

    fn indirect(&self, number: u32) -> Code {
        let offset = self.translations.get(number as usize).map_or(0, |t| t.indirect);
        self.code.executable(offset)
    }

    fn enter(&mut self, cpu: &mut Cpu, code: Code) {
        let frame = self.frame();
        cpu.system_flags &= !rflags::RF;
        let rip = cpu.rip;
        // SAFETY: the frame is the CPU's own; its pointers lead to the CPU, which nothing else uses until `enter` returns.
        // `code` is an entry of the code cache or the lookup thunk.
        unsafe {
            (*frame).fs_base = cpu.bases[seg::FS];
            (*frame).gs_base = cpu.bases[seg::GS];
            (*frame).arith = cpu.arith.into();
            (*frame).vectors = cpu.fpu.0.as_mut_ptr();
            (*frame).registers = cpu.gprs_mut().as_mut_ptr();
            (*frame).cpu = std::ptr::from_mut(cpu).cast();
            thunks::enter(frame, code, rip);
            cpu.arith = (*frame).arith as crate::exec::width::Arith;
        }
    }

    /// Looks at why translated code left. Gives where to enter again at once, or what the run loop does next.
    #[inline(always)]
    fn after(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> Result<Code, Next> {
        // SAFETY: translated code has left; the frame is plain data.
        let (number, target) = unsafe { ((*self.frame.as_ptr()).exit, (*self.frame.as_ptr()).target) };
        let counts = &mut self.stats.exits;
        if number == LOOKUP {
            counts.lookup += 1;
            cpu.rip = target;
            self.missed = true;
            return Err(if is_canonical(target) { Next::Continue } else { self.take_back(cpu) });
        }
        let Some(&exit) = self.exits.get(number as usize) else { return Err(Next::Block) };
        cpu.rip = exit.rip;
        match exit.kind {
            ExitKind::Lookup | ExitKind::Branch { .. } => counts.lookup += 1,
            ExitKind::Link { .. } => counts.link += 1,
            ExitKind::Interpret => counts.interpret += 1,
            ExitKind::Access | ExitKind::Stack => counts.refill_failed += 1,
            ExitKind::Poll => counts.poll += 1,
            ExitKind::Units(_) => counts.fpu += 1,
        }
        Err(match exit.kind {
            ExitKind::Lookup | ExitKind::Branch { .. } => Next::Continue,
            ExitKind::Link { patch } => self.link(cpu, cache, exit.translation, patch),
            ExitKind::Interpret | ExitKind::Access => Next::Instruction,
            ExitKind::Poll => {
                let budget = self.next_budget();
                // SAFETY: as above.
                unsafe { (*self.frame.as_ptr()).budget = budget };
                Next::Attend
            }
            ExitKind::Units(units) => {
                if cpu.vectors_usable(units & unit::AVX != 0) {
                    // SAFETY: as above.
                    unsafe { (*self.frame.as_ptr()).units = units };
                    return Ok(self.indirect(exit.translation));
                }
                Next::Block
            }
            ExitKind::Stack => {
                self.missed_stack(cpu, cache, exit.translation);
                Next::Block
            }
        })
    }

    /// How many backward jumps may pass before the next look.
    fn next_budget(&mut self) -> u32 {
        if self.options.stress.is_none() {
            return BUDGET;
        }
        // A linear congruential generator's upper bits (Knuth's MMIX constants).
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (self.random >> 61) as u32
    }

    /// An indirect branch led to no address: it is the branch that faults (SDM vol. 2, CALL, JMP and RET). The interpreter runs
    /// it from the beginning.
    #[cold]
    fn take_back(&mut self, cpu: &mut Cpu) -> Next {
        // SAFETY: translated code has left; the frame is plain data.
        let (number, pushed_over) = unsafe { ((*self.frame.as_ptr()).branch, (*self.frame.as_ptr()).pushed_over) };
        if let Some(&Exit { kind: ExitKind::Branch { moved }, rip, .. }) = self.exits.get(number as usize) {
            let rsp = cpu.gpr(slot::RSP).wrapping_sub(i64::from(moved) as u64);
            if moved < 0 && cpu.store(rsp.wrapping_sub(8), pushed_over).is_err() {
                return Next::Continue;
            }
            cpu.set_gpr(slot::RSP, rsp);
            cpu.rip = rip;
        }
        Next::Instruction
    }

    /// A direct jump wants to know where its target's code is.
    fn link(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, from: u32, patch: u32) -> Next {
        let has = self.translations.get(from as usize).map_or(0, |t| if t.dropped { 0 } else { t.units });
        let generation = self.generation;
        let found = self.find(cpu, cache);
        if generation != self.generation {
            return Next::Continue;
        }
        match found {
            Ok(Some(_)) if self.options.translate == Translate::Lockstep => Next::Continue,
            Ok(Some(number)) => {
                if let Some(translation) = self.translations.get(number as usize) {
                    let entry = if translation.units & !has == 0 { translation.inner } else { translation.direct };
                    let distance = entry.wrapping_sub(patch + 4);
                    self.code.patch(patch, &distance.to_le_bytes());
                }
                Next::Continue
            }
            Ok(None) | Err(_) => Next::Block,
        }
    }

    fn missed_stack(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, number: u32) {
        let Some(translation) = self.translations.get_mut(number as usize) else { return };
        translation.stack_misses += 1;
        if translation.stack_misses < STACK_MISSES || translation.dropped {
            return;
        }
        let rip = std::mem::replace(&mut cpu.rip, translation.rip);
        if let Ok(index) = cache.find(cpu) {
            // The block forgets exactly what is dropped.
            let translated = &mut cache.get_mut(index).translated;
            if let Some(at) = translated.at.iter().position(|&(_, other)| other == number) {
                translated.at.swap_remove(at);
                translated.single_checks = true;
                self.drop_translation(number);
            }
        }
        cpu.rip = rip;
    }

    /// The translation of the block at RIP, made now if the block is hot; it is then in its jump table.
    fn find(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> crate::cpu::Faulting<Option<u32>> {
        let rip = cpu.rip;
        let index = cache.find(cpu)?;
        let block = cache.get_mut(index);
        let found = block.translated.at.iter().find(|&&(at, _)| at == rip).map(|&(_, number)| number);
        let number = match found {
            Some(number) => number,
            None if block.translated.runs == NEVER => return Ok(None),
            None if block.translated.runs < self.hot => {
                block.translated.runs += 1;
                return Ok(None);
            }
            None => match self.translate(cpu, cache, index) {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        if self.options.translate != Translate::Lockstep {
            let code = self.indirect(number);
            self.jumps.set(cpu.cpl == 3, rip, code, &cpu.mmu);
        }
        Ok(Some(number))
    }

    /// For lock-step: the block at RIP and its instructions, if it has a translation.
    pub fn steps(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> Option<(u32, Rc<[Step]>)> {
        self.keep_up(cpu, cache);
        let number = self.find(cpu, cache).ok()??;
        let index = cache.find(cpu).ok()?;
        let known = self.described.get(number as usize).cloned().flatten();
        let steps = match known {
            Some(steps) => steps,
            None => {
                let block = cache.get_mut(index);
                let page = copy_of_page(cpu, block.physical)?;
                let steps: Rc<[Step]> = self.blocks.describe(block, &place(cpu, &page, block))?.into();
                self.described.resize(self.described.len().max(number as usize + 1), None);
                *self.described.get_mut(number as usize)? = Some(Rc::clone(&steps));
                steps
            }
        };
        Some((index, steps))
    }

    /// For lock-step: runs the translation at RIP, which is linked to no other. False if it cannot run now.
    pub fn try_once(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> bool {
        self.keep_up(cpu, cache);
        let Ok(Some(number)) = self.find(cpu, cache) else { return false };
        let mut code = self.indirect(number);
        loop {
            // SAFETY: no translated code runs.
            unsafe { (*self.frame.as_ptr()).budget = BUDGET };
            self.enter(cpu, code);
            match self.after(cpu, cache) {
                Ok(again) => code = again,
                Err(Next::Block) if self.left_for_units() => return false,
                Err(_) => return true,
            }
        }
    }

    /// Whether the last exit was for units that may not be used now.
    fn left_for_units(&self) -> bool {
        // SAFETY: no translated code runs.
        let number = unsafe { (*self.frame.as_ptr()).exit };
        matches!(self.exits.get(number as usize), Some(Exit { kind: ExitKind::Units(_), .. }))
    }

    fn translate(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, index: u32) -> Option<u32> {
        let rip = cpu.rip;
        let block = cache.get_mut(index);
        if self.options.deny.iter().any(|denied| denied.contains(&rip)) {
            return None;
        }
        let page = copy_of_page(cpu, block.physical);
        let (Some(page), None) = (page, block.second_page) else {
            block.translated.runs = NEVER;
            return None;
        };
        let place = Place {
            first_exit: self.exits.len() as u32,
            number: self.translations.len() as u32,
            ..place(cpu, &page, block)
        };
        let Some(made) = self.blocks.translate(block, &place) else {
            block.translated.runs = NEVER;
            return None;
        };
        let fits = self.exits.len() + made.exits.len() <= MAX_EXITS;
        let offset = if fits { self.code.push(made.bytes) } else { None };
        let Some(offset) = offset else {
            self.clear(cpu, cache);
            return None;
        };
        for exit in made.exits {
            let kind = match exit.kind {
                ExitKind::Link { patch } => ExitKind::Link { patch: patch + offset },
                kind => kind,
            };
            self.exits.push(Exit { kind, ..*exit });
        }
        let number = place.number;
        self.stats.blocks += 1;
        self.stats.instructions += u64::from(made.instructions);
        self.translations.push(Translation {
            rip,
            indirect: offset,
            units: made.units,
            direct: offset + made.direct,
            inner: offset + made.inner,
            stale: offset + made.stale,
            user: place.user,
            dropped: false,
            stack_misses: 0,
        });
        let looked_at = made.looked_at;
        block.translated.at.push((rip, number));
        cache.depend_on(index, looked_at);
        Some(number)
    }
}

type Page = [u8; PAGE as usize];

/// What a page of RAM holds now: the guest may change it while we look.
fn copy_of_page(cpu: &Cpu, physical: u64) -> Option<Box<Page>> {
    let host = cpu.mmu.ram.page(physical)?;
    let mut page = Box::new([0; PAGE as usize]);
    // SAFETY: `host` is a whole page of guest RAM.
    unsafe { std::ptr::copy_nonoverlapping(host, page.as_mut_ptr(), page.len()) };
    Some(page)
}

/// Where the block at RIP is to run. Nothing is numbered yet.
fn place<'a>(cpu: &Cpu, page: &'a Page, block: &Block) -> Place<'a> {
    Place {
        rip: cpu.rip,
        page,
        user: cpu.cpl == 3,
        decoder_options: decoder_options(cpu.contract),
        group_stack: !block.translated.single_checks,
        first_exit: 0,
        number: 0,
    }
}

impl std::fmt::Debug for Translator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Translator")
            .field("translations", &self.translations.len())
            .field("bytes", &self.code.used())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_record_is_as_small_as_the_bound_on_memory_has_it() {
        assert_eq!(size_of::<Exit>(), 24);
    }
}
