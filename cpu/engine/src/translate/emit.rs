//! One block's host code while it is written.
//!
//! ```text
//! by jump table:  is R10 this block's address? (in the stress mode) is it time to look up?
//! directly:       are the vector registers here?
//!                 instructions, checks before those that access memory
//!                 where the block goes on
//! out of line:    TLB refills, ways out
//! ```

mod memory;

pub use memory::{Address, Computed, Free};

use super::asm::{Asm, Label, Mem, R9, R10, R11, RCX, Reg, cc, frame, frame_indexed};
use super::exit::{Exit, ExitKind, LOOKUP, Within};
use super::frame::{Code, JUMPS, WORDS, at, jump_index};
use super::groups::Member;
use super::mode::Mode;
use super::select::Operand;
use super::slots::Site;
use crate::mmu::{ENTRIES, Entry, is_canonical};
use iced_x86::{Encoder, Instruction};
use std::mem::size_of;

/// What RSP may be moved by before the code does it: displacements have room for it.
const MOST_UNMOVED: i32 = 1 << 20;

/// What comes behind a block's last instruction.
enum Cold {
    Exit {
        label: Label,
        exit: u32,
    },
    /// Loads a TLB entry for `address` and tries again.
    Refill {
        label: Label,
        address: Address,
        refill: Refill,
        exit: u32,
        live: bool,
        /// Where it goes if it is not so aligned.
        crooked: Option<(u32, Label)>,
    },
    Group(ColdGroup),
    /// A return to another address than the last call's.
    Elsewhere {
        label: Label,
        exit: u32,
        unmoved: i32,
    },
    /// Takes the guest's RCX back, which a check without flags uses.
    Restore {
        label: Label,
        then: Label,
    },
}

/// What comes behind a block for one of its groups.
struct ColdGroup {
    /// Where the check goes when the TLB has not got the range, and when nothing would help.
    miss: Label,
    single: Label,
    address: Address,
    operand: Operand,
    refill: Refill,
    rip: u64,
    op: u16,
    live: bool,
}

/// How a miss is mended.
#[derive(Clone, Copy)]
struct Refill {
    request: u32,
    /// Where the check begins; of one by a slot, where it ends, too.
    again: Label,
    found: Option<Label>,
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

/// Frame displacements of the arrays of one mode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrays {
    pub tlb: i32,
    pub jumps: i32,
}

impl Arrays {
    pub fn of(mode: Mode) -> Self {
        let n = i32::from(mode.user);
        Self {
            tlb: at::TLB + n * (ENTRIES * size_of::<Entry>()) as i32,
            jumps: at::JUMPS + (mode.number() * JUMPS * size_of::<Code>()) as i32,
        }
    }
}

pub struct Emit {
    pub asm: Asm,
    encoder: Encoder,
    cold: Vec<Cold>,
    /// Exits of this block, numbered from one, and the places of their numbers in the code.
    pub exits: Vec<Exit>,
    pub numbers: Vec<u32>,
    /// The operation whose instruction is being written, and the first exit of its.
    op: u16,
    first_of_step: usize,
    /// Where what lies out of line begins, and the places of distances that lead there or from there.
    pub cold_at: u32,
    pub crossing: Vec<u32>,
    pub arrays: Arrays,
    pub mode: Mode,
    /// R11 holds this one of the frame's words, which itself has yet to be written if `unsaved`.
    in_r11: Option<u8>,
    unsaved: bool,
    /// The last instruction that needs each word.
    last_use: [usize; WORDS],
    /// The stress mode: code counts its jumps.
    counts: bool,
    /// What R9 has yet to be moved by to be the guest's RSP.
    unmoved: i32,
    /// Slots that are free, and those that accesses of this block have; operations that may have none, as bits.
    free_slots: Vec<u16>,
    pub sites: Vec<Site>,
    scattered: u64,
}

impl Emit {
    pub fn new(counts: bool) -> Self {
        Self {
            asm: Asm::default(),
            encoder: Encoder::new(64),
            cold: Vec::new(),
            exits: Vec::new(),
            numbers: Vec::new(),
            op: 0,
            first_of_step: 0,
            cold_at: 0,
            crossing: Vec::new(),
            arrays: Arrays::default(),
            mode: Mode::default(),
            in_r11: None,
            unsaved: false,
            last_use: [0; WORDS],
            counts,
            unmoved: 0,
            free_slots: Vec::new(),
            sites: Vec::new(),
            scattered: 0,
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, mode: Mode) {
        self.asm.clear();
        self.cold.clear();
        self.exits.clear();
        self.numbers.clear();
        (self.mode, self.arrays) = (mode, Arrays::of(mode));
        (self.in_r11, self.unsaved) = (None, false);
        self.unmoved = 0;
        self.free_slots.clear();
        self.sites.clear();
    }

    /// Lets accesses have some of the `free` slots, but none of the operations that `scattered` has the bits of.
    pub fn allow_slots(&mut self, free: &[u16], scattered: u64) {
        self.free_slots.extend_from_slice(free);
        self.scattered = scattered;
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
        let reenters = |exit: &Exit| matches!(exit.kind, ExitKind::Interpret(_) | ExitKind::Access(_));
        let exits = self.first_of_step..self.exits.len();
        if !self.exits.get(exits.clone()).is_some_and(|exits| exits.iter().any(reenters)) {
            return;
        }
        // R11 holds nothing then, and RSP is where the interpreter has left it.
        self.forget_r11();
        self.settle_rsp();
        let here = self.asm.here();
        for exit in self.exits.get_mut(exits).into_iter().flatten() {
            if let ExitKind::Interpret(at) | ExitKind::Access(at) = &mut exit.kind {
                at.resume = here;
            }
        }
    }

    /// Moves the guest's RSP: in the code no earlier than [`Emit::settle_rsp`].
    pub fn move_rsp(&mut self, bytes: i32) {
        self.unmoved += bytes;
        if self.unmoved.abs() > MOST_UNMOVED {
            self.settle_rsp();
        }
    }

    /// Makes R9 the guest's RSP: before it is used otherwise than by [`Emit::on_stack`], and before the code may be left.
    pub fn settle_rsp(&mut self) {
        let bytes = std::mem::take(&mut self.unmoved);
        if bytes != 0 {
            self.lea_word(R9, Mem { base: R9, index: None, disp: bytes });
        }
    }

    /// The sum that `mem` stands for, as long as a general register of the mode's.
    pub fn lea_word(&mut self, to: Reg, mem: Mem) {
        if self.mode.narrow { self.asm.lea32(to, mem) } else { self.asm.lea(to, mem) }
    }

    /// Where a member of the stack's group is.
    pub fn on_stack(&mut self, member: Member) -> Mem {
        let mem = self.checked(member);
        // By R9, if there is more than what was checked.
        if mem.index.is_none() { mem } else { Mem { disp: mem.disp + self.unmoved, ..mem } }
    }

    /// Where the interpreter's operation of this instruction is.
    pub fn within(&self) -> Within {
        Within { op: self.op, resume: 0 }
    }

    fn exit(&mut self, kind: ExitKind, rip: u64) -> u32 {
        self.exits.push(Exit { kind, rip, translation: 0 });
        self.exits.len() as u32
    }

    /// Writes an exit's number to a word of the frame.
    fn note_exit(&mut self, word: i32, exit: u32) {
        self.asm.store_imm32(frame(word), exit);
        if exit != LOOKUP {
            self.numbers.push(self.asm.here() - 4);
        }
    }

    /// A way out, out of line.
    pub fn leave(&mut self, kind: ExitKind, rip: u64) -> Label {
        let exit = self.exit(kind, rip);
        let label = self.asm.label();
        self.cold.push(Cold::Exit { label, exit });
        label
    }

    /// Calls the thunk at `word` of the frame with R11 as the TLB's array; it may leave to the interpreter.
    pub fn call_or_leave(&mut self, word: i32, rip: u64) {
        self.forget_r11();
        let exit = self.exit(ExitKind::Interpret(self.within()), rip);
        self.note_exit(at::EXIT, exit);
        self.asm.mov_imm(R11, self.arrays.tlb as u64);
        self.asm.call_mem(frame(word));
    }

    /// The way in by a jump table, behind it the direct one, and behind that the one for code that has the units.
    /// Offsets of the latter two.
    pub fn entrance(&mut self, rip: u64, live: bool, units: u32) -> (u32, u32) {
        // The entry may be another address's, where flags may matter that do not matter here.
        let lookup = self.asm.label();
        self.cold.push(Cold::Exit { label: lookup, exit: LOOKUP });
        self.leave_unless_r10_is(rip, lookup);
        // Indirect jumps need not look: they lead elsewhere when it is time to.
        if self.counts {
            self.poll(rip, live || units != 0);
        }
        let direct = self.asm.here();
        if units != 0 {
            self.require_units(units, rip);
        }
        (direct, self.asm.here())
    }

    /// Where R10 is not `rip`: leaves. Leaves the flags alone, and R11 not.
    fn leave_unless_r10_is(&mut self, rip: u64, leave: Label) {
        self.asm.mov(R11, RCX);
        match i32::try_from((rip as i64).wrapping_neg()) {
            Ok(disp) => self.asm.lea(RCX, Mem { base: R10, index: None, disp }),
            Err(_) => {
                self.asm.mov_imm(RCX, rip.wrapping_neg());
                self.asm.lea(RCX, Mem { base: RCX, index: Some((R10, 0)), disp: 0 });
            }
        }
        self.leave_unless_zero(leave);
    }

    /// The return at `rip`, which has moved RSP, to the address in R10: the code goes on if that is `next`.
    pub fn go_unless_r10_is(&mut self, next: u64, rip: u64, moved: i32) {
        self.forget_r11();
        let exit = self.exit(ExitKind::Branch { moved }, rip);
        let label = self.asm.label();
        self.cold.push(Cold::Elsewhere { label, exit, unmoved: self.unmoved });
        self.leave_unless_r10_is(next, label);
    }

    /// Leaves, to `next`, when it is time to look up; else the code goes on there.
    pub fn look_up_now(&mut self, next: u64, live: bool) {
        if live {
            self.forget_r11();
        }
        self.poll(next, live);
    }

    /// Leaves, at `rip`, when it is time to look up.
    fn poll(&mut self, rip: u64, live: bool) {
        let leave = self.leave(ExitKind::Poll, rip);
        if !live {
            let leaves = self.count();
            self.asm.jcc(leaves, leave);
            return;
        }
        self.asm.mov(R11, RCX);
        if self.counts {
            self.asm.load32(RCX, frame(at::BUDGET));
            self.asm.lea32(RCX, Mem { base: RCX, index: None, disp: -1 });
            self.asm.store32(frame(at::BUDGET), RCX);
        } else {
            self.asm.load32(RCX, frame(at::CALM));
        }
        self.leave_if_zero(leave);
    }

    /// Looks whether it is time to leave; gives the condition that says so.
    fn count(&mut self) -> u8 {
        if self.counts {
            self.asm.dec32(frame(at::BUDGET));
            cc::LE
        } else {
            self.asm.is_zero32(frame(at::CALM));
            cc::Z
        }
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
            if target.back && !self.counts {
                self.poll(target.rip, target.live);
            }
            self.asm.mov_imm(R10, target.rip);
            let entry = self.arrays.jumps + (jump_index(target.rip) * size_of::<Code>()) as i32;
            self.asm.jmp_mem(frame(entry));
            return;
        }
        if target.back && !target.live {
            let leave = self.leave(ExitKind::Poll, target.rip);
            let leaves = self.count();
            let exit = self.leave_by_jump(target.rip, 2);
            self.asm.jcc(leaves ^ 1, exit);
            return self.asm.jmp(leave);
        }
        if target.back {
            self.poll(target.rip, true);
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
        let exit = self.exit(ExitKind::Branch { moved }, rip);
        self.jump_by_table(exit);
    }

    /// The jump, which has that exit record.
    fn jump_by_table(&mut self, exit: u32) {
        self.note_exit(at::BRANCH, exit);
        self.asm.pext(R11, R10, frame(at::JUMP_BITS));
        self.asm.jmp_mem(frame_indexed(self.arrays.jumps, R11, 3));
    }

    /// Writes what lies out of line. Gives the offset of the way out that a dropped translation's entry is
    /// made to jump to; `None` if the code cannot be completed.
    pub fn finish(&mut self, rip: u64, direct: u32) -> Option<u32> {
        self.in_r11 = None;
        let stale = self.leave(ExitKind::Link { patch: direct + 1 }, rip);
        let mut at_stale = 0;
        self.cold_at = self.asm.here();
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Exit { label, exit } => {
                    self.asm.bind(label);
                    if label == stale {
                        at_stale = self.asm.here();
                    }
                    self.note_exit(at::EXIT, exit);
                    self.asm.jmp_mem(frame(at::LEAVE));
                }
                Cold::Refill { label, address, refill, exit, live, crooked } => {
                    self.asm.bind(label);
                    self.address(address, live);
                    self.leave_if_crooked(crooked);
                    self.note_exit(at::EXIT, exit);
                    self.call_refill(refill, refill.again);
                }
                Cold::Group(group) => self.refill_group(&group),
                Cold::Elsewhere { label, exit, unmoved } => {
                    self.asm.bind(label);
                    self.unmoved = unmoved;
                    self.settle_rsp();
                    self.jump_by_table(exit);
                }
                Cold::Restore { label, then } => {
                    self.asm.bind(label);
                    self.asm.load(RCX, frame(at::RCX));
                    self.asm.jmp(then);
                }
            }
        }
        self.asm.resolve(self.cold_at, &mut self.crossing).then_some(at_stale)
    }
}
