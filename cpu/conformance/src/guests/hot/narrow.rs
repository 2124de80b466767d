//! Hot 32-bit code: sums that wrap around at 4 GiB, FS and GS, and code that 64-bit mode reads another way.

use super::super::{handler, kernel, protected};
use super::repeat;
use crate::Guest;
use crate::bench::{Asm, Bench, Checked, Paging, descriptor, page, same};
use crate::handlers::Idioms;
use crate::layout::legacy::FREE_SELECTOR;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot 32-bit addresses wrap around at 4 GiB", manual: "vol. 1, 3.3.7", check: addresses },
    Guest { name: "a hot 32-bit stack wraps around at 4 GiB", manual: "vol. 1, 6.2", check: stack },
    Guest { name: "hot 32-bit strings end at 4 GiB", manual: "vol. 2, REP", check: strings },
    Guest { name: "hot 32-bit code wraps around at 4 GiB", manual: "vol. 1, 3.5", check: code },
    Guest { name: "hot 32-bit accesses by FS and GS that change", manual: "vol. 3, 3.4.3", check: segments },
    Guest { name: "hot 32-bit accesses that FS does not allow", manual: "vol. 3, 5.3 and 5.4", check: no_segments },
    Guest { name: "hot 32-bit code where DS changes", manual: "vol. 3, 3.4.3", check: bases },
    Guest { name: "hot forms of 32-bit code alone", manual: "vol. 2, 2.2.1.2", check: forms },
    Guest { name: "hot code at one address in two modes", manual: "vol. 1, 3.1.1", check: two_modes },
];

/// The last page below 4 GiB, and its frame.
const LAST: u64 = 0xffff_f000;
const LAST_FRAME: u64 = FRAMES + 0x3000;

/// Rights of data of ring 0 that may be written: with a limit in units of 4 KiB, and in bytes; and of data that may not.
const WHOLE: u64 = 0xc093;
const BYTES: u64 = 0x4093;
const READ_ONLY: u64 = 0xc091;

/// Ring 0 with paging of 32 bits and a page below 4 GiB.
fn below_4_gib(b: &mut Bench<'_>, emit: impl FnOnce(&mut Asm) -> Checked) -> Checked {
    protected(b, emit)?;
    b.page_legacy(Paging::Bits32)?;
    b.map(LAST, LAST_FRAME, page::KERNEL)
}

/// The selector of one of the guest's own descriptors.
const fn own(n: u16) -> u32 {
    (FREE_SELECTOR + 8 * n) as u32
}

fn low(value: u64) -> u64 {
    value & 0xffff_ffff
}

fn put_words(b: &mut Bench<'_>, at: u64, words: impl IntoIterator<Item = u32>) -> Checked {
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    Ok(b.ram.write(Gpa(at), &bytes)?)
}

fn addresses(b: &mut Bench<'_>) -> Checked {
    const TOP: i32 = DATA as i32 + 0x40;
    /// As a displacement, it leads to DATA from 2 GiB.
    const FROM_HALF: i32 = DATA as i32 + i32::MIN;
    below_4_gib(b, |a| {
        a.xor(edi, edi)?;
        repeat(a, 300, |a| {
            // An index below zero: words 13, 10, 15 and 9.
            a.mov(esi, -3)?;
            a.mov(ebx, TOP)?;
            a.add(edi, dword_ptr(ebx + esi * 4))?;
            a.add(edi, dword_ptr(esi * 8 + TOP))?;
            a.add(edi, dword_ptr(esi * 2 + (TOP + 2)))?;
            a.add(edi, dword_ptr(esi + (TOP - 0x19)))?;
            // Word 4, and word 6 counts.
            a.mov(edx, 0x8000_0010u32)?;
            a.add(edi, dword_ptr(edx + FROM_HALF))?;
            a.inc(dword_ptr(edx + (FROM_HALF + 8)))?;
            // Below what the register points to, around zero: words 5, 2, 3 and 7 from the end.
            a.mov(ebp, 8)?;
            a.add(edi, dword_ptr(ebp - 0x14))?;
            a.mov(dword_ptr(ebp - 0x18), ecx)?;
            a.add(edi, dword_ptr(ebp - 0x20))?;
            a.add(ebp, -0x28)?;
            a.add(edi, dword_ptr(ebp + 0xc))?;
            a.add(ebp, 0x40)?;
            a.add(edi, dword_ptr(ebp - 0x24))?;
            // An address of 16 bits: ADD EDI, [BX + 8030]. Word 8.
            a.mov(bx, 0xfff0)?;
            a.db(&[0x67, 0x03, 0xbf, 0x30, 0x80])?;
            a.lea(eax, ptr(ebx + esi * 8 - 5))?;
            a.add(edi, eax)?;
            a.lea(ax, ptr(ebx + esi * 4))?;
            Ok(a.add(edi, eax)?)
        })?;
        Ok(a.log(edi)?)
    })?;
    put_words(b, DATA, (0..16).map(|n| 0x101 * n))?;
    put_words(b, LAST_FRAME + 0xfe0, 0..8)?;
    let round = 0x101 * (13 + 10 + 15 + 9 + 4 + 8) + 5 + 2 + 3 + 7 + 0xffd3 + 0xffe4;
    same("the sum", b.run()?.values(), vec![300 * round])?;
    same("the words", (b.read(DATA + 0x18)? as u32, b.read(LAST_FRAME + 0xff0)? as u32), (0x606 + 300, 1))
}

fn stack(b: &mut Bench<'_>) -> Checked {
    below_4_gib(b, |a| {
        let (mut function, mut over) = (a.create_label(), a.create_label());
        a.xor(edi, edi)?;
        a.mov(esi, esp)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.add(edi, dword_ptr(esp + 4))?;
        a.ret_1(4)?;
        a.set_label(&mut over)?;
        a.nop()?;
        repeat(a, 300, |a| {
            a.mov(esp, 8)?;
            a.push(1)?;
            a.push(2)?;
            a.push(ecx)?;
            a.push(4)?;
            a.add(edi, dword_ptr(esp + 12))?;
            a.inc(dword_ptr(esp + 8))?;
            a.push(dword_ptr(esp + 4))?;
            a.pop(edx)?;
            a.add(edi, edx)?;
            a.pop(eax)?;
            a.pop(ecx)?;
            a.pop(ebx)?;
            a.add(edi, ebx)?;
            a.sub(esp, -4)?;
            a.add(edi, esp)?;
            a.add(dword_ptr(esp - 12), eax)?;
            // LEAVE from below 4 GiB.
            a.mov(ebp, 4)?;
            a.mov(dword_ptr(ebp), ecx)?;
            a.leave()?;
            a.add(edi, ebp)?;
            a.add(edi, esp)?;
            a.mov(esp, 4)?;
            a.push(ecx)?;
            a.call(function)?;
            a.mov(ecx, ebp)?;
            Ok(a.add(edi, esp)?)
        })?;
        a.mov(esp, esi)?;
        Ok(a.log(edi)?)
    })?;
    let sum = (1..=300u64).map(|count| 24 + 3 * count).sum();
    same("the sum", b.run()?.values(), vec![sum])
}

fn strings(b: &mut Bench<'_>) -> Checked {
    const PATTERN: u64 = 0x0101_0101_0101_0101;
    below_4_gib(b, |a| {
        repeat(a, 100, |a| {
            a.mov(ebx, ecx)?;
            // Up to the end, and past it.
            a.mov(edi, -0x100)?;
            a.mov(esi, DATA as u32)?;
            a.mov(ecx, 0x40)?;
            a.rep().movsd()?;
            a.mov(edx, edi)?;
            a.mov(edi, -0x40)?;
            a.mov(ecx, 0x80)?;
            a.mov(eax, 0x77)?;
            a.rep().stosb()?;
            a.add(edx, edi)?;
            // Across pages.
            a.mov(esi, -0x100)?;
            a.mov(edi, DATA as u32 + 0xff0)?;
            a.mov(ecx, 0x20)?;
            a.rep().movsw()?;
            a.add(edx, esi)?;
            Ok(a.mov(ecx, ebx)?)
        })?;
        a.log(edx)?;
        Ok(a.log(edi)?)
    })?;
    for n in 0..0x20 {
        b.write(DATA + 8 * n, PATTERN * n)?;
    }
    same("EDX and EDI", b.run()?.values(), vec![low(0x40 + 0xffff_ff40), DATA + 0x1030])?;
    let around = [b.read(LAST_FRAME + 0xfb8)?, b.read(LAST_FRAME + 0xfc0)?, b.read(0x38)?];
    same("around 4 GiB", around, [PATTERN * 0x17, PATTERN * 0x77, PATTERN * 0x77])?;
    same("across pages", b.read(DATA + 0x1028)?, PATTERN * 7)
}

fn code(b: &mut Bench<'_>) -> Checked {
    const JUMPS: u64 = LAST + 0xffb;
    const MOVES: u64 = LAST + 0xffe;
    below_4_gib(b, |a| {
        a.xor(edi, edi)?;
        repeat(a, 300, |a| {
            a.push(ecx)?;
            for target in [JUMPS, MOVES] {
                a.mov(eax, target as u32)?;
                a.call(eax)?;
                a.add(edi, eax)?;
            }
            Ok(a.pop(ecx)?)
        })?;
        Ok(a.log(edi)?)
    })?;
    // INC EDI; JMP to 3. MOV EAX, 1234, of which two bytes lie below 4 GiB. RET at 3.
    b.ram.write(Gpa(LAST_FRAME + 0xffb), &[0x47, 0xeb, 0x05, 0xb8, 0x34])?;
    b.ram.write(Gpa(0), &[0x12, 0, 0, 0xc3])?;
    same("the sum", b.run()?.values(), vec![low(300 * (1 + JUMPS + 0x1234))])
}

fn segments(b: &mut Bench<'_>) -> Checked {
    below_4_gib(b, |a| {
        a.xor(edi, edi)?;
        a.mov(esi, -1)?;
        repeat(a, 200, |a| {
            // FS and GS exchange their segments every time.
            a.mov(eax, ecx)?;
            a.and(eax, 1)?;
            a.lea(eax, ptr(eax * 8 + own(0) as i32))?;
            a.mov(fs, eax)?;
            a.xor(eax, 8)?;
            a.mov(gs, eax)?;
            a.mov(ebx, -4)?;
            // Below the segment's base, and above.
            a.add(edi, dword_ptr(ebx).fs())?;
            a.add(edi, dword_ptr(0xffff_fffcu32).gs())?;
            a.stc()?;
            a.mov(eax, dword_ptr(8u32).fs())?;
            a.adc(dword_ptr(ebx + 16).gs(), eax)?;
            a.add(edi, dword_ptr(ebx + esi * 4 + 0x14).gs())?;
            Ok(a.inc(dword_ptr(ebx + ebx * 2 + 0x20).fs())?)
        })?;
        Ok(a.log(edi)?)
    })?;
    for (n, words) in [[3, 0, 0, 0x100], [5, 0, 0, 0x200]].into_iter().enumerate() {
        let base = DATA + 0x100 * (n as u64 + 1);
        b.own(n as u16, descriptor(base, 0xf_ffff, WHOLE))?;
        put_words(b, base - 4, words)?;
    }
    let turns: u64 = (1..=100).sum();
    same("the sum", b.run()?.values(), vec![200 * (3 + 5) + turns * (0x101 + 0x201)])?;
    let sums = [0x10c, 0x20c, 0x114, 0x214].map(|at| b.read(DATA + at).map(low));
    let sums = sums.into_iter().collect::<Checked<Vec<_>>>()?;
    same("the words", sums, vec![100 * 0x201, 100 * 0x101, 100, 100])
}

fn no_segments(b: &mut Bench<'_>) -> Checked {
    const ROUNDS: u32 = 40;
    below_4_gib(b, |a| {
        // Up to a limit, and for once past it.
        a.mov(eax, own(0))?;
        a.mov(fs, eax)?;
        a.xor(edi, edi)?;
        let mut again = a.create_label();
        a.mov(ecx, ROUNDS)?;
        a.set_label(&mut again)?;
        a.xor(eax, eax)?;
        a.cmp(ecx, 1)?;
        a.sete(al)?;
        a.stc()?;
        a.faulting(|a| a.adc(dword_ptr(eax + 0x7c).fs(), ecx))?;
        a.adc(edi, 1)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.log(edi)?;
        // What may be read only, and no segment.
        for selector in [own(1), 0] {
            a.mov(eax, selector)?;
            a.mov(fs, eax)?;
            a.xor(edi, edi)?;
            let mut again = a.create_label();
            a.mov(ecx, ROUNDS)?;
            a.set_label(&mut again)?;
            a.add(edi, 3)?;
            a.faulting(|a| a.mov(dword_ptr(0x10u32).fs(), edi))?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.log(edi)?;
        }
        Ok(())
    })?;
    b.own(0, descriptor(DATA + 0x100, 0x7f, BYTES))?;
    b.own(1, descriptor(DATA + 0x100, 0xf_ffff, READ_ONLY))?;
    let run = b.run()?;
    let rounds = u64::from(ROUNDS);
    // CF is set where the instruction has not run.
    same("how often it came round", run.values(), vec![rounds + 1, 3 * rounds, 3 * rounds])?;
    same("the faults", run.faults(), vec![(13, 0); 2 * ROUNDS as usize + 1])?;
    let sum = (2..=rounds).map(|count| count + 1).sum();
    same("the words", (low(b.read(DATA + 0x17c)?), low(b.read(DATA + 0x110)?)), (sum, 0))
}

fn bases(b: &mut Bench<'_>) -> Checked {
    below_4_gib(b, |a| {
        a.xor(edi, edi)?;
        repeat(a, 200, |a| {
            // DS begins elsewhere every other time.
            a.mov(eax, ecx)?;
            a.and(eax, 1)?;
            a.neg(eax)?;
            a.and(eax, own(0) as i32 ^ i32::from(selector::DATA))?;
            a.xor(eax, i32::from(selector::DATA))?;
            a.mov(ds, eax)?;
            a.add(edi, dword_ptr(DATA))?;
            a.mov(eax, ss)?;
            a.mov(ds, eax)?;
            a.add(edi, dword_ptr(DATA + 4))?;
            a.mov(eax, dword_ptr(DATA))?;
            Ok(a.add(edi, eax)?)
        })?;
        Ok(a.log(edi)?)
    })?;
    b.own(0, descriptor(0x100, 0xf_ffff, WHOLE))?;
    put_words(b, DATA, [1, 3])?;
    put_words(b, DATA + 0x100, [0x70])?;
    same("the sum", b.run()?.values(), vec![100 * (1 + 0x70) + 200 * (3 + 1)])
}

fn forms(b: &mut Bench<'_>) -> Checked {
    const WORD: u64 = 0x1234_5677;
    below_4_gib(b, |a| {
        a.xor(edi, edi)?;
        a.mov(esi, esp)?;
        repeat(a, 200, |a| {
            a.push(ecx)?;
            // INC EAX; INC AX; DEC EAX.
            a.mov(eax, 0x1ff)?;
            a.db(&[0x40, 0x66, 0x40, 0x48])?;
            a.add(edi, eax)?;
            // MOV of EAX, AL and AX and an address without ModR/M.
            a.db(&[0xa1])?;
            a.dd(&[DATA as u32])?;
            a.add(edi, eax)?;
            a.db(&[0xa2])?;
            a.dd(&[DATA as u32 + 5])?;
            a.db(&[0x66, 0xa3])?;
            a.dd(&[DATA as u32 + 8])?;
            // ADD AL, 5 by an opcode of its own.
            a.db(&[0x82, 0xc0, 0x05])?;
            a.add(edi, eax)?;
            a.pushad()?;
            a.inc(dword_ptr(esp + 28))?;
            a.popad()?;
            a.add(edi, eax)?;
            // PUSH DS; POP ES; AAM.
            a.db(&[0x1e, 0x07, 0xd4, 0x0a])?;
            a.add(edi, eax)?;
            a.push(ax)?;
            a.pop(dx)?;
            a.pushfd()?;
            a.popfd()?;
            a.mov(ah, byte_ptr(DATA + 1))?;
            a.mov(byte_ptr(DATA + 12), ah)?;
            a.movzx(edx, ah)?;
            a.add(edi, edx)?;
            a.mov(dx, sp)?;
            a.sub(dx, si)?;
            a.movsx(edx, dx)?;
            a.add(edi, edx)?;
            Ok(a.pop(ecx)?)
        })?;
        a.sub(esi, esp)?;
        a.log(edi)?;
        Ok(a.log(esi)?)
    })?;
    b.write(DATA, WORD)?;
    b.write(DATA + 8, 0)?;
    // 125 is 12 times 10 and 5.
    let round = 0x200 + WORD + (WORD + 5) + (WORD + 6) + 0x1234_0c05 + 0x56 - 4;
    same("the sum and ESP", b.run()?.values(), vec![low(200 * round), 0])?;
    same("what was stored", (b.read(DATA)?, b.read(DATA + 8)?), (WORD | 0x77 << 40, 0x56_0000_5677))
}

fn two_modes(b: &mut Bench<'_>) -> Checked {
    const FUNCTION: u64 = HANDLERS + 0x9000;
    const OWN: u64 = HANDLERS + 0x8000;
    const SUM: u64 = DATA + 0x20;
    const NARROW_SUM: u64 = DATA + 0x28;
    const COUNT: u64 = DATA + 0x30;
    const LEFT: u64 = 0x4000_0000_0000_0005;
    const RIGHT: u64 = 0x0300_0000_0000_0007;
    // XOR EDX, EDX; ADD RAX, RBX, or DEC EAX; ADD EAX, EBX; RET.
    b.ram.write(Gpa(FUNCTION), &[0x31, 0xd2, 0x48, 0x01, 0xd8, 0xc3])?;
    let mut narrow = b.assembler(32)?;
    narrow.mov(eax, LEFT as u32)?;
    narrow.mov(ebx, RIGHT as u32)?;
    narrow.mov(ebp, FUNCTION as u32)?;
    narrow.call(ebp)?;
    narrow.call(FUNCTION)?;
    narrow.add(dword_ptr(NARROW_SUM), eax)?;
    // JMP ptr16:32.
    narrow.db(&[0xea])?;
    narrow.dd(&[OWN as u32])?;
    narrow.dw(&[selector::CODE])?;
    b.load(OWN + 0x800, &mut narrow)?;
    b.write(DATA, (OWN + 0x800) | u64::from(selector::CODE32) << 32)?;
    handler(b, OWN, |a| {
        let mut end = a.create_label();
        a.dec(dword_ptr(COUNT))?;
        a.jz(end)?;
        a.mov(eax, CODE as u32)?;
        a.jmp(rax)?;
        a.set_label(&mut end)?;
        a.log(rsp)?;
        Ok(a.finish()?)
    })?;
    kernel(b, |a| {
        a.mov(rax, LEFT)?;
        a.mov(rbx, RIGHT)?;
        a.mov(ebp, FUNCTION as u32)?;
        a.call(rbp)?;
        a.call(FUNCTION)?;
        a.add(qword_ptr(SUM), rax)?;
        // JMP m16:32.
        a.db(&[0xff, 0x2c, 0x25])?;
        Ok(a.dd(&[DATA as u32])?)
    })?;
    b.write(SUM, 0)?;
    b.write(NARROW_SUM, 0)?;
    b.write(COUNT, 200)?;
    same("RSP", b.run()?.values(), vec![STACK])?;
    let sum = LEFT.wrapping_add(RIGHT).wrapping_add(RIGHT).wrapping_mul(200);
    same("the sums", (b.read(SUM)?, b.read(NARROW_SUM)?), (sum, 200 * (5 + 2 * (7 - 1))))
}
