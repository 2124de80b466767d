use super::*;
use crate::cpu::{CodeSize, seg};
use crate::decode::lower;
use crate::mmu::{Mmu, RamMap};
use crate::native::NativeCache;
use crate::smp::Processors;
use iced_x86::{Code, Register};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::Segment;
use motu_x86::contract::Contract;
use motu_x86::flags::efer;

const AREA: u64 = 0x1000;
const GP: Exception = Exception::with_code(Exception::GP, 0);
const ALL: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX | xcr0::PKRU;

/// Ring 0 without paging, with some bytes in every register of the FPU.
fn cpu() -> Cpu {
    let ram = RamMap::new(GuestRam::new(4 * PAGE_SIZE).unwrap());
    let contract = Contract::by_name("max-2026").unwrap();
    let mut cpu = Cpu::new(0, Processors::new(1).into(), contract, Mmu::new(ram).unwrap(), NativeCache::new().unwrap());
    cpu.segments[seg::CS] = Segment::flat_code(8, true);
    cpu.msrs.efer = efer::LMA;
    cpu.mode_changed();
    cpu.cr4 = cr4::OSXSAVE;
    cpu.xcr0 = ALL;
    cpu.pkru = 0x1234_5678;
    native::make_live(&mut cpu.fpu);
    for (index, byte) in cpu.fpu.0.iter_mut().enumerate().skip(XsaveArea::XMM) {
        if !(416..EXTENDED).contains(&index) {
            *byte = index as u8;
        }
    }
    cpu.fpu.0[MXCSR..MXCSR + 4].copy_from_slice(&0x1fa0u32.to_le_bytes());
    cpu
}

fn run(cpu: &mut Cpu, code: Code, features: u64) -> Result<(), Exception> {
    let instruction = Instruction::with1(code, iced_x86::MemoryOperand::with_base(Register::RDI)).unwrap();
    let op = lower(&instruction, 0, CodeSize::Bits64 as u32, cpu.contract, &mut NativeCache::new().unwrap());
    cpu.set_gpr(slot::RDI, AREA);
    cpu.set_gpr(slot::RAX, features);
    cpu.set_gpr(slot::RDX, features >> 32);
    (op.run)(cpu, &op).map(drop).map_err(|_| cpu.fault)
}

fn bytes(cpu: &mut Cpu, offset: usize, count: usize) -> Vec<u8> {
    let mut found = vec![0; count];
    cpu.read_bytes(AREA + offset as u64, &mut found).unwrap();
    found
}

fn word(cpu: &mut Cpu, offset: usize) -> u64 {
    cpu.load(AREA + offset as u64).unwrap()
}

fn set_word(cpu: &mut Cpu, offset: usize, value: u64) {
    cpu.write_bytes(AREA + offset as u64, &value.to_le_bytes()).unwrap();
}

/// Everything that the family saves, in its initial configuration.
fn forget(cpu: &mut Cpu) {
    cpu.fpu.0.fill(0);
    native::make_live(&mut cpu.fpu);
    cpu.pkru = 0;
}

#[test]
fn the_standard_format_has_pkru_at_its_own_place() {
    for code in [Code::Xsave64_mem, Code::Xsaveopt64_mem] {
        let mut cpu = cpu();
        set_word(&mut cpu, XsaveArea::XSTATE_BV, 1 << 40);
        run(&mut cpu, code, u64::MAX).unwrap();
        assert_eq!(word(&mut cpu, XsaveArea::XSTATE_BV), ALL | 1 << 40, "other bits stay");
        assert_eq!(word(&mut cpu, XCOMP_BV), 0);
        assert_eq!(word(&mut cpu, PKRU_OFFSET), 0x1234_5678);
        assert_eq!(bytes(&mut cpu, 576, 256), cpu.fpu.0[576..]);
        cpu.pkru = 0;
        run(&mut cpu, code, xcr0::PKRU).unwrap();
        assert_eq!(word(&mut cpu, XsaveArea::XSTATE_BV), ALL & !xcr0::PKRU | 1 << 40, "not in use");
    }
}

#[test]
fn the_compacted_format_packs_what_is_requested() {
    for code in [Code::Xsavec64_mem, Code::Xsaves64_mem] {
        let mut cpu = cpu();
        set_word(&mut cpu, XsaveArea::XSTATE_BV, u64::MAX);
        run(&mut cpu, code, ALL).unwrap();
        assert_eq!((word(&mut cpu, XsaveArea::XSTATE_BV), word(&mut cpu, XCOMP_BV)), (ALL, ALL | COMPACTED));
        assert_eq!(word(&mut cpu, 832), 0x1234_5678, "behind AVX");
        run(&mut cpu, code, xcr0::X87 | xcr0::PKRU).unwrap();
        let layout = xcr0::X87 | xcr0::PKRU;
        assert_eq!((word(&mut cpu, XsaveArea::XSTATE_BV), word(&mut cpu, XCOMP_BV)), (layout, layout | COMPACTED));
        assert_eq!(word(&mut cpu, 576), 0x1234_5678, "in its place");
        cpu.pkru = 0;
        run(&mut cpu, code, xcr0::PKRU).unwrap();
        assert_eq!((word(&mut cpu, XsaveArea::XSTATE_BV), word(&mut cpu, XCOMP_BV)), (0, xcr0::PKRU | COMPACTED));
        assert_eq!(word(&mut cpu, 576), 0x1234_5678, "not in use: not written");
    }
}

#[test]
fn mxcsr_goes_with_sse_in_the_compacted_format_and_with_avx_too_in_the_standard_one() {
    let mut cpu = cpu();
    run(&mut cpu, Code::Xsavec64_mem, xcr0::AVX).unwrap();
    assert_eq!(bytes(&mut cpu, MXCSR, 4), [0; 4]);
    cpu.fpu.0[MXCSR] = 0x81;
    run(&mut cpu, Code::Xrstor64_mem, xcr0::AVX).unwrap();
    assert_eq!(cpu.fpu.0[MXCSR], 0x81, "not loaded");
    run(&mut cpu, Code::Xrstor64_mem, xcr0::SSE).unwrap();
    assert_eq!(cpu.fpu.0[MXCSR..MXCSR + 4], MXCSR_INITIAL.to_le_bytes(), "SSE is initial in the image");
    run(&mut cpu, Code::Xsave64_mem, xcr0::AVX).unwrap();
    assert_eq!(bytes(&mut cpu, MXCSR, 4), MXCSR_INITIAL.to_le_bytes());
}

#[test]
fn what_was_saved_comes_back() {
    let pairs = [
        (Code::Xsave64_mem, Code::Xrstor64_mem),
        (Code::Xsaveopt64_mem, Code::Xrstor64_mem),
        (Code::Xsavec64_mem, Code::Xrstor64_mem),
        (Code::Xsaves64_mem, Code::Xrstors64_mem),
        (Code::Xsave_mem, Code::Xrstor_mem),
        (Code::Xsavec_mem, Code::Xrstor_mem),
        (Code::Xsaves_mem, Code::Xrstors_mem),
    ];
    for (save, restore) in pairs {
        let mut cpu = cpu();
        let before = cpu.fpu.clone();
        run(&mut cpu, save, ALL).unwrap();
        forget(&mut cpu);
        run(&mut cpu, restore, ALL).unwrap();
        assert_eq!((&cpu.fpu, cpu.pkru), (&before, 0x1234_5678), "{save:?}");
        // What the image has not becomes initial.
        run(&mut cpu, save, 0).unwrap();
        set_word(&mut cpu, XsaveArea::XSTATE_BV, 0);
        run(&mut cpu, restore, ALL).unwrap();
        assert_eq!((cpu.pkru, &cpu.fpu.0[576..]), (0, &[0; 256][..]), "{restore:?}");
    }
}

#[test]
fn impossible_headers_are_refused_and_change_nothing() {
    let mut cpu = cpu();
    run(&mut cpu, Code::Xsavec64_mem, ALL).unwrap();
    forget(&mut cpu);
    let before = cpu.fpu.clone();
    // A component without XCR0, one that the layout lacks, reserved bytes of the header.
    let bad = [(XCOMP_BV, ALL | COMPACTED | 1 << 5), (XCOMP_BV, xcr0::X87 | COMPACTED), (528, 1), (568, 1)];
    for (offset, value) in bad {
        let kept = word(&mut cpu, offset);
        set_word(&mut cpu, offset, value);
        assert_eq!(run(&mut cpu, Code::Xrstor64_mem, ALL), Err(GP), "{offset} {value:#x}");
        assert_eq!((&cpu.fpu, cpu.pkru), (&before, 0));
        set_word(&mut cpu, offset, kept);
    }
    set_word(&mut cpu, XCOMP_BV, 0);
    assert_eq!(run(&mut cpu, Code::Xrstors64_mem, ALL), Err(GP), "XRSTORS knows the compacted format only");
    assert_eq!(run(&mut cpu, Code::Xrstor64_mem, ALL), Ok(()));
}

#[test]
fn what_comes_before_any_of_it() {
    let ud = Exception::plain(Exception::UD);
    let all = [Code::Xsave64_mem, Code::Xsavec64_mem, Code::Xsaves64_mem, Code::Xrstor64_mem, Code::Xrstors64_mem];
    for code in all {
        let mut cpu = cpu();
        cpu.cr0 |= cr0::TS;
        assert_eq!(run(&mut cpu, code, ALL), Err(Exception::plain(Exception::NM)));
        cpu.cr4 = 0;
        assert_eq!(run(&mut cpu, code, ALL), Err(ud));
    }
    for code in [Code::Xsaves64_mem, Code::Xrstors64_mem] {
        let mut cpu = cpu();
        cpu.cpl = 3;
        assert_eq!(run(&mut cpu, code, ALL), Err(GP));
    }
    let mut cpu = cpu();
    cpu.contract = Contract::by_name("v3-2026").unwrap();
    for code in [Code::Xsaveopt64_mem, Code::Xsavec64_mem, Code::Xsaves64_mem, Code::Xrstors64_mem] {
        assert_eq!(run(&mut cpu, code, ALL), Err(ud), "not in the contract");
    }
    set_word(&mut cpu, XCOMP_BV, COMPACTED);
    assert_eq!(run(&mut cpu, Code::Xrstor64_mem, ALL), Err(GP), "a reserved bit without XSAVEC");
}
