//! From decoded guest code to host code: one block.

use super::emit::{Emit, Target};
use super::exit::Exit;
use super::flags;
use super::groups::{Plan, Planner};
use super::mode::Mode;
use super::select::{INTERPRET, Kind, Selected, select, system, widen};
use super::slots::Site;
use super::step::{Current, lets_rsp_wait};
use crate::decode::{Block, MAX_LEN, granules};
use crate::mmu::{PAGE, PAGE_MASK, is_canonical};
use iced_x86::{Decoder, DecoderError, FlowControl, Instruction, InstructionInfoFactory, Mnemonic};

/// Where and how a block is to run.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub rip: u64,
    /// The page of the block, and where its code runs over into the next one, some bytes of that.
    pub page: &'a [u8],
    pub mode: Mode,
    pub decoder_options: u32,
    /// Begin at this operation of the block, and check each access by itself.
    pub rest: Option<u16>,
    /// Slots that its accesses may have if it is hot, and whether it is, whatever is known of it.
    pub slots: &'a [u16],
    pub hot: bool,
}

/// A block's host code, before it has a place.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    pub bytes: &'a [u8],
    /// Where what lies out of line begins, and the places of the four-byte distances that lead there or from there.
    pub cold: u32,
    pub crossing: &'a [u32],
    /// Exits, numbered from one, and the places of their four-byte numbers.
    pub exits: &'a [Exit],
    pub numbers: &'a [u32],
    /// Slots that it has.
    pub sites: &'a [Site],
    /// Units that it needs.
    pub units: u32,
    /// Offsets of the direct way in, of the one for code that has the units, and of the way out that replaces them when
    /// the block is dropped.
    pub direct: u32,
    pub inner: u32,
    pub stale: u32,
    /// Guest instructions.
    pub instructions: u32,
    /// Bytes of the page that decided which flags matter, as 64-byte pieces: a change of them undoes the translation.
    pub looked_at: u64,
    /// Nothing of this CPU's own has decided what it is.
    pub common: bool,
}

pub struct BlockTranslator {
    pub(super) emit: Emit,
    pub(super) info: InstructionInfoFactory,
    pub(super) steps: Vec<(Instruction, Selected)>,
    /// Flags that matter before each instruction.
    pub(super) live: Vec<u32>,
    planner: Planner,
    /// All flags matter everywhere.
    pub(super) exact: bool,
    /// There are other processors to wait for: PAUSE is the interpreter's.
    waits: bool,
    /// Where the code begins, and the flags that matter there.
    start: (u64, u32),
    /// The code that is being written has looked up before it gets here.
    pub(super) looked: bool,
}

impl BlockTranslator {
    /// `counts` makes code for the stress mode, `exact` code in which all flags matter everywhere.
    pub fn new(counts: bool, exact: bool) -> Self {
        Self {
            emit: Emit::new(counts),
            info: InstructionInfoFactory::new(),
            steps: Vec::new(),
            live: Vec::new(),
            planner: Planner::new(),
            exact,
            waits: false,
            start: (0, flags::ALL),
            looked: false,
        }
    }

    /// Makes code from now on in which all flags matter everywhere, or not. True if that is a change.
    pub fn make_exact(&mut self, exact: bool) -> bool {
        std::mem::replace(&mut self.exact, exact) != exact
    }

    /// For a processor that is one of several.
    #[must_use]
    pub fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    /// Translates `block`. `None` if the code has changed since it was decoded, or an instruction cannot be encoded.
    pub fn translate(&mut self, block: &Block, place: &Place<'_>) -> Option<Code<'_>> {
        self.select(block, place)?;
        let skipped = usize::from(place.rest.unwrap_or(0));
        self.steps.drain(..skipped.min(self.steps.len()));
        let rip = self.steps.first().map_or(place.rip, |(first, _)| first.ip());
        let live_in = self.find_live(place) != 0;
        let plan = match place.rest {
            None => self.planner.plan(place.mode, &self.steps, &self.live, &mut self.info),
            Some(_) => Plan::default(),
        };
        let mut checks = plan.checks.iter().peekable();
        self.looked = false;
        let units = self.steps.iter().fold(0, |all, (_, selected)| all | selected.units);
        self.emit.begin(place.mode);
        let may_have_slots = place.rest.is_none() && (block.translated.hot || place.hot || self.is_loop(place));
        if may_have_slots {
            self.emit.allow_slots(place.slots, block.translated.scattered);
        }
        let (direct, inner) = self.emit.entrance(rip, live_in, units);
        let steps = std::mem::take(&mut self.steps);
        let mut emitted = true;
        for (n, (instruction, selected)) in steps.iter().enumerate() {
            self.emit.begin_step((skipped + n) as u16);
            let planned = plan.steps.get(n).copied().unwrap_or_default();
            let [live, live_behind] = [n, n + 1].map(|n| self.live.get(n).is_none_or(|&flags| flags != 0));
            let step = Current {
                instruction,
                selected,
                planned,
                mode: place.mode,
                live,
                live_behind,
                next: steps.get(n + 1).map(|(next, _)| next.ip()),
            };
            if !lets_rsp_wait(&step) || checks.peek().is_some_and(|check| check.before == n) {
                self.emit.settle_rsp();
            }
            while let Some(check) = checks.next_if(|check| check.before == n) {
                self.emit.check_group(check, instruction.ip(), live);
            }
            emitted &= self.step(&step, place).is_some();
            self.emit.end_step();
        }
        self.emit.settle_rsp();
        let last = steps.last().copied();
        self.steps = steps;
        if let Some((last, selected)) = last
            && !selected.kind.ends_block()
            && last.flow_control() == FlowControl::Next
        {
            let target = self.target(last.next_ip(), &last, place);
            self.emit.go(target);
        }
        let stale = self.emit.finish(rip, direct)?;
        emitted.then_some(Code {
            bytes: &self.emit.asm.code,
            cold: self.emit.cold_at,
            crossing: &self.emit.crossing,
            exits: &self.emit.exits,
            numbers: &self.emit.numbers,
            sites: &self.emit.sites,
            units,
            direct,
            inner,
            stale,
            instructions: self.steps.len() as u32,
            looked_at: self.looked_at(place),
            common: place.rest.is_none() && !may_have_slots,
        })
    }

    /// Whether the block jumps to its own beginning.
    fn is_loop(&self, place: &Place<'_>) -> bool {
        let closes = |selected: &Selected| matches!(selected.kind, Kind::JumpIf | Kind::Jump);
        self.steps.iter().any(|(jump, selected)| closes(selected) && jump.near_branch_target() == place.rip)
    }

    /// Decodes the block again and chooses for each instruction.
    pub(super) fn select(&mut self, block: &Block, place: &Place<'_>) -> Option<()> {
        self.steps.clear();
        let start = (block.physical & PAGE_MASK) as usize;
        let before = place.rip.wrapping_sub(start as u64);
        let mut decoder = Decoder::with_ip(place.mode.bits(), place.page, before, place.decoder_options);
        for (n, (op, (at, code))) in block.ops.iter().zip(block.pieces()).enumerate() {
            // What is known of the operations is of the code that they were decoded from; memory may hold other code by now.
            if place.page.get(at..at + code.len()) != Some(code) {
                return None;
            }
            decoder.set_position(at).ok()?;
            decoder.set_ip(op.begin(place.rip));
            let mut instruction = decoder.decode();
            // EIP does not wrap around.
            let wraps = place.mode.narrow && instruction.next_ip() > u64::from(u32::MAX);
            if wraps || instruction.len() != usize::from(op.len) {
                return None;
            }
            if place.mode.narrow {
                widen(&mut instruction);
            }
            let selected = select(&instruction, op, &mut self.info);
            let selected = match system(&instruction, place.mode) {
                Some(kind) => Selected { kind, ..INTERPRET },
                None => selected,
            };
            // The check of a divisor changes flags.
            let inexact = self.exact && selected.kind == Kind::Divide;
            let waits = self.waits && instruction.mnemonic() == Mnemonic::Pause;
            let own = inexact || waits || op.is_held() || leaves_address_space(&instruction, selected.kind);
            let selected = if own { INTERPRET } else { selected };
            self.steps.push((instruction, selected));
            let may_go_on = matches!(selected.kind, Kind::JumpIf | Kind::Jump | Kind::Call | Kind::Return);
            if selected.kind.ends_block() && !(may_go_on && n + 1 < block.ops.len()) {
                break;
            }
        }
        Some(())
    }

    /// The pieces of the page that [`flags::at`] may have read.
    fn looked_at(&self, place: &Place<'_>) -> u64 {
        let Some((last, _)) = self.steps.last() else { return 0 };
        let pieces = |rip: u64| {
            if rip & !PAGE_MASK != place.rip & !PAGE_MASK {
                return 0;
            }
            let first = rip & PAGE_MASK;
            granules(first, first + flags::REACH)
        };
        let jumps = self.steps.iter().filter(|(_, selected)| selected.kind == Kind::JumpIf);
        let targets = jumps.fold(0, |all, (jump, _)| all | pieces(jump.near_branch_target()) | pieces(jump.next_ip()));
        targets | pieces(last.next_ip()) | pieces(last.near_branch_target())
    }

    /// Flags that matter behind the last instruction.
    fn flags_behind(&self, place: &Place<'_>) -> u32 {
        let Some((last, selected)) = self.steps.last() else { return flags::ALL };
        match selected.kind {
            Kind::Jump | Kind::Call => self.flags_at(last.near_branch_target(), place),
            Kind::JumpIf | Kind::JumpShort => {
                self.flags_at(last.near_branch_target(), place) | self.flags_at(last.next_ip(), place)
            }
            Kind::JumpIndirect | Kind::CallIndirect | Kind::Return | Kind::Interpret => flags::ALL,
            _ => self.flags_at(last.next_ip(), place),
        }
    }

    /// The flags that matter at `rip`; all where nothing is known of it.
    pub(super) fn flags_at(&self, rip: u64, place: &Place<'_>) -> u32 {
        if self.exact {
            return flags::ALL;
        }
        if rip == self.start.0 {
            return self.start.1;
        }
        let near = rip & !PAGE_MASK == place.rip & !PAGE_MASK;
        let code = place.page.get((rip & PAGE_MASK) as usize..PAGE as usize);
        code.filter(|_| near).map_or(flags::ALL, |code| flags::at(code, place.mode.bits()))
    }

    /// Fills in where flags matter; gives those that do at the beginning.
    pub(super) fn find_live(&mut self, place: &Place<'_>) -> u32 {
        // Of a loop to itself a block reads at least what it reads the first time around.
        self.start = (self.steps.first().map_or(place.rip, |(first, _)| first.ip()), 0);
        loop {
            let behind = self.flags_behind(place);
            let at_start = self.live_before(behind, place);
            if at_start == self.start.1 {
                return at_start;
            }
            self.start.1 = at_start;
        }
    }

    fn live_before(&mut self, behind: u32, place: &Place<'_>) -> u32 {
        let mut live = std::mem::take(&mut self.live);
        live.clear();
        let mut flags = behind;
        let mut next = None;
        for (instruction, selected) in self.steps.iter().rev() {
            // Where a conditional jump leads that the block does not.
            let elsewhere = match next {
                Some(next) if next != instruction.next_ip() => instruction.next_ip(),
                _ => instruction.near_branch_target(),
            };
            next = Some(instruction.ip());
            flags = match selected.kind {
                _ if self.exact => flags::ALL,
                // Where the interpreter goes on, it may show them; and so may whatever a return leads to.
                Kind::Interpret | Kind::Repeat(_) | Kind::Return => flags::ALL,
                Kind::JumpIf => flags::before(instruction, flags | self.flags_at(elsewhere, place)),
                _ => flags::before(instruction, flags),
            };
            live.push(flags);
        }
        live.reverse();
        self.live = live;
        flags
    }

    pub(super) fn target(&self, rip: u64, from: &Instruction, place: &Place<'_>) -> Target {
        let near = rip & !PAGE_MASK == place.rip & !PAGE_MASK && !straddles(rip, place);
        // Who follows the block around has looked up then.
        let back = rip <= from.ip() && !self.looked;
        Target { rip, near, back, live: self.flags_at(rip, place) != 0 }
    }
}

/// A direct branch to where no address is: #GP, which the interpreter raises.
fn leaves_address_space(instruction: &Instruction, kind: Kind) -> bool {
    let direct = matches!(kind, Kind::Jump | Kind::JumpIf | Kind::JumpShort | Kind::Call);
    direct && !(is_canonical(instruction.near_branch_target()) && is_canonical(instruction.next_ip()))
}

/// Whether the instruction at `rip`, in the block's page, runs over into the next.
fn straddles(rip: u64, place: &Place<'_>) -> bool {
    let offset = (rip & PAGE_MASK) as usize;
    let rest = place.page.get(offset..PAGE as usize).unwrap_or_default();
    if rest.len() >= MAX_LEN {
        return false;
    }
    let mut decoder = Decoder::with_ip(place.mode.bits(), rest, rip, place.decoder_options);
    let _ = decoder.decode();
    decoder.last_error() == DecoderError::NoMoreBytes
}
