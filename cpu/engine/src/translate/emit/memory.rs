//! Where the host has what an instruction of the guest accesses.
//!
//! An address is looked up in the TLB, whose entry has what to add to it. The operand is then addressed anew, by the
//! guest's registers and that addend, so that whatever waits for the address does not wait for the comparison.

use super::super::asm::{Alu, Label, Mem, R10, R11, RCX, Reg, cc, frame, frame_indexed};
use super::super::exit::ExitKind;
use super::super::frame::at;
use super::super::groups::{Check, Member};
use super::super::registers::Home;
use super::super::select::Operand;
use super::super::slots::{Site, Slot, scattered_bit};
use super::super::thunks::request;
use super::{Cold, ColdGroup, Emit, Refill};
use crate::mmu::{ENTRIES, Entry, PAGE, PAGE_MASK, index_of};
use std::mem::{offset_of, size_of};

/// log2 of the bytes of a TLB entry.
const ENTRY_SHIFT: u32 = size_of::<Entry>().trailing_zeros();
const _: () = assert!(1 << ENTRY_SHIFT == size_of::<Entry>());
/// Where the entry for a page is in the array, from its address rotated right by [`TO_ENTRY`].
const ENTRY_MASK: u32 = ((ENTRIES as u32) - 1) << ENTRY_SHIFT;
const TO_ENTRY: u8 = 12 - ENTRY_SHIFT as u8;

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

impl Computed {
    /// The host register that is the whole address. In 32-bit code (`narrow`) registers hold no more than 32 bits.
    fn register(&self, narrow: bool) -> Option<Reg> {
        match *self {
            Self { base: Some(Home::Host(base)), index: None, disp: 0, short, segment: None } if narrow || !short => {
                Some(base)
            }
            _ => None,
        }
    }

    /// Whether all that it is made of is in host registers.
    fn is_of_host(&self) -> bool {
        let homes = [self.base, self.index.map(|(home, _)| home)];
        self.segment.is_none() && homes.into_iter().flatten().all(|home| matches!(home, Home::Host(_)))
    }

    /// The register, and its shift count, that an operand is addressed by as it is there: all else is added to R11.
    pub fn followed(&self) -> Option<(Reg, u8)> {
        match (self.base, self.index) {
            (_, Some((Home::Host(index), shift))) => Some((index, shift)),
            (Some(Home::Host(base)), _) => Some((base, 0)),
            _ => None,
        }
    }
}

/// Which scratch register an instruction needs beside its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Free {
    One,
    None,
}

/// Frame displacement of the tag, less the entry's own, that an access needs.
fn tag(write: bool) -> i32 {
    let field = if write { offset_of!(Entry, write) } else { offset_of!(Entry, read) };
    field as i32
}

/// Whether one comparison is to find out that a range is in its page and aligned: an aligned one cannot leave the page.
fn checks_both(address: Address, operand: Operand, live: bool) -> bool {
    let computed = matches!(address, Address::Computed(_));
    computed && !live && operand.alignment > 1 && operand.size <= operand.alignment
}

const ADDEND: i32 = offset_of!(Entry, addend) as i32;

const LOW: i32 = offset_of!(Slot, low) as i32;
const LIMIT: i32 = offset_of!(Slot, limit) as i32;
const SLOT_ADDEND: i32 = offset_of!(Slot, addend) as i32;

impl Emit {
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
        self.forget_r11();
        let computed = match address {
            Address::Constant(value) => return self.asm.mov_imm(R10, value),
            Address::Computed(computed) => computed,
        };
        if let Some(base) = computed.register(self.mode.narrow) {
            return self.asm.mov(R10, base);
        }
        let base = computed.base.map(|home| self.at_home(home, R10));
        let index = computed.index.map(|(home, shift)| (self.at_home(home, R11), shift));
        let disp = computed.disp;
        if base != Some(R10) || index.is_some() || disp != 0 || computed.short {
            self.sum(base, index, disp, computed.short);
        }
        match computed.segment {
            Some(segment) if self.mode.narrow => self.add_narrow_segment(segment, live),
            Some(segment) => self.add_to_r10(frame(segment), live),
            None => {}
        }
    }

    /// A sum of 64 bits, or of 32 if it is `short`, into R10.
    fn sum(&mut self, base: Option<Reg>, index: Option<(Reg, u8)>, disp: i32, short: bool) {
        let mem = match (base, index) {
            (Some(base), index) => Mem { base, index, disp },
            (None, Some((index, 0))) => Mem { base: index, index: None, disp },
            (None, Some((index, 1))) => Mem { base: index, index: Some((index, 0)), disp },
            (None, index) => {
                self.asm.mov_imm(R10, if short { u64::from(disp as u32) } else { disp as i64 as u64 });
                if index.is_none() {
                    return;
                }
                Mem { base: R10, index, disp: 0 }
            }
        };
        if short { self.asm.lea32(R10, mem) } else { self.asm.lea(R10, mem) }
    }

    fn add_to_r10(&mut self, word: Mem, live: bool) {
        if live {
            self.asm.load(R11, word);
            self.asm.lea(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
        } else {
            self.asm.alu(Alu::Add, R10, word);
        }
    }

    /// Makes the offset in R10 an address of 32 bits, or none where the segment is not whole.
    fn add_narrow_segment(&mut self, segment: i32, live: bool) {
        self.asm.load32(R11, frame(segment));
        self.asm.lea32(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
        let bar = if segment == at::FS_BASE { at::FS_BAR } else { at::GS_BAR };
        self.add_to_r10(frame(bar), live);
    }

    /// Compares the address in R10, and in `from`, with the tags at `tags` in the frame: R10 becomes the offset in the page
    /// and R11 the entry's, or the code goes to `miss` if `bytes` bytes there are not all in the page.
    fn look_up(&mut self, from: Reg, tags: i32, bytes: i32, miss: Label) {
        self.asm.rorx(R11, from, TO_ENTRY);
        self.asm.and32_imm(R11, ENTRY_MASK);
        self.asm.alu(Alu::Sub, R10, frame_indexed(tags, R11, 0));
        self.asm.cmp_imm(R10, PAGE as i32 - bytes);
        self.asm.jcc(cc::A, miss);
    }

    /// Compares the address in R10 with what a slot has: goes to `miss` if that has not got all of the operand.
    fn look_up_slot(&mut self, slot: u16, miss: Label) {
        let at = at::slot(slot);
        self.asm.alu(Alu::Sub, R10, frame(at + LOW));
        self.asm.alu(Alu::Cmp, R10, frame(at + LIMIT));
        self.asm.jcc(cc::AE, miss);
    }

    /// The same for a range of no more bytes than it is aligned to, whose alignment is checked at once.
    fn look_up_aligned(&mut self, from: Reg, tags: i32, alignment: u32, miss: Label) {
        self.asm.rorx(R11, from, TO_ENTRY);
        self.asm.and32_imm(R11, ENTRY_MASK);
        self.asm.alu(Alu::Sub, R10, frame_indexed(tags, R11, 0));
        self.asm.test_imm(R10, !(PAGE_MASK as i32) | (alignment as i32 - 1));
        self.asm.jcc(cc::NZ, miss);
    }

    /// Out of line, with the address in R10: the TLB is no help to what is not aligned.
    pub(super) fn leave_if_crooked(&mut self, crooked: Option<(u32, Label)>) {
        if let Some((alignment, label)) = crooked {
            self.asm.test_imm8(R10, alignment as u8 - 1);
            self.asm.jcc(cc::NZ, label);
        }
    }

    /// The same without a change of flags. The guest's RCX is in the frame then; at `miss` it is back.
    fn look_up_keeping_flags(&mut self, from: Reg, tags: i32, bytes: i32, miss: Label) {
        let hit = self.asm.label();
        self.asm.store(frame(at::RCX), RCX);
        self.asm.pext(R11, from, frame(at::TLB_BITS));
        self.asm.rorx(R11, R11, 64 - ENTRY_SHIFT as u8);
        self.asm.load(RCX, frame_indexed(tags, R11, 0));
        // R10 - tag = R10 + !tag + 1.
        self.asm.not(RCX);
        self.asm.lea(R10, Mem { base: R10, index: Some((RCX, 0)), disp: 1 });
        self.asm.lea(RCX, Mem { base: R10, index: None, disp: bytes - 1 });
        self.asm.pext(RCX, RCX, frame(at::PAGE_BITS));
        self.jump_if_zero(hit, miss);
    }

    /// To `zero`, which comes next, if RCX is; else takes the guest's RCX back and goes to `other`.
    fn jump_if_zero(&mut self, zero: Label, other: Label) {
        let restore = self.asm.label();
        self.cold.push(Cold::Restore { label: restore, then: other });
        self.asm.jump_short(0xe3, zero);
        self.asm.jmp(restore);
        self.asm.bind(zero);
    }

    /// Where the host has a guest operand: R10 or R11 is not among its registers if one has to be free. What the TLB does not
    /// allow is the interpreter's, at `rip`.
    pub fn locate(&mut self, address: Address, operand: Operand, rip: u64, live: bool, free: Free) -> Mem {
        let exit = self.exit(ExitKind::Access(self.within()), rip);
        self.forget_r11();
        let again = self.asm.label();
        self.asm.bind(again);
        let label = self.asm.label();
        // Nobody waits for the address of a vector.
        let slot = if operand.size > 8 { None } else { self.slot(address, operand, live) };
        let refill = self.refill(operand, slot, again);
        let crooked = if operand.alignment > 1 { self.crooked(exit) } else { label };
        let aligned = checks_both(address, operand, live).then_some((operand.alignment, crooked));
        self.cold.push(Cold::Refill { label, address, refill, exit, live, crooked: aligned });
        match address {
            Address::Constant(value) => self.locate_constant(value, operand, exit, label, live),
            Address::Computed(computed) => {
                self.find(computed, operand, slot, label, crooked, live);
                self.operand_at(computed, live, free)
            }
        }
    }

    /// A slot for an access, if it may have one, and where its check ends.
    fn slot(&mut self, address: Address, operand: Operand, live: bool) -> Option<(u16, Label)> {
        let Address::Computed(computed) = address else { return None };
        let whole = !computed.short || computed.register(self.mode.narrow).is_some();
        if live || !whole || operand.alignment > 1 || self.scattered & scattered_bit(self.op) != 0 {
            return None;
        }
        let slot = self.free_slots.pop()?;
        self.sites.push(Site { slot, op: self.op, bytes: operand.size, write: operand.write });
        Some((slot, self.asm.label()))
    }

    /// What fills the TLB, or the slot, for an access.
    fn refill(&self, operand: Operand, slot: Option<(u16, Label)>, again: Label) -> Refill {
        let write = if operand.write { request::WRITE } else { 0 };
        let user = if self.mode.user { request::USER } else { 0 };
        let of_slot = slot.map_or(0, |(slot, _)| u32::from(slot) << request::SLOT | user);
        Refill { request: operand.size | write | of_slot, again, found: slot.map(|(_, found)| found) }
    }

    /// Calls what fills the TLB or a slot, with the address in R10. Goes to `otherwise` if the request says so.
    pub(super) fn call_refill(&mut self, refill: Refill, otherwise: Label) {
        let Refill { request, again, found } = refill;
        self.asm.mov_imm(R11, request.into());
        self.asm.call_mem(frame(if found.is_some() { at::FILL_SLOT } else { at::REFILL }));
        self.asm.jmp(again);
        if let Some(found) = found {
            self.asm.jmp(otherwise);
            self.asm.jmp(found);
        }
    }

    fn crooked(&mut self, exit: u32) -> Label {
        let label = self.asm.label();
        self.cold.push(Cold::Exit { label, exit });
        label
    }

    /// Page and offset are known: only the tag has to be compared.
    fn locate_constant(&mut self, value: u64, operand: Operand, exit: u32, miss: Label, live: bool) -> Mem {
        let (page, offset) = (value & !PAGE_MASK, value & PAGE_MASK);
        if offset + u64::from(operand.size) > PAGE || !offset.is_multiple_of(operand.alignment.into()) {
            let out = self.crooked(exit);
            self.asm.jmp(out);
        }
        let mem = self.compare_constant(page, operand, miss, live);
        Mem { disp: offset as i32, ..mem }
    }

    /// Where the host has the page at linear address `page`.
    fn compare_constant(&mut self, page: u64, operand: Operand, miss: Label, live: bool) -> Mem {
        let entry = self.arrays.tlb + (index_of(page) * size_of::<Entry>()) as i32;
        let (tag, addend) = (frame(entry + tag(operand.write)), frame(entry + ADDEND));
        if live {
            let hit = self.asm.label();
            self.asm.store(frame(at::RCX), RCX);
            self.asm.mov_imm(R10, page.wrapping_neg());
            self.asm.load(RCX, tag);
            self.asm.lea(RCX, Mem { base: RCX, index: Some((R10, 0)), disp: 0 });
            self.jump_if_zero(hit, miss);
            self.asm.load(RCX, frame(at::RCX));
            self.asm.load(R11, addend);
            self.asm.mov_imm(R10, page);
            self.asm.lea(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
        } else {
            self.asm.mov_imm(R10, page);
            self.asm.alu(Alu::Cmp, R10, tag);
            self.asm.jcc(cc::NZ, miss);
            self.asm.alu(Alu::Add, R10, addend);
        }
        Mem { base: R10, index: None, disp: 0 }
    }

    /// The operand at the address, what to add to which is in R11.
    fn operand_at(&mut self, computed: Computed, live: bool, free: Free) -> Mem {
        let Computed { base, index, disp, short, segment } = computed;
        if let Some(register) = computed.register(self.mode.narrow) {
            return Mem { base: R11, index: Some((register, 0)), disp: 0 };
        }
        if short && free == Free::None {
            return Mem { base: R11, index: Some((R10, 0)), disp: 0 };
        }
        if short {
            self.asm.lea(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
            return Mem { base: R10, index: None, disp: 0 };
        }
        // What waits for R11 does not wait for a sum with it.
        if let (Free::None, Some(Home::Host(base)), Some((Home::Host(index), shift)), None) =
            (free, base, index, segment)
        {
            self.asm.lea(R10, Mem { base, index: Some((index, shift)), disp });
            return Mem { base: R11, index: Some((R10, 0)), disp: 0 };
        }
        self.add_registers(computed, live)
    }

    /// What to add to an address into R11; of one of 32 bits, the address into R10. Goes to `miss` or `crooked` if not all of
    /// the operand is there, or is not aligned.
    fn find(
        &mut self,
        computed: Computed,
        operand: Operand,
        slot: Option<(u16, Label)>,
        miss: Label,
        crooked: Label,
        live: bool,
    ) {
        let tags = self.arrays.tlb + tag(operand.write);
        self.address(Address::Computed(computed), live);
        let register = computed.register(self.mode.narrow);
        let from = register.unwrap_or(R10);
        let again = computed.short && register.is_none();
        let of_host = computed.is_of_host();
        let (begin, addend) = match slot {
            None => (frame_indexed(tags, R11, 0), frame_indexed(self.arrays.tlb + ADDEND, R11, 0)),
            Some((slot, _)) => (frame(at::slot(slot) + LOW), frame(at::slot(slot) + SLOT_ADDEND)),
        };
        if live {
            self.look_up_keeping_flags(from, tags, operand.size as i32, miss);
            if operand.alignment > 1 {
                let bits = if operand.alignment == 16 { at::LOW_4 } else { at::LOW_5 };
                let aligned = self.asm.label();
                self.asm.pext(RCX, R10, frame(bits));
                self.jump_if_zero(aligned, crooked);
            }
            if again && !of_host {
                self.asm.load(RCX, begin);
                self.asm.lea(R10, Mem { base: R10, index: Some((RCX, 0)), disp: 0 });
            }
            self.asm.load(RCX, frame(at::RCX));
        } else {
            if let Some((slot, _)) = slot {
                self.look_up_slot(slot, miss);
            } else if checks_both(Address::Computed(computed), operand, live) {
                self.look_up_aligned(from, tags, operand.alignment, miss);
            } else {
                self.look_up(from, tags, operand.size as i32, miss);
                if operand.alignment > 1 {
                    self.asm.test_imm8(R10, operand.alignment as u8 - 1);
                    self.asm.jcc(cc::NZ, crooked);
                }
            }
            if again && !of_host {
                self.asm.alu(Alu::Add, R10, begin);
            }
        }
        if again && of_host {
            // Once more: what waits for the address does not wait for the tag.
            self.address(Address::Computed(computed), live);
        }
        self.asm.load(R11, addend);
        if let Some((_, found)) = slot {
            self.asm.bind(found);
        }
    }

    /// The operand at the address plus what is in R11. R10 is free behind it.
    fn add_registers(&mut self, computed: Computed, live: bool) -> Mem {
        let followed = computed.followed();
        if let Some(segment) = computed.segment {
            self.add_to_r11(Home::Frame(frame(segment)), 0, live);
        }
        let index_follows = matches!(computed.index, Some((Home::Host(_), _)));
        if let Some((index, shift)) = computed.index.filter(|_| !index_follows) {
            self.add_to_r11(index, shift, live);
        }
        if let Some(base) = computed.base.filter(|base| index_follows || matches!(base, Home::Frame(_))) {
            self.add_to_r11(base, 0, live);
        }
        Mem { base: R11, index: followed, disp: computed.disp }
    }

    /// Adds what is at a home, shifted left, to R11. Uses R10.
    fn add_to_r11(&mut self, home: Home, shift: u8, live: bool) {
        match home {
            Home::Frame(slot) if shift == 0 && !live => self.asm.alu(Alu::Add, R11, slot),
            home => {
                let reg = self.at_home(home, R10);
                self.asm.lea(R11, Mem { base: R11, index: Some((reg, shift)), disp: 0 });
            }
        }
    }

    /// Checks a group's range; the frame's word is then what to add to the addresses of its members.
    pub fn check_group(&mut self, check: &Check, rip: u64, live: bool) {
        self.forget_r11();
        let again = self.asm.label();
        self.asm.bind(again);
        let (miss, single) = (self.asm.label(), self.asm.label());
        let Check { address, operand, word, last, early, .. } = *check;
        let slot = self.slot(address, operand, live);
        let mut refill = self.refill(operand, slot, again);
        refill.request |= request::MAY_FAIL | if early { request::EARLY } else { 0 };
        self.cold.push(Cold::Group(ColdGroup { miss, single, address, operand, refill, rip, op: self.op, live }));
        match address {
            Address::Constant(value) => {
                let mem = self.compare_constant(value & !PAGE_MASK, operand, miss, live);
                self.asm.lea(R11, mem);
            }
            Address::Computed(computed) => {
                self.find(computed, operand, slot, miss, single, live);
                if computed.short {
                    // All of it: 32-bit code's registers may wrap around before its addresses do.
                    let address = computed.register(self.mode.narrow).unwrap_or(R10);
                    self.asm.lea(R11, Mem { base: R11, index: Some((address, 0)), disp: 0 });
                } else {
                    self.add_registers(computed, live);
                }
            }
        }
        (self.in_r11, self.unsaved) = (Some(word), true);
        if let Some(last_use) = self.last_use.get_mut(usize::from(word)) {
            *last_use = last;
        }
    }

    /// What [`Cold::Group`] is made into: fills the TLB once and tries again, or goes on with single checks.
    pub(super) fn refill_group(&mut self, cold: &ColdGroup) {
        let ColdGroup { miss, single, refill, rip, op, .. } = *cold;
        self.asm.bind(miss);
        if refill.request & request::EARLY == 0 || refill.found.is_some() {
            self.try_group_again(cold);
        }
        // The call returns behind the jump if it did not help.
        self.asm.bind(single);
        let patch = self.asm.here() + 1;
        let exit = self.exit(ExitKind::Single { op, patch }, rip);
        let next = self.asm.label();
        self.asm.jmp(next);
        self.asm.bind(next);
        self.note_exit(at::EXIT, exit);
        self.asm.jmp_mem(frame(at::LEAVE));
    }

    fn try_group_again(&mut self, cold: &ColdGroup) {
        let ColdGroup { single, address, operand, refill, live, .. } = *cold;
        self.address(address, live);
        let last = operand.size as i32 - 1;
        let aligned = checks_both(address, operand, live).then_some((operand.alignment, single));
        self.leave_if_crooked(aligned);
        // Nothing helps a range that crosses a page.
        if !matches!(address, Address::Constant(_)) {
            self.leave_if_crossing(last, single, live);
        }
        self.call_refill(refill, single);
    }

    /// Goes to `crossing` if a page ends before the byte `last` bytes behind the address in R10.
    fn leave_if_crossing(&mut self, last: i32, crossing: Label, live: bool) {
        let end = Mem { base: R10, index: None, disp: last };
        if live {
            let same = self.asm.label();
            self.asm.lea(RCX, end);
            self.asm.pext(RCX, RCX, frame(at::PAGE_BITS));
            self.asm.pext(R11, R10, frame(at::PAGE_BITS));
            self.asm.not(RCX);
            self.asm.lea(RCX, Mem { base: RCX, index: Some((R11, 0)), disp: 1 });
            self.asm.jump_short(0xe3, same);
            self.asm.load(RCX, frame(at::RCX));
            self.asm.jmp(crossing);
            self.asm.bind(same);
            self.asm.load(RCX, frame(at::RCX));
        } else {
            self.asm.lea(R11, end);
            self.asm.xor32(R11, R10);
            self.asm.test_imm32(R11, PAGE as u32);
            self.asm.jcc(cc::NZ, crossing);
        }
    }

    /// An operand that its group has checked. R10 stays free.
    pub fn checked(&mut self, member: Member) -> Mem {
        if self.in_r11 != Some(member.word) {
            self.forget_r11();
            self.asm.load(R11, frame(at::word(member.word)));
            self.in_r11 = Some(member.word);
        }
        member.mem
    }

    /// R11 is about to hold something else: keeps what is in it, if that is needed.
    pub fn forget_r11(&mut self) {
        let needed = |word: u8| self.last_use.get(usize::from(word)).is_some_and(|&last| last >= usize::from(self.op));
        if let Some(word) = self.in_r11.take()
            && std::mem::take(&mut self.unsaved)
            && needed(word)
        {
            self.asm.store(frame(at::word(word)), R11);
        }
    }
}
