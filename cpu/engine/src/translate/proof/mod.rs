//! A guest's stray address never touches motu's memory: of each instruction that the translator emits.
//!
//! Host code of a block is executed abstractly ([`walk`]), all ways from all of its entrances. What a register or a
//! word of the frame holds is a sum of symbols ([`form`]), so that what the guest's registers hold cancels out wherever
//! code computes with them. A block passes if
//!
//! - every access to memory lies within the frame, or within a page that the TLB of the code's privilege had for that
//!   address and right, as a comparison on that way has shown, and is aligned if the instruction wants that;
//! - DIV and IDIV come behind comparisons by which the quotient fits: so the host raises no exception;
//! - writes to the frame reach only the words that are for that ([`words`]), and no access goes through FS, GS or the
//!   guest's stack pointer;
//! - every way leads to an instruction of the block, out by the frame, or through a jump table at a masked index;
//! - RSP stays as it is, and nothing is privileged, calls the kernel, or changes more than the guest's registers;
//! - wherever the code is left, the guest's registers hold nothing of the host's addresses, nor does its memory.
//!
//! It relies on what else is tested: that an entry's tag is a page that its host word leads to, or is far from all that
//! the entry serves (`mmu/tlb.rs`), and that the thunks do what they say.

mod cases;
mod code;
mod effect;
mod faults;
mod form;
mod learn;
mod refused;
mod state;
mod walk;
mod whole;
mod words;

use super::block::{BlockTranslator, Place};
use super::exit::ExitKind;
use super::mode::Mode;
use super::slots::MOST;
use crate::cpu::CodeSize;
use crate::decode::{Op, Reach, decoder_options};
use crate::harness::UserHarness;
use crate::inventory::{foreign, forms};
use cases::{NARROW_SHAPES, Random, Run, SHAPES, Shape};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpCodeOperandKind};
use std::collections::BTreeSet;
use walk::Made;

/// Where code runs: of ring 0 in the upper half of addresses.
fn rip_of(mode: Mode) -> u64 {
    match (mode.narrow, mode.user) {
        (false, true) => 0x7000_0040_0040,
        (false, false) => 0xffff_ffff_8100_0040,
        (true, true) => 0x0804_8040,
        (true, false) => 0xc100_0040,
    }
}

const PAGE: usize = 4096;

/// Translates single blocks, without running them.
struct Bench {
    harness: UserHarness,
    blocks: BlockTranslator,
    /// Codes of guest instructions that were in translated blocks.
    taken: BTreeSet<u32>,
    accesses: usize,
    proved: usize,
    /// Blocks are hot, so that accesses have slots.
    hot: bool,
}

/// Slots that blocks may have.
const SLOTS: [u16; MOST] = {
    let mut slots = [0; MOST];
    let mut n = 0;
    while n < MOST {
        slots[n] = 1000 - n as u16;
        n += 1;
    }
    slots
};

impl Bench {
    fn new() -> Self {
        Self {
            harness: UserHarness::new("v3-2026", &[]).unwrap(),
            blocks: BlockTranslator::new(false, false),
            taken: BTreeSet::new(),
            accesses: 0,
            proved: 0,
            hot: false,
        }
    }

    /// Proves the translation of the block at the beginning of `code`, if it has one, or of its rest from an instruction on.
    fn prove(&mut self, code: &[u8], mode: Mode, rest: Option<usize>) {
        let rip = rip_of(mode);
        let mut page = vec![0xcc; PAGE];
        let start = rip as usize % PAGE;
        page[start..start + code.len()].copy_from_slice(code);
        let cpu = self.harness.cpu();
        cpu.rip = rip;
        cpu.code_size = if mode.narrow { CodeSize::Bits32 } else { CodeSize::Bits64 };
        cpu.key = cpu.code_size as u32;
        // What runs most follows branches.
        let block = match self.hot {
            true => cpu.decode_path(start as u64, page.as_ptr()).unwrap(),
            false => cpu.decode_block(start as u64, page.as_ptr(), Reach::Extended).unwrap(),
        };
        let options = decoder_options(cpu.contract);
        let at = |op: &Op| {
            let bytes = &page[start.wrapping_add_signed(op.offset.into())..];
            Decoder::with_ip(mode.bits(), bytes, op.begin(rip), options).decode()
        };
        let instructions: Vec<Instruction> = block.ops.iter().map(at).collect();
        let place = Place {
            rip,
            page: &page,
            mode,
            decoder_options: decoder_options(cpu.contract),
            slots: &SLOTS,
            hot: self.hot,
            rest: rest.map(|n| n as u16),
        };
        let Some(made) = self.blocks.translate(&block, &place) else { return };
        let entrances = [0, made.direct, made.inner, made.stale];
        // A dropped translation's entrances become jumps of five bytes.
        assert!(made.direct == made.inner || made.direct + 5 <= made.inner, "{code:x?}");
        assert!(made.inner as usize + 5 <= made.bytes.len(), "{code:x?}");
        let frame = cpu.mmu.tlb.frame();
        // SAFETY: the frame lives as long as the CPU, and no translated code runs.
        let frame = unsafe { frame.as_ref() };
        let resumes = made.exits.iter().enumerate().filter_map(|(n, exit)| match exit.kind {
            ExitKind::Interpret(at) | ExitKind::Access(at) if at.resume != 0 => {
                Some((1 + n as u32, (at.resume, *instructions.get(usize::from(at.op))?)))
            }
            _ => None,
        });
        let host =
            Made { code: made.bytes, entrances: &entrances, mode, resumes: resumes.collect(), sites: made.sites };
        match walk::prove(host, frame) {
            Ok(accesses) => self.accesses += accesses,
            Err(problem) => {
                let guest: Vec<String> = Decoder::with_ip(mode.bits(), code, rip, DecoderOptions::NONE)
                    .iter()
                    .map(|i| i.to_string())
                    .collect();
                panic!("{}\n{mode:?}, rest: {rest:x?}\n{problem}", guest.join("\n"));
            }
        }
        self.proved += 1;
        for step in self.blocks.describe(&block, &place).into_iter().flatten() {
            if step.translated {
                self.taken.insert(step.instruction.code() as u32);
            }
        }
    }

    /// Proves an instruction of the form among others: where flags matter and where they do not, beside others that
    /// access memory near it, and with the stack.
    fn among_others(&mut self, code: Code, shape: Option<&Shape>, narrow: bool, random: &mut Random) {
        let mode = Mode { user: random.below(2) == 0, narrow };
        let contexts = if is_vector(code) { 1 } else { 2 };
        for _ in 0..contexts {
            let context = random.below(4);
            self.blocks.exact = random.below(4) == 0;
            self.hot = random.below(2) == 0;
            let mut run = Run::new(rip_of(mode), mode);
            if neighbourhood(&mut run, code, shape, context, random).is_some() {
                self.prove(&run.bytes, mode, None);
                if random.below(3) == 0 {
                    self.prove(&run.bytes, mode, Some(random.below(4) as usize));
                }
            }
        }
    }
}

const RET: &[u8] = &[0xc3];
/// `cmp al, 1`, before which no flag matters, and RET.
const DEAD: &[u8] = &[0x3c, 0x01, 0xc3];

fn neighbourhood(run: &mut Run, code: Code, shape: Option<&Shape>, context: u64, random: &mut Random) -> Option<()> {
    let narrow = run.narrow();
    let near = |more| shape.copied().unwrap_or(shapes(narrow)[5]).plus(more);
    match context {
        0 => {
            run.form(code, shape, random)?;
            run.raw(RET);
        }
        1 => {
            run.form(code, shape, random)?;
            run.raw(DEAD);
        }
        // The block's stack, and registers of the frame between.
        2 => {
            run.raw(if narrow { &[0x53, 0x89, 0x4c, 0x24, 0x10] } else { &[0x53, 0x48, 0x89, 0x4c, 0x24, 0x10] });
            run.form(code, shape, random)?;
            run.raw(if narrow { &[0x03, 0x4c, 0x24, 0x18] } else { &[0x4c, 0x03, 0x4c, 0x24, 0x18] });
            run.form(code, shape, random)?;
            run.raw(&[0x5b]);
            run.raw(DEAD);
        }
        _ => {
            run.raw(&[0x39, 0xd8]);
            let (load, add) = if narrow {
                (Code::Mov_r32_rm32, Code::Add_rm32_r32)
            } else {
                (Code::Mov_r64_rm64, Code::Add_rm64_r64)
            };
            run.form(load, Some(&near(16)), random)?;
            run.form(code, shape, random)?;
            run.form(Code::Mov_rm32_r32, Some(&near(-24)), random)?;
            run.form(code, shape, random)?;
            run.form(add, Some(&near(8)), random)?;
            run.raw(RET);
        }
    }
    Some(())
}

/// Whether the form computes on vector registers.
fn is_vector(code: Code) -> bool {
    let names = |kind: &OpCodeOperandKind| ["xmm", "ymm"].iter().any(|name| format!("{kind:?}").contains(name));
    code.op_code().op_kinds().iter().any(names)
}

fn shapes(narrow: bool) -> &'static [Shape] {
    if narrow { NARROW_SHAPES } else { SHAPES }
}

/// Forms that processors of the contract may meet in code of 64 or 32 bits.
fn candidates(narrow: bool) -> Vec<Code> {
    let exists = |code: Code| if narrow { code.op_code().mode32() } else { code.op_code().mode64() };
    forms().filter(|&code| exists(code) && foreign(code).is_none()).collect()
}

#[test]
fn every_form_in_every_shape_accesses_only_what_was_checked() {
    every_form(false);
}

#[test]
fn every_form_of_32_bit_code_in_every_shape_accesses_only_what_was_checked() {
    every_form(true);
}

fn every_form(narrow: bool) {
    let (mut bench, mut random) = (Bench::new(), Random(0x1357_9bdf_0246_8ace));
    for code in candidates(narrow) {
        for _ in 0..4 {
            bench.among_others(code, None, narrow, &mut random);
        }
        if cases::has_memory(code) {
            // A few will do where forms are many and much alike.
            let shapes = shapes(narrow).iter().filter(|_| random.below(if is_vector(code) { 5 } else { 3 }) == 0);
            for shape in shapes.collect::<Vec<_>>() {
                bench.among_others(code, Some(shape), narrow, &mut random);
            }
        }
    }
    println!("{} blocks, {} forms, {} accesses", bench.proved, bench.taken.len(), bench.accesses);
    assert!(bench.taken.len() > if narrow { 700 } else { 800 }, "only {} forms", bench.taken.len());
}

#[test]
fn blocks_of_random_instructions_access_only_what_was_checked() {
    random_blocks(false);
}

#[test]
fn blocks_of_random_instructions_of_32_bit_code_access_only_what_was_checked() {
    random_blocks(true);
}

fn random_blocks(narrow: bool) {
    let (mut bench, mut random) = (Bench::new(), Random(0xfeed_5eed_0bad_cafe));
    let (codes, shapes) = (candidates(narrow), shapes(narrow));
    let taken: Vec<Code> = {
        for &code in &codes {
            bench.among_others(code, cases::has_memory(code).then_some(&shapes[1]), narrow, &mut random);
        }
        codes.iter().copied().filter(|&code| bench.taken.contains(&(code as u32))).collect()
    };
    for _ in 0..3000 {
        let mode = Mode { user: random.below(2) == 0, narrow };
        bench.blocks.exact = random.below(4) == 0;
        bench.hot = random.below(2) == 0;
        let mut run = Run::new(rip_of(mode), mode);
        if random.below(3) == 0 {
            // A call of what follows, and RET.
            run.raw(&[0xe8, 1, 0, 0, 0, 0xc3]);
        }
        // A few addresses, so that accesses meet.
        let near = [random.pick(shapes), random.pick(shapes), shapes[5]];
        for _ in 0..1 + random.below(24) {
            let among = if random.below(6) == 0 { &codes } else { &taken };
            let code = random.pick(among);
            let shape = random.pick(&near).plus(8 * random.below(8) as i64);
            let memory = cases::has_memory(code) && random.below(4) != 0;
            // What has no encoding is left out.
            let _ = run.form(code, memory.then_some(&shape), &mut random);
        }
        run.raw(RET);
        bench.prove(&run.bytes, mode, None);
        bench.prove(&run.bytes, mode, Some(random.below(8) as usize));
    }
    println!("{} blocks, {} accesses", bench.proved, bench.accesses);
}
