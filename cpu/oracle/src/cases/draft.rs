//! A case in the making: first an instruction, then states for it.

use super::encoding::{self, Encoded};
use super::place::{self, Wanted};
use super::state::{self, Drawn};
use super::values::{self, Format};
use super::{PATCH_SIZE, Patch, operand};
use crate::layout::{self, CODE_SIZE, PAGE, WINDOW_SIZE};
use crate::rng::Rng;
use crate::{Mode, UserState};
use iced_x86::{Code, FlowControl, InstructionInfoFactory, MemorySize, Mnemonic, OpKind, Register, UsedMemory};
use motu_x86::flags::rflags;

/// An instruction with everything about it that the cases made of it share: the bytes, and so what of its
/// operands is in them.
#[derive(Debug)]
pub(super) struct Blueprint {
    encoded: Encoded,
    /// Which of [`layout::AREAS`] the cases are in.
    area: usize,
    format: Format,
    /// What the cases start from; registers that the instruction uses are drawn anew for each.
    state: UserState,
    memory: Vec<UsedMemory>,
    pub(super) drawn: Drawn,
}

impl Blueprint {
    /// Draws an instruction of the form `code`.
    pub(super) fn draw(code: Code, mode: Mode, rng: &mut Rng, factory: &mut InstructionInfoFactory) -> Option<Self> {
        let area = if mode == Mode::Bits64 { rng.below(2) as usize } else { 0 };
        let rip = layout::code(area) + code_offset(rng);
        Self::with(encoding::encode(code, rip, mode, rng)?, area, rng, factory)
    }

    /// Settles what of the operands of `encoded`, which lies in `area`, is in its bytes.
    pub(super) fn with(
        encoded: Encoded,
        area: usize,
        rng: &mut Rng,
        factory: &mut InstructionInfoFactory,
    ) -> Option<Self> {
        let format = Format::of(encoded.instruction.code().op_code().memory_size());
        let state = state::random(rng, encoded.mode, encoded.instruction.ip(), format);
        let mut blueprint = Self { encoded, area, format, state, memory: Vec::new(), drawn: Drawn::default() };
        blueprint.vary_immediates(rng);
        blueprint.place_displacement(rng)?;
        blueprint.place_near_branch(rng);
        let instruction = &blueprint.encoded.instruction;
        let info = factory.info(instruction);
        blueprint.memory = info.used_memory().to_vec();
        blueprint.drawn = Drawn::by(instruction, info);
        Some(blueprint)
    }

    /// Draws one case; not checked for harm yet.
    pub(super) fn draft(&self, rng: &mut Rng) -> Option<Draft> {
        let mut state = self.state.clone();
        state::redraw(rng, &mut state, self.format, self.drawn);
        let mut draft = Draft::new(self.encoded, state, self.area, self.format);
        draft.place_implied(rng);
        draft.place_memory(rng)?;
        draft.place_indirect_branch(rng);
        draft.adapt(rng);
        state::narrow(&mut draft.state);
        Some(draft)
    }

    /// Edge values for immediates; those of branches are [`Blueprint::place_near_branch`]'s.
    fn vary_immediates(&mut self, rng: &mut Rng) {
        let offsets = self.encoded.offsets;
        let enter = matches!(self.encoded.instruction.mnemonic(), Mnemonic::Enter);
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

    /// `[rip + disp32]`, `[disp32]` and the 64-bit offset of MOV.
    fn place_displacement(&mut self, rng: &mut Rng) -> Option<()> {
        let instruction = self.encoded.instruction;
        if !operand::is_in_bytes(&instruction) {
            return Some(());
        }
        let size = operand::size(&instruction);
        let offsets = self.encoded.offsets;
        let narrow = instruction.memory_base() == Register::EIP || instruction.memory_displ_size() == 4;
        let relative = instruction.is_ip_rel_memory_operand();
        let full = offsets.displacement_size() == 8;
        (0..8).find_map(|_| {
            let wanted = Wanted {
                size,
                area: self.area,
                low: narrow || !relative && !full || self.encoded.mode != Mode::Bits64,
            };
            let target = place::operand(rng, wanted);
            let value = if relative { target.wrapping_sub(instruction.next_ip()) } else { target };
            let fits = full
                || narrow
                || offsets.displacement_size() == 4 && self.encoded.mode != Mode::Bits64
                || i32::try_from(value as i64).is_ok();
            let bytes = &value.to_le_bytes()[..offsets.displacement_size().min(8)];
            (fits && self.encoded.patch(offsets.displacement_offset(), bytes)).then_some(())
        })
    }

    /// Where a branch goes by displacement.
    fn place_near_branch(&mut self, rng: &mut Rng) {
        if !has_near_branch(&self.encoded) {
            return;
        }
        let target = place::branch_target(rng, self.encoded.mode, self.area);
        let offsets = self.encoded.offsets;
        let distance = target.wrapping_sub(self.encoded.instruction.next_ip()) as i64;
        if offsets.immediate_size() == 1 {
            self.encoded.patch(offsets.immediate_offset(), &[rng.next() as u8]);
        } else if let Ok(distance) = i32::try_from(distance) {
            let bytes = &distance.to_le_bytes()[..offsets.immediate_size().min(4)];
            self.encoded.patch(offsets.immediate_offset(), bytes);
        }
    }

    /// Whether nothing but the window can be touched by `draft` and no branch leaves for the host's code.
    pub(super) fn is_harmless(&self, draft: &mut Draft, window: &[u8]) -> bool {
        let instruction = &self.encoded.instruction;
        // These go on from their operand as far as a count or a level says.
        draft.touches_all = instruction.is_string_instruction() || instruction.mnemonic() == Mnemonic::Enter;
        for used in &self.memory {
            let bytes = access_size(used.memory_size());
            let lanes = if used.vsib_size() == 0 { 1 } else { 32 / used.vsib_size() as usize };
            for lane in 0..lanes {
                let address = used.virtual_address(lane, |register, element, size| {
                    Some(operand::register_value(&draft.state, register, element, size))
                });
                match address {
                    Some(address) if place::is_harmless_range(self.encoded.mode, address, bytes) => {
                        draft.touch(address, bytes)
                    }
                    _ => return false,
                }
            }
        }
        draft.bit_string_is_harmless() && draft.branch_is_harmless(window) && !draft.sets_trap_flag(window)
    }
}

/// A case in the making.
pub(super) struct Draft {
    pub(super) encoded: Encoded,
    pub(super) state: UserState,
    /// Later ones lie over earlier ones.
    pub(super) patches: Vec<Patch>,
    /// Which of [`layout::AREAS`] the case is in.
    pub(super) area: usize,
    pub(super) format: Format,
    /// Parts of the window that the instruction may touch: offset and length.
    pub(super) touched: Vec<(usize, usize)>,
    /// It may touch all of it.
    pub(super) touches_all: bool,
}

impl Draft {
    fn new(encoded: Encoded, state: UserState, area: usize, format: Format) -> Self {
        let (patches, touched) = (Vec::with_capacity(4), Vec::with_capacity(8));
        Self { encoded, state, patches, area, format, touched, touches_all: false }
    }

    /// Notes that `bytes` bytes at `address` may be touched, as far as they are in the window.
    pub(super) fn touch(&mut self, address: u64, bytes: u64) {
        match (layout::window_offset(address), layout::window_offset(address.wrapping_add(bytes.saturating_sub(1)))) {
            (None, None) => {}
            (Some(start), Some(_)) => self.touched.push((start as usize, bytes as usize)),
            (Some(start), None) => self.touched.push((start as usize, (WINDOW_SIZE - start) as usize)),
            (None, Some(end)) => self.touched.push((0, end as usize + 1)),
        }
    }

    /// Draws a state for bytes that are no instruction. Should the host take them for one, then no
    /// register of it is the address of anything.
    pub(super) fn invalid(encoded: Encoded, area: usize, rng: &mut Rng) -> Self {
        const NOT_CANONICAL: u64 = 1 << 63;
        let mut state = state::random(rng, encoded.mode, encoded.instruction.ip(), Format::Integer);
        if encoded.mode == Mode::Bits64 {
            state.gpr.iter_mut().for_each(|register| *register = NOT_CANONICAL | rng.next() >> 20);
        }
        Self { touches_all: true, ..Self::new(encoded, state, area, Format::Integer) }
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
        Wanted { size, area: self.area, low: low || self.encoded.mode != Mode::Bits64 }
    }

    /// Where a branch by register or memory goes.
    fn place_indirect_branch(&mut self, rng: &mut Rng) {
        let instruction = self.encoded.instruction;
        let flow = instruction.flow_control();
        if !matches!(flow, FlowControl::Return | FlowControl::IndirectBranch | FlowControl::IndirectCall) {
            return;
        }
        let target = place::branch_target(rng, self.encoded.mode, self.area);
        if flow == FlowControl::Return {
            self.store(self.state.gpr[4], &target.to_le_bytes());
        } else if instruction.op0_kind() == OpKind::Memory {
            if let Some(address) = operand::explicit_address(&self.encoded.instruction, &self.state) {
                self.store(address, &target.to_le_bytes());
            }
        } else if let Some(register) = self.gpr_mut(instruction.op0_register()) {
            *register = target;
        }
    }

    fn branch_is_harmless(&self, window: &[u8]) -> bool {
        let instruction = &self.encoded.instruction;
        let fine = |target| place::is_harmless_target(self.encoded.mode, target, instruction.ip(), instruction.len());
        if has_near_branch(&self.encoded) {
            return fine(instruction.near_branch_target());
        }
        let pointer = self.encoded.mode.bits() as usize / 8;
        let loaded = |address: u64| match layout::window_offset(address) {
            // A pointer that is cut by the window's end is not loaded at all.
            Some(offset) => window.get(offset as usize..offset as usize + pointer).is_none_or(|bytes| {
                let mut target = [0; 8];
                target[..pointer].copy_from_slice(bytes);
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
        matches!(self.mnemonic(), Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq)
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
