//! Accesses to memory that one check serves.
//!
//! What a block accesses by the same registers lies close together: a structure's fields, the stack, the rows of an unrolled
//! loop. Where these registers do not change, or by constants only, the accesses form a group: the whole range is checked once,
//! where flags are dead if there is such a place, and what to add to its addresses is kept in a word of the frame.

use super::asm::{Mem, R9, R11};
use super::emit::{Address, Computed};
use super::frame::WORDS;
use super::mode::Mode;
use super::registers::{Home, home};
use super::select::{Kind, Operand, Selected};
use super::step;
use crate::mmu::{PAGE, PAGE_MASK};
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use std::cmp::Reverse;

/// Bytes from the lowest to the highest address of a group at most: a longer one crosses a page too often. The stack does
/// so in the same frames again and again, which the host's branches learn.
const REACH: i64 = 256;
const STACK_REACH: i64 = 768;
/// Bounds of displacements and of changes that groups follow: their sums have 32 bits.
const MOST_DISPLACEMENT: i64 = 1 << 28;
const MOST_CHANGE: i64 = 1 << 24;

/// The implicit access of PUSH, POP, CALL and RET.
fn stack(mode: Mode) -> Computed {
    Computed { base: Some(Home::Host(R9)), index: None, disp: 0, short: mode.narrow, segment: None }
}

/// An access that belongs to a group: it is at `mem`, if R11 has the group's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub word: u8,
    pub mem: Mem,
}

/// A range to be checked before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The instruction, counted from the block's first.
    pub before: usize,
    /// Where the range begins, by the registers as they are there.
    pub address: Address,
    /// Its length as size.
    pub operand: Operand,
    pub word: u8,
    /// The last instruction with a member.
    pub last: usize,
    /// It comes before a conditional jump that may skip all of the group: nothing is to be done for its sake but to look.
    pub early: bool,
}

/// What the plan says of one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// The explicit operand's.
    pub operand: Option<Member>,
    /// The implicit access's to the stack.
    pub stack: Option<Member>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Planned>,
    /// In the order of their instructions.
    pub checks: Vec<Check>,
}

struct Access {
    instruction: usize,
    implicit: bool,
    disp: i64,
    operand: Operand,
}

struct Group {
    /// The address with no displacement; of a constant one, its page.
    key: Address,
    /// The first instruction that the check may come before.
    start: usize,
    /// Conditional jumps before the first member, and the instruction behind the last of them.
    ways_out: usize,
    way_out: usize,
    members: Vec<Access>,
    /// The range, relative to the key where its registers last changed otherwise than by constants.
    low: i64,
    high: i64,
    write: bool,
    alignment: i64,
    /// Where aligned members begin, modulo `alignment`.
    residue: i64,
}

impl Group {
    fn reach(&self) -> i64 {
        match self.key {
            Address::Constant(_) => PAGE as i64,
            Address::Computed(Computed { base: Some(Home::Host(R9)), index: None, segment: None, .. }) => STACK_REACH,
            Address::Computed(_) => REACH,
        }
    }

    fn first(&self) -> usize {
        self.members.first().map_or(0, |access| access.instruction)
    }

    fn last(&self) -> usize {
        self.members.last().map_or(0, |access| access.instruction)
    }

    /// Takes an access in, if it is near enough and as aligned as the others. `at` is as `low` is.
    fn take(&mut self, access: Access, at: i64) -> Option<Access> {
        let Operand { size, write, alignment } = access.operand;
        let alignment = i64::from(alignment);
        let (low, high) = (self.low.min(at), self.high.max(at + i64::from(size)));
        let common = alignment.min(self.alignment);
        let aligned = (at - self.residue).rem_euclid(common) == 0;
        // What is lowered for the alignment's sake counts.
        if high - low + self.alignment.max(alignment) > self.reach() + 1 || !aligned {
            return Some(access);
        }
        if alignment > self.alignment {
            (self.alignment, self.residue) = (alignment, at.rem_euclid(alignment));
        }
        (self.low, self.high) = (low, high);
        self.write |= write;
        self.members.push(access);
        None
    }
}

/// What the registers did up to where the planner is.
pub struct Planner {
    mode: Mode,
    /// For each instruction: by how much each register has changed since it last changed otherwise than by constants.
    changed: Vec<[i32; 16]>,
    /// The instruction behind that which so changed it; behind the last that may have changed what addresses mean; behind the
    /// last that changed a segment.
    since: [usize; 16],
    barrier: usize,
    segments_since: usize,
    /// Conditional jumps so far, and the instruction behind the last: what it may skip is not to be checked before it.
    ways_out: usize,
    way_out: usize,
    open: Vec<Group>,
    closed: Vec<Group>,
}

fn number(home: Home) -> usize {
    (0..16).find(|&n| super::registers::home(n) == home).unwrap_or_default()
}

impl Planner {
    pub fn new() -> Self {
        Self {
            mode: Mode::default(),
            changed: Vec::new(),
            since: [0; 16],
            barrier: 0,
            segments_since: 0,
            ways_out: 0,
            way_out: 0,
            open: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Plans the groups of a block. `live` has the flags that matter before each instruction.
    pub fn plan(
        &mut self,
        mode: Mode,
        steps: &[(Instruction, Selected)],
        live: &[u32],
        info: &mut InstructionInfoFactory,
    ) -> Plan {
        self.mode = mode;
        (self.since, self.barrier, self.segments_since) = ([0; 16], 0, 0);
        (self.ways_out, self.way_out) = (0, 0);
        self.changed.clear();
        self.open.clear();
        self.closed.clear();
        let mut now = [0i32; 16];
        for (n, (instruction, selected)) in steps.iter().enumerate() {
            self.changed.push(now);
            for (implicit, address, operand) in accesses(mode, instruction, selected).into_iter().flatten() {
                self.add(n, implicit, address, operand);
            }
            self.follow(n, instruction, selected.kind, &mut now, info);
        }
        self.closed.append(&mut self.open);
        self.place(steps.len(), live)
    }

    fn add(&mut self, n: usize, implicit: bool, address: Address, operand: Operand) {
        let (key, disp) = match address {
            Address::Constant(value) => {
                let offset = value & PAGE_MASK;
                if offset + u64::from(operand.size) > PAGE || !offset.is_multiple_of(operand.alignment.into()) {
                    return;
                }
                (Address::Constant(value & !PAGE_MASK), offset as i64)
            }
            Address::Computed(Computed { short: true, .. }) if !self.mode.narrow => return,
            Address::Computed(computed) => {
                (Address::Computed(Computed { disp: 0, ..computed }), i64::from(computed.disp))
            }
        };
        // Sums of 32 bits may wrap around as they like.
        if disp.abs() > MOST_DISPLACEMENT && !self.mode.narrow {
            return;
        }
        let at = disp + self.position(key, n).0;
        let mut access = Access { instruction: n, implicit, disp, operand };
        // A right to write is asked for only where something is written.
        let may_take = |group: &Group| !operand.write || group.write || group.ways_out == self.ways_out;
        for group in self.open.iter_mut().filter(|group| group.key == key && may_take(group)) {
            match group.take(access, at) {
                None => return,
                Some(back) => access = back,
            }
        }
        let registers = registers(key).into_iter().flatten().filter_map(|r| self.since.get(r).copied());
        let segment = if has_segment(key) { self.segments_since } else { 0 };
        let start = registers.fold(self.barrier.max(segment), usize::max);
        let (alignment, size) = (i64::from(operand.alignment), i64::from(operand.size));
        self.open.push(Group {
            key,
            start,
            ways_out: self.ways_out,
            way_out: self.way_out,
            members: vec![access],
            low: at,
            high: at + size,
            write: operand.write,
            alignment,
            residue: at.rem_euclid(alignment),
        });
    }

    /// By how much a group's key has changed before instruction `n`, and by how much that part of it that its word includes.
    fn position(&self, key: Address, n: usize) -> (i64, i64) {
        let Address::Computed(key) = key else { return (0, 0) };
        let changed = |(home, shift): (Home, u8)| {
            let all = self.changed.get(n);
            all.and_then(|all| all.get(number(home)).copied()).map_or(0, |change| i64::from(change) << shift)
        };
        let base = key.base.map_or(0, |base| changed((base, 0)));
        let whole = base + key.index.map_or(0, changed);
        let followed = if key.short { None } else { key.followed() };
        (whole, whole - followed.map_or(0, |(reg, shift)| changed((Home::Host(reg), shift))))
    }

    /// Notes what an instruction does to the registers.
    fn follow(
        &mut self,
        n: usize,
        instruction: &Instruction,
        kind: Kind,
        now: &mut [i32; 16],
        info: &mut InstructionInfoFactory,
    ) {
        if kind == Kind::JumpIf {
            (self.ways_out, self.way_out) = (self.ways_out + 1, n + 1);
        }
        let known = change(self.mode, instruction, kind);
        let mut unknown = 0u32;
        if kind == Kind::Interpret {
            unknown = 0xffff;
        } else {
            for used in info.info(instruction).used_registers() {
                let register = used.register();
                let read = matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
                if !read && register.is_gpr() {
                    unknown |= 1 << (register.full_register().number() & 15);
                }
            }
        }
        if let Some((register, by)) = known {
            // POP RSP.
            let also = kind == Kind::Pop && instruction.op0_register() == Register::RSP;
            let new = now.get(register).map_or(i64::MAX, |&change| i64::from(change) + by);
            if new.abs() <= MOST_CHANGE && !also {
                unknown &= !(1 << register);
                if let Some(change) = now.get_mut(register) {
                    *change = new as i32;
                }
            }
        }
        if unknown == 0 && kind != Kind::SwapGs {
            return;
        }
        for register in (0..16).filter(|r| unknown & 1 << r != 0) {
            if let (Some(change), Some(since)) = (now.get_mut(register), self.since.get_mut(register)) {
                (*change, *since) = (0, n + 1);
            }
        }
        match kind {
            Kind::Interpret => self.barrier = n + 1,
            Kind::SwapGs => self.segments_since = n + 1,
            _ => {}
        }
        let ends = |group: &mut Group| {
            kind == Kind::Interpret
                || (kind == Kind::SwapGs && has_segment(group.key))
                || registers(group.key).into_iter().flatten().any(|r| unknown & 1 << r != 0)
        };
        self.closed.extend(self.open.extract_if(.., ends));
    }

    /// Decides which groups are worth a check, where it goes, and which words they have.
    fn place(&mut self, count: usize, live: &[u32]) -> Plan {
        let is_dead = |n: &usize| live.get(*n) == Some(&0);
        let mut placed: Vec<(usize, Group)> = Vec::new();
        for group in std::mem::take(&mut self.closed) {
            let first = group.first();
            let dead = (group.start..=first).rev().find(is_dead);
            // One access by itself is only cheaper where it need not leave the flags alone.
            if group.members.len() > 1 || dead.is_some_and(|place| place < first) {
                placed.push((dead.unwrap_or(first), group));
            }
        }
        // A check takes R11 away from a group whose members come next: better before that group's own.
        for n in 0..placed.len() {
            while let Some(earlier) = disturbed(&placed, n)
                && let Some((place, group)) = placed.get_mut(n)
                && let Some(better) = (group.start.max(group.way_out)..=earlier).rev().find(is_dead)
            {
                *place = better;
            }
        }
        placed.sort_by_key(|(place, group)| (*place, Reverse(group.first())));
        let mut plan = Plan { steps: vec![Planned::default(); count], checks: Vec::new() };
        // Up to which instruction each word is needed.
        let mut used = [None; WORDS];
        for (place, group) in placed {
            let Some(word) = used.iter().position(|&until: &Option<usize>| until.is_none_or(|until| until < place))
            else {
                continue;
            };
            if let Some(until) = used.get_mut(word) {
                *until = Some(group.last());
            }
            let word = word as u8;
            self.write_down(&mut plan, &group, place, word);
        }
        plan
    }

    fn write_down(&self, plan: &mut Plan, group: &Group, place: usize, word: u8) {
        let low = group.low - (group.low - group.residue).rem_euclid(group.alignment);
        let (position, included) = self.position(group.key, place);
        let address = match group.key {
            Address::Constant(page) => Address::Constant(page + group.low as u64),
            Address::Computed(key) => Address::Computed(Computed { disp: (low - position) as i32, ..key }),
        };
        let operand =
            Operand { size: (group.high - low) as u32, write: group.write, alignment: group.alignment as u32 };
        let early = place < group.way_out;
        plan.checks.push(Check { before: place, address, operand, word, last: group.last(), early });
        // The word has the whole address where sums have 32 bits, and all but one register else.
        let (index, part) = match group.key {
            Address::Computed(key) if key.short => (None, low),
            Address::Constant(_) => (None, included),
            Address::Computed(key) => (key.followed(), included),
        };
        for access in &group.members {
            let disp = access.disp + self.position(group.key, access.instruction).1 - part;
            let member = Some(Member { word, mem: Mem { base: R11, index, disp: disp as i32 } });
            if let Some(planned) = plan.steps.get_mut(access.instruction) {
                if access.implicit { planned.stack = member } else { planned.operand = member }
            }
        }
    }
}

/// Where another group's check is that has members between the check of group `n` and that group's first member.
fn disturbed(placed: &[(usize, Group)], n: usize) -> Option<usize> {
    let (place, group) = placed.get(n)?;
    let between = |access: &Access| (*place..group.first()).contains(&access.instruction);
    let other = placed.iter().find(|(other, group)| other < place && group.members.iter().any(between));
    other.map(|&(other, _)| other)
}

fn has_segment(key: Address) -> bool {
    matches!(key, Address::Computed(Computed { segment: Some(_), .. }))
}

/// The registers of a group's addresses.
fn registers(key: Address) -> [Option<usize>; 2] {
    match key {
        Address::Constant(_) => [None; 2],
        Address::Computed(key) => [key.base.map(number), key.index.map(|(index, _)| number(index))],
    }
}

/// A register that an instruction changes by a constant.
pub fn change(mode: Mode, instruction: &Instruction, kind: Kind) -> Option<(usize, i64)> {
    const RSP: usize = 4;
    match kind {
        Kind::Push | Kind::PushFlags | Kind::Call | Kind::CallIndirect => return Some((RSP, -i64::from(mode.word()))),
        Kind::Pop => return Some((RSP, mode.word().into())),
        Kind::Return => return Some((RSP, i64::from(instruction.stack_pointer_increment()))),
        Kind::Copy | Kind::Lea => {}
        _ => return None,
    }
    let register = instruction.op0_register();
    if instruction.op_count() == 0
        || instruction.op0_kind() != OpKind::Register
        || register.size() != mode.word() as usize
    {
        return None;
    }
    let immediate = match instruction.op1_kind() {
        OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(instruction.immediate(1) as i64),
        OpKind::Immediate8to32 | OpKind::Immediate32 => Some((instruction.immediate(1) as i32).into()),
        _ => None,
    };
    let immediate = immediate.filter(|_| instruction.op_count() == 2);
    let by = match instruction.mnemonic() {
        Mnemonic::Add => immediate?,
        Mnemonic::Sub => immediate?.checked_neg()?,
        Mnemonic::Inc => 1,
        Mnemonic::Dec => -1,
        Mnemonic::Lea if instruction.memory_base() == register && instruction.memory_index() == Register::None => {
            let disp = instruction.memory_displacement64();
            if mode.narrow { (disp as i32).into() } else { disp as i64 }
        }
        _ => return None,
    };
    (by.checked_abs()? <= MOST_CHANGE).then_some((register.number(), by))
}

/// The explicit access of an instruction and its implicit one to the stack, if it has them.
fn accesses(mode: Mode, instruction: &Instruction, selected: &Selected) -> [Option<(bool, Address, Operand)>; 2] {
    let word = Operand { size: mode.word(), write: false, alignment: 1 };
    let on_stack =
        |disp, write| Some((true, Address::Computed(Computed { disp, ..stack(mode) }), Operand { write, ..word }));
    let implicit = match selected.kind {
        Kind::Push | Kind::PushFlags | Kind::Call | Kind::CallIndirect => on_stack(-(mode.word() as i32), true),
        Kind::Pop | Kind::Return => on_stack(0, false),
        _ => None,
    };
    let explicit = match selected.kind {
        Kind::Copy | Kind::JumpIndirect | Kind::Divide | Kind::Push | Kind::CallIndirect => {
            selected.operand.and_then(|operand| Some((false, step::address(instruction)?, operand)))
        }
        Kind::Leave => {
            let base = Some(home(usize::from(super::asm::RBP.0)));
            Some((false, Address::Computed(Computed { base, ..stack(mode) }), word))
        }
        _ => None,
    };
    [explicit, implicit]
}

#[cfg(test)]
mod tests;
