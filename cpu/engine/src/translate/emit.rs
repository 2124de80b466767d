//! One block's host code while it is written.
//!
//! ```text
//! by jump table:  is R10 this block's address? is it time to look up?
//! directly:       are the vector registers here?
//!                 instructions, checks before those that access memory
//!                 where the block goes on
//! out of line:    TLB refills, ways out
//! ```

use super::asm::{Alu, Asm, Label, Mem, R9, R10, R11, RCX, Reg, cc, frame, frame_indexed};
use super::exit::{Exit, ExitKind, LOOKUP, Within};
use super::frame::{Code, JUMPS, at, jump_index};
use super::registers::Home;
use super::select::Operand;
use super::stack::{Check, Member};
use super::thunks::request;
use crate::mmu::{ENTRIES, Entry, PAGE, index_of, is_canonical};
use iced_x86::{Encoder, Instruction};
use std::mem::{offset_of, size_of};

/// log2 of the bytes of a TLB entry.
const ENTRY_SHIFT: u32 = size_of::<Entry>().trailing_zeros();
const _: () = assert!(1 << ENTRY_SHIFT == size_of::<Entry>());
/// Where the entry for a page is in the array, from its address rotated right by [`TO_ENTRY`].
const ENTRY_MASK: u32 = ((ENTRIES as u32) - 1) << ENTRY_SHIFT;
const TO_ENTRY: u8 = 12 - ENTRY_SHIFT as u8;

/// What comes behind a block's last instruction.
enum Cold {
    Exit {
        label: Label,
        exit: u32,
    },
    /// Loads a TLB entry for `address` and tries again.
    Refill {
        label: Label,
        again: Label,
        address: Address,
        request: u32,
        exit: u32,
        live: bool,
    },
    /// Takes the guest's RCX back, which a check without flags uses.
    Restore {
        label: Label,
        then: Label,
    },
}

/// A guest-linear address, as code computes it into R10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    Constant(u64),
    Computed(Computed),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Computed {
    pub base: Option<Home>,
    /// And the shift count of its scale.
    pub index: Option<(Home, u8)>,
    pub disp: i32,
    /// The effective address has 32 bits.
    pub short: bool,
    /// The frame's word with the segment's base.
    pub segment: Option<i32>,
}

/// Where a branch goes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub rip: u64,
    /// It lies in the page of the block, so that it stays where it is as long as the block does.
    pub near: bool,
    /// A loop may close here: the code looks up now and then.
    pub back: bool,
    /// Flags matter there.
    pub live: bool,
}

/// Frame displacements of one privilege's arrays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrays {
    pub tlb: i32,
    pub jumps: i32,
}

impl Arrays {
    pub fn of(user: bool) -> Self {
        let n = i32::from(user);
        Self {
            tlb: at::TLB + n * (ENTRIES * size_of::<Entry>()) as i32,
            jumps: at::JUMPS + n * (JUMPS * size_of::<Code>()) as i32,
        }
    }
}

pub struct Emit {
    pub asm: Asm,
    encoder: Encoder,
    cold: Vec<Cold>,
    /// Exits of this block; numbered from `first_exit`.
    pub exits: Vec<Exit>,
    first_exit: u32,
    translation: u32,
    /// The operation whose instruction is being written, and the first exit of its.
    op: u16,
    first_of_step: usize,
    pub arrays: Arrays,
    /// R11 holds what the frame's word for the stack does.
    stack_in_r11: bool,
}

impl Emit {
    pub fn new() -> Self {
        Self {
            asm: Asm::default(),
            encoder: Encoder::new(64),
            cold: Vec::new(),
            exits: Vec::new(),
            first_exit: 0,
            translation: 0,
            op: 0,
            first_of_step: 0,
            arrays: Arrays::default(),
            stack_in_r11: false,
        }
    }

    /// Begins a block, whose exits are numbered from `first_exit`.
    pub fn begin(&mut self, arrays: Arrays, first_exit: u32, translation: u32) {
        self.asm.clear();
        self.cold.clear();
        self.exits.clear();
        (self.arrays, self.first_exit, self.translation) = (arrays, first_exit, translation);
        self.stack_in_r11 = false;
    }

    /// Encodes an instruction of the guest with host operands. False if it has no such form.
    #[must_use]
    pub fn instruction(&mut self, instruction: &Instruction) -> bool {
        let encoded = self.encoder.encode(instruction, 0).is_ok();
        let mut buffer = self.encoder.take_buffer();
        self.asm.bytes(&buffer);
        buffer.clear();
        self.encoder.set_buffer(buffer);
        encoded
    }

    /// Begins the instruction of the block's operation `op`.
    pub fn begin_step(&mut self, op: u16) {
        self.op = op;
        self.first_of_step = self.exits.len();
    }

    /// Ends an instruction: where the interpreter runs it instead, the code may be entered again here.
    pub fn end_step(&mut self) {
        let here = self.asm.here();
        let mut may_enter = false;
        for exit in self.exits.iter_mut().skip(self.first_of_step) {
            if let ExitKind::Interpret(at) | ExitKind::Access(at) = &mut exit.kind {
                at.resume = here;
                may_enter = true;
            }
        }
        if may_enter {
            self.forget_r11();
        }
    }

    /// Where the interpreter's operation of this instruction is.
    pub fn within(&self) -> Within {
        Within { op: self.op, resume: 0 }
    }

    fn exit(&mut self, kind: ExitKind, rip: u64) -> u32 {
        self.exits.push(Exit { kind, rip, translation: self.translation });
        self.first_exit + self.exits.len() as u32 - 1
    }

    /// A way out, out of line.
    pub fn leave(&mut self, kind: ExitKind, rip: u64) -> Label {
        let exit = self.exit(kind, rip);
        let label = self.asm.label();
        self.cold.push(Cold::Exit { label, exit });
        label
    }

    /// Sets which exit record an indirect branch comes from.
    fn note_branch(&mut self, rip: u64, moved: i32) {
        let exit = self.exit(ExitKind::Branch { moved }, rip);
        self.asm.store_imm32(frame(at::BRANCH), exit);
    }

    /// The way in by a jump table, behind it the direct one, and behind that the one for code that has the units.
    /// Offsets of the latter two.
    pub fn entrance(&mut self, rip: u64, live: bool, units: u32) -> (u32, u32) {
        // The entry may be another address's, where flags may matter that do not matter here.
        let lookup = self.asm.label();
        self.cold.push(Cold::Exit { label: lookup, exit: LOOKUP });
        self.asm.mov(R11, RCX);
        match i32::try_from((rip as i64).wrapping_neg()) {
            Ok(disp) => self.asm.lea(RCX, Mem { base: R10, index: None, disp }),
            Err(_) => {
                self.asm.mov_imm(RCX, rip.wrapping_neg());
                self.asm.lea(RCX, Mem { base: RCX, index: Some((R10, 0)), disp: 0 });
            }
        }
        self.leave_unless_zero(lookup);
        self.poll(rip, live || units != 0);
        let direct = self.asm.here();
        if units != 0 {
            self.require_units(units, rip);
        }
        (direct, self.asm.here())
    }

    /// Leaves, at `rip`, when it is time to look up.
    fn poll(&mut self, rip: u64, live: bool) {
        let leave = self.leave(ExitKind::Poll, rip);
        if !live {
            self.asm.dec32(frame(at::BUDGET));
            self.asm.jcc(cc::LE, leave);
            return;
        }
        self.asm.mov(R11, RCX);
        self.asm.load32(RCX, frame(at::BUDGET));
        self.asm.lea32(RCX, Mem { base: RCX, index: None, disp: -1 });
        self.asm.store32(frame(at::BUDGET), RCX);
        self.leave_if_zero(leave);
    }

    /// Where RCX, whose value of the guest is in R11, is not zero: leaves. Takes the guest's value back.
    pub fn leave_unless_zero(&mut self, leave: Label) {
        let on = self.asm.label();
        self.asm.jump_short(0xe3, on);
        self.asm.mov(RCX, R11);
        self.asm.jmp(leave);
        self.asm.bind(on);
        self.asm.mov(RCX, R11);
    }

    /// Where RCX, whose value of the guest is in R11, is zero: leaves. Takes the guest's value back.
    fn leave_if_zero(&mut self, leave: Label) {
        let (out, on) = (self.asm.label(), self.asm.label());
        self.asm.jump_short(0xe3, out);
        self.asm.mov(RCX, R11);
        self.asm.jump_short(0xeb, on);
        self.asm.bind(out);
        self.asm.mov(RCX, R11);
        self.asm.jmp(leave);
        self.asm.bind(on);
    }

    /// Leaves the flags alone: what the interpreter does instead may show them.
    fn require_units(&mut self, units: u32, rip: u64) {
        let leave = self.leave(ExitKind::Units(units), rip);
        self.asm.mov(R11, RCX);
        self.asm.load32(RCX, frame(at::UNITS));
        let mask = if units > 1 { at::UPPER_UNIT } else { at::LOWER_UNIT };
        self.asm.pext(RCX, RCX, frame(mask));
        self.leave_if_zero(leave);
    }

    /// Loads the register that a home is, or a scratch register with what it holds.
    fn at_home(&mut self, home: Home, scratch: Reg) -> Reg {
        match home {
            Home::Host(reg) => reg,
            Home::Frame(slot) => {
                self.asm.load(scratch, slot);
                scratch
            }
        }
    }

    /// The address into R10. Uses R11; leaves the flags alone if they are `live`.
    pub fn address(&mut self, address: Address, live: bool) {
        self.stack_in_r11 = false;
        let computed = match address {
            Address::Constant(value) => return self.asm.mov_imm(R10, value),
            Address::Computed(computed) => computed,
        };
        let base = computed.base.map(|home| self.at_home(home, R10));
        let index = computed.index.map(|(home, shift)| (self.at_home(home, R11), shift));
        let disp = computed.disp;
        match (base, index) {
            (Some(base), index) => {
                let mem = Mem { base, index, disp };
                if computed.short { self.asm.lea32(R10, mem) } else { self.asm.lea(R10, mem) }
            }
            (None, Some((index, shift))) => {
                self.asm.mov_imm(R10, disp as i64 as u64);
                let mem = Mem { base: R10, index: Some((index, shift)), disp: 0 };
                if computed.short { self.asm.lea32(R10, mem) } else { self.asm.lea(R10, mem) }
            }
            (None, None) => self.asm.mov_imm(R10, disp as i64 as u64),
        }
        if let Some(segment) = computed.segment {
            if live {
                self.asm.load(R11, frame(segment));
                self.asm.lea(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
            } else {
                self.asm.alu(Alu::Add, R10, frame(segment));
            }
        }
    }

    /// Compares the address in R10 with the tags at `tags` in the frame: R10 becomes the offset in the page and R11 the
    /// entry's, or the code goes to `miss` if `bytes` bytes there are not all in the page.
    fn look_up(&mut self, tags: i32, bytes: i32, miss: Label) {
        self.asm.rorx(R11, R10, TO_ENTRY);
        self.asm.and32_imm(R11, ENTRY_MASK);
        self.asm.alu(Alu::Sub, R10, frame_indexed(tags, R11, 0));
        self.asm.cmp_imm(R10, PAGE as i32 - bytes);
        self.asm.jcc(cc::A, miss);
    }

    /// The same without a change of flags. The guest's RCX is in the frame then; at `miss` it is back.
    fn look_up_keeping_flags(&mut self, tags: i32, bytes: i32, miss: Label) {
        let restore = self.asm.label();
        self.cold.push(Cold::Restore { label: restore, then: miss });
        let hit = self.asm.label();
        self.asm.store(frame(at::RCX), RCX);
        self.asm.pext(R11, R10, frame(at::TLB_BITS));
        self.asm.rorx(R11, R11, 64 - ENTRY_SHIFT as u8);
        self.asm.load(RCX, frame_indexed(tags, R11, 0));
        // R10 - tag = R10 + !tag + 1.
        self.asm.not(RCX);
        self.asm.lea(R10, Mem { base: R10, index: Some((RCX, 0)), disp: 1 });
        self.asm.lea(RCX, Mem { base: R10, index: None, disp: bytes - 1 });
        self.asm.pext(RCX, RCX, frame(at::PAGE_BITS));
        self.asm.jump_short(0xe3, hit);
        self.asm.jmp(restore);
        self.asm.bind(hit);
    }

    /// Where the host has a guest operand: an operand at R10. What the TLB does not allow is the interpreter's,
    /// at `rip`.
    pub fn locate(&mut self, address: Address, operand: Operand, rip: u64, live: bool) -> Mem {
        let tag = if operand.write { offset_of!(Entry, write) } else { offset_of!(Entry, read) } as i32;
        let host = offset_of!(Entry, host) as i32;
        let again = self.asm.label();
        self.asm.bind(again);
        self.address(address, live);
        let exit = self.exit(ExitKind::Access(self.within()), rip);
        let label = self.asm.label();
        let asked = operand.size | if operand.write { request::WRITE } else { 0 };
        self.cold.push(Cold::Refill { label, again, address, request: asked, exit, live });
        let tlb = self.arrays.tlb;
        if live {
            self.look_up_keeping_flags(tlb + tag, operand.size as i32, label);
            self.asm.load(R11, frame_indexed(tlb + host, R11, 0));
            self.asm.lea(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
            if operand.alignment > 1 {
                let bits = if operand.alignment == 16 { at::LOW_4 } else { at::LOW_5 };
                let aligned = self.asm.label();
                let crooked = self.asm.label();
                self.cold.push(Cold::Exit { label: crooked, exit });
                let restore = self.asm.label();
                self.cold.push(Cold::Restore { label: restore, then: crooked });
                self.asm.pext(RCX, R10, frame(bits));
                self.asm.jump_short(0xe3, aligned);
                self.asm.jmp(restore);
                self.asm.bind(aligned);
            }
            self.asm.load(RCX, frame(at::RCX));
            return Mem { base: R10, index: None, disp: 0 };
        }
        if let Address::Constant(value) = address {
            let entry = tlb + (index_of(value) * size_of::<Entry>()) as i32;
            self.asm.alu(Alu::Sub, R10, frame(entry + tag));
            self.asm.cmp_imm(R10, PAGE as i32 - operand.size as i32);
            self.asm.jcc(cc::A, label);
            self.asm.alu(Alu::Add, R10, frame(entry + host));
        } else {
            self.look_up(tlb + tag, operand.size as i32, label);
            self.asm.alu(Alu::Add, R10, frame_indexed(tlb + host, R11, 0));
        }
        if operand.alignment > 1 {
            let crooked = self.asm.label();
            self.cold.push(Cold::Exit { label: crooked, exit });
            self.asm.test_imm8(R10, operand.alignment as u8 - 1);
            self.asm.jcc(cc::NZ, crooked);
        }
        Mem { base: R10, index: None, disp: 0 }
    }

    /// Checks a range of the stack; the frame's word is then host minus guest address, less where the range begins.
    pub fn check_stack(&mut self, check: Check, rip: u64, live: bool) {
        let tag = if check.write { offset_of!(Entry, write) } else { offset_of!(Entry, read) } as i32;
        let host = offset_of!(Entry, host) as i32;
        let fail = self.leave(ExitKind::Stack, rip);
        let tlb = self.arrays.tlb;
        self.asm.lea(R10, Mem { base: R9, index: None, disp: check.from_rsp as i32 });
        if live {
            self.look_up_keeping_flags(tlb + tag, check.length as i32, fail);
            self.asm.load(RCX, frame(at::RCX));
            self.asm.load(R11, frame_indexed(tlb + host, R11, 0));
            self.asm.lea(R11, Mem { base: R11, index: Some((R10, 0)), disp: 0 });
            self.asm.mov(R10, R9);
            self.asm.not(R10);
            self.asm.lea(R11, Mem { base: R11, index: Some((R10, 0)), disp: 1 - check.from_rsp as i32 });
        } else {
            self.look_up(tlb + tag, check.length as i32, fail);
            self.asm.load(R11, frame_indexed(tlb + host, R11, 0));
            self.asm.alu_reg(Alu::Sub, R11, R9);
            self.asm.lea(R11, Mem { base: R11, index: Some((R10, 0)), disp: -check.from_rsp as i32 });
        }
        self.asm.store(frame(at::STACK), R11);
        self.stack_in_r11 = true;
    }

    /// An operand on the checked part of the stack. R10 stays free.
    pub fn on_stack(&mut self, member: Member) -> Mem {
        if !self.stack_in_r11 {
            self.asm.load(R11, frame(at::STACK));
            self.stack_in_r11 = true;
        }
        Mem { base: R9, index: Some((R11, 0)), disp: member.from_rsp as i32 }
    }

    /// R11 is about to hold something else.
    pub fn forget_r11(&mut self) {
        self.stack_in_r11 = false;
    }

    /// A conditional jump of the guest.
    pub fn branch_if(&mut self, condition: u8, target: Target) {
        if target.near && !target.back {
            let exit = self.leave_by_jump(target.rip, 2);
            self.asm.jcc(condition, exit);
        } else {
            let over = self.asm.label();
            self.asm.jcc(condition ^ 1, over);
            self.go(target);
            self.asm.bind(over);
        }
    }

    /// A jump of the guest.
    pub fn go(&mut self, target: Target) {
        if !is_canonical(target.rip) {
            let out = self.leave(ExitKind::Lookup, target.rip);
            return self.asm.jmp(out);
        }
        if !target.near {
            self.asm.mov_imm(R10, target.rip);
            let entry = self.arrays.jumps + (jump_index(target.rip) * size_of::<Code>()) as i32;
            self.asm.jmp_mem(frame(entry));
            return;
        }
        if target.back {
            self.poll(target.rip, target.live);
        }
        let exit = self.leave_by_jump(target.rip, 1);
        self.asm.jmp(exit);
    }

    /// The way out of a jump of which `opcode` bytes come before the distance that may be patched.
    fn leave_by_jump(&mut self, rip: u64, opcode: u32) -> Label {
        let patch = self.asm.here() + opcode;
        self.leave(ExitKind::Link { patch }, rip)
    }

    /// A jump to the address in R10, whatever it is, by the branch at `rip`, which has moved RSP.
    pub fn go_to_r10(&mut self, rip: u64, moved: i32) {
        self.note_branch(rip, moved);
        self.asm.pext(R11, R10, frame(at::JUMP_BITS));
        self.asm.jmp_mem(frame_indexed(self.arrays.jumps, R11, 3));
    }

    /// Writes what lies out of line. Gives the offset of the way out that a dropped translation's entry is
    /// made to jump to; `None` if the code cannot be completed.
    pub fn finish(&mut self, rip: u64, direct: u32) -> Option<u32> {
        let stale = self.leave(ExitKind::Link { patch: direct + 1 }, rip);
        let mut at_stale = 0;
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Exit { label, exit } => {
                    self.asm.bind(label);
                    if label == stale {
                        at_stale = self.asm.here();
                    }
                    self.asm.store_imm32(frame(at::EXIT), exit);
                    self.asm.jmp_mem(frame(at::LEAVE));
                }
                Cold::Refill { label, again, address, request, exit, live } => {
                    self.asm.bind(label);
                    self.address(address, live);
                    self.asm.store_imm32(frame(at::EXIT), exit);
                    self.asm.mov_imm(R11, request.into());
                    self.asm.call_mem(frame(at::REFILL));
                    self.asm.jmp(again);
                }
                Cold::Restore { label, then } => {
                    self.asm.bind(label);
                    self.asm.load(RCX, frame(at::RCX));
                    self.asm.jmp(then);
                }
            }
        }
        self.asm.resolve().then_some(at_stale)
    }
}
