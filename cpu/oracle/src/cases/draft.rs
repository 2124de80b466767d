//! A case in the making.

use super::encoding::{self, Encoded};
use super::place::{self, Wanted};
use super::values::{self, Format};
use super::{PATCH_SIZE, Patch, operand, state};
use crate::UserState;
use crate::layout::{self, CODE_SIZE, PAGE, WINDOW_SIZE};
use crate::rng::Rng;
use iced_x86::{Code, FlowControl, InstructionInfoFactory, MemorySize, Mnemonic, OpKind, Register};
use motu_x86::flags::rflags;

pub(super) struct Draft {
    pub(super) encoded: Encoded,
    pub(super) state: UserState,
    /// Later ones lie over earlier ones.
    pub(super) patches: Vec<Patch>,
    /// Which of [`layout::AREAS`] the case is in.
    pub(super) area: usize,
    pub(super) format: Format,
}

impl Draft {
    /// Draws a case for `code`; not checked for harm yet.
    pub(super) fn draw(code: Code, rng: &mut Rng) -> Option<Self> {
        let area = rng.below(2) as usize;
        let rip = layout::code(area) + code_offset(rng);
        Self::with(encoding::encode(code, rip, rng)?, area, rng)
    }

    /// Draws a state for the instruction `encoded`, which lies in `area`.
    pub(super) fn with(encoded: Encoded, area: usize, rng: &mut Rng) -> Option<Self> {
        let format = Format::of(encoded.instruction.code().op_code().memory_size());
        let state = state::random(rng, encoded.instruction.ip(), format);
        let mut draft = Self { encoded, state, patches: Vec::new(), area, format };
        draft.vary_immediates(rng);
        draft.place_implied(rng);
        draft.place_memory(rng)?;
        draft.place_branch(rng);
        draft.adapt(rng);
        Some(draft)
    }

    /// Draws a state for bytes that are no instruction. Should the host take them for one, then no
    /// register of it is the address of anything.
    pub(super) fn invalid(encoded: Encoded, area: usize, rng: &mut Rng) -> Self {
        const NOT_CANONICAL: u64 = 1 << 63;
        let mut state = state::random(rng, encoded.instruction.ip(), Format::Integer);
        state.gpr.iter_mut().for_each(|register| *register = NOT_CANONICAL | rng.next() >> 20);
        Self { encoded, state, patches: Vec::new(), area, format: Format::Integer }
    }

    pub(super) fn mnemonic(&self) -> Mnemonic {
        self.encoded.instruction.mnemonic()
    }

    /// The 64-bit value of the general register that `register` is part of.
    pub(super) fn gpr_mut(&mut self, register: Register) -> Option<&mut u64> {
        let full = register.full_register();
        full.is_gpr64().then(|| &mut self.state.gpr[full.number() & 15])
    }

    /// Puts edge values of the instruction's format around `address`, where that is in the window.
    pub(super) fn fill_around(&mut self, address: u64, size: u64, rng: &mut Rng) {
        const BEFORE: u64 = 16;
        let Some(offset) = layout::window_offset(address) else { return };
        let mut data = [0; PATCH_SIZE];
        let len = (BEFORE + size.clamp(8, 64) + 16).min(PATCH_SIZE as u64) as usize;
        let format = self.format.vary(rng);
        let start = offset.saturating_sub(BEFORE);
        // The format's lanes begin at the operand.
        let lead = (offset - start) as usize;
        Format::Integer.fill(rng, &mut data[..lead]);
        format.fill(rng, &mut data[lead..len]);
        self.patches.push(Patch::new(start as usize, &data[..len]));
    }

    /// Puts `data` at `address`; what lies outside the window is left out.
    pub(super) fn store(&mut self, address: u64, data: &[u8]) {
        if let Some(offset) = layout::window_offset(address) {
            self.patches.push(Patch::new(offset as usize, data));
        }
    }

    pub(super) fn wanted(&self, size: u64, low: bool) -> Wanted {
        Wanted { size, area: self.area, low }
    }

    /// Edge values for immediates; those of branches are [`Draft::place_branch`]'s.
    fn vary_immediates(&mut self, rng: &mut Rng) {
        let offsets = self.encoded.offsets;
        let enter = matches!(self.mnemonic(), Mnemonic::Enter);
        if !offsets.has_immediate() || has_near_branch(&self.encoded) {
            return;
        }
        if rng.chance(60) {
            let value = values::integer(rng).to_le_bytes();
            self.encoded.patch(offsets.immediate_offset(), &value[..offsets.immediate_size().min(8)]);
        }
        if enter && rng.chance(80) {
            // Few bytes and levels: ENTER faults where its frame has no memory.
            let bytes = (rng.below(256) as u16).to_le_bytes();
            self.encoded.patch(offsets.immediate_offset(), &bytes);
            self.encoded.patch(offsets.immediate_offset2(), &[rng.below(4) as u8]);
        }
    }

    /// Where a branch goes, whether by displacement, register or memory.
    fn place_branch(&mut self, rng: &mut Rng) {
        let instruction = self.encoded.instruction;
        let target = place::branch_target(rng, self.area);
        if has_near_branch(&self.encoded) {
            let offsets = self.encoded.offsets;
            let distance = target.wrapping_sub(instruction.next_ip()) as i64;
            if offsets.immediate_size() == 1 {
                self.encoded.patch(offsets.immediate_offset(), &[rng.next() as u8]);
            } else if let Ok(distance) = i32::try_from(distance) {
                self.encoded.patch(offsets.immediate_offset(), &distance.to_le_bytes());
            }
            return;
        }
        match instruction.flow_control() {
            FlowControl::Return => self.store(self.state.gpr[4], &target.to_le_bytes()),
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if instruction.op0_kind() == OpKind::Memory {
                    if let Some(address) = operand::explicit_address(&self.encoded.instruction, &self.state) {
                        self.store(address, &target.to_le_bytes());
                    }
                } else if let Some(register) = self.gpr_mut(instruction.op0_register()) {
                    *register = target;
                }
            }
            _ => (),
        }
    }

    /// Whether nothing but the window can be touched and no branch leaves for the host's code.
    pub(super) fn is_harmless(&self, window: &[u8], factory: &mut InstructionInfoFactory) -> bool {
        let instruction = &self.encoded.instruction;
        let memory_is = factory.info(instruction).used_memory().iter().all(|used| {
            let bytes = access_size(used.memory_size());
            let lanes = if used.vsib_size() == 0 { 1 } else { 32 / used.vsib_size() as usize };
            (0..lanes).all(|lane| {
                used.virtual_address(lane, |register, element, size| {
                    Some(operand::register_value(&self.state, register, element, size))
                })
                .is_some_and(|address| place::is_harmless_range(address, bytes))
            })
        });
        memory_is && self.bit_string_is_harmless() && self.branch_is_harmless(window) && !self.sets_trap_flag(window)
    }

    fn branch_is_harmless(&self, window: &[u8]) -> bool {
        let instruction = &self.encoded.instruction;
        let fine = |target| place::is_harmless_target(target, instruction.ip(), instruction.len());
        if has_near_branch(&self.encoded) {
            return fine(instruction.near_branch_target());
        }
        let loaded = |address: u64| match layout::window_offset(address) {
            // A pointer that is cut by the window's end is not loaded at all.
            Some(offset) => window.get(offset as usize..offset as usize + 8).is_none_or(|bytes| {
                let mut target = [0; 8];
                target.copy_from_slice(bytes);
                fine(u64::from_le_bytes(target))
            }),
            None => true,
        };
        match instruction.flow_control() {
            FlowControl::Return => loaded(self.state.gpr[4]),
            FlowControl::IndirectBranch | FlowControl::IndirectCall if instruction.op0_kind() == OpKind::Memory => {
                operand::explicit_address(&self.encoded.instruction, &self.state).is_some_and(loaded)
            }
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                fine(operand::register_value(&self.state, instruction.op0_register(), 0, 0))
            }
            _ => true,
        }
    }

    /// POPF with TF set would trap in the oracle's own code.
    fn sets_trap_flag(&self, window: &[u8]) -> bool {
        let flags_at = layout::window_offset(self.state.gpr[4].wrapping_add(1));
        matches!(self.mnemonic(), Mnemonic::Popf | Mnemonic::Popfq)
            && flags_at
                .and_then(|offset| window.get(offset as usize))
                .is_some_and(|byte| byte & (rflags::TF >> 8) as u8 != 0)
    }
}

/// Mostly anywhere; sometimes across the two code pages, or cut by the end of the second.
fn code_offset(rng: &mut Rng) -> u64 {
    match rng.below(100) {
        0..3 => PAGE - rng.below(15) - 1,
        3 => CODE_SIZE - rng.below(16) - 1,
        _ => rng.below(CODE_SIZE - 32),
    }
}

pub(super) fn has_near_branch(encoded: &Encoded) -> bool {
    matches!(encoded.instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// Bytes that an access of this kind may touch; generous where the decoder does not say.
fn access_size(size: MemorySize) -> u64 {
    match size.size() as u64 {
        0 => WINDOW_SIZE,
        bytes => bytes,
    }
}
