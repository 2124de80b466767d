//! The words of the x87 state in the image (SDM vol. 1, 8.1 and table 10-2).

use motu_x86::XsaveArea;

const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const FOP: usize = 6;
const FIP: usize = 8;
const FDP: usize = 16;
const REGISTERS: usize = 32;
/// Exception flags of FSW and masks of FCW: IE, DE, ZE, OE, UE, PE.
const EXCEPTIONS: u16 = 0x3f;
/// Error summary and its copy, busy.
const ES_AND_B: u16 = 0x8080;
/// FCW after FNINIT: all masked, 64-bit precision, round to nearest.
const FCW_DEFAULT: u16 = 0x37f;

pub(super) fn word(fpu: &XsaveArea, offset: usize) -> u16 {
    fpu.0.get(offset..offset + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(super) fn quad(fpu: &XsaveArea, offset: usize) -> u64 {
    fpu.0.get(offset..offset + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub(super) fn put(fpu: &mut XsaveArea, offset: usize, bytes: &[u8]) {
    if let Some(target) = fpu.0.get_mut(offset..offset + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

/// FCW.
pub fn control(fpu: &XsaveArea) -> u16 {
    word(fpu, FCW)
}

/// FSW.
pub fn status(fpu: &XsaveArea) -> u16 {
    word(fpu, FSW)
}

/// Bit 6 of FCW reads as one and bits 7 and 13 to 15 as zero (SDM vol. 1, 8.1.5).
pub(super) fn set_control(fpu: &mut XsaveArea, value: u16) {
    put(fpu, FCW, &((value & 0x1f7f) | 0x40).to_le_bytes());
}

pub(super) fn set_status(fpu: &mut XsaveArea, value: u16) {
    put(fpu, FSW, &value.to_le_bytes());
}

/// Sets FSW where TOP may change. The image holds the registers from the top of the stack on, so that they
/// move in it although they stay where they are physically (SDM vol. 1, 8.1.2 and table 10-2).
pub(super) fn replace_status(fpu: &mut XsaveArea, value: u16) {
    let shift = usize::from((value >> 11).wrapping_sub(status(fpu) >> 11) & 7);
    if let Some(registers) = fpu.0.get_mut(REGISTERS..REGISTERS + 128) {
        registers.rotate_left(shift * 16);
    }
    set_status(fpu, value);
}

/// Abridged tags: bit i set when physical register i is not empty.
pub(super) fn tags(fpu: &XsaveArea) -> u8 {
    fpu.0.get(FTW).copied().unwrap_or(0)
}

pub(super) fn set_tags(fpu: &mut XsaveArea, value: u8) {
    put(fpu, FTW, &[value, 0]);
}

/// Last instruction opcode, 11 bits.
pub(super) fn opcode(fpu: &XsaveArea) -> u16 {
    word(fpu, FOP)
}

/// Last instruction pointer.
pub(super) fn instruction_pointer(fpu: &XsaveArea) -> u64 {
    quad(fpu, FIP)
}

/// Last data pointer.
pub(super) fn data_pointer(fpu: &XsaveArea) -> u64 {
    quad(fpu, FDP)
}

pub(super) fn set_opcode(fpu: &mut XsaveArea, value: u16) {
    put(fpu, FOP, &(value & 0x7ff).to_le_bytes());
}

pub(super) fn set_instruction_pointer(fpu: &mut XsaveArea, value: u64) {
    put(fpu, FIP, &value.to_le_bytes());
}

pub(super) fn set_data_pointer(fpu: &mut XsaveArea, value: u64) {
    put(fpu, FDP, &value.to_le_bytes());
}

/// ST(index)'s ten bytes; the index counts from the top of the stack.
pub(super) fn register(fpu: &XsaveArea, index: usize) -> [u8; 10] {
    let start = REGISTERS + (index & 7) * 16;
    fpu.0.get(start..start + 10).and_then(|b| b.try_into().ok()).unwrap_or_default()
}

pub(super) fn set_register(fpu: &mut XsaveArea, index: usize, value: [u8; 10]) {
    let start = REGISTERS + (index & 7) * 16;
    put(fpu, start, &value);
    put(fpu, start + 10, &[0; 6]);
}

/// An exception that the next waiting instruction must raise as #MF (SDM vol. 1, 8.7). The interpreter asks
/// before it runs a thunk for which [`super::Thunk::is_waiting_x87`] holds.
pub fn pending_x87_exception(fpu: &XsaveArea) -> bool {
    let unmasked = status(fpu) & !control(fpu) & EXCEPTIONS;
    unmasked != 0 || status(fpu) & ES_AND_B != 0
}

/// Makes ES and B follow from the flags and the masks, as loading either does (SDM vol. 1, 8.1.3.3).
pub(super) fn update_summary(fpu: &mut XsaveArea) {
    let status = status(fpu);
    let summary = if status & !control(fpu) & EXCEPTIONS != 0 { ES_AND_B } else { 0 };
    set_status(fpu, (status & !ES_AND_B) | summary);
}

/// FNINIT: control, status, tags and pointers; the registers keep their bits (SDM vol. 2, FINIT).
pub fn initialise(fpu: &mut XsaveArea) {
    set_control(fpu, FCW_DEFAULT);
    replace_status(fpu, 0);
    set_tags(fpu, 0);
    clear_pointers(fpu);
}

fn clear_pointers(fpu: &mut XsaveArea) {
    set_opcode(fpu, 0);
    set_instruction_pointer(fpu, 0);
    set_data_pointer(fpu, 0);
}

/// What every MMX instruction but EMMS does to the x87 state (SDM vol. 1, 9.5.1).
pub(super) fn enter_mmx(fpu: &mut XsaveArea) {
    replace_status(fpu, status(fpu) & !0x3800);
    set_tags(fpu, 0xff);
}

/// FOP, FIP and FDP as they were: the host's own must never be seen by a guest.
pub(super) type Pointers = [u8; 18];

pub(super) fn pointers(fpu: &XsaveArea) -> Pointers {
    fpu.0.get(FOP..FOP + 18).and_then(|b| b.try_into().ok()).unwrap_or([0; 18])
}

pub(super) fn set_pointers(fpu: &mut XsaveArea, pointers: &Pointers) {
    put(fpu, FOP, pointers);
}
