//! Which rights pages give, and the accessed and dirty bits.

use super::{kernel, user};
use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::flags::cr0;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "write protection of the supervisor", manual: "vol. 3, 4.6.1", check: write_protect },
    Guest { name: "write protection of the user", manual: "vol. 3, 4.6.1", check: user_write_protect },
    Guest { name: "rights of all levels count", manual: "vol. 3, 4.6.1", check: levels },
    Guest { name: "accessed and dirty bits of 4 KiB pages", manual: "vol. 3, 4.8", check: accessed_dirty },
    Guest { name: "dirty bit after a cached read", manual: "vol. 3, 4.8", check: dirty_after_read },
    Guest { name: "refused writes leave no dirty bit", manual: "vol. 3, 4.8", check: refused_dirty },
    Guest { name: "supervisor code that has just run is not the user's", manual: "vol. 3, 4.6.1", check: just_run },
    Guest { name: "pages of 2 MiB and 1 GiB", manual: "vol. 3, 4.5.4", check: large_pages },
];

fn write_protect(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::P)?;
    b.map(FREE + 0x1000, FRAMES + 0x1000, page::P | page::U)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(dword_ptr(rbx), 1))?;
        a.faulting(|a| a.mov(dword_ptr(rbx + 0x1000), 1))?;
        a.mov(rax, cr0)?;
        a.and(rax, !(cr0::WP as i32))?;
        a.mov(cr0, rax)?;
        a.mov(dword_ptr(rbx), 2)?;
        a.mov(dword_ptr(rbx + 0x1000), 3)?;
        a.or(rax, cr0::WP as i32)?;
        a.mov(cr0, rax)?;
        a.faulting(|a| a.mov(dword_ptr(rbx), 4))?;
        a.faulting(|a| a.mov(dword_ptr(rbx + 0x1000), 4))?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(14, 3); 4])?;
    same("the first page", b.read(FRAMES)?, 2)?;
    same("the second page", b.read(FRAMES + 0x1000)?, 3)
}

/// What an engine remembers of code must not outlive the privilege that it was fetched with.
fn just_run(b: &mut Bench<'_>) -> Checked {
    let mut a = b.assembler(64)?;
    a.ret()?;
    b.load(DATA, &mut a)?;
    kernel(b, |a| {
        a.mov(rax, DATA)?;
        a.call(rax)?;
        Ok(a.to_user(USER_CODE, USER_STACK, 2)?)
    })?;
    let mut a = b.assembler(64)?;
    a.mov(rbx, DATA)?;
    a.faulting(|a| a.jmp(rbx))?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    same("the faults", b.run()?.faults(), vec![(14, 0x15)])
}

fn user_write_protect(b: &mut Bench<'_>) -> Checked {
    b.state.cr0 &= !cr0::WP;
    b.map(FREE, FRAMES, page::P | page::U)?;
    user(b, 2, |a| {
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(dword_ptr(rbx), 1))?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(14, 7)])
}

fn levels(b: &mut Bench<'_>) -> Checked {
    // One gigabyte for each level and right that is taken away there.
    let mut faults = Vec::new();
    let mut addresses = Vec::new();
    for level in 1..=3u32 {
        for (n, (clear, set, code)) in [(page::U, 0, 5), (page::W, 0, 7), (0, page::NX, 0x15)].into_iter().enumerate() {
            let linear = FREE * (1 + 3 * u64::from(level) + n as u64);
            b.map(linear, FRAMES, page::USER)?;
            let at = b.entry(linear, level)?;
            b.write(at, b.read(at)? & !clear | set)?;
            faults.push((14, code));
            addresses.push((linear, n));
        }
    }
    user(b, 2, |a| {
        for (linear, right) in addresses {
            a.mov(rbx, linear)?;
            match right {
                0 => a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?,
                1 => a.faulting(|a| a.mov(dword_ptr(rbx), eax))?,
                _ => a.faulting(|a| a.jmp(rbx))?,
            };
        }
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), faults)
}

fn accessed_dirty(b: &mut Bench<'_>) -> Checked {
    let pages = [0u64, 1, 2, 3, 4].map(|n| FREE + n * 0x20_0000);
    for linear in pages {
        b.map(linear, FRAMES, page::KERNEL)?;
    }
    b.ram.write(motu_x86::Gpa(FRAMES + 0x20), &[0xc3])?;
    kernel(b, |a| {
        a.mov(rbx, pages[0])?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(rbx, pages[1])?;
        a.mov(dword_ptr(rbx), 0)?;
        a.mov(rbx, pages[2] + 0x20)?;
        a.call(rbx)?;
        a.mov(rbx, pages[3])?;
        a.lock().xadd(dword_ptr(rbx), eax)?;
        Ok(())
    })?;
    b.run()?;
    let (accessed, dirty) = (page::A, page::A | page::D);
    for (linear, expected) in pages.into_iter().zip([accessed, dirty, accessed, dirty, 0]) {
        let entry = |level| b.read(b.entry(linear, level)?).map(|entry| entry & (page::A | page::D));
        same(format!("A and D of the page at {linear:#x}"), entry(1)?, expected)?;
        same(format!("A and D of the PDE at {linear:#x}"), entry(2)?, expected & page::A)?;
        same("A and D of the PDPTE", entry(3)?, page::A)?;
        same("A and D of the PML4E", entry(4)?, page::A)?;
    }
    Ok(())
}

fn dirty_after_read(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::KERNEL)?;
    let entry = b.entry(FREE, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(rax, qword_ptr(entry))?;
        a.log(rax)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(rax, qword_ptr(entry))?;
        a.log(rax)?;
        // Taken away by software, and again set by the next access.
        a.and(qword_ptr(entry), !(page::A | page::D) as i32)?;
        a.invlpg(byte_ptr(rbx))?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(rax, qword_ptr(entry))?;
        a.log(rax)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(rax, qword_ptr(entry))?;
        a.log(rax)?;
        Ok(())
    })?;
    let bits: Vec<u64> = b.run()?.values().iter().map(|entry| entry & (page::A | page::D)).collect();
    same("A and D", bits, vec![page::A, page::A | page::D, page::A, page::A | page::D])
}

fn refused_dirty(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::P)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.faulting(|a| a.mov(dword_ptr(rbx), eax))?;
        Ok(())
    })?;
    b.run()?;
    same("A and D", b.read(b.entry(FREE, 1)?)? & (page::A | page::D), page::A)
}

fn large_pages(b: &mut Bench<'_>) -> Checked {
    b.map_at(2, FREE, FRAMES, page::KERNEL | page::PS)?;
    b.map_at(3, 2 * FREE, 0, page::KERNEL | page::PS)?;
    b.map_at(3, 3 * FREE, 0, page::KERNEL | page::PS)?;
    kernel(b, |a| {
        a.mov(rbx, FREE + 0x12_3450)?;
        a.mov(qword_ptr(rbx), 0x11)?;
        a.mov(rbx, 2 * FREE + FRAMES + 0x12_3458)?;
        a.mov(qword_ptr(rbx), 0x22)?;
        a.mov(rbx, 3 * FREE + FRAMES + 0x12_3450)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.log(rax)?;
        a.mov(rax, qword_ptr(rbx + 8))?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x11, 0x22])?;
    let bits = |linear, level| b.read(b.entry(linear, level)?).map(|entry| entry & (page::A | page::D));
    same("A and D of the written 2 MiB page", bits(FREE, 2)?, page::A | page::D)?;
    same("A and D of the written 1 GiB page", bits(2 * FREE, 3)?, page::A | page::D)?;
    same("A and D of the read 1 GiB page", bits(3 * FREE, 3)?, page::A)
}
