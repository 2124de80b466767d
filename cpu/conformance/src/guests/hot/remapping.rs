//! Hot code whose page changes: by other mappings, by aliases, by a device, across pages (SDM vol. 3, 4.10.4 and 8.1.3).

use super::super::kernel;
use super::repeat;
use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::board::port;
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use std::sync::Arc;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "hot code's page is mapped to other code", manual: "vol. 3, 4.10.4.1", check: remapped },
    Guest { name: "hot code at two addresses", manual: "vol. 3, 8.1.3", check: aliases },
    Guest { name: "a device writes hot code", manual: "vol. 3, 8.1.3", check: by_the_board },
    Guest { name: "hot code across pages, the second remapped", manual: "vol. 3, 4.10.4.1", check: across_pages },
    Guest { name: "hot code in a global page that is remapped", manual: "vol. 3, 4.10.4.1", check: global },
    Guest { name: "hot code in a page of 2 MiB that is remapped", manual: "vol. 3, 4.10.4.1", check: large },
];

/// MOV EAX, `value`; RET.
fn returns(value: u32) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), &[0xc3]].concat()
}

/// Calls RBX a hundred times and logs the sum of what it returns.
fn log_sum(a: &mut CodeAssembler) -> Checked {
    a.xor(esi, esi)?;
    repeat(a, 100, |a| {
        a.call(rbx)?;
        Ok(a.add(rsi, rax)?)
    })?;
    Ok(a.log(rsi)?)
}

fn remapped(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    let entry = b.entry(FREE, 1)?;
    for n in 0..3 {
        b.ram.write(Gpa(FRAMES + 0x1000 * n), &returns(n as u32 + 1))?;
    }
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        log_sum(a)?;
        for n in 1..8u64 {
            a.mov(rax, (FRAMES + 0x1000 * (n % 3)) | page::KERNEL)?;
            a.mov(qword_ptr(entry), rax)?;
            if n % 2 == 0 {
                a.invlpg(byte_ptr(rbx))?;
            } else {
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)?;
            }
            log_sum(a)?;
        }
        Ok(())
    })?;
    same("the sums", b.run()?.values(), (0..8).map(|n| 100 * (n % 3 + 1)).collect())
}

/// What a write of CR3 leaves, INVLPG and CR4.PGE take away.
fn global(b: &mut Bench<'_>) -> Checked {
    let flags = page::KERNEL | page::G;
    b.map(FREE, FRAMES, flags)?;
    // The code reads a number of a global page, too.
    b.map(FREE + 0x1000, FRAMES + 0x8000, flags)?;
    let entries = [b.entry(FREE, 1)?, b.entry(FREE + 0x1000, 1)?];
    for n in 0..3 {
        // MOV EAX, [RIP + 0xffa]; ADD EAX, imm32; RET
        let code = [&[0x8b, 0x05, 0xfa, 0x0f, 0, 0, 0x05][..], &(n as u32).to_le_bytes(), &[0xc3]].concat();
        b.ram.write(Gpa(FRAMES + 0x1000 * n), &code)?;
        b.ram.write(Gpa(FRAMES + 0x8000 + 0x1000 * n), &(n as u32 * 10).to_le_bytes())?;
    }
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        log_sum(a)?;
        for n in 1..8u64 {
            for (entry, frame) in entries.into_iter().zip([FRAMES, FRAMES + 0x8000]) {
                a.mov(rax, (frame + 0x1000 * (n % 3)) | flags)?;
                a.mov(qword_ptr(entry), rax)?;
            }
            if n % 2 == 0 {
                a.invlpg(byte_ptr(rbx))?;
                a.invlpg(byte_ptr(rbx + 0x1000))?;
            } else {
                a.mov(rax, cr4)?;
                a.xor(al, -0x80)?;
                a.mov(cr4, rax)?;
                a.xor(al, -0x80)?;
                a.mov(cr4, rax)?;
            }
            for _ in 0..2 {
                log_sum(a)?;
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)?;
            }
        }
        Ok(())
    })?;
    let sums = (0..8).flat_map(|n| std::iter::repeat_n(100 * 11 * (n % 3), if n == 0 { 1 } else { 2 }));
    same("the sums", b.run()?.values(), sums.collect())
}

/// INVLPG of any of its addresses takes all of a page away, also where it is split into small ones then.
fn large(b: &mut Bench<'_>) -> Checked {
    const LARGE: u64 = 0x20_0000;
    const AT: u64 = 0x12_3ff0;
    b.map_at(2, FREE, FRAMES, page::KERNEL | page::PS)?;
    let directory = b.entry(FREE, 2)?;
    let table = b.table()?;
    for n in 0..512 {
        // The same pages as of the second of the large ones, but for that of the code.
        let frame = if n == AT / 0x1000 { FRAMES } else { FRAMES + LARGE + 0x1000 * n };
        b.write_entry(table + 8 * n, frame | page::KERNEL)?;
    }
    for (frame, value) in [(FRAMES + AT, 1), (FRAMES + LARGE + AT, 2), (FRAMES + (AT & 0xfff), 3)] {
        b.ram.write(Gpa(frame), &returns(value))?;
    }
    let views = [FRAMES | page::KERNEL | page::PS, (FRAMES + LARGE) | page::KERNEL | page::PS, table | page::KERNEL];
    let order = [1, 0, 2, 1, 2, 0, 1, 0];
    kernel(b, |a| {
        a.mov(rbx, FREE + AT)?;
        log_sum(a)?;
        for (n, view) in order.into_iter().enumerate() {
            a.mov(rax, views[view])?;
            a.mov(qword_ptr(directory), rax)?;
            match n % 3 {
                0 => {
                    a.mov(rax, cr3)?;
                    a.mov(cr3, rax)?;
                }
                // Any address of a large page will do, of a small one its own.
                1 if order[n - 1] != 2 => a.invlpg(byte_ptr(rbx + 0x2_0000))?,
                _ => a.invlpg(byte_ptr(rbx))?,
            }
            log_sum(a)?;
        }
        Ok(())
    })?;
    let sums = std::iter::once(0).chain(order).map(|view| 100 * (view as u64 + 1));
    same("the sums", b.run()?.values(), sums.collect())
}

fn aliases(b: &mut Bench<'_>) -> Checked {
    const OTHER: u64 = FREE + 0x5000;
    const WRITER: u64 = FREE + 0x40_0000;
    for alias in [FREE, OTHER, WRITER] {
        b.map(alias, FRAMES, page::KERNEL)?;
    }
    // LEA RAX, [RIP]; ADD RAX, 5; RET
    b.ram.write(Gpa(FRAMES), &[0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x48, 0x83, 0xc0, 5, 0xc3])?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(rdi, OTHER)?;
        for _ in 0..2 {
            a.xor(esi, esi)?;
            a.xor(ebp, ebp)?;
            repeat(a, 200, |a| {
                a.call(rbx)?;
                a.add(rsi, rax)?;
                a.call(rdi)?;
                Ok(a.add(rbp, rax)?)
            })?;
            a.log(rsi)?;
            a.log(rbp)?;
            a.mov(rdx, WRITER)?;
            a.mov(byte_ptr(rdx + 10), 9)?;
        }
        Ok(())
    })?;
    let expected = [5, 9].into_iter().flat_map(|more| [FREE, OTHER].map(|at| 200 * (at + 7 + more)));
    same("the sums of addresses", b.run()?.values(), expected.collect())
}

fn by_the_board(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.ram.write(Gpa(FRAMES), &returns(1))?;
    b.action = Some(Arc::new(|value, ram, _| {
        // What cannot be written shows in the sums.
        let _ = ram.write(Gpa(FRAMES + 1), &value.to_le_bytes());
    }));
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        log_sum(a)?;
        for value in [5, 6, 7] {
            a.mov(edx, u32::from(port::ACTION))?;
            a.mov(eax, value)?;
            a.out(dx, eax)?;
            log_sum(a)?;
        }
        Ok(())
    })?;
    same("the sums", b.run()?.values(), vec![100, 500, 600, 700])
}

fn across_pages(b: &mut Bench<'_>) -> Checked {
    const SECOND: [u64; 2] = [FRAMES + 0x3000, FRAMES + 0x5000];
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x1000, SECOND[0], page::KERNEL)?;
    let entry = b.entry(FREE + 0x1000, 1)?;
    // INC RAX; NOP; MOV R8, with the last six bytes of the number in the next page; ADD RAX, R8; RET
    b.ram.write(Gpa(FRAMES + 0xff8), &[0x48, 0xff, 0xc0, 0x90, 0x49, 0xb8, 0x34, 0x12])?;
    for (frame, third) in SECOND.into_iter().zip([1, 2]) {
        b.ram.write(Gpa(frame), &[0, 0, third, 0, 0, 0, 0x4c, 0x01, 0xc0, 0xc3])?;
    }
    kernel(b, |a| {
        a.mov(rbx, FREE + 0xff8)?;
        for frame in [SECOND[1], SECOND[0], SECOND[1]] {
            a.xor(eax, eax)?;
            repeat(a, 200, |a| Ok(a.call(rbx)?))?;
            a.log(rax)?;
            a.mov(rax, frame | page::KERNEL)?;
            a.mov(qword_ptr(entry), rax)?;
            a.invlpg(byte_ptr(rbx + 8))?;
        }
        Ok(())
    })?;
    let sum = |third: u64| 200 * (third << 32 | 0x1235);
    same("the sums", b.run()?.values(), vec![sum(1), sum(2), sum(1)])
}
