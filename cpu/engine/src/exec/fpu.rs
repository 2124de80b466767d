//! FPU instructions that the host does not execute as they are: state images, and masked or gathering
//! memory access.

use super::guard::late_check;
use crate::cpu::{CodeSize, Cpu, Done, Fault, Faulting, Flow, slot};
use crate::decode::{Handler, Op};
use crate::native::{self, ElementAddress, ElementMemory, EnvironmentFormat, ImageForm, StateImage, Unit};
use iced_x86::{Code as C, Instruction, Mnemonic as M};

/// The handler of a state image or element-wise instruction.
pub fn handler(i: &Instruction) -> Option<Handler> {
    Some(match i.mnemonic() {
        M::Fxsave => fxsave::<false>,
        M::Fxsave64 => fxsave::<true>,
        M::Fxrstor => fxrstor::<false>,
        M::Fxrstor64 => fxrstor::<true>,
        M::Fnstenv => fnstenv,
        M::Fldenv => fldenv,
        M::Fnsave => fnsave,
        M::Frstor => frstor,
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => elements::<true>,
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => elements::<false>,
        _ if i.is_vsib() => elements::<false>,
        _ => return super::xsave::handler(i),
    })
}

/// #NM if CR0.TS or CR0.EM: FXSAVE and FXRSTOR, and the x87 images.
fn check_available(cpu: &mut Cpu) -> Faulting<()> {
    cpu.check_unit(Unit::X87)
}

pub(super) fn form(cpu: &Cpu, wide: bool) -> ImageForm {
    ImageForm { long: cpu.code_size == CodeSize::Bits64, wide }
}

/// The operand's address, which must be a multiple of `alignment`.
pub(super) fn aligned(cpu: &mut Cpu, op: &Op, alignment: u64) -> Faulting<u64> {
    late_check(cpu, op)?;
    let address = op.linear(cpu);
    if address & (alignment - 1) != 0 { cpu.general_protection(0) } else { Ok(address) }
}

fn fxsave<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    check_available(cpu)?;
    let address = aligned(cpu, op, 16)?;
    let (image, written) = native::fxsave_image(&cpu.fpu, form(cpu, WIDE));
    cpu.check_write(address, image.len() as u64)?;
    if let Some(bytes) = image.get(written.clone()) {
        cpu.write_bytes(address.wrapping_add(written.start as u64), bytes)?;
    }
    Ok(Flow::Next)
}

fn fxrstor<const WIDE: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    check_available(cpu)?;
    let address = aligned(cpu, op, 16)?;
    let mut image = [0; native::FXSAVE_SIZE];
    cpu.read_bytes(address, &mut image)?;
    let form = form(cpu, WIDE);
    match native::fxrstor_image(&mut cpu.fpu, &image, form) {
        Ok(()) => Ok(Flow::Next),
        Err(_) => cpu.general_protection(0),
    }
}

fn environment_format(cpu: &Cpu, op: &Op) -> EnvironmentFormat {
    let short = op.extra.as_ref().is_some_and(|extra| {
        matches!(
            extra.instruction.code(),
            C::Fnstenv_m14byte | C::Fldenv_m14byte | C::Fnsave_m94byte | C::Frstor_m94byte
        )
    });
    EnvironmentFormat { wide: !short, real: !cpu.protected_mode() }
}

fn store_image(cpu: &mut Cpu, op: &Op, image: &StateImage) -> Faulting<()> {
    late_check(cpu, op)?;
    let address = op.linear(cpu);
    cpu.write_bytes(address, image.as_bytes())
}

fn fnstenv(cpu: &mut Cpu, op: &Op) -> Done {
    check_available(cpu)?;
    let image = native::fnstenv_image(&cpu.fpu, environment_format(cpu, op));
    store_image(cpu, op, &image)?;
    native::mask_x87_exceptions(&mut cpu.fpu);
    Ok(Flow::Next)
}

fn fnsave(cpu: &mut Cpu, op: &Op) -> Done {
    check_available(cpu)?;
    let image = native::fnsave_image(&cpu.fpu, environment_format(cpu, op));
    store_image(cpu, op, &image)?;
    native::fninit(&mut cpu.fpu);
    Ok(Flow::Next)
}

fn fldenv(cpu: &mut Cpu, op: &Op) -> Done {
    check_available(cpu)?;
    cpu.check_x87()?;
    let format = environment_format(cpu, op);
    late_check(cpu, op)?;
    let mut image = [0; 108];
    let address = op.linear(cpu);
    let Some(bytes) = image.get_mut(..format.environment_size()) else { return cpu.undefined() };
    cpu.read_bytes(address, bytes)?;
    native::fldenv(&mut cpu.fpu, format, bytes);
    Ok(Flow::Next)
}

fn frstor(cpu: &mut Cpu, op: &Op) -> Done {
    check_available(cpu)?;
    cpu.check_x87()?;
    let format = environment_format(cpu, op);
    late_check(cpu, op)?;
    let mut image = [0; 108];
    let address = op.linear(cpu);
    let Some(bytes) = image.get_mut(..format.save_size()) else { return cpu.undefined() };
    cpu.read_bytes(address, bytes)?;
    native::frstor(&mut cpu.fpu, format, bytes);
    Ok(Flow::Next)
}

/// Masked moves and gathers. `IMPLICIT`: the address is DS:rDI.
fn elements<const IMPLICIT: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let Some(extra) = &op.extra else { return cpu.undefined() };
    let unit = native::unit(&extra.instruction);
    cpu.check_unit(unit)?;
    if unit == Unit::Mmx {
        cpu.check_x87()?;
    }
    let base = if IMPLICIT {
        cpu.gpr(slot::RDI)
    } else {
        cpu.gpr(op.base).wrapping_add(op.disp).wrapping_add(cpu.gpr(op.index) << (op.scale & 3))
    };
    let address = ElementAddress { base: base & op.address_mask, mask: op.address_mask };
    if IMPLICIT {
        cpu.check_alignment(op.segment.into(), address.base, 8)?;
    }
    // The registers are worked on apart, since memory is reached through the whole CPU.
    let mut fpu = cpu.fpu.clone();
    let mut memory = Segment { cpu, base: op.segment };
    let result = native::run_elements(&extra.instruction, &mut fpu, address, &mut memory);
    cpu.fpu = fpu;
    cpu.note_watch_hits();
    result.map(|()| Flow::Next)
}

/// Memory of the operand's segment.
struct Segment<'a> {
    cpu: &'a mut Cpu,
    base: u8,
}

impl Segment<'_> {
    fn check(&mut self, offset: u64, bytes: usize, write: bool) -> Result<(), Fault> {
        self.cpu.guard_element(self.base.into(), offset, bytes as u64, write)
    }

    fn linear(&self, offset: u64) -> u64 {
        offset.wrapping_add(self.cpu.bases[(self.base & 7) as usize]) & self.cpu.linear_mask
    }
}

impl ElementMemory for Segment<'_> {
    type Fault = Fault;

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        self.check(offset, bytes.len(), false)?;
        let at = self.linear(offset);
        self.cpu.read_bytes(at, bytes)
    }

    fn check_write(&mut self, offset: u64, bytes: usize) -> Result<(), Fault> {
        self.check(offset, bytes, true)?;
        let at = self.linear(offset);
        self.cpu.check_write(at, bytes as u64)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let at = self.linear(offset);
        self.cpu.write_bytes(at, bytes)
    }
}
