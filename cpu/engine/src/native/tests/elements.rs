//! Masked moves and gathers against the host, and what a fault leaves.

use std::ops::Range;

use iced_x86::{Code, Instruction, OpKind, Register};

use super::oracle::{Oracle, Random, compare};
use super::*;

/// Memory from offset zero on; accesses that touch `bad` fault with their offset.
struct Buffer {
    bytes: Vec<u8>,
    bad: Range<u64>,
}

impl Buffer {
    fn check(&self, offset: u64, length: usize) -> Result<Range<usize>, u64> {
        let end = offset + length as u64;
        if offset < self.bad.end && end > self.bad.start || end > self.bytes.len() as u64 {
            return Err(offset);
        }
        Ok(offset as usize..end as usize)
    }
}

impl ElementMemory for Buffer {
    type Fault = u64;

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), u64> {
        let range = self.check(offset, bytes.len())?;
        bytes.copy_from_slice(&self.bytes[range]);
        Ok(())
    }

    fn check_write(&mut self, offset: u64, bytes: usize) -> Result<(), u64> {
        self.check(offset, bytes).map(drop)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), u64> {
        let range = self.check(offset, bytes.len())?;
        self.bytes[range].copy_from_slice(bytes);
        Ok(())
    }
}

/// Registers 1, 2 and 3 (index), the address in RDI, which MASKMOV has implied.
fn build(code: Code) -> Instruction {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let info = code.op_code();
    for operand in 0..info.op_count() {
        let name = format!("{:?}", info.op_kind(operand));
        let (kind, register) = match name.as_str() {
            "mem" => (OpKind::Memory, Register::None),
            "mem_vsib32x" | "mem_vsib64x" => (OpKind::Memory, Register::XMM3),
            "mem_vsib32y" | "mem_vsib64y" => (OpKind::Memory, Register::YMM3),
            "seg_rDI" => (OpKind::MemorySegRDI, Register::None),
            _ if name.starts_with("xmm") => (OpKind::Register, Register::XMM0 + operand),
            _ if name.starts_with("ymm") => (OpKind::Register, Register::YMM0 + operand),
            _ => (OpKind::Register, Register::MM0 + operand),
        };
        instruction.set_op_kind(operand, kind);
        match kind {
            OpKind::Register => instruction.set_op_register(operand, register),
            OpKind::Memory => {
                instruction.set_memory_base(Register::RDI);
                instruction.set_memory_index(register);
                instruction.set_memory_index_scale(if register == Register::None { 1 } else { 4 });
            }
            _ => {}
        }
    }
    oracle::encodes(&instruction).unwrap_or_else(|| panic!("{code:?} does not encode"))
}

/// A guest whose index register stays near the base.
fn guest(random: &mut Random, instruction: &Instruction) -> Guest {
    let mut guest = random.guest();
    let wide = matches!(
        instruction.mnemonic(),
        iced_x86::Mnemonic::Vpgatherqd
            | iced_x86::Mnemonic::Vpgatherqq
            | iced_x86::Mnemonic::Vgatherqps
            | iced_x86::Mnemonic::Vgatherqpd
    );
    let size = if wide { 8 } else { 4 };
    let mut bytes = [0; 32];
    for index in bytes.chunks_exact_mut(size) {
        let value = random.below(200) as i64 - 100;
        index.copy_from_slice(&value.to_le_bytes()[..size]);
    }
    guest.set_xmm(3, bytes[..16].try_into().unwrap());
    guest.set_high(3, bytes[16..].try_into().unwrap());
    guest
}

#[test]
fn every_per_element_form_agrees_with_the_host() {
    let (mut oracle, mut cache) = (Oracle::new(), cache());
    let mut random = Random(0x5555_aaaa_1234_4321);
    let mut forms = 0;
    for code in Code::values() {
        let legacy =
            code.encoding() == iced_x86::EncodingKind::Legacy || code.encoding() == iced_x86::EncodingKind::VEX;
        let mut probe = Instruction::default();
        probe.set_code(code);
        if !legacy || !(classify::is_per_element(&probe)) {
            continue;
        }
        forms += 1;
        let instruction = build(code);
        assert_eq!(cache.compile(&instruction).map(|_| ()), Err(NotNative::PerElement));
        let offset = oracle.compile(instruction, Register::RDI);
        for _ in 0..200 {
            let before = guest(&mut random, &instruction);
            let (mut ours, mut theirs) = (before.clone(), before.clone());
            let mut memory: Vec<u8> = (0..1024).map(|_| random.next() as u8).collect();
            let mut buffer = Buffer { bytes: memory.clone(), bad: 0..0 };
            oracle.run(offset, &mut memory, 512, &mut theirs);
            let address = ElementAddress { base: 512, mask: u64::MAX };
            run_elements(&instruction, &mut ours.fpu, address, &mut buffer).expect("no fault");
            compare(&instruction.to_string(), &before, &ours, &theirs, 0);
            assert_eq!(buffer.bytes, memory, "{instruction}");
        }
    }
    assert_eq!(forms, 8 + 8 + 3 + 16);
}

#[test]
fn a_gather_that_faults_keeps_what_is_left_to_do() {
    let instruction = build(Code::VEX_Vpgatherdd_xmm_vm32x_xmm);
    let mut guest = Guest::new();
    let words = |values: [u32; 4]| -> [u8; 16] { values.map(u32::to_le_bytes).concat().try_into().unwrap() };
    guest.set_xmm(3, words([0, 1, 2, 3]));
    guest.set_xmm(2, words([u32::MAX, 0x8000_0000, 0x8000_0000, 0]));
    guest.set_high(0, [9; 16]);
    let mut buffer = Buffer { bytes: (0..16).collect(), bad: 4..8 };
    let address = ElementAddress { base: 0, mask: u64::MAX };
    assert_eq!(run_elements(&instruction, &mut guest.fpu, address, &mut buffer), Err(4));
    assert_eq!(guest.xmm(0), words([0x0302_0100, 0, 0, 0]));
    assert_eq!(guest.xmm(2), words([0, u32::MAX, u32::MAX, 0]));
    assert_eq!(guest.high(0), [9; 16]);
    buffer.bad = 0..0;
    assert_eq!(run_elements(&instruction, &mut guest.fpu, address, &mut buffer), Ok(()));
    assert_eq!(guest.xmm(0), words([0x0302_0100, 0x0706_0504, 0x0b0a_0908, 0]));
    assert_eq!(guest.xmm(2), [0; 16]);
    assert_eq!(guest.high(0), [0; 16]);
}

#[test]
fn a_masked_load_touches_only_what_is_selected() {
    let instruction = build(Code::VEX_Vpmaskmovd_xmm_xmm_m128);
    let mut guest = Guest::new();
    guest.set_xmm(0, [5; 16]);
    guest.set_xmm(1, [[0xff; 4], [0; 4], [0; 4], [0xff; 4]].concat().try_into().unwrap());
    let mut buffer = Buffer { bytes: (0..16).collect(), bad: 4..12 };
    let address = ElementAddress { base: 0, mask: u64::MAX };
    assert_eq!(run_elements(&instruction, &mut guest.fpu, address, &mut buffer), Ok(()));
    assert_eq!(guest.xmm(0), [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 12, 13, 14, 15]);
    buffer.bad = 15..16;
    let before = guest.xmm(0);
    assert_eq!(run_elements(&instruction, &mut guest.fpu, address, &mut buffer), Err(12));
    assert_eq!(guest.xmm(0), before);
}

#[test]
fn offsets_wrap_at_the_address_size() {
    let instruction = build(Code::VEX_Vpmaskmovd_xmm_xmm_m128);
    let mut guest = Guest::new();
    guest.set_xmm(1, [0xff; 16]);
    let mut buffer = Buffer { bytes: vec![7; 16], bad: 0..0 };
    let address = ElementAddress { base: 0xffff_fffc, mask: 0xffff_ffff };
    assert_eq!(run_elements(&instruction, &mut guest.fpu, address, &mut buffer), Err(0xffff_fffc));
    let address = ElementAddress { base: 0x1_0000_0000, mask: 0xffff_ffff };
    assert_eq!(run_elements(&instruction, &mut guest.fpu, address, &mut buffer), Ok(()));
}
