//! The translator: guest code as host code.
//!
//! It makes nothing run that the interpreter would not run the same way: every block may be denied to it, and only the
//! speed changes. [`block`] turns one decoded block into host code ([`step`] by step), [`thunks`] enter it and leave it, this module
//! keeps what was made and decides what runs next. The [`frame`] is what both sides share.

mod asm;
mod block;
mod emit;
#[cfg(test)]
mod endless;
mod exit;
mod flags;
mod frame;
mod groups;
mod jumps;
mod lockstep;
mod mode;
#[cfg(test)]
mod proof;
mod registers;
mod run;
mod select;
mod slots;
mod stack;
mod step;
mod strings;
mod system;
mod template;
mod thunks;

pub use frame::{Frame, Workspace};
pub use lockstep::{Comparable, Left, Step};
pub use mode::Mode;
pub use run::Next;
pub use slots::{FilledSlots, PATIENCE, SLOTS, Slot};
pub use template::Template;

use crate::arena::Arena;
use crate::cpu::Cpu;
use crate::decode::{Block, BlockCache, MAX_LEN, Op, Reach, Single, Translated, decoder_options};
use crate::mmu::{ENTRIES, PAGE, PAGE_MASK};
use crate::options::{Options, Translate};
use block::{BlockTranslator, Place};
use exit::{Exit, ExitKind};
pub use flags::in_rflags;
use frame::{Code, unit};
use jumps::Jumps;
use motu_hv::TranslatorStats;
use motu_x86::flags::rflags;
use slots::Slots;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use template::MadeFor;

/// Bytes of host code at most.
const CODE_SIZE: usize = 16 << 20;
/// Exits at most, 24 bytes each; about as many as that much code has.
const MAX_EXITS: usize = 300_000;
/// Times that the interpreter runs a block before it is translated.
const HOT: u32 = 16;

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
    mode: Mode,
    /// Its code runs over into a second page, so that it holds only as long as that page's translation does: it is reached
    /// by the jump table alone.
    straddles: bool,
    /// The block of the interpreter's cache, which is there as long as this is not dropped.
    block: u32,
    dropped: bool,
    has_slots: bool,
    /// Direct jumps that lead to it.
    links: Vec<Link>,
}

/// A direct jump to another translation: where its distance is, and the one that it had.
#[derive(Clone, Copy, Debug)]
struct Link {
    at: u32,
    before: [u8; 4],
}

pub struct Translator {
    code: Arena,
    frame: NonNull<Frame>,
    blocks: BlockTranslator,
    /// A copy of the page whose code is being translated.
    page: Box<Page>,
    /// The bytes of a translation that is being put into its place.
    placed: Vec<u8>,
    translations: Vec<Translation>,
    exits: Vec<Exit>,
    jumps: Jumps,
    /// Units that the running program's code has asked for, and the address space that it has: they are loaded on the way in.
    wanted: u32,
    wanted_in: u64,
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
    slots: Slots,
    /// What runs next is hot.
    runs_next: bool,
    /// Pieces of code that are yet to be found running.
    watched: u32,
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
            blocks: BlockTranslator::new(options.stress.is_some(), options.exact_flags),
            page: Box::new([0; size_of::<Page>()]),
            placed: Vec::new(),
            translations: Vec::new(),
            exits: Vec::new(),
            jumps: Jumps::new(frame),
            wanted: 0,
            wanted_in: 0,
            generation: 0,
            missed: false,
            hot: if options.stress.is_some() { 0 } else { HOT },
            options: options.clone(),
            stats: TranslatorStats::default(),
            described: Vec::new(),
            random: options.stress.unwrap_or_default(),
            slots: Slots::new(),
            runs_next: false,
            watched: 0,
        };
        translator.prepare_frame();
        translator.exits.push(Exit { kind: ExitKind::Lookup, rip: 0, translation: 0 });
        Ok(translator)
    }

    /// The same for a CPU that is one of several.
    ///
    /// # Errors
    /// As of [`Translator::new`].
    pub fn of_several(frame: NonNull<Frame>, options: &Options) -> io::Result<Self> {
        let alone = Self::new(frame, options)?;
        Ok(Self { blocks: alone.blocks.waiting(), ..alone })
    }

    /// What it did so far.
    pub fn stats(&self) -> TranslatorStats {
        TranslatorStats { cache_bytes: self.code.used() as u64, ..self.stats }
    }

    /// For tests that break code.
    #[cfg(test)]
    pub fn code(&mut self) -> &mut Arena {
        &mut self.code
    }

    /// Makes code in which all arithmetic flags are right everywhere, for a debugger to look at, or no longer.
    pub fn show_flags(&mut self, on: bool, cpu: &mut Cpu, cache: &mut BlockCache) {
        if self.blocks.make_exact(on || self.options.exact_flags) {
            self.clear(cpu, cache);
        }
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
            (*frame).lower_unit = u64::from(unit::SSE);
            (*frame).upper_unit = u64::from(unit::AVX);
            (*frame).low_4 = 15;
            (*frame).low_5 = 31;
            (*frame).strings = strings::thunks();
            (*frame).arithmetic = rflags::ARITHMETIC;
            (*frame).host_mxcsr = thunks::HOST_MXCSR;
            (*frame).leave = thunks::leave as Code;
            (*frame).refill = thunks::refill as Code;
            (*frame).fill = thunks::fill as *const u8;
            (*frame).fill_slot = thunks::fill_slot as Code;
            (*frame).budget = 1;
        }
    }

    /// Whether translated code may run in the mode the CPU is in.
    #[inline(always)]
    pub fn may_run(cpu: &Cpu) -> bool {
        Mode::of(cpu).is_some()
    }

    /// Drops jump table entries whose translation of addresses may not hold any more, and what was made of blocks that are
    /// no more.
    #[inline(always)]
    fn keep_up(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) {
        self.jumps.keep_up(&mut cpu.mmu);
        self.drop_those_of(cache);
        if cpu.mmu.tlb.has_scattered_slots() {
            self.give_up_slots(cpu, cache);
        }
    }

    /// Drops what was made of blocks that are no more.
    #[inline(always)]
    fn drop_those_of(&mut self, cache: &mut BlockCache) {
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
        for link in std::mem::take(&mut translation.links) {
            self.code.patch(link.at, &link.before);
        }
        if std::mem::take(&mut translation.has_slots) {
            self.slots.release(number);
        }
        let (rip, mode) = (translation.rip, translation.mode);
        let (indirect, direct) = (translation.indirect, translation.direct);
        let (inner, stale) = (translation.inner, translation.stale);
        self.patch_jump(direct, stale);
        if inner != direct {
            self.patch_jump(inner, stale);
        }
        self.jumps.forget(mode, rip, self.code.executable(indirect));
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
        self.slots.clear();
        self.described.clear();
        self.exits.truncate(1);
        self.code.clear();
        self.generation += 1;
    }

    /// A group's check failed before the operation `rest`, which is at RIP: to the rest of its block with single checks.
    #[cold]
    fn go_on_single(
        &mut self,
        cpu: &mut Cpu,
        cache: &mut BlockCache,
        (from, rest): (u32, u16),
        patch: u32,
    ) -> Result<Code, Next> {
        let here = cpu.rip;
        let Some(&Translation { rip, block, dropped: false, .. }) = self.translations.get(from as usize) else {
            return Err(Next::Block);
        };
        let generation = self.generation;
        let singles = &cache.get(block).translated.singles;
        let known = singles.iter().find(|single| (single.rip, single.rest) == (rip, rest));
        cpu.rip = rip;
        let found = known.map(|single| single.number).or_else(|| self.translate(cpu, cache, block, Some(rest)));
        cpu.rip = here;
        let Some(number) = found else { return Err(Next::Block) };
        if generation == self.generation
            && self.options.translate != Translate::Lockstep
            && let Some(single) = self.translations.get(number as usize)
        {
            // It needs no other units than the whole block.
            let distance = single.inner.wrapping_sub(patch + 4);
            self.code.patch(patch, &distance.to_le_bytes());
        }
        Ok(self.indirect(number))
    }

    /// The translation of the block at RIP, made now if the block is hot; it is then in its jump table.
    fn find(&mut self, cpu: &mut Cpu, cache: &mut BlockCache) -> crate::cpu::Faulting<Option<u32>> {
        let rip = cpu.rip;
        let index = cache.find(cpu)?;
        // What this block leads to may have turned out to be older than its page.
        self.drop_those_of(cache);
        let running = std::mem::take(&mut self.runs_next);
        let number_of = |cache: &BlockCache| {
            let at = &cache.get(index).translated.at;
            at.iter().find(|&&(at, _)| at == rip).map(|&(_, number)| number)
        };
        if running && let Some(number) = number_of(cache) {
            self.found_running(number, cache);
        }
        let found = number_of(cache);
        let block = cache.get_mut(index);
        let number = match found {
            Some(number) => number,
            None if block.translated.runs == Translated::NEVER => return Ok(None),
            None if block.translated.runs < self.hot => {
                block.translated.runs += 1;
                return Ok(None);
            }
            None => match self.translate_hot(cpu, cache, index) {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        if self.options.translate != Translate::Lockstep
            && let Some(&Translation { mode, straddles, .. }) = self.translations.get(number as usize)
        {
            let code = self.indirect(number);
            self.jumps.set((mode, rip), code, straddles, &cpu.mmu);
        }
        Ok(Some(number))
    }

    /// Translates the block at RIP, and as much of what it goes on with as is decoded as one with it.
    fn translate_hot(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, index: u32) -> Option<u32> {
        let known = &cache.get(index).translated;
        if known.at.is_empty() {
            let runs_most = known.hot || self.options.translate == Translate::Lockstep;
            let follows = runs_most && !self.options.no_paths;
            cache.extend(index, if follows { Reach::Path } else { Reach::Extended }, cpu);
        }
        self.translate(cpu, cache, index, None)
    }

    /// Translates the block at RIP, or the `rest` of it with single checks.
    fn translate(&mut self, cpu: &mut Cpu, cache: &mut BlockCache, index: u32, rest: Option<u16>) -> Option<u32> {
        let rip = cpu.rip;
        self.reclaim_slots(cpu, cache);
        let block = cache.get_mut(index);
        // A block that was dropped has no operations, and nothing that code would end with.
        let is_denied = |op: &Op| self.options.deny.iter().any(|denied| denied.contains(&op.begin(rip)));
        if block.ops.is_empty() || (!self.options.deny.is_empty() && block.ops.iter().any(is_denied)) {
            return None;
        }
        let (number, mode) = (self.translations.len() as u32, Mode::of(cpu)?);
        self.jumps.prepare(mode);
        let made_for = MadeFor { rip, mode, exact: self.blocks.exact };
        let plain = block.reach != Reach::Path && block.second_page.is_none();
        let as_others = rest.is_none() && !block.translated.hot && plain && cpu.may_share();
        let pool = cpu.processors.pool().filter(|_| as_others);
        let template = pool.and_then(|pool| pool.template(block, |t| t.suits(made_for, block, &cpu.mmu.ram)));
        let made = match &template {
            Some(template) => {
                if block.translated.looked_at != 0 {
                    copy_code(cpu, block, &mut self.page)?;
                }
                template.show_pieces(&mut self.page[..]);
                template.code()
            }
            None => {
                let Some(page) = copy_code(cpu, block, &mut self.page) else {
                    block.translated.runs = Translated::NEVER;
                    return None;
                };
                let place = Place {
                    rest,
                    slots: self.slots.free(),
                    hot: self.options.translate == Translate::Lockstep,
                    ..place(cpu, page)?
                };
                let Some(made) = self.blocks.translate(block, &place) else {
                    if rest.is_none() {
                        block.translated.runs = Translated::NEVER;
                    }
                    return None;
                };
                if let Some(pool) = pool.filter(|_| made.common) {
                    pool.add_template(block, Template::new(&made, made_for, block, place.page));
                }
                made
            }
        };
        let fits = self.exits.len() + made.exits.len() <= MAX_EXITS;
        let cold_bytes = made.bytes.len() - made.cold as usize;
        let room = if fits { self.code.reserve(made.cold as usize, cold_bytes) } else { None };
        let Some((hot_at, cold_at)) = room else {
            self.clear(cpu, cache);
            return None;
        };
        let away = cold_at.wrapping_sub(hot_at + made.cold);
        let placed = |offset: u32| hot_at.wrapping_add(offset).wrapping_add(if offset < made.cold { 0 } else { away });
        let bytes = &mut self.placed;
        bytes.clear();
        bytes.extend_from_slice(made.bytes);
        for &at in made.crossing {
            let Some(distance) = bytes.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut) else { continue };
            let more = if at < made.cold { away } else { away.wrapping_neg() };
            *distance = u32::from_le_bytes(*distance).wrapping_add(more).to_le_bytes();
        }
        let before_first = self.exits.len() as u32 - 1;
        for &at in made.numbers {
            let Some(exit) = bytes.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut) else { continue };
            *exit = u32::from_le_bytes(*exit).wrapping_add(before_first).to_le_bytes();
        }
        let (hot, cold) = bytes.split_at(made.cold as usize);
        self.code.write(hot_at, hot);
        self.code.write(cold_at, cold);
        for exit in made.exits {
            self.exits.push(Exit { translation: number, ..exit.moved(placed) });
        }
        self.slots.assign(number, made.sites, cpu);
        self.stats.blocks += 1;
        self.stats.shared += u64::from(template.is_some());
        self.stats.instructions += u64::from(made.instructions);
        self.translations.push(Translation {
            rip,
            indirect: hot_at,
            units: made.units,
            direct: placed(made.direct),
            inner: placed(made.inner),
            stale: placed(made.stale),
            mode,
            straddles: block.second_page.is_some(),
            block: index,
            has_slots: !made.sites.is_empty(),
            dropped: false,
            links: Vec::new(),
        });
        let looked_at = made.looked_at;
        match rest {
            None => block.translated.at.push((rip, number)),
            Some(rest) => block.translated.singles.push(Single { rip, rest, number }),
        }
        cache.depend_on(index, looked_at, &self.page[..PAGE as usize]);
        Some(number)
    }
}

/// A page, and behind it what an instruction at its end may have in the next one.
type Page = [u8; PAGE as usize + MAX_LEN];

/// Copies what the pages of a block hold now, as the guest may change it while we look: all of its page, and as much of
/// its second page, if it has one, as one instruction may take.
fn copy_code<'a>(cpu: &Cpu, block: &Block, page: &'a mut Page) -> Option<&'a [u8]> {
    let (first, next) = page.split_at_mut(PAGE as usize);
    cpu.mmu.ram.copy_page(block.physical, first)?;
    let Some(second) = block.second_page else { return page.get(..PAGE as usize) };
    cpu.mmu.ram.copy_page(second, next)?;
    Some(page)
}

/// Where the block at RIP is to run. Nothing is numbered yet.
fn place<'a>(cpu: &Cpu, page: &'a [u8]) -> Option<Place<'a>> {
    Some(Place {
        rip: cpu.rip,
        page,
        mode: Mode::of(cpu)?,
        decoder_options: decoder_options(cpu.contract),
        rest: None,
        slots: &[],
        hot: false,
    })
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
    use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
    use motu_hv::{Exit as Left, Vcpu};

    /// Of functions that the denied one is part of, or that call it within their page, nothing is translated either.
    #[test]
    fn what_is_denied_is_in_no_translation() {
        const PROGRAM: u64 = 0x40_0000;
        const FUNCTION: u64 = PROGRAM + 0x40;
        // CALL the function; DEC ECX; JNE to the call; MOV [RBP], ECX: to the board, which kicks; JMP to itself. INC EAX; RET.
        let program = [0xe8, 0x3b, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf7, 0x89, 0x4d, 0x00, 0xeb, 0xfe];
        for (deny, translated) in [(vec![], true), (vec![FUNCTION..=FUNCTION], false)] {
            let pages = [(PROGRAM, 0, false), (0x50_0000, 1, true)];
            let pages = pages.map(|(linear, frame, writable)| UserPage { linear, frame, writable });
            let options = Options { deny, stress: Some(1), ..Options::default() };
            let mut harness = UserHarness::with_options("v2-2026", &pages, &options).unwrap();
            harness.write(0, &program);
            harness.write(0x40, &[0xff, 0xc0, 0xc3]);
            let cpu = harness.cpu();
            cpu.rip = PROGRAM;
            [(0, 0), (1, 300), (4, 0x50_0800), (5, BUS)].into_iter().for_each(|(slot, value)| cpu.set_gpr(slot, value));
            let bus = KickingBus(harness.vcpu().kicker());
            let vcpu = harness.vcpu();
            assert_eq!(vcpu.run(&bus), Left::Kicked);
            assert_eq!(vcpu.cpu.gpr(0), 300);
            let translator = vcpu.translator.as_ref().unwrap();
            let has = |t: &Translation| vcpu.cache.get(t.block).ops.iter().any(|op| op.begin(t.rip) == FUNCTION);
            assert_eq!(translator.translations.iter().filter(|t| !t.dropped).any(has), translated);
        }
    }

    #[test]
    fn an_exit_record_is_as_small_as_the_bound_on_memory_has_it() {
        assert_eq!(size_of::<Exit>(), 24);
    }
}
