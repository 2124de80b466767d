//! Abstract execution of a block's host code.

use super::code::{permitted, reached};
use super::form::{Definition, Form, Place, Right, Symbol, Symbols, TlbEntry, Version};
use super::state::{Flags, State};
use super::words;
use crate::mmu::PAGE;
use crate::translate::frame::{Frame, at};
use crate::translate::mode::Mode;
use crate::translate::slots::Site;
use crate::translate::thunks::request;
use iced_x86::{
    Code, ConditionCode, FlowControl, Formatter, Instruction, InstructionInfoFactory, IntelFormatter, Mnemonic as M,
    OpAccess, OpKind, Register, UsedMemory,
};
use std::collections::{BTreeMap, BTreeSet};

pub const RSP: u8 = 4;
/// Where ways into the code come from.
const OUTSIDE: u32 = u32::MAX;

/// One block's host code under proof.
pub struct Proof<'a> {
    /// Instructions by their offset.
    pub code: BTreeMap<u32, Instruction>,
    pub mode: Mode,
    pub frame: &'a Frame,
    resumes: BTreeMap<u32, (u32, Instruction)>,
    /// Accesses that have slots, by the slot.
    pub sites: BTreeMap<u16, Site>,
    pub symbols: Symbols,
    pub info: InstructionInfoFactory,
    /// Where the TLB may be what it was at more than one earlier place: loops begin there.
    heads: BTreeSet<u32>,
    /// Where ways meet or begin: states are kept of these alone.
    pub targets: BTreeSet<u32>,
    reached: BTreeSet<u32>,
    /// What the code at each offset begins with, by where the way there comes from.
    ways: BTreeMap<u32, BTreeMap<u32, State>>,
    states: BTreeMap<u32, State>,
    open: BTreeSet<u32>,
    /// Places that more than one value may be in where ways meet.
    joined: BTreeSet<(u32, Place)>,
    /// Accesses to guest memory that were found safe, with repetitions.
    pub accesses: usize,
}

pub type Checked<T = ()> = Result<T, String>;

/// A block's host code, and what belongs to it.
pub struct Made<'a> {
    pub code: &'a [u8],
    pub entrances: &'a [u32],
    pub mode: Mode,
    /// Where the code may be entered again behind a guest's instruction that the interpreter has run, by the exit.
    pub resumes: BTreeMap<u32, (u32, Instruction)>,
    pub sites: &'a [Site],
}

/// Proves of all code that is reached from `entrances` what [`super`] says. Gives how many accesses to guest memory there
/// are.
pub fn prove(made: Made<'_>, frame: &Frame) -> Checked<usize> {
    let Made { code, entrances, mode, resumes, sites } = made;
    let instructions = reached(code, entrances.iter().copied().chain(resumes.values().map(|(at, _)| *at)))?;
    let jumps = instructions.values().filter(|instruction| instruction.is_jmp_short_or_near());
    let back = jumps.filter(|instruction| instruction.near_branch_target() <= instruction.ip());
    let targets: Vec<u32> = instructions.values().map(|instruction| instruction.near_branch_target() as u32).collect();
    let mut proof = Proof {
        heads: back.map(|instruction| instruction.near_branch_target() as u32).collect(),
        targets: entrances.iter().copied().chain(targets).chain(resumes.values().map(|(at, _)| *at)).collect(),
        resumes,
        sites: sites.iter().map(|site| (site.slot, *site)).collect(),
        reached: BTreeSet::new(),
        code: instructions,
        mode,
        frame,
        symbols: Symbols::default(),
        info: InstructionInfoFactory::new(),
        ways: BTreeMap::new(),
        states: BTreeMap::new(),
        open: BTreeSet::new(),
        joined: BTreeSet::new(),
        accesses: 0,
    };
    for &entrance in entrances {
        proof.arrive(OUTSIDE, entrance.into(), State::at_entrance())?;
    }
    let mut steps = 0;
    while let Some(at) = proof.open.pop_first() {
        steps += 1;
        if steps > 1000 * proof.code.len() {
            return Err("no end of looking at the code".to_owned());
        }
        let Some(state) = proof.states.get(&at).cloned() else { continue };
        proof.run(at, state)?;
    }
    Ok(proof.accesses)
}

impl Proof<'_> {
    fn explain(&self, instruction: &Instruction, problem: &str) -> String {
        let mut text = format!("{problem}, at {:#x}\n", instruction.ip());
        let around = instruction.ip().saturating_sub(0x100) as u32..instruction.ip() as u32 + 0x100;
        for (at, instruction) in self.code.range(around) {
            let mut line = String::new();
            IntelFormatter::new().format(instruction, &mut line);
            text += &format!("{at:6x}: {line}{}\n", if self.reached.contains(at) { "" } else { "    (not reached)" });
        }
        text
    }

    /// The code at `from` goes on at `to` in this state.
    fn arrive(&mut self, from: u32, to: u64, state: State) -> Checked {
        if state.get(Place::Register(RSP)) != Form::entry(Place::Register(RSP)) {
            return Err("a way with something on the stack".to_owned());
        }
        if !state.reachable {
            return Ok(());
        }
        let at = u32::try_from(to).ok().filter(|at| self.code.contains_key(at));
        let Some(at) = at else { return Err(format!("a way leads to {to:#x}, where no instruction begins")) };
        self.ways.entry(at).or_default().insert(from, state);
        self.settle(at);
        Ok(())
    }

    /// Finds out what is known at `at`, whichever way led there.
    fn settle(&mut self, at: u32) {
        let mut all = self.ways.get(&at).into_iter().flat_map(BTreeMap::values);
        let Some(mut state) = all.next().cloned() else { return };
        all.for_each(|other| state.join(other, at, &self.symbols));
        for &(_, place) in self.joined.range((at, Place::Register(0))..(at + 1, Place::Register(0))) {
            state.forget(place, at, &self.symbols);
        }
        // What was known of values that were here before.
        state.renew(&self.symbols, |symbol| matches!(symbol, Symbol::Join(of, ..) if of == at));
        if self.heads.contains(&at) {
            state.version = Version::Join(at);
        }
        let new = state.joined(at).filter(|&place| !self.joined.contains(&(at, place))).collect::<Vec<_>>();
        let turns = state.version == Version::Join(at) && self.heads.insert(at);
        if self.states.get(&at) != Some(&state) {
            self.states.insert(at, state);
            self.open.insert(at);
        }
        if turns || !new.is_empty() {
            self.joined.extend(new.into_iter().map(|place| (at, place)));
            self.look_again_behind(at);
        }
    }

    /// Forgets what was concluded from more than is now known at `at`: in a loop it would confirm itself.
    fn look_again_behind(&mut self, at: u32) {
        let mut left = Vec::new();
        for (&later, ways) in self.ways.range_mut(at + 1..) {
            ways.retain(|&from, _| from == OUTSIDE || from < at);
            self.states.remove(&later);
            if !ways.is_empty() {
                left.push(later);
            }
        }
        left.into_iter().for_each(|later| self.settle(later));
    }

    /// Goes on from `at` up to where ways meet.
    fn run(&mut self, mut at: u32, mut state: State) -> Checked {
        loop {
            let Some(&instruction) = self.code.get(&at) else { return Err(format!("nothing at {at:#x}")) };
            self.reached.insert(at);
            let next = self.step(&instruction, state).map_err(|problem| self.explain(&instruction, &problem))?;
            let Some(behind) = next else { return Ok(()) };
            let to = instruction.next_ip() as u32;
            if self.targets.contains(&to) {
                return self.arrive(at, to.into(), behind);
            }
            (at, state) = (to, behind);
        }
    }

    /// Gives the state behind an instruction that only goes on.
    fn step(&mut self, instruction: &Instruction, mut state: State) -> Checked<Option<State>> {
        permitted(instruction)?;
        let at = instruction.ip() as u32;
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::UnconditionalBranch => {
                self.arrive(at, instruction.near_branch_target(), state)?;
                return Ok(None);
            }
            FlowControl::ConditionalBranch => return self.branch(instruction, state),
            FlowControl::IndirectBranch => {
                self.leave(instruction, &state)?;
                return Ok(None);
            }
            FlowControl::IndirectCall => {
                self.call(instruction, &mut state)?;
                return Ok(Some(state));
            }
            other => return Err(format!("control flow of kind {other:?}")),
        }
        if self.stack(instruction, &mut state)? {
            return Ok(Some(state));
        }
        if matches!(instruction.mnemonic(), M::Div | M::Idiv) {
            self.check_division(instruction)?;
        }
        let memory = self.info.info(instruction).used_memory().to_vec();
        for used in &memory {
            if !matches!(used.access(), OpAccess::None | OpAccess::NoMemAccess) {
                self.check_access(instruction, used, &state)?;
            }
        }
        self.execute(instruction, &mut state)?;
        Ok(Some(state))
    }

    /// Flags are read by way of the stack: PUSHF and POP, one behind the other.
    fn stack(&mut self, instruction: &Instruction, state: &mut State) -> Checked<bool> {
        let (rsp, empty) = (Place::Register(RSP), Form::entry(Place::Register(RSP)));
        match instruction.code() {
            Code::Pushfq if state.get(rsp) == empty => state.set(rsp, empty.add(-8)),
            Code::Pop_r64 if state.get(rsp) == empty.add(-8) => {
                self.result(instruction, state, Place::Register(instruction.op0_register().number() as u8), false)?;
                state.set(rsp, empty);
            }
            Code::Pushfq | Code::Pop_r64 => return Err("the stack".to_owned()),
            _ if state.get(rsp) != empty => return Err("an instruction with something on the stack".to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    // Control flow.

    fn branch(&mut self, instruction: &Instruction, state: State) -> Checked<Option<State>> {
        let (mut taken, mut not_taken) = (state.clone(), state);
        if matches!(instruction.code(), Code::Jrcxz_rel8_64) {
            let count = taken.get(Place::Register(1));
            self.learn_equal(&mut taken, &count, &Form::constant(0));
        }
        if let Flags::Compared(a, b) = &taken.flags.clone() {
            match instruction.condition_code() {
                ConditionCode::a => self.learn_at_most(&mut not_taken, a, b, 0),
                ConditionCode::be => self.learn_at_most(&mut taken, a, b, 0),
                ConditionCode::ae => {
                    self.learn_at_most(&mut not_taken, a, b, 1);
                    self.learn_slot(&mut not_taken, a, b);
                }
                ConditionCode::b => self.learn_at_most(&mut taken, a, b, 1),
                ConditionCode::e => self.learn_equal(&mut taken, a, b),
                ConditionCode::ne => self.learn_equal(&mut not_taken, a, b),
                _ => {}
            }
        }
        if let Flags::Tested(value, mask) = &taken.flags.clone() {
            match instruction.condition_code() {
                ConditionCode::e => self.learn_clear(&mut taken, value, *mask),
                ConditionCode::ne => self.learn_clear(&mut not_taken, value, *mask),
                _ => {}
            }
        }
        if matches!(instruction.mnemonic(), M::Loop | M::Loope | M::Loopne) {
            for state in [&mut taken, &mut not_taken] {
                self.result(instruction, state, Place::Register(1), false)?;
            }
        }
        self.arrive(instruction.ip() as u32, instruction.near_branch_target(), taken)?;
        Ok(not_taken.reachable.then_some(not_taken))
    }

    /// Where the code is left, the guest's registers hold nothing of the host.
    fn check_registers(&self, state: &State) -> Checked {
        for place in words::of_guest() {
            let form = state.get(place);
            if self.symbols.is_secret(&form) {
                return Err(format!("{place:?} of the guest is {}", self.symbols.describe(&form)));
            }
        }
        Ok(())
    }

    fn leave(&mut self, instruction: &Instruction, state: &State) -> Checked {
        self.check_registers(state)?;
        let at = self.frame_operand(instruction, state).ok_or("a jump to what is not in the frame")?;
        if at.value() == Some(at::LEAVE as u64) {
            let exit = state.exit.ok_or("a way out without an exit")?;
            return match self.resumes.get(&exit).copied() {
                Some((at, interpreted)) => self.resume(at, &interpreted, instruction, state.clone()),
                None => Ok(()),
            };
        }
        let table = words::jumps(self.mode);
        let (low, high) = self.symbols.range(&at).ok_or("a jump to what lies anywhere")?;
        let aligned = self.symbols.alignment(&at.add(-table.start)) >= 8;
        if aligned && low >= table.start && high + 8 <= table.end {
            return Ok(());
        }
        Err("a jump by what is not in the jump table".to_owned())
    }

    /// The interpreter runs an instruction of the guest's, and the code goes on at `at`. Paging stays as it is.
    fn resume(&mut self, at: u32, interpreted: &Instruction, by: &Instruction, mut state: State) -> Checked {
        let moved = interpreted.stack_pointer_increment();
        let explicit = (0..interpreted.op_count()).any(|n| {
            interpreted.op_kind(n) == OpKind::Register && interpreted.op_register(n).full_register() == Register::RSP
        });
        let written: Vec<usize> = (self.info.info(interpreted).used_registers().iter())
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None))
            .filter(|used| used.register().is_gpr())
            .map(|used| used.register().full_register().number())
            .collect();
        for number in written {
            let place = words::home(number);
            if number == usize::from(RSP) && moved != 0 && !explicit && !self.mode.narrow {
                let new = state.get(place).add(moved.into());
                state.set(place, new);
            } else {
                self.result(by, &mut state, place, false)?;
            }
        }
        for segment in [at::FS_BASE, at::GS_BASE] {
            self.result(by, &mut state, Place::Word(segment), false)?;
        }
        for scratch in [10, 11] {
            self.result(by, &mut state, Place::Register(scratch), true)?;
        }
        state.flags = Flags::Unknown;
        state.version = Version::Call(by.ip() as u32);
        self.arrive(by.ip() as u32, at.into(), state)
    }

    fn call(&mut self, instruction: &Instruction, state: &mut State) -> Checked {
        let at = self.frame_operand(instruction, state).and_then(|at| at.value());
        self.check_registers(state)?;
        if words::is_string_thunk(at) {
            return self.repeat(instruction, state);
        }
        let fills_slot = at == Some(at::FILL_SLOT as u64);
        if at != Some(at::REFILL as u64) && !fills_slot {
            return Err("a call of what is no thunk".to_owned());
        }
        let request = state.get(Place::Register(11)).value().ok_or("a request that is not known")?;
        if fills_slot {
            self.fill_slot(instruction, request, state.clone())?;
        }
        for scratch in [10, 11] {
            self.result(instruction, state, Place::Register(scratch), true)?;
        }
        state.version = Version::Call(instruction.ip() as u32);
        let early = fills_slot && request & u64::from(request::EARLY) != 0;
        if early || request & u64::from(request::MAY_FAIL) != 0 {
            let behind = self.behind_jump(instruction.next_ip())?;
            self.arrive(instruction.ip() as u32, behind, state.clone())?;
        }
        Ok(())
    }

    /// What comes behind a jump behind a call.
    fn behind_jump(&self, at: u64) -> Checked<u64> {
        let jump = self.code.get(&(at as u32)).filter(|jump| jump.is_jmp_near());
        Ok(jump.ok_or("no jump behind a call that may return behind it")?.next_ip())
    }

    /// The thunk for slots has found the page of the address in R10, which R11 leads to then.
    fn fill_slot(&mut self, call: &Instruction, request: u64, mut state: State) -> Checked {
        let request = request as u32;
        let site = self.sites.get(&((request >> request::SLOT) as u16)).copied().ok_or("a slot of somebody else's")?;
        let same = (request & request::BYTES, request & request::WRITE != 0) == (site.bytes, site.write);
        if !same || (request & request::USER != 0) != self.mode.user || request & request::TIRED != 0 {
            return Err("a slot for another access".to_owned());
        }
        let address = state.get(Place::Register(10));
        let entry = TlbEntry { at: Form::constant(at::slot(site.slot) as u64), version: state.version };
        self.found_by_slot(&mut state, entry.clone(), address);
        self.result(call, &mut state, Place::Register(10), true)?;
        let addend = self.symbols.define(Definition::Addend(entry));
        state.set(Place::Register(11), addend);
        state.flags = Flags::Unknown;
        let behind = self.behind_jump(call.next_ip()).and_then(|next| self.behind_jump(next))?;
        self.arrive(call.ip() as u32, behind, state)
    }

    /// REP MOVS or STOS by its thunk, which looks up what it accesses in the array that R11 says.
    fn repeat(&mut self, instruction: &Instruction, state: &mut State) -> Checked {
        if state.get(Place::Register(11)).value() != Some(words::tlb(self.mode.user).start as u64) {
            return Err("a thunk with another array than that of the code's privilege".to_owned());
        }
        for (register, secret) in [(1, false), (6, false), (7, false), (10, true), (11, true)] {
            self.result(instruction, state, Place::Register(register), secret)?;
        }
        state.version = Version::Call(instruction.ip() as u32);
        Ok(())
    }

    /// The displacement in the frame of the explicit memory operand.
    pub fn frame_operand(&self, instruction: &Instruction, state: &State) -> Option<Form> {
        let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
        let plain = memory && instruction.segment_prefix() == Register::None;
        let address = plain.then(|| self.address(state, &operand(instruction))).flatten()?;
        in_frame(&address)
    }

    // Memory.

    /// The address of an access; nothing if it is not a sum of 64-bit registers.
    pub fn address(&self, state: &State, operand: &Operand) -> Option<Form> {
        let mut sum = Form::constant(operand.displacement);
        for (register, factor) in [(operand.base, 1), (operand.index, operand.scale)] {
            if register != Register::None {
                let number = register.is_gpr64().then(|| register.number() as u8)?;
                sum = sum.plus(&state.get(Place::Register(number)), factor.into());
            }
        }
        Some(sum)
    }

    fn check_access(&mut self, instruction: &Instruction, used: &UsedMemory, state: &State) -> Checked {
        let bytes = used.memory_size().size() as i64;
        let write = !matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        let bits_anywhere = matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
            && instruction.op1_kind() == OpKind::Register;
        if bytes == 0 || bits_anywhere || is_repeated(instruction) {
            return Err("an access of unknown length".to_owned());
        }
        if matches!(used.segment(), Register::FS | Register::GS) {
            return Err("an access through the host's FS or GS".to_owned());
        }
        let operand =
            Operand { base: used.base(), index: used.index(), scale: used.scale(), displacement: used.displacement() };
        let address = self.address(state, &operand).ok_or("an address that is not made of 64-bit registers")?;
        if let Some(at) = in_frame(&address) {
            let (low, high) = self.symbols.range(&at).ok_or("an access to the frame that may be anywhere")?;
            let range = low..high + bytes;
            let allowed = if write { words::may_write(&range) } else { words::may_read(&range) };
            return if allowed { Ok(()) } else { Err(format!("an access to bytes {range:x?} of the frame")) };
        }
        if let Some(field) = in_cpu(&address) {
            let allowed = words::of_cpu(field, bytes, write, self.mode.user);
            return if allowed { Ok(()) } else { Err(format!("an access to {field:?} of the CPU")) };
        }
        self.check_guest_access(&address, bytes, write, state)?;
        self.check_alignment(instruction, &address, bytes, state)?;
        if write && self.reads_secret(instruction, state) {
            return Err("what is known of the host goes to the guest's memory".to_owned());
        }
        self.accesses += 1;
        Ok(())
    }

    /// An access outside of the frame lies in a page that the TLB had for that address and right.
    fn check_guest_access(&self, address: &Form, bytes: i64, write: bool, state: &State) -> Checked {
        let hosts: Vec<(Symbol, &TlbEntry)> = address
            .terms
            .iter()
            .filter(|term| term.1 == 1)
            .filter_map(|term| match self.symbols.definition(term.0) {
                Some(Definition::Addend(entry)) => Some((term.0, entry)),
                _ => None,
            })
            .collect();
        let &[(host, entry)] = hosts.as_slice() else {
            return Err(format!("an unchecked access to {}", self.symbols.describe(address)));
        };
        let rights: &[Right] = if write { &[Right::Write] } else { &[Right::Read, Right::Write] };
        let found = rights.iter().find_map(|&right| state.found.get(&(entry.clone(), right)));
        let Some(found) = found else {
            return Err(format!("an access by an entry without a check: {}", self.symbols.describe(address)));
        };
        // Host address = address + addend.
        let offset = address.minus(&host.into());
        let distance = offset.minus(&found.of);
        let Some(distance) = distance.value().and_then(|value| i32::try_from(value as i64).ok()) else {
            return Err(format!("an access at an unknown distance: {}", self.symbols.describe(address)));
        };
        let (least, greatest) = (found.least + i64::from(distance), found.greatest + i64::from(distance));
        if least < 0 || greatest + bytes > PAGE as i64 {
            return Err(format!("{bytes} bytes at {least} to {greatest} of a page"));
        }
        Ok(())
    }

    /// Whether a register whose value the instruction uses, other than for an address, tells of the host.
    pub fn reads_secret(&mut self, instruction: &Instruction, state: &State) -> bool {
        let explicit: Vec<Register> = (0..instruction.op_count())
            .filter(|&n| {
                instruction.op_kind(n) == OpKind::Register
                    && self.info.info(instruction).op_access(n) != OpAccess::Write
            })
            .map(|n| instruction.op_register(n).full_register())
            .collect();
        let address = [instruction.memory_base(), instruction.memory_index()];
        let used: Vec<Register> = (self.info.info(instruction).used_registers().iter())
            .filter(|used| !matches!(used.access(), OpAccess::Write | OpAccess::CondWrite | OpAccess::None))
            .map(|used| used.register().full_register())
            .filter(|register| explicit.contains(register) || !address.contains(register))
            .collect();
        used.iter().any(|register| {
            register.is_gpr() && self.symbols.is_secret(&state.get(Place::Register(register.number() as u8)))
        })
    }
}

/// An explicit or implicit memory operand.
pub struct Operand {
    base: Register,
    index: Register,
    scale: u32,
    displacement: u64,
}

pub fn operand(instruction: &Instruction) -> Operand {
    Operand {
        base: instruction.memory_base(),
        index: instruction.memory_index(),
        scale: instruction.memory_index_scale(),
        displacement: instruction.memory_displacement64(),
    }
}

/// The displacement in the frame, if an address is one.
fn in_frame(address: &Form) -> Option<Form> {
    let frame = Symbol::Entry(Place::Register(RSP));
    let at = address.minus(&frame.into());
    (address.terms.iter().any(|&(symbol, factor)| symbol == frame && factor == 1)).then_some(at)
}

/// The offset in the CPU, if an address is one.
fn in_cpu(address: &Form) -> Option<i64> {
    let cpu = Symbol::Entry(Place::Word(at::CPU));
    address.minus(&cpu.into()).value().map(|offset| offset as i64)
}

pub fn is_immediate(kind: OpKind) -> bool {
    use OpKind as K;
    matches!(
        kind,
        K::Immediate8
            | K::Immediate16
            | K::Immediate32
            | K::Immediate64
            | K::Immediate8to16
            | K::Immediate8to32
            | K::Immediate8to64
            | K::Immediate32to64
    )
}

pub fn operand_bytes(instruction: &Instruction) -> usize {
    match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    }
}

fn is_repeated(instruction: &Instruction) -> bool {
    instruction.is_string_instruction() && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
}
