//! Random cases: every instruction form of the decoder's table in every state that matters.
//!
//! A case follows from a seed and its number alone, so that a mismatch can be made again.

mod draft;
mod encoding;
mod forms;
mod implied;
mod mutation;
pub(crate) mod operand;
mod place;
mod state;
mod values;

#[cfg(test)]
mod tests;

pub use forms::Skip;

use crate::layout::WINDOW_SIZE;
use crate::rng::Rng;
use crate::{Mode, UserState};
use draft::{Blueprint, Draft};
use encoding::Encoded;
use iced_x86::{Code, Instruction, InstructionInfoFactory};
use std::collections::BTreeMap;
use std::ops::Range;

/// Greatest number of bytes of a [`Patch`].
pub const PATCH_SIZE: usize = 96;

/// Bytes of the window that a case sets; the rest holds [`background`].
#[derive(Clone, Copy, Debug)]
pub struct Patch {
    offset: usize,
    len: usize,
    bytes: [u8; PATCH_SIZE],
}

impl Patch {
    fn new(offset: usize, data: &[u8]) -> Self {
        let len = data.len().min(PATCH_SIZE).min((WINDOW_SIZE as usize).saturating_sub(offset));
        let mut bytes = [0; PATCH_SIZE];
        bytes[..len].copy_from_slice(&data[..len]);
        Self { offset, len, bytes }
    }

    /// Offset in the window.
    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// One instruction and the state that it starts from.
#[derive(Clone, Debug)]
pub struct Case {
    pub seed: u64,
    pub number: u64,
    encoded: Encoded,
    pub before: UserState,
    pub patches: Vec<Patch>,
    /// Parts of the window that its operands may be in: offset and length.
    touched: Vec<(usize, usize)>,
    touches_all: bool,
}

impl Case {
    /// The parts of the window that patches and the instruction's own stores lie in; `None` where that may be anywhere.
    pub fn touched(&self) -> Option<impl Iterator<Item = Range<usize>>> {
        let patched = self.patches.iter().map(|patch| patch.offset..patch.offset + patch.len);
        let end = WINDOW_SIZE as usize;
        let used = self.touched.iter().map(move |&(offset, len)| offset..(offset + len).min(end));
        (!self.touches_all).then(|| patched.chain(used))
    }

    /// The bytes of the instruction, 1 to 15; always 15 where they are none.
    pub fn code(&self) -> &[u8] {
        self.encoded.bytes()
    }

    pub fn instruction(&self) -> &Instruction {
        &self.encoded.instruction
    }

    /// Writes the patches to a window that holds [`background`].
    pub fn apply(&self, window: &mut [u8]) {
        for patch in &self.patches {
            window[patch.offset..patch.offset + patch.len].copy_from_slice(patch.bytes());
        }
    }
}

/// What the window holds where a case says nothing else.
pub fn background() -> Vec<u8> {
    let mut rng = Rng::new(0, 0);
    let mut window = vec![0; WINDOW_SIZE as usize];
    rng.fill(&mut window);
    window
}

/// Makes the cases of one seed.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    /// By mode, in the order of [`Mode::ALL`].
    forms: [Vec<Code>; Mode::ALL.len()],
    skipped: BTreeMap<(Mode, Skip), Vec<Code>>,
    /// The window as the case in the making would see it.
    window: Vec<u8>,
    background: Vec<u8>,
    factory: InstructionInfoFactory,
    alignment_checks: u64,
    /// The instruction of the last case, by number.
    blueprint: Option<(u64, Blueprint)>,
}

/// How often a case is drawn anew because it would touch the host's own memory.
const DRAWS: u32 = 60;
/// Cases that share an instruction: making and decoding one takes longer than running it.
pub const STATES: u64 = 16;
/// Instructions of one round: so many of 64-bit code, then of 32-bit code, then bytes to decode as either.
const TURNS: u64 = 16;
const WIDE: u64 = 10;
const DECODING: u64 = 14;
/// Tells the draws of instructions from those of states.
const INSTRUCTIONS: u64 = 0x696e_7374_7275_6374;

impl Generator {
    pub fn new(seed: u64) -> Self {
        let mut generator = Self {
            seed,
            forms: Default::default(),
            skipped: BTreeMap::new(),
            window: background(),
            background: background(),
            factory: InstructionInfoFactory::new(),
            alignment_checks: 0,
            blueprint: None,
        };
        let mut rng = Rng::new(0, 1);
        for mode in Mode::ALL {
            for (code, skip) in forms::all(mode) {
                let mut encodable = || encoding::encode(code, crate::layout::code(0), mode, &mut rng).is_some();
                match skip.or_else(|| if encodable() { None } else { Some(Skip::NotEncodable) }) {
                    Some(reason) => generator.skipped.entry((mode, reason)).or_default().push(code),
                    None => generator.forms[mode as usize].push(code),
                }
            }
        }
        generator
    }

    /// Sets EFLAGS.AC in `percent` of the cases.
    pub fn check_alignment(&mut self, percent: u64) {
        self.alignment_checks = percent;
    }

    /// Every form that cases are made for in a mode.
    pub fn forms(&self, mode: Mode) -> &[Code] {
        &self.forms[mode as usize]
    }

    /// Every form that no case is made for.
    pub fn skipped(&self) -> &BTreeMap<(Mode, Skip), Vec<Code>> {
        &self.skipped
    }

    /// Only forms whose mnemonic `keep` accepts.
    pub fn retain(&mut self, keep: impl Fn(Code) -> bool) {
        self.forms.iter_mut().for_each(|forms| forms.retain(|code| keep(*code)));
    }

    /// Case `number`: [`STATES`] cases share an instruction, and the forms take turns; the last instruction of every
    /// [`TURNS`] gives way to bytes to decode. `None` where all draws would touch the host's memory.
    pub fn case(&mut self, number: u64) -> Option<Case> {
        let (turn, step) = (number / STATES / TURNS, number / STATES % TURNS);
        let (mode, index) = match step {
            0..WIDE => (Mode::Bits64, turn * WIDE + step),
            WIDE..DECODING => (Mode::Bits32, turn * (DECODING - WIDE) + step - WIDE),
            DECODING => return self.decoding_case(number, Mode::Bits32),
            _ => return self.decoding_case(number, Mode::Bits64),
        };
        let blueprint = match self.blueprint.take() {
            Some((of, blueprint)) if of == number / STATES => blueprint,
            _ => self.instruction(index, mode)?,
        };
        let mut rng = Rng::new(self.seed, number);
        let case =
            (0..DRAWS).find_map(|_| blueprint.draft(&mut rng).and_then(|draft| self.finish(number, &blueprint, draft)));
        self.blueprint = Some((number / STATES, blueprint));
        case
    }

    /// Instruction `index`, for which at least one state was found that does no harm.
    fn instruction(&mut self, index: u64, mode: Mode) -> Option<Blueprint> {
        let (mode, forms) = self.forms_of(mode);
        let code = *forms.get((index % (forms.len() as u64).max(1)) as usize)?;
        let mut rng = Rng::new(self.seed ^ INSTRUCTIONS ^ mode as u64, index);
        (0..DRAWS).find_map(|_| {
            let mut blueprint = Blueprint::draw(code, mode, &mut rng, &mut self.factory)?;
            blueprint.drawn.alignment_checks = self.alignment_checks;
            let found = (0..4)
                .any(|_| blueprint.draft(&mut rng).is_some_and(|draft| self.finish(0, &blueprint, draft).is_some()));
            found.then_some(blueprint)
        })
    }

    /// The forms of a mode, or of another where it has none left.
    fn forms_of(&self, mode: Mode) -> (Mode, &[Code]) {
        let modes = [mode].into_iter().chain(Mode::ALL);
        let with = modes.map(|mode| (mode, self.forms(mode))).find(|(_, forms)| !forms.is_empty());
        with.unwrap_or((mode, &[]))
    }

    /// Case `number` of those that are about decoding: an instruction with some of its bytes changed.
    /// What is an instruction still is run; what is none must be none for the CPU either.
    fn decoding_case(&mut self, number: u64, mode: Mode) -> Option<Case> {
        let mut rng = Rng::new(!self.seed, number);
        let (mode, forms) = self.forms_of(mode);
        let code = *forms.get(rng.below(forms.len() as u64) as usize)?;
        (0..DRAWS).find_map(|_| {
            let area = if mode == Mode::Bits64 { rng.below(2) as usize } else { 0 };
            let rip = crate::layout::code(area) + rng.below(crate::layout::CODE_SIZE - 32);
            let encoded = mutation::mutate(&encoding::encode(code, rip, mode, &mut rng)?, &mut rng);
            let instruction = &encoded.instruction;
            if instruction.is_invalid() {
                if encoding::may_call_hypervisor(&encoded) {
                    return None;
                }
                Some(self.case_of(number, Draft::invalid(encoded, area, &mut rng)))
            } else if self.forms(mode).contains(&instruction.code()) && encoding::is_harmless(instruction) {
                let blueprint = Blueprint::with(encoded, area, &mut rng, &mut self.factory)?;
                let draft = blueprint.draft(&mut rng)?;
                self.finish(number, &blueprint, draft)
            } else {
                None
            }
        })
    }

    /// The case that `draft` is, unless it could do harm.
    fn finish(&mut self, number: u64, blueprint: &Blueprint, mut draft: Draft) -> Option<Case> {
        for patch in &draft.patches {
            self.window[patch.offset..][..patch.len].copy_from_slice(patch.bytes());
        }
        let harmless = blueprint.is_harmless(&mut draft, &self.window);
        for patch in &draft.patches {
            let range = patch.offset..patch.offset + patch.len;
            self.window[range.clone()].copy_from_slice(&self.background[range]);
        }
        harmless.then(|| self.case_of(number, draft))
    }

    fn case_of(&self, number: u64, draft: Draft) -> Case {
        let Draft { encoded, state, patches, touched, touches_all, .. } = draft;
        Case { seed: self.seed, number, encoded, before: state, patches, touched, touches_all }
    }
}
