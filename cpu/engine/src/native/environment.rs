//! FNSTENV, FLDENV, FNSAVE and FRSTOR as conversions between the live state and their memory formats
//! (SDM vol. 1, 8.1.10).
//!
//! The storing half is split from its side effect, so that a fault of the guest's memory leaves the state
//! alone: FNSTENV is [`fnstenv_image`], the write, [`mask_x87_exceptions`]; FNSAVE is [`fnsave_image`], the
//! write, [`fninit`].

use motu_x86::XsaveArea;

use super::x87;

/// Bytes of the registers that follow the environment in FNSAVE's image.
const REGISTERS_SIZE: usize = 80;
/// Bytes of the longest image.
const LONGEST: usize = 28 + REGISTERS_SIZE;

/// The format of the environment: by operand size, and by mode (SDM vol. 1, figures 8-9 to 8-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvironmentFormat {
    /// Operand size of 32 bits (always in 64-bit mode unless overridden), else 16.
    pub wide: bool,
    /// Real-address or virtual-8086 mode.
    pub real: bool,
}

impl EnvironmentFormat {
    /// Bytes of FNSTENV's image: 14 or 28.
    pub fn environment_size(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// Bytes of FNSAVE's image: 94 or 108.
    pub fn save_size(self) -> usize {
        self.environment_size() + REGISTERS_SIZE
    }
}

/// An image to be written to the guest.
#[derive(Clone, Copy, Debug)]
pub struct StateImage {
    bytes: [u8; LONGEST],
    length: usize,
}

impl StateImage {
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// What FNSTENV stores. Afterwards it masks all exceptions: [`mask_x87_exceptions`].
pub fn fnstenv_image(fpu: &XsaveArea, format: EnvironmentFormat) -> StateImage {
    let mut bytes = [0; LONGEST];
    // Selectors are deprecated: they read as zero, as CPUID.7.EBX[13] says.
    let (ip, dp) = (x87::instruction_pointer(fpu), x87::data_pointer(fpu));
    let opcode = u64::from(x87::opcode(fpu) & 0x7ff);
    let pointers: [u64; 4] = match (format.wide, format.real) {
        (true, false) => [ip, opcode << 16, dp, 0xffff_0000],
        (true, true) => {
            [ip | 0xffff_0000, (ip >> 16 & 0xffff) << 12 | opcode, dp | 0xffff_0000, (dp >> 16 & 0xffff) << 12]
        }
        (false, false) => [ip, 0, dp, 0],
        (false, true) => [ip, (ip >> 16 & 0xf) << 12 | opcode, dp, (dp >> 16 & 0xf) << 12],
    };
    let words = [x87::control(fpu), x87::status(fpu), full_tags(fpu)].map(|word| u64::from(word) | 0xffff_0000);
    let unit = if format.wide { 4 } else { 2 };
    for (field, value) in bytes.chunks_exact_mut(unit).zip(words.into_iter().chain(pointers)) {
        field.copy_from_slice(value.to_le_bytes().get(..unit).unwrap_or_default());
    }
    StateImage { bytes, length: format.environment_size() }
}

/// FNSTENV's effect on the state.
pub fn mask_x87_exceptions(fpu: &mut XsaveArea) {
    x87::set_control(fpu, x87::control(fpu) | 0x3f);
    x87::update_summary(fpu);
}

/// What FNSAVE stores. Afterwards it initialises the FPU: [`fninit`].
pub fn fnsave_image(fpu: &XsaveArea, format: EnvironmentFormat) -> StateImage {
    let mut image = fnstenv_image(fpu, format);
    let environment = image.length;
    if let Some(registers) = image.bytes.get_mut(environment..environment + REGISTERS_SIZE) {
        for (index, register) in registers.chunks_exact_mut(10).enumerate() {
            register.copy_from_slice(&x87::register(fpu, index));
        }
    }
    image.length = environment + REGISTERS_SIZE;
    image
}

/// FNINIT.
pub fn fninit(fpu: &mut XsaveArea) {
    x87::initialise(fpu);
}

/// FLDENV from an image of [`EnvironmentFormat::environment_size`] bytes.
pub fn fldenv(fpu: &mut XsaveArea, format: EnvironmentFormat, image: &[u8]) {
    let mut fields = [0u64; 7];
    let unit = if format.wide { 4 } else { 2 };
    for (field, bytes) in fields.iter_mut().zip(image.chunks_exact(unit)) {
        *field = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    }
    let [control, status, tags, ip, selector, dp, data_selector] = fields;
    let (ip, opcode, dp) = match (format.wide, format.real) {
        (true, false) => (ip, selector >> 16, dp),
        (false, false) => (ip, 0, dp),
        (_, true) => {
            let high = |field: u64| (field >> 12 & 0xffff) << 16;
            (ip & 0xffff | high(selector), selector, dp & 0xffff | high(data_selector))
        }
    };
    x87::set_control(fpu, control as u16);
    x87::replace_status(fpu, status as u16);
    let abridged = (0..8).filter(|i| tags >> (2 * i) & 3 != 3).fold(0, |all, i| all | 1 << i);
    x87::set_tags(fpu, abridged);
    x87::set_instruction_pointer(fpu, ip);
    x87::set_data_pointer(fpu, dp);
    x87::set_opcode(fpu, opcode as u16);
    x87::update_summary(fpu);
}

/// FRSTOR from an image of [`EnvironmentFormat::save_size`] bytes.
pub fn frstor(fpu: &mut XsaveArea, format: EnvironmentFormat, image: &[u8]) {
    fldenv(fpu, format, image);
    let registers = image.get(format.environment_size()..).unwrap_or_default();
    for (index, register) in registers.as_chunks::<10>().0.iter().take(8).enumerate() {
        x87::set_register(fpu, index, *register);
    }
}

/// The tag word with two bits a physical register: valid, zero, special, empty (SDM vol. 1, 8.1.7).
fn full_tags(fpu: &XsaveArea) -> u16 {
    let top = usize::from(x87::status(fpu) >> 11 & 7);
    let abridged = x87::tags(fpu);
    (0..8usize).fold(0, |word, physical| {
        let tag = if abridged >> physical & 1 == 0 { 3 } else { class(x87::register(fpu, physical.wrapping_sub(top))) };
        word | tag << (2 * physical)
    })
}

fn class(register: [u8; 10]) -> u16 {
    let [significand @ .., e0, e1] = register;
    let significand = u64::from_le_bytes(significand);
    match (u16::from_le_bytes([e0, e1]) & 0x7fff, significand) {
        (0, 0) => 1,
        (0 | 0x7fff, _) => 2,
        (_, significand) if significand >> 63 == 0 => 2,
        _ => 0,
    }
}
