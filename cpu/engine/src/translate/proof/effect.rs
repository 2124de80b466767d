//! What instructions leave in registers, flags and words of the frame.

use super::form::{Definition, Form, Place, Symbol, TlbEntry};
use super::state::{Flags, State};
use super::walk::{Checked, Proof, RSP, is_immediate, operand, operand_bytes};
use super::words::{self, Field};
use crate::translate::frame::at;
use crate::translate::slots::Slot;
use iced_x86::{Instruction, Mnemonic as M, OpAccess, OpKind, Register};
use std::mem::offset_of;

impl Proof<'_> {
    pub fn execute(&mut self, instruction: &Instruction, state: &mut State) -> Checked {
        let flags = self.flags_after(instruction, state);
        if !self.known(instruction, state) {
            self.unknown(instruction, state)?;
        }
        if let Some(flags) = flags {
            state.flags = flags;
        }
        Ok(())
    }

    /// What the flags are behind an instruction, if it changes them.
    fn flags_after(&mut self, instruction: &Instruction, state: &State) -> Option<Flags> {
        if instruction.rflags_modified() == 0 {
            return None;
        }
        let mnemonic = instruction.mnemonic();
        let known = matches!(mnemonic, M::Cmp | M::Sub | M::Test) && operand_bytes(instruction) == 8;
        if mnemonic == M::Test
            && let Some((value, mask)) = self.tested_low(instruction, state)
        {
            return Some(Flags::Tested(value, mask));
        }
        let operands = known.then(|| Some((self.value(instruction, 0, state)?, self.value(instruction, 1, state)?)));
        Some(match operands.flatten() {
            Some((a, b)) if mnemonic == M::Test => b.value().map_or(Flags::Unknown, |mask| Flags::Tested(a, mask)),
            Some((a, b)) => Flags::Compared(a, b),
            None => Flags::Unknown,
        })
    }

    /// A register of which a part is tested with a constant: the same as all of it with the part's.
    fn tested_low(&mut self, instruction: &Instruction, state: &State) -> Option<(Form, u64)> {
        let register = instruction.op0_register();
        let lowest =
            register.is_gpr8() && !matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
        let immediate = instruction.op0_kind() == OpKind::Register && is_immediate(instruction.op1_kind());
        let mask = u64::from(instruction.immediate8());
        (lowest && immediate).then(|| (state.get(Place::Register(register.full_register().number() as u8)), mask))
    }

    /// The value of an operand of eight bytes: of a register, of a word of the frame, or a constant.
    fn value(&mut self, instruction: &Instruction, n: u32, state: &State) -> Option<Form> {
        match instruction.op_kind(n) {
            OpKind::Register => {
                let register = instruction.op_register(n);
                register.is_gpr64().then(|| state.get(Place::Register(register.number() as u8)))
            }
            OpKind::Memory => {
                let at = self.frame_operand(instruction, state)?;
                (instruction.memory_size().size() == 8).then(|| self.word(&at, state)).flatten()
            }
            kind if is_immediate(kind) => Some(Form::constant(instruction.immediate(n))),
            _ => None,
        }
    }

    /// The word of the frame at a displacement.
    fn word(&mut self, at: &Form, state: &State) -> Option<Form> {
        let (low, high) = self.symbols.range(at)?;
        let array = words::tlb(self.mode.user);
        if low >= array.start && high < array.end {
            let constant = at.constant as i64 - array.start;
            let in_entry = self.symbols.alignment(&Form { constant: 0, ..at.clone() }) as i64 % words::ENTRY == 0;
            let entry = TlbEntry { at: at.add(words::entry_at(constant) - constant), version: state.version };
            return match words::field(constant).filter(|_| in_entry)? {
                Field::Tag(right) => Some(self.symbols.define(Definition::Tag(entry, right))),
                Field::Addend => Some(self.symbols.define(Definition::Addend(entry))),
            };
        }
        if let Some((number, field)) = words::slot(at.value()? as i64) {
            return self.slot_word(number, field, state);
        }
        let word = i32::try_from(at.value()?).ok()?;
        (word % 8 == 0).then(|| state.get(Place::Word(word)))
    }

    fn slot_word(&mut self, number: u16, field: usize, state: &State) -> Option<Form> {
        let site = self.sites.get(&number)?;
        let right = words::right(site);
        let entry = TlbEntry { at: Form::constant(at::slot(number) as u64), version: state.version };
        let definition = match field {
            field if field == offset_of!(Slot, low) => Definition::Tag(entry, right),
            field if field == offset_of!(Slot, limit) => Definition::Limit(entry),
            field if field == offset_of!(Slot, addend) => Definition::Addend(entry),
            _ => return None,
        };
        Some(self.symbols.define(definition))
    }

    /// Does what an instruction does, if that is understood.
    fn known(&mut self, instruction: &Instruction, state: &mut State) -> bool {
        let done = match instruction.mnemonic() {
            M::Nop | M::Endbr64 | M::Pause | M::Lfence | M::Mfence | M::Sfence => Some(()),
            M::Cmp | M::Test if !self.writes_frame(instruction, state) => Some(()),
            _ if self.writes_frame(instruction, state) => self.store(instruction, state),
            M::Mov
            | M::Lea
            | M::Add
            | M::Sub
            | M::Inc
            | M::Dec
            | M::Not
            | M::Neg
            | M::And
            | M::Shl
            | M::Rorx
            | M::Pext => self.compute(instruction, state),
            _ => None,
        };
        done.is_some()
    }

    fn compute(&mut self, instruction: &Instruction, state: &mut State) -> Option<()> {
        let to = instruction.op0_register();
        if instruction.op0_kind() != OpKind::Register || !to.is_gpr() {
            return None;
        }
        let place = Place::Register(to.full_register().number() as u8);
        let old = state.get(place);
        let wide = to.is_gpr64();
        let form = match instruction.mnemonic() {
            M::Lea => {
                let address = self.address(state, &operand(instruction))?;
                if wide { address } else { self.low(to, &address)? }
            }
            M::Mov if to.is_gpr32() && instruction.op1_kind() == OpKind::Register => {
                let from = state.get(Place::Register(instruction.op1_register().full_register().number() as u8));
                self.low(to, &from)?
            }
            M::Mov if to.is_gpr32() && is_immediate(instruction.op1_kind()) => {
                Form::constant(u64::from(instruction.immediate(1) as u32))
            }
            M::And => {
                let mask = self.value(instruction, 1, state).and_then(|mask| self.constant(&mask));
                let mask = mask.or_else(|| is_immediate(instruction.op1_kind()).then(|| instruction.immediate(1)))?;
                let mask = if wide { mask } else { u64::from(mask as u32) };
                (wide || to.is_gpr32()).then(|| self.symbols.masked(&old, mask)).flatten()?
            }
            M::Rorx if wide && instruction.op1_kind() == OpKind::Register => {
                let from = self.value(instruction, 1, state)?;
                self.symbols.rotated(&from, u32::from(instruction.immediate8()) % 64)
            }
            M::Pext if wide => {
                let from = self.value(instruction, 1, state)?;
                let mask = self.value(instruction, 2, state).and_then(|mask| self.constant(&mask))?;
                self.symbols.extracted(&from, mask)?
            }
            _ if !wide => return None,
            M::Mov => self.value(instruction, 1, state)?,
            M::Add => old.plus(&self.value(instruction, 1, state)?, 1),
            M::Sub => old.minus(&self.value(instruction, 1, state)?),
            M::Inc => old.add(1),
            M::Dec => old.add(-1),
            M::Not => Form::constant(u64::MAX).minus(&old),
            M::Neg => Form::constant(0).minus(&old),
            M::Shl if is_immediate(instruction.op1_kind()) => {
                Form::constant(0).plus(&old, 1u64.checked_shl(u32::from(instruction.immediate8()))?)
            }
            _ => return None,
        };
        state.set(place, form);
        Some(())
    }

    /// The lower half of a value in a register of 32 bits.
    fn low(&mut self, to: Register, form: &Form) -> Option<Form> {
        to.is_gpr32().then(|| match form.value() {
            Some(value) => Form::constant(u64::from(value as u32)),
            None => self.symbols.define(Definition::Low(form.clone())),
        })
    }

    /// The value of a word that no code writes, as the frame has it.
    fn constant(&self, form: &Form) -> Option<u64> {
        match form.symbol() {
            None => form.value(),
            Some(Symbol::Entry(Place::Word(word))) => {
                let range = i64::from(word)..i64::from(word) + 8;
                let own = !words::may_write(&range) && words::is_mask(word);
                // SAFETY: the word lies in the frame, which is plain data.
                own.then(|| unsafe {
                    std::ptr::from_ref(self.frame).cast::<u8>().add(word as usize).cast::<u64>().read()
                })
            }
            Some(_) => None,
        }
    }

    fn writes_frame(&mut self, instruction: &Instruction, state: &State) -> bool {
        let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        let access = memory.then(|| self.info.info(instruction).op0_access());
        matches!(access, Some(OpAccess::Write | OpAccess::ReadWrite))
            && self.frame_operand(instruction, state).is_some()
    }

    /// An instruction that writes a word of the frame.
    fn store(&mut self, instruction: &Instruction, state: &mut State) -> Option<()> {
        let at = self.frame_operand(instruction, state)?.value()?;
        let (at, bytes) = (i32::try_from(at).ok()?, instruction.memory_size().size());
        if at == at::EXIT {
            let known = instruction.mnemonic() == M::Mov && bytes == 4 && is_immediate(instruction.op1_kind());
            state.exit = known.then(|| instruction.immediate(1) as u32);
        }
        let word = Place::Word(at & !7);
        let form = match (instruction.mnemonic(), bytes) {
            (M::Mov, 8) if at % 8 == 0 => self.value(instruction, 1, state),
            _ => None,
        };
        let secret = self.reads_secret(instruction, state) || self.symbols.is_secret(&state.get(word));
        let form = form.unwrap_or_else(|| {
            let symbol = Symbol::Result(instruction.ip() as u32, word, secret);
            state.renew(&self.symbols, |other| other == symbol);
            symbol.into()
        });
        state.set(word, form);
        Some(())
    }

    /// The registers that an instruction writes may be anything behind it.
    fn unknown(&mut self, instruction: &Instruction, state: &mut State) -> Checked {
        let from_frame = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory)
            && self
                .frame_operand(instruction, state)
                .is_some_and(|at| at.value().is_none_or(|word| !words::is_guests(Place::Word(word as i32 & !7))));
        let secret = from_frame || self.reads_secret(instruction, state);
        let written: Vec<Register> = (self.info.info(instruction).used_registers().iter())
            .filter(|used| !matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::None))
            .map(|used| used.register().full_register())
            .filter(|register| register.is_gpr())
            .collect();
        for register in written {
            self.result(instruction, state, Place::Register(register.number() as u8), secret)?;
        }
        Ok(())
    }

    pub fn result(&mut self, by: &Instruction, state: &mut State, place: Place, secret: bool) -> Checked {
        if place == Place::Register(RSP) {
            return Err("the frame's register is written".to_owned());
        }
        let symbol = Symbol::Result(by.ip() as u32, place, secret);
        if state.depends_on(symbol, place) {
            return Err(format!("a loop that is not understood, through {place:?}"));
        }
        state.renew(&self.symbols, |other| other == symbol);
        state.set(place, symbol.into());
        Ok(())
    }
}
