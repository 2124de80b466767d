//! Checks of memory operands that flat code without debug registers does not need: segment limits and types (Intel
//! SDM vol. 3, 5.3 and 5.4), alignment (6.15, interrupt 17), and data breakpoints (17.2).
//!
//! Code is decoded apart for each combination of [`key`] bits. Where one of them asks for it, an operation's handler
//! is [`guarded`], which checks the operands and then runs the handler proper. 64-bit code without debug registers
//! and alignment checks has no guards at all.

use super::stack::within_limit;
use crate::cpu::{CodeSize, Cpu, Done, Faulting, key, seg, slot};
use crate::decode::{Handler, Op};
use crate::mmu::is_canonical;
use iced_x86::{Code, Instruction, InstructionInfoFactory, MemorySize, Mnemonic, OpAccess, OpKind};
use motu_x86::{Exception, Segment};

/// What [`guarded`] checks, and what it runs then.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    inner: Handler,
    operand: Option<Access>,
    stack: Option<StackAccess>,
    /// The handler asks for the check itself, by [`late_check`].
    late: bool,
}

/// Access to the explicit memory operand.
#[derive(Clone, Copy, Debug)]
struct Access {
    bytes: u16,
    write: bool,
    /// In bytes, a power of two.
    alignment: u8,
}

/// Words that a near transfer, PUSH or POP of any kind writes or reads.
#[derive(Clone, Copy, Debug)]
struct StackAccess {
    words: u8,
    bytes: u8,
    write: bool,
}

/// The guard of `instruction` under the decoding key `flags`, if it needs one.
pub fn guard(instruction: &Instruction, flags: u32, op: &Op) -> Option<Guard> {
    let everything = flags & (key::SEGMENTED | key::ALIGN | key::WATCH) != 0;
    let narrow = flags & key::SIZE != CodeSize::Bits64 as u32;
    // ES, SS and DS are flat where the key does not say otherwise; the others may be anything.
    let odd_segment = narrow && matches!(usize::from(op.segment), seg::CS | seg::FS | seg::GS);
    if !everything && !odd_segment {
        return None;
    }
    let operand = operand(instruction);
    let stack = if everything { stack(instruction) } else { None };
    (operand.is_some() || stack.is_some()).then_some(Guard {
        inner: op.run,
        operand,
        stack,
        late: is_late(instruction.mnemonic()),
    })
}

fn operand(i: &Instruction) -> Option<Access> {
    let index = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory)?;
    let elsewhere = i.is_vsib() || is_bit_string(i) || checks_itself(i.mnemonic());
    if elsewhere {
        return None;
    }
    let mut factory = InstructionInfoFactory::new();
    let write = match factory.info(i).op_access(index) {
        OpAccess::Read | OpAccess::CondRead => false,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => true,
        OpAccess::None | OpAccess::NoMemAccess => return None,
    };
    let bytes = i.memory_size().size().clamp(1, 0xffff) as u16;
    Some(Access { bytes, write, alignment: alignment(i) })
}

/// Instructions that learn while they run what they access.
fn checks_itself(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(mnemonic, M::Xlatb | M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq | M::Arpl)
}

/// State images: whether the unit is available, and a pending x87 exception, come first.
fn is_late(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    let x87 = matches!(mnemonic, M::Fldenv | M::Fnstenv | M::Fnsave | M::Frstor);
    let legacy = matches!(mnemonic, M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64);
    let saves = matches!(mnemonic, M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64);
    let system = matches!(mnemonic, M::Xsaves | M::Xsaves64 | M::Xrstors | M::Xrstors64);
    x87 || legacy || saves || system || matches!(mnemonic, M::Xrstor | M::Xrstor64)
}

/// The check of an operand whose handler knows when it is due.
pub fn late_check(cpu: &mut Cpu, op: &Op) -> Faulting<()> {
    match op.extra.as_ref().and_then(|extra| extra.guard.as_ref()) {
        Some(guard) => guard.check_operand(cpu, op),
        None => Ok(()),
    }
}

/// BT and its kin with the bit number in a register reach beyond the operand: their handler guards itself.
fn is_bit_string(i: &Instruction) -> bool {
    matches!(i.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && i.op1_kind() == OpKind::Register
}

/// The alignment that #AC asks for (SDM vol. 3, table 6-7, and what processors do where it is silent); 1 where it asks
/// for none. SSE and AVX operands of 16 bytes and more are #GP's where they must be aligned, and nobody's elsewhere.
fn alignment(i: &Instruction) -> u8 {
    if matches!(i.mnemonic(), Mnemonic::Vcvtph2ps | Mnemonic::Vcvtps2ph) {
        return 1;
    }
    match i.memory_size() {
        MemorySize::FpuEnv14 | MemorySize::FpuState94 | MemorySize::SegPtr16 | MemorySize::Bound16_WordWord => 2,
        MemorySize::FpuEnv28 | MemorySize::FpuState108 | MemorySize::SegPtr32 | MemorySize::Bound32_DwordDword => 4,
        MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte | MemorySize::Xsave | MemorySize::Xsave64 => 4,
        MemorySize::Fword6 => 4,
        MemorySize::Float80 | MemorySize::Bcd | MemorySize::SegPtr64 | MemorySize::Fword10 => 8,
        size => match size.size() {
            2 => 2,
            4 => 4,
            8 => 8,
            _ => 1,
        },
    }
}

fn stack(i: &Instruction) -> Option<StackAccess> {
    use Mnemonic as M;
    let increment = i.stack_pointer_increment();
    let (words, write) = match i.mnemonic() {
        M::Push | M::Pushf | M::Pushfd | M::Pushfq => (1, true),
        M::Call
            if !matches!(i.code(), Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664)
                && !matches!(i.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32) =>
        {
            (1, true)
        }
        M::Pusha | M::Pushad => (8, true),
        M::Pop | M::Popf | M::Popfd | M::Popfq => (1, false),
        M::Popa | M::Popad => (8, false),
        // RET n releases more than it reads.
        M::Ret => {
            let bytes = match i.code() {
                Code::Retnw | Code::Retnw_imm16 => 2,
                Code::Retnd | Code::Retnd_imm16 => 4,
                _ => 8,
            };
            return Some(StackAccess { words: 1, bytes, write: false });
        }
        _ => return None,
    };
    Some(StackAccess { words, bytes: (increment.unsigned_abs() / u32::from(words)) as u8, write })
}

/// Checks the operands, then runs the instruction.
pub fn guarded(cpu: &mut Cpu, op: &Op) -> Done {
    let Some(guard) = op.extra.as_ref().and_then(|extra| extra.guard.as_ref()) else { return cpu.undefined() };
    let hits = cpu.watch_hits;
    let early = if guard.late { Ok(()) } else { check(cpu, op, guard) };
    let result = early.and_then(|()| (guard.inner)(cpu, op));
    match result {
        Ok(_) => cpu.note_watch_hits(),
        Err(_) => cpu.watch_hits = hits,
    }
    result
}

impl Guard {
    /// Checks the explicit operand. What the host executes calls it by itself, as some exceptions come before and
    /// some stores are not made at all.
    pub fn check_operand(&self, cpu: &mut Cpu, op: &Op) -> Faulting<()> {
        let Some(access) = &self.operand else { return Ok(()) };
        let mut offset = op.effective(cpu);
        if op.base == slot::RSP
            && let Some(StackAccess { bytes, write: false, .. }) = self.stack
        {
            // POP m has an address with the stack pointer after the pop.
            offset = offset.wrapping_add(bytes.into()) & op.address_mask;
        }
        cpu.check_access(op.segment.into(), offset, access.bytes.into(), access.write)?;
        cpu.check_alignment(op.segment.into(), offset, access.alignment.into())
    }
}

/// An operand is checked, and found to be mapped, before the stack is looked at if it is read (PUSH m, CALL m), and
/// after it if it is written (POP m).
fn check(cpu: &mut Cpu, op: &Op, guard: &Guard) -> Faulting<()> {
    let Some(stack) = guard.stack else { return guard.check_operand(cpu, op) };
    let Some(operand) = &guard.operand else { return stack.check(cpu) };
    if stack.write {
        guard.check_operand(cpu, op)?;
        let at = op.linear(cpu);
        cpu.check_read(at, operand.bytes.into())?;
        stack.check(cpu)
    } else {
        stack.check(cpu)?;
        let top = cpu.stack_linear(cpu.gpr(slot::RSP));
        cpu.check_read(top, stack.bytes.into())?;
        guard.check_operand(cpu, op)
    }
}

impl StackAccess {
    fn check(self, cpu: &mut Cpu) -> Faulting<()> {
        let bytes = u64::from(self.bytes);
        for word in 0..u64::from(self.words) {
            let distance = if self.write { ((word + 1) * bytes).wrapping_neg() } else { word * bytes };
            let offset = cpu.gpr(slot::RSP).wrapping_add(distance) & cpu.stack_mask;
            cpu.check_access(seg::SS, offset, bytes, self.write)?;
            cpu.check_alignment(seg::SS, offset, bytes)?;
        }
        Ok(())
    }
}

impl Cpu {
    /// Raises what segmentation has against an access of `bytes` bytes at `offset` of a segment, and notes the data
    /// breakpoints that it hits. Nothing in 64-bit mode without breakpoints.
    #[inline(always)]
    pub fn guard_access(&mut self, segment: usize, offset: u64, bytes: u64, write: bool) -> Faulting<()> {
        if self.guards {
            self.check_access(segment, offset, bytes, write)?;
            self.check_alignment(segment, offset, bytes)?;
        }
        Ok(())
    }

    /// The same without alignment: masked moves and gathers are not checked for it.
    pub fn guard_element(&mut self, segment: usize, offset: u64, bytes: u64, write: bool) -> Faulting<()> {
        if self.guards { self.check_access(segment, offset, bytes, write) } else { Ok(()) }
    }

    #[cold]
    fn check_access(&mut self, index: usize, offset: u64, bytes: u64, write: bool) -> Faulting<()> {
        if self.code_size != CodeSize::Bits64 {
            let Some(segment) = self.segments.get(index).copied() else { return Ok(()) };
            let typed = !self.protected_mode() || allows(&segment, write);
            if !typed || !within_limit(&segment, offset, bytes) {
                let vector = if index == seg::SS { Exception::SS } else { Exception::GP };
                return self.raise_code(vector, 0);
            }
        }
        if self.key & key::WATCH != 0 {
            let linear = offset.wrapping_add(self.bases[index & 7]) & self.linear_mask;
            self.watch_access(linear, bytes, write);
        }
        Ok(())
    }

    /// #AC(0) where alignment is checked and `alignment` (a power of two) is not kept. It comes before page faults, and
    /// after what a non-canonical address raises.
    pub fn check_alignment(&mut self, index: usize, offset: u64, alignment: u64) -> Faulting<()> {
        let linear = offset.wrapping_add(self.bases[index & 7]);
        if self.code_size == CodeSize::Bits64 && !is_canonical(linear) {
            return Ok(());
        }
        if self.key & key::ALIGN != 0 && alignment > 1 && linear & (alignment - 1) != 0 {
            return self.raise_code(Exception::AC, 0);
        }
        Ok(())
    }

    /// Checks `words` words of `bytes` bytes of the stack, from `offset` bytes above its top on, before they are read.
    pub fn check_stack_words(&mut self, offset: u64, words: u64, bytes: u64) -> Faulting<()> {
        if !self.guards {
            return Ok(());
        }
        for word in 0..words {
            let at = self.gpr(slot::RSP).wrapping_add(offset + word * bytes) & self.stack_mask;
            self.check_access(seg::SS, at, bytes, false)?;
            self.check_alignment(seg::SS, at, bytes)?;
        }
        Ok(())
    }

    /// How many bytes from `pointer` on a string instruction may access at once, without a check of each element:
    /// up to the segment's limit and the end of the address size. Zero where each must be checked.
    pub fn unchecked_bytes(&self, index: usize, pointer: u64, address_mask: u64, write: bool) -> u64 {
        let room = (address_mask - pointer).saturating_add(1);
        if self.key & (key::ALIGN | key::WATCH) != 0 {
            return 0;
        }
        if self.code_size == CodeSize::Bits64 {
            return room;
        }
        let Some(segment) = self.segments.get(index) else { return 0 };
        let expands_up = segment.attributes & Segment::S != 0 && segment.kind() & 0b1100 != 0b0100;
        if !expands_up || (self.protected_mode() && !allows(segment, write)) {
            return 0;
        }
        room.min((u64::from(segment.limit) + 1).saturating_sub(pointer))
    }
}

/// Whether a segment's type allows the access (SDM vol. 3, 3.4.5.1).
fn allows(segment: &Segment, write: bool) -> bool {
    let usable = segment.attributes & Segment::UNUSABLE == 0;
    let kind = segment.kind();
    let code = kind & 8 != 0;
    let right = kind & 2 != 0;
    usable && if write { !code && right } else { !code || right }
}
