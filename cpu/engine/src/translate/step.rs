//! One instruction of the guest as host code.

use super::asm::{Mem, R10, R11, RAX, RDX, RSP, Reg, cc};
use super::block::{BlockTranslator, Place};
use super::emit::{Address, Computed, Free, Target};
use super::exit::ExitKind;
use super::frame::at;
use super::groups::{Planned, change};
use super::mode::Mode;
use super::registers::{Home, home, renamed};
use super::select::{Kind, Operand, Selected, divisor_bytes};
use crate::decode::condition;
use iced_x86::{CodeSize, Instruction, Mnemonic, OpAccess, OpKind, Register};

/// One instruction on its way.
pub struct Current<'a> {
    pub instruction: &'a Instruction,
    pub selected: &'a Selected,
    pub planned: Planned,
    pub mode: Mode,
    /// Flags matter before it, and behind it.
    pub live: bool,
    pub live_behind: bool,
    /// Where the block goes on behind it, if it does.
    pub next: Option<u64>,
}

impl Current<'_> {
    pub fn rip(&self) -> u64 {
        self.instruction.ip()
    }
}

impl BlockTranslator {
    /// `None` if the instruction could not be encoded, which drops the block.
    pub(super) fn step(&mut self, step: &Current<'_>, place: &Place<'_>) -> Option<()> {
        let instruction = step.instruction;
        let branch = || self.target(instruction.near_branch_target(), instruction, place);
        let next = || self.target(instruction.next_ip(), instruction, place);
        let word = place.mode.word() as i32;
        match step.selected.kind {
            Kind::Copy | Kind::Lea if let Some(bytes) = moves_rsp(step) => {
                self.emit.move_rsp(bytes);
                Some(())
            }
            Kind::Copy => self.copy(step),
            Kind::Nothing => Some(()),
            Kind::Lea => self.lea(step),
            Kind::Push => self.push(step),
            Kind::Pop => self.pop(step),
            Kind::Leave => self.frame_end(step),
            Kind::Divide => self.divide(step),
            Kind::Jump => {
                let target = branch();
                self.go_or_follow(step, target);
                Some(())
            }
            Kind::JumpIf => {
                let condition = condition(instruction);
                match step.next {
                    Some(taken) if taken != instruction.next_ip() => {
                        let next = next();
                        self.emit.branch_if(condition ^ 1, next);
                        self.look_if_back(step, taken);
                    }
                    Some(_) => {
                        let target = branch();
                        self.emit.branch_if(condition, target);
                    }
                    None => {
                        let (target, next) = (branch(), next());
                        self.emit.branch_if(condition, target);
                        self.emit.go(next);
                    }
                }
                Some(())
            }
            Kind::JumpShort => {
                let (target, next) = (branch(), next());
                self.jump_short(instruction, target, next)
            }
            Kind::Call => {
                let target = branch();
                self.push_return(step)?;
                self.go_or_follow(step, target);
                Some(())
            }
            Kind::JumpIndirect => {
                self.indirect_target(step)?;
                self.emit.go_to_r10(step.rip(), 0);
                Some(())
            }
            Kind::CallIndirect => {
                let waits = may_change(step);
                if waits {
                    self.indirect_target(step)?;
                    self.emit.asm.store(super::asm::frame(at::WAITING), R10);
                }
                self.keep_pushed_over(step);
                self.push_return(step)?;
                if waits {
                    self.emit.asm.load(R10, super::asm::frame(at::WAITING));
                } else {
                    self.indirect_target(step)?;
                }
                self.emit.settle_rsp();
                self.emit.go_to_r10(step.rip(), -word);
                Some(())
            }
            Kind::Return => self.ret(step),
            Kind::Flag(change) => self.change_flag(step, change),
            Kind::SwapGs => self.swap_gs(),
            Kind::PushFlags => {
                self.flags_to_r10();
                self.push_r10(step);
                self.emit.move_rsp(-word);
                Some(())
            }
            Kind::Repeat(repeated) => {
                self.emit.call_or_leave(at::STRINGS + 8 * repeated.number() as i32, step.rip());
                Some(())
            }
            Kind::Interpret => {
                self.emit.forget_r11();
                let out = self.emit.leave(ExitKind::Interpret(self.emit.within()), step.rip());
                self.emit.asm.jmp(out);
                Some(())
            }
        }
    }

    /// Where the host has the explicit memory operand.
    pub(super) fn operand(&mut self, step: &Current<'_>, operand: Operand) -> Option<Mem> {
        if let Some(member) = step.planned.operand {
            return Some(self.emit.checked(member));
        }
        let address = address(step.instruction)?;
        let free = if names_spilled(step.instruction) { Free::One } else { Free::None };
        Some(self.emit.locate(address, operand, step.rip(), step.live, free))
    }

    fn copy(&mut self, step: &Current<'_>) -> Option<()> {
        let mut instruction = *step.instruction;
        let mut free: &[Reg] = &[R10, R11];
        if let Some(operand) = step.selected.operand {
            let mem = self.operand(step, operand)?;
            // R10 or R11 is part of the address; the other one is free if a register operand needs it.
            free = if mem.base == R10 { &[R11] } else { &[R10] };
            set_memory(&mut instruction, mem);
        }
        let mut scratch: [Option<(usize, Reg, bool)>; 2] = [None; 2];
        for n in 0..instruction.op_count() {
            let register = instruction.op_register(n);
            if instruction.op_kind(n) != OpKind::Register || !register.is_gpr() {
                continue;
            }
            let number = register.full_register().number();
            let to = match home(number) {
                Home::Host(reg) if usize::from(reg.0) == number => continue,
                Home::Host(reg) => reg,
                Home::Frame(slot) => {
                    let access = self.info.info(step.instruction).op_access(n);
                    let written = !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::None);
                    let known = scratch.iter_mut().flatten().find(|(guest, ..)| *guest == number);
                    match known {
                        Some((_, reg, writes)) => {
                            *writes |= written;
                            *reg
                        }
                        None => {
                            let used = scratch.iter().flatten().count();
                            let reg = *free.get(used)?;
                            *scratch.get_mut(used)? = Some((number, reg, written));
                            if reg == R11 {
                                self.emit.forget_r11();
                            }
                            self.emit.asm.load(reg, slot);
                            reg
                        }
                    }
                }
            };
            instruction.set_op_register(n, renamed(register, to));
        }
        if !self.emit.instruction(&instruction) {
            return None;
        }
        for (number, reg, written) in scratch.into_iter().flatten() {
            if let (true, Home::Frame(slot)) = (written, home(number)) {
                self.emit.asm.store(slot, reg);
            }
        }
        Some(())
    }

    fn lea(&mut self, step: &Current<'_>) -> Option<()> {
        let instruction = step.instruction;
        let register = instruction.op0_register();
        let has_registers = [instruction.memory_base(), instruction.memory_index()] != [Register::None; 2];
        if !self.wide() && has_registers {
            return self.narrow_lea(*instruction);
        }
        let to = home(register.full_register().number());
        // Offsets have no segment.
        let address = match address(instruction)? {
            Address::Computed(computed) => Address::Computed(Computed { segment: None, ..computed }),
            constant => constant,
        };
        if let (
            Address::Computed(Computed { base: Some(Home::Host(base)), index, disp, short, .. }),
            Home::Host(to),
            true,
        ) = (address, to, register.size() >= 4)
            && let Some(index) = host_index(index)
        {
            let mem = Mem { base, index, disp };
            if short || register.size() == 4 {
                self.emit.asm.lea32(to, mem)
            } else {
                self.emit.asm.lea(to, mem)
            }
            return Some(());
        }
        self.emit.address(address, true);
        match (to, register.size()) {
            (Home::Host(to), 8) => self.emit.asm.mov(to, R10),
            (Home::Host(to), 4) => self.emit.asm.mov_sized(to, R10, false),
            (Home::Frame(slot), 8) => self.emit.asm.store(slot, R10),
            (Home::Frame(slot), 4) => {
                self.emit.asm.mov_sized(R10, R10, false);
                self.emit.asm.store(slot, R10);
            }
            _ => return None,
        }
        Some(())
    }

    /// LEA of 32-bit code, by 64-bit registers.
    fn narrow_lea(&mut self, mut instruction: Instruction) -> Option<()> {
        let host = |register: Register| match register {
            Register::None => Some(Register::None),
            register => match home(register.full_register().number()) {
                Home::Host(reg) => Some(renamed(Register::RAX, reg)),
                Home::Frame(_) => None,
            },
        };
        instruction.set_memory_base(host(instruction.memory_base())?);
        instruction.set_memory_index(host(instruction.memory_index())?);
        let disp = instruction.memory_displacement64() as i32;
        instruction.set_memory_displacement64(i64::from(disp) as u64);
        instruction.set_memory_displ_size(u32::from(disp != 0));
        instruction.set_segment_prefix(Register::None);
        if let Home::Host(to) = home(instruction.op0_register().number()) {
            instruction.set_op0_register(renamed(Register::EAX, to));
        }
        self.emit.instruction(&instruction).then_some(())
    }

    /// DIV and IDIV: what might raise #DE is the interpreter's.
    fn divide(&mut self, step: &Current<'_>) -> Option<()> {
        let instruction = step.instruction;
        let wide = divisor_bytes(instruction) == 8;
        let signed = instruction.mnemonic() == Mnemonic::Idiv;
        match step.selected.operand {
            Some(operand) => {
                let from = self.operand(step, operand)?;
                if wide { self.emit.asm.load(R10, from) } else { self.emit.asm.load32(R10, from) }
            }
            None => match home(instruction.op0_register().full_register().number()) {
                Home::Host(reg) => self.emit.asm.mov_sized(R10, reg, wide),
                Home::Frame(slot) => self.emit.asm.load(R10, slot),
            },
        }
        self.emit.forget_r11();
        let out = self.emit.leave(ExitKind::Interpret(self.emit.within()), step.rip());
        let asm = &mut self.emit.asm;
        if signed {
            asm.mov_sized(R11, RAX, wide);
            asm.sign_of(R11, wide);
            asm.cmp_sized(R11, RDX, wide);
            asm.jcc(cc::NZ, out);
            // Neither 0 nor -1.
            let above = Mem { base: R10, index: None, disp: 1 };
            if wide {
                asm.lea(R11, above)
            } else {
                asm.lea32(R11, above)
            }
            asm.cmp_imm8(R11, 1, wide);
            asm.jcc(cc::BE, out);
        } else {
            asm.cmp_sized(RDX, R10, wide);
            asm.jcc(cc::AE, out);
        }
        asm.divide(R10, signed, wide);
        Some(())
    }

    fn jump_short(&mut self, instruction: &Instruction, target: Target, next: Target) -> Option<()> {
        let opcode = match instruction.mnemonic() {
            Mnemonic::Loopne => 0xe0,
            Mnemonic::Loope => 0xe1,
            Mnemonic::Loop => 0xe2,
            _ => 0xe3,
        };
        let (taken, over) = (self.emit.asm.label(), self.emit.asm.label());
        if uses_ecx(instruction) {
            self.emit.asm.bytes(&[0x67]);
        }
        self.emit.asm.jump_short(opcode, taken);
        self.emit.asm.jmp(over);
        self.emit.asm.bind(taken);
        self.emit.go(target);
        self.emit.asm.bind(over);
        self.emit.go(next);
        Some(())
    }

    /// The target of an indirect branch into R10.
    fn indirect_target(&mut self, step: &Current<'_>) -> Option<()> {
        match step.selected.operand {
            Some(operand) => {
                let from = self.operand(step, operand)?;
                self.load_word(R10, from);
            }
            None => match home(step.instruction.op0_register().number()) {
                Home::Host(reg) => self.emit.asm.mov(R10, reg),
                Home::Frame(slot) => self.emit.asm.load(R10, slot),
            },
        }
        Some(())
    }

    /// Keeps what an indirect call is about to overwrite: a call to where no address is has not pushed. 32 bits are always an
    /// address.
    fn keep_pushed_over(&mut self, step: &Current<'_>) {
        if !self.wide() {
            return;
        }
        let at_top = self.pushed(step);
        let free = self.other_than(at_top);
        self.emit.asm.load(free, at_top);
        self.emit.asm.store(super::asm::frame(at::PUSHED_OVER), free);
    }

    /// Pushes where the next instruction is.
    fn push_return(&mut self, step: &Current<'_>) -> Option<()> {
        let back = step.instruction.next_ip();
        let to = self.pushed(step);
        match i32::try_from(back as i64) {
            _ if !self.wide() => self.emit.asm.store_imm32(to, back as u32),
            Ok(low) => self.emit.asm.store_imm(to, low),
            Err(_) => {
                let free = self.other_than(to);
                self.emit.asm.mov_imm(free, back);
                self.emit.asm.store(to, free);
            }
        }
        self.emit.move_rsp(-self.word());
        Some(())
    }

    fn ret(&mut self, step: &Current<'_>) -> Option<()> {
        let from = self.top(step);
        self.load_word(R10, from);
        let popped = step.instruction.stack_pointer_increment();
        self.emit.move_rsp(popped);
        match step.next {
            Some(next) => {
                self.emit.go_unless_r10_is(next, step.rip(), popped);
                self.look_if_back(step, next);
            }
            None => {
                self.emit.settle_rsp();
                self.emit.go_to_r10(step.rip(), popped);
            }
        }
        Some(())
    }

    /// Goes to a direct branch's target, or on if the block has it next.
    fn go_or_follow(&mut self, step: &Current<'_>, target: Target) {
        match step.next {
            Some(next) => self.look_if_back(step, next),
            None => {
                self.emit.settle_rsp();
                self.emit.go(target);
            }
        }
    }

    /// A loop may close by a branch back that the block follows: it looks up behind the first.
    fn look_if_back(&mut self, step: &Current<'_>, next: u64) {
        if next <= step.rip() && !self.looked {
            self.looked = true;
            self.emit.settle_rsp();
            self.emit.look_up_now(next, step.live_behind);
        }
    }
}

/// Whether the target of an indirect call is to be read before the call pushes.
fn may_change(step: &Current<'_>) -> bool {
    step.selected.operand.is_some() || step.instruction.op0_register().full_register() == Register::RSP
}

/// By how much an instruction moves RSP, if it does nothing else that matters.
fn moves_rsp(step: &Current<'_>) -> Option<i32> {
    let (register, bytes) = change(step.mode, step.instruction, step.selected.kind)?;
    let only = register == usize::from(RSP.0) && (step.selected.kind == Kind::Lea || !step.live_behind);
    i32::try_from(bytes).ok().filter(|_| only)
}

/// Whether an instruction needs the guest's RSP in R9 only where it accesses the stack by a checked group, and cannot be left.
pub fn lets_rsp_wait(step: &Current<'_>) -> bool {
    let instruction = step.instruction;
    let is_rsp = |register: Register| register.is_gpr() && register.full_register() == Register::RSP;
    let names_rsp = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && is_rsp(instruction.op_register(n)))
        || is_rsp(instruction.memory_base());
    match step.selected.kind {
        Kind::Copy | Kind::Lea if moves_rsp(step).is_some() => true,
        Kind::Push => step.planned.stack.is_some() && step.selected.operand.is_none() && !names_rsp,
        Kind::Pop => step.planned.stack.is_some() && !names_rsp,
        Kind::Call | Kind::Return => step.planned.stack.is_some(),
        Kind::Copy | Kind::Lea => !names_rsp && (step.selected.operand.is_none() || step.planned.operand.is_some()),
        Kind::Nothing => true,
        Kind::Jump => step.next.is_some(),
        _ => false,
    }
}

/// Whether a register operand has no register of the host.
fn names_spilled(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).filter(|&n| instruction.op_kind(n) == OpKind::Register).any(|n| {
        let register = instruction.op_register(n);
        register.is_gpr() && matches!(home(register.full_register().number()), Home::Frame(_))
    })
}

/// The index register, if it is none or in a host register.
fn host_index(index: Option<(Home, u8)>) -> Option<Option<(Reg, u8)>> {
    match index {
        None => Some(None),
        Some((Home::Host(reg), shift)) => Some(Some((reg, shift))),
        Some((Home::Frame(_), _)) => None,
    }
}

fn uses_ecx(instruction: &Instruction) -> bool {
    use iced_x86::Code;
    matches!(
        instruction.code(),
        Code::Jecxz_rel8_64
            | Code::Loop_rel8_64_ECX
            | Code::Loope_rel8_64_ECX
            | Code::Loopne_rel8_64_ECX
            | Code::Jecxz_rel8_32
            | Code::Loop_rel8_32_ECX
            | Code::Loope_rel8_32_ECX
            | Code::Loopne_rel8_32_ECX
    )
}

/// The address of the explicit memory operand.
pub fn address(instruction: &Instruction) -> Option<Address> {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let segment = match instruction.memory_segment() {
        Register::FS => Some(at::FS_BASE),
        Register::GS => Some(at::GS_BASE),
        _ => None,
    };
    if instruction.is_ip_rel_memory_operand() {
        let target = instruction.memory_displacement64();
        return match segment {
            None => Some(Address::Constant(target)),
            // Rare: an absolute address as far as it is one.
            Some(_) => {
                let disp = i32::try_from(target as i64).ok()?;
                Some(Address::Computed(Computed { base: None, index: None, disp, short: false, segment }))
            }
        };
    }
    let registers = [base, index].into_iter().filter(|&r| r != Register::None);
    let short =
        registers.clone().any(|r| r.size() == 4) || (registers.count() == 0 && instruction.memory_displ_size() == 4);
    let full = instruction.memory_displacement64();
    if base == Register::None && index == Register::None {
        if segment.is_none() {
            return Some(Address::Constant(full));
        }
        let narrow = instruction.code_size() == CodeSize::Code32;
        let disp = if narrow { full as u32 as i32 } else { i32::try_from(full as i64).ok()? };
        return Some(Address::Computed(Computed { base: None, index: None, disp, short: narrow, segment }));
    }
    let disp = if short { full as u32 as i32 } else { i32::try_from(full as i64).ok()? };
    let of = |register: Register| (register != Register::None).then(|| home(register.full_register().number()));
    let shift = instruction.memory_index_scale().trailing_zeros() as u8;
    Some(Address::Computed(Computed { base: of(base), index: of(index).map(|i| (i, shift)), disp, short, segment }))
}

/// Gives an instruction another memory operand.
fn set_memory(instruction: &mut Instruction, mem: Mem) {
    let register = |reg: Reg| Register::RAX + u32::from(reg.0);
    instruction.set_memory_base(register(mem.base));
    instruction.set_memory_index(mem.index.map_or(Register::None, |(index, _)| register(index)));
    instruction.set_memory_index_scale(mem.index.map_or(1, |(_, shift)| 1 << shift));
    instruction.set_memory_displacement64(i64::from(mem.disp) as u64);
    instruction.set_memory_displ_size(u32::from(mem.disp != 0));
    instruction.set_segment_prefix(Register::None);
}
