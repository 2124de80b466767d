//! CPUID, MSRs, control registers, XSAVE, the I/O permission map, time.

use super::{Emit, kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::board::{PAGE, port, register};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, cr4};
use motu_x86::msr;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "CPUID clears high halves and shows OSXSAVE", manual: "vol. 2, CPUID", check: cpuid },
    Guest { name: "MSRs that do not exist", manual: "vol. 2, RDMSR and WRMSR", check: unknown_msrs },
    Guest { name: "values that MSRs refuse", manual: "vol. 4", check: refused_values },
    Guest { name: "control registers refuse reserved bits", manual: "vol. 3, 2.5", check: control_registers },
    Guest { name: "XSETBV", manual: "vol. 2, XSETBV", check: xsetbv },
    Guest { name: "FXSAVE and FXRSTOR", manual: "vol. 1, 10.5", check: fxsave },
    Guest { name: "XSAVE and XRSTOR", manual: "vol. 1, 13.7 and 13.8", check: xsave },
    Guest { name: "I/O permission map", manual: "vol. 1, 19.5.2", check: io_map },
    Guest { name: "device memory in all sizes", manual: "vol. 3, 12.3", check: devices },
    Guest { name: "time-stamp counter", manual: "vol. 3, 18.17", check: tsc },
    Guest { name: "TSD keeps the TSC from ring 3", manual: "vol. 2, RDTSC", check: tsd },
];

fn cpuid(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rax, 0xffff_ffff_0000_0000u64)?;
        a.mov(rbx, rax)?;
        a.mov(rdx, rax)?;
        a.mov(rcx, rax)?;
        a.cpuid()?;
        for register in [rax, rbx, rcx, rdx] {
            a.shr(register, 32)?;
            a.log(register)?;
        }
        for clear in [false, true] {
            if clear {
                a.mov(rax, cr4)?;
                a.and(rax, !(cr4::OSXSAVE as i32))?;
                a.mov(cr4, rax)?;
            }
            a.mov(eax, 1)?;
            a.cpuid()?;
            a.shr(ecx, 27)?;
            a.and(ecx, 1)?;
            a.log(rcx)?;
        }
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0, 0, 0, 0, 1, 0])
}

fn unknown_msrs(b: &mut Bench<'_>) -> Checked {
    let numbers = [0x3fff_ffffu32, 0xc000_1234, 0x800];
    kernel(b, |a| {
        for number in numbers {
            a.mov(ecx, number)?;
            a.faulting(|a| a.rdmsr())?;
            a.faulting(|a| a.wrmsr())?;
        }
        a.mov(ecx, msr::MTRRCAP)?;
        a.rdmsr()?;
        a.faulting(|a| a.wrmsr())?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 7])
}

fn refused_values(b: &mut Bench<'_>) -> Checked {
    let cases: [(u32, u64); 12] = [
        (msr::EFER, 0xd01 | 1 << 1),
        (msr::EFER, 0x801),
        (msr::LSTAR, 1 << 47),
        (msr::SYSENTER_EIP, 1 << 47),
        (msr::KERNEL_GS_BASE, 1 << 47),
        (msr::FS_BASE, 1 << 63),
        (msr::FMASK, 1 << 32),
        (msr::TSC_AUX, 1 << 32),
        (msr::PAT, 2),
        (msr::APIC_BASE, 0xfee0_0900 | 1),
        (msr::MTRR_DEF_TYPE, 2),
        (msr::SPEC_CTRL, 1 << 40),
    ];
    kernel(b, |a| {
        for (number, value) in cases {
            a.mov(ecx, number)?;
            a.mov(eax, value as u32)?;
            a.mov(edx, (value >> 32) as u32)?;
            a.faulting(|a| a.wrmsr())?;
        }
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(13, 0); cases.len()])
}

fn control_registers(b: &mut Bench<'_>) -> Checked {
    let cases: [Emit; 10] = [
        |a| a.mov(cr0, rbx),
        |a| {
            a.and(rax, !(cr0::PE as i32))?;
            a.mov(cr0, rax)
        },
        |a| {
            a.or(rax, cr0::NW as i32)?;
            a.mov(cr0, rax)
        },
        |a| {
            a.btr(rax, 31)?;
            a.mov(cr0, rax)
        },
        |a| a.mov(cr4, rbx),
        |a| {
            a.mov(rax, cr4)?;
            a.and(rax, !(cr4::PAE as i32))?;
            a.mov(cr4, rax)
        },
        |a| {
            a.mov(rax, cr4)?;
            a.bts(rax, 14)?;
            a.mov(cr4, rax)
        },
        |a| {
            a.mov(rax, cr3)?;
            a.bts(rax, 40)?;
            a.mov(cr3, rax)
        },
        |a| {
            a.mov(rax, cr3)?;
            a.bts(rax, 63)?;
            a.mov(cr3, rax)
        },
        |a| a.mov(cr8, rbx),
    ];
    kernel(b, |a| {
        a.mov(rbx, 1u64 << 32)?;
        for case in cases {
            a.mov(rax, cr0)?;
            a.faulting(case)?;
        }
        // ET is one whatever is written.
        a.mov(rax, cr0)?;
        a.mov(rcx, rax)?;
        a.and(rax, !(cr0::ET as i32))?;
        a.mov(cr0, rax)?;
        a.mov(rax, cr0)?;
        a.sub(rax, rcx)?;
        a.log(rax)?;
        a.smsw(eax)?;
        a.sub(eax, ecx)?;
        a.log(rax)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); cases.len()])?;
    same("what changed in CR0", run.values(), vec![0, 0])
}

fn xsetbv(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.xor(edx, edx)?;
        a.xor(ecx, ecx)?;
        for value in [0, 2, 4, 7, 0x13] {
            a.mov(eax, value)?;
            a.faulting(|a| a.xsetbv())?;
        }
        a.mov(ecx, 1)?;
        a.mov(eax, 3)?;
        a.faulting(|a| a.xsetbv())?;
        a.xor(ecx, ecx)?;
        for value in [1, 3] {
            a.mov(eax, value)?;
            a.xsetbv()?;
            a.xgetbv()?;
            a.log(rax)?;
        }
        a.mov(rax, cr4)?;
        a.and(rax, !(cr4::OSXSAVE as i32))?;
        a.mov(cr4, rax)?;
        a.faulting(|a| a.xsetbv())?;
        a.faulting(|a| a.xgetbv())?;
        a.faulting(|a| a.xsave(ptr(DATA)))?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![1, 3])?;
    let expected = [13, 13, 13, 13, 13, 13, 6, 6, 6].map(|vector| (vector, 0));
    same("the faults", run.faults(), expected.to_vec())
}

fn fxsave(b: &mut Bench<'_>) -> Checked {
    b.write(DATA + 0x800 + 24, 1 << 31)?;
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.fninit()?;
        a.fld1()?;
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.movq(xmm5, rax)?;
        a.fxsave64(ptr(rbx))?;
        a.pxor(xmm5, xmm5)?;
        a.fninit()?;
        a.fxrstor64(ptr(rbx))?;
        a.movq(rax, xmm5)?;
        a.log(rax)?;
        a.fnstsw(ax)?;
        a.movzx(eax, ax)?;
        a.log(rax)?;
        a.mov(ax, word_ptr(rbx))?;
        a.movzx(eax, ax)?;
        a.log(rax)?;
        a.movzx(eax, byte_ptr(rbx + 4))?;
        a.log(rax)?;
        a.mov(eax, dword_ptr(rbx + 24))?;
        a.log(rax)?;
        a.faulting(|a| a.fxsave64(ptr(rbx + 8)))?;
        // A reserved bit of MXCSR.
        a.faulting(|a| a.fxrstor64(ptr(rbx + 0x800)))?;
        a.faulting(|a| a.ldmxcsr(dword_ptr(rbx + 0x800 + 24)))?;
        Ok(())
    })?;
    let run = b.run()?;
    let expected = vec![0x1122_3344_5566_7788, 0x3800, 0x037f, 0x80, 0x1f80];
    same("XMM5, FSW, the image's FCW, FTW, MXCSR", run.values(), expected)?;
    same("the faults", run.faults(), vec![(13, 0); 3])
}

fn xsave(b: &mut Bench<'_>) -> Checked {
    for offset in [0x200, 0x208, 0x210] {
        b.write(DATA + offset, 0)?;
    }
    b.write(DATA + 160, 0x77)?;
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.xor(edx, edx)?;
        a.mov(eax, 0x1234)?;
        a.movd(xmm0, eax)?;
        // x87 only: the SSE part of the image stays.
        a.mov(eax, 1)?;
        a.xsave64(ptr(rbx))?;
        a.mov(rcx, qword_ptr(rbx + 160))?;
        a.log(rcx)?;
        a.mov(eax, 3)?;
        a.xsave64(ptr(rbx))?;
        a.mov(rcx, qword_ptr(rbx + 160))?;
        a.log(rcx)?;
        a.mov(rcx, qword_ptr(rbx + 0x200))?;
        a.and(ecx, 2)?;
        a.log(rcx)?;
        // What XSTATE_BV lacks gets its initial value.
        a.mov(qword_ptr(rbx + 0x200), 1)?;
        a.xrstor64(ptr(rbx))?;
        a.movq(rcx, xmm0)?;
        a.log(rcx)?;
        a.mov(qword_ptr(rbx + 0x200), 3)?;
        a.xrstor64(ptr(rbx))?;
        a.movq(rcx, xmm0)?;
        a.log(rcx)?;
        // A component that XCR0 lacks, the header's reserved part, misalignment.
        a.mov(qword_ptr(rbx + 0x200), 7)?;
        a.faulting(|a| a.xrstor64(ptr(rbx)))?;
        a.mov(qword_ptr(rbx + 0x200), 3)?;
        a.mov(qword_ptr(rbx + 0x208), 1)?;
        a.faulting(|a| a.xrstor64(ptr(rbx)))?;
        a.mov(qword_ptr(rbx + 0x208), 0)?;
        a.faulting(|a| a.xrstor64(ptr(rbx + 16)))?;
        a.faulting(|a| a.xsave64(ptr(rbx + 16)))?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x77, 0x1234, 2, 0, 0x1234])?;
    same("the faults", run.faults(), vec![(13, 0); 4])
}

fn io_map(b: &mut Bench<'_>) -> Checked {
    // The map reaches port 0x407 and has its closing byte; only the log is allowed, and 0x400 to 0x402.
    const PORTS: u64 = 0x408;
    b.state.segments.tr.limit = (IO_MAP + PORTS / 8) as u32;
    b.ram.write(motu_x86::Gpa(TSS + IO_MAP), &[0xff; PORTS as usize / 8 + 1])?;
    let byte = |port: u64| TSS + IO_MAP + port / 8;
    b.ram.write(motu_x86::Gpa(byte(port::LOG.into())), &[!(1 << (port::LOG % 8))])?;
    b.ram.write(motu_x86::Gpa(byte(0x400)), &[!0b111])?;
    user(b, 2, |a| {
        a.mov(eax, 0x42)?;
        a.out(i32::from(port::LOG), al)?;
        a.faulting(|a| a.out(i32::from(port::LOG), ax))?;
        a.faulting(|a| a.in_(al, 0xea))?;
        a.mov(edx, 0x401)?;
        a.in_(ax, dx)?;
        a.faulting(|a| a.in_(eax, dx))?;
        a.mov(edx, 0x402)?;
        a.faulting(|a| a.in_(ax, dx))?;
        // Beyond the map.
        a.mov(edx, 0x408)?;
        a.faulting(|a| a.in_(al, dx))?;
        a.mov(edi, USER_DATA as u32)?;
        a.faulting(|a| a.insb())?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x42])?;
    same("the faults", run.faults(), vec![(13, 0); 6])?;
    // With IOPL 3 the map does not count.
    user(b, 0x3002, |a| {
        a.mov(eax, 0x4343)?;
        a.out(i32::from(port::LOG), ax)?;
        Ok(())
    })?;
    same("the values with IOPL 3", b.run()?.values(), vec![0x4343])
}

fn devices(b: &mut Bench<'_>) -> Checked {
    const ECHO: u64 = BOARD + register::ECHO;
    kernel(b, |a| {
        a.mov(rax, 0x8899_aabb_ccdd_eeffu64)?;
        a.mov(qword_ptr(ECHO), rax)?;
        a.mov(rcx, qword_ptr(ECHO))?;
        a.log(rcx)?;
        a.mov(ecx, dword_ptr(ECHO))?;
        a.log(rcx)?;
        a.movzx(ecx, word_ptr(ECHO))?;
        a.log(rcx)?;
        a.movsx(rcx, byte_ptr(ECHO))?;
        a.log(rcx)?;
        a.mov(byte_ptr(ECHO), 1)?;
        a.add(dword_ptr(ECHO), 1)?;
        a.mov(ecx, dword_ptr(ECHO))?;
        a.log(rcx)?;
        // Where nothing answers.
        a.mov(rcx, qword_ptr(BOARD + 0x800))?;
        a.log(rcx)?;
        // The same page with MOVS.
        a.mov(rsi, ECHO)?;
        a.mov(rdi, DATA)?;
        a.movsq()?;
        a.mov(rcx, qword_ptr(DATA))?;
        a.log(rcx)?;
        Ok(())
    })?;
    same("the page's physical address", b.read(b.entry(BOARD, 1)?)? & 0xf_ffff_f000, PAGE)?;
    let expected = vec![0x8899_aabb_ccdd_eeff, 0xccdd_eeff, 0xeeff, !0, 0xccdd_ee02, !0, 0x8899_aabb_ccdd_ee02];
    same("the values", b.run()?.values(), expected)
}

/// The TSC in RAX; changes RDX.
fn read_tsc(a: &mut CodeAssembler) -> Checked {
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    Ok(a.or(rax, rdx)?)
}

fn tsc(b: &mut Bench<'_>) -> Checked {
    b.state.msrs.tsc_aux = 0x55;
    b.state.tsc = 1 << 40;
    kernel(b, |a| {
        // Never backwards.
        let (mut again, mut wrong, mut done) = (a.create_label(), a.create_label(), a.create_label());
        read_tsc(a)?;
        a.log(rax)?;
        a.mov(rbx, rax)?;
        a.mov(esi, 10_000)?;
        a.set_label(&mut again)?;
        read_tsc(a)?;
        a.cmp(rax, rbx)?;
        a.jb(wrong)?;
        a.mov(rbx, rax)?;
        a.dec(esi)?;
        a.jnz(again)?;
        a.jmp(done)?;
        a.set_label(&mut wrong)?;
        a.log_number(0xbad)?;
        a.set_label(&mut done)?;
        a.rdtscp()?;
        a.log(rcx)?;
        // Writing the counter moves IA32_TSC_ADJUST as far, and the other way round.
        a.mov(ecx, msr::TSC)?;
        a.xor(eax, eax)?;
        a.mov(edx, 0x1_0000)?;
        a.wrmsr()?;
        read_tsc(a)?;
        a.log(rax)?;
        a.mov(ecx, msr::TSC_ADJUST)?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.log(rax)?;
        a.xor(eax, eax)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.mov(ecx, msr::TSC)?;
        a.rdmsr()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.log(rax)?;
        Ok(())
    })?;
    let values = b.run()?.values();
    let &[first, aux, written, adjusted, back] = values.as_slice() else {
        return same("the values", values, vec![]);
    };
    const SECOND: u64 = 1_000_000_000;
    const MINUTE: u64 = 60 * SECOND;
    same("TSC_AUX", aux, 0x55)?;
    let near = |value: u64, base: u64| (base..base + MINUTE).contains(&value);
    same("the TSC began where the state says", near(first, 1 << 40), true)?;
    same("the TSC went on from what was written", near(written, 1 << 48), true)?;
    same("IA32_TSC_ADJUST", near((1 << 48) - (1 << 40), adjusted), true)?;
    same("the TSC without adjustment", near(back, 1 << 40), true)
}

fn tsd(b: &mut Bench<'_>) -> Checked {
    b.state.cr4 |= cr4::TSD;
    kernel(b, |a| {
        a.rdtsc()?;
        Ok(a.to_user(USER_CODE, USER_STACK, 2)?)
    })?;
    let mut a = b.assembler(64)?;
    a.faulting(|a| a.rdtsc())?;
    a.faulting(|a| a.rdtscp())?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 2])
}
