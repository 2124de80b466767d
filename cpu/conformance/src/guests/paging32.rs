//! Paging of 32-bit protected mode: two levels, and PAE.

use super::{legacy, protected, protected_user};
use crate::Guest;
use crate::bench::{Bench, Checked, End, Paging, page, same};
use crate::layout::legacy::OWN;
use crate::layout::{DATA, FRAMES, FREE, USER_CODE, selector};
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, cr4, efer};

pub(crate) const GUESTS: &[Guest] = &[
    Guest {
        name: "32-bit paging: rights and codes of the supervisor",
        manual: "vol. 3, 4.3, 4.6 and 4.7",
        check: supervisor,
    },
    Guest { name: "32-bit paging: rights and codes of the user", manual: "vol. 3, 4.3, 4.6 and 4.7", check: user },
    Guest { name: "32-bit paging: accessed and dirty bits", manual: "vol. 3, 4.8", check: accessed_dirty },
    Guest { name: "32-bit paging: pages of 4 MiB", manual: "vol. 3, table 4-4", check: large },
    Guest { name: "32-bit paging: PSE-36", manual: "vol. 3, table 4-4", check: pse36 },
    Guest { name: "32-bit paging: PS without PSE", manual: "vol. 3, 4.3", check: without_pse },
    Guest { name: "32-bit paging: fetches, with SMEP and without", manual: "vol. 3, 4.6 and 4.7", check: fetches },
    Guest { name: "32-bit paging: turned off and on", manual: "vol. 3, 4.1.2", check: off_and_on },
    Guest { name: "PAE: pages of 4 KiB and 2 MiB, NX", manual: "vol. 3, 4.4", check: pae },
    Guest { name: "PAE: reserved bits of entries", manual: "vol. 3, tables 4-9 to 4-11", check: pae_reserved },
    Guest { name: "PAE: PDPTEs are loaded by MOV to CR3 and no other way", manual: "vol. 3, 4.4.1", check: cached },
    Guest { name: "PAE: reserved bits of PDPTEs", manual: "vol. 3, 4.4.1", check: bad_pdptes },
    Guest { name: "PAE: the PDPT is aligned by 32 bytes", manual: "vol. 3, table 4-7", check: unaligned },
    Guest { name: "PAE: from paging off to 64-bit mode", manual: "vol. 3, 9.8.5", check: to_long_mode },
];

fn supervisor(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for offset in [0, 0x1000, 0x2000] {
            let at = FREE + offset;
            a.faulting(|a| a.mov(al, byte_ptr(at)))?;
            a.faulting(|a| a.mov(byte_ptr(at), al))?;
        }
        // Without WP everything that is present can be written.
        a.mov(eax, cr0)?;
        a.and(eax, !(cr0::WP as i32))?;
        a.mov(cr0, eax)?;
        a.mov(byte_ptr(FREE + 0x2000), al)?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map(FREE + 0x1000, FRAMES, page::USER)?;
    b.map(FREE + 0x2000, FRAMES, page::P)?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(14, 0), (14, 2), (14, 3)])?;
    let addresses: Vec<u64> = run.traps().iter().map(|trap| trap.cr2).collect();
    same("CR2", addresses, vec![FREE, FREE, FREE + 0x2000])
}

fn user(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        for offset in [0, 0x1000, 0x2000, 0x3000] {
            let at = FREE + offset;
            a.faulting(|a| a.mov(al, byte_ptr(at)))?;
            a.faulting(|a| a.mov(byte_ptr(at), al))?;
        }
        // A right that the directory has not.
        let other = FREE + 0x40_0000;
        a.faulting(|a| a.mov(byte_ptr(other), al))?;
        a.mov(al, byte_ptr(other))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    for (n, rights) in [page::KERNEL, page::P | page::U, page::USER].into_iter().enumerate() {
        b.map(FREE + 0x1000 * (n as u64 + 1), FRAMES, rights)?;
    }
    b.map(FREE + 0x40_0000, FRAMES, page::USER)?;
    let directory = b.entry(FREE + 0x40_0000, 2)?;
    b.write_entry(directory, b.read_entry(directory)? & !page::W)?;
    let expected = vec![(14, 4), (14, 6), (14, 5), (14, 7), (14, 7), (14, 7)];
    same("the faults", b.run()?.faults(), expected)
}

fn accessed_dirty(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(al, byte_ptr(FREE))?;
        a.mov(byte_ptr(FREE + 0x1000), al)?;
        a.mov(byte_ptr(FREE + 0x40_0000), al)?;
        a.faulting(|a| a.mov(byte_ptr(FREE + 0x2000), al))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    for offset in [0, 0x1000, 0x3000] {
        b.map(FREE + offset, FRAMES, page::KERNEL)?;
    }
    b.map(FREE + 0x2000, FRAMES, page::P)?;
    b.map_at(2, FREE + 0x40_0000, FRAMES, page::KERNEL | page::PS)?;
    b.run()?;
    let bits = |b: &Bench<'_>, linear, level| -> Checked<u64> {
        Ok(b.read_entry(b.entry(linear, level)?)? & (page::A | page::D))
    };
    same("of the page that was read", bits(b, FREE, 1)?, page::A)?;
    same("of the page that was written", bits(b, FREE + 0x1000, 1)?, page::A | page::D)?;
    same("D of the page that could not be", bits(b, FREE + 0x2000, 1)? & page::D, 0)?;
    same("of the page that was not touched", bits(b, FREE + 0x3000, 1)?, 0)?;
    same("of the directory's entry", bits(b, FREE, 2)? & page::A, page::A)?;
    same("of the page of 4 MiB", bits(b, FREE + 0x40_0000, 2)?, page::A | page::D)
}

fn large(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for offset in [0, 0x1234, 0x3f_fffc] {
            a.mov(eax, dword_ptr(FREE + offset))?;
            a.log_eax()?;
        }
        a.mov(dword_ptr(FREE + 0x2000), 0x77)?;
        a.faulting(|a| a.mov(al, byte_ptr(FREE + 0x40_0000)))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map_at(2, FREE, FRAMES, page::KERNEL | page::PS)?;
    for (offset, value) in [(0, 1), (0x1234, 2), (0x3f_fff8, 3 << 32)] {
        b.write(FRAMES + offset, value)?;
    }
    let run = b.run()?;
    same("the values", run.values(), vec![1, 2, 3])?;
    same("the fault", run.faults(), vec![(14, 0)])?;
    same("what was written", b.read(FRAMES + 0x2000)?, 0x77)
}

fn pse36(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        // Beyond 4 GiB there is no RAM.
        a.mov(eax, dword_ptr(FREE))?;
        a.log_eax()?;
        a.faulting(|a| a.mov(al, byte_ptr(FREE + 0x40_0000)))?;
        a.mov(eax, dword_ptr(FREE + 0x80_0000))?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map_at(2, FREE, FRAMES | 1 << 13, page::KERNEL | page::PS)?;
    b.map_at(2, FREE + 0x40_0000, FRAMES | 1 << 21, page::KERNEL | page::PS)?;
    // PAT is bit 12 here, and part of no address.
    b.map_at(2, FREE + 0x80_0000, FRAMES | 1 << 12, page::KERNEL | page::PS)?;
    b.write(FRAMES, 0x1234)?;
    let run = b.run()?;
    same("the values", run.values(), vec![0xffff_ffff, 0x1234])?;
    same("the fault", run.faults(), vec![(14, 9)])
}

fn without_pse(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, dword_ptr(FREE))?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.state.cr4 &= !cr4::PSE;
    b.map(FREE, FRAMES, page::KERNEL)?;
    let directory = b.entry(FREE, 2)?;
    b.write_entry(directory, b.read_entry(directory)? | page::PS)?;
    b.write(FRAMES, 0x1234)?;
    same("the value", b.run()?.values(), vec![0x1234])
}

fn fetches(b: &mut Bench<'_>) -> Checked {
    for smep in [false, true] {
        protected(b, |a| {
            a.mov(ebx, FREE as u32)?;
            a.faulting(|a| a.db(&[0x90, 0xff, 0xd3]))?;
            Ok(())
        })?;
        // A page of the user: RET.
        b.page_legacy(Paging::Bits32)?;
        b.map(FREE, FRAMES, page::USER)?;
        b.write(FRAMES, 0xc3)?;
        legacy(b, (32, OWN, 0), |a| {
            a.mov(eax, dword_ptr(esp))?;
            a.log_eax()?;
            Ok(())
        })?;
        b.gate32(14, crate::bench::gate(0x8e, selector::CODE, OWN, 0))?;
        if smep {
            b.state.cr4 |= cr4::SMEP;
        }
        same("the error code, if any", b.run()?.values(), if smep { vec![0x11] } else { vec![] })?;
        // A page that is not there: bit 4 of the code is only with SMEP.
        b.map(FREE, 0, 0)?;
        same("the error code", b.run()?.values(), vec![if smep { 0x10 } else { 0 }])?;
    }
    Ok(())
}

fn off_and_on(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, dword_ptr(USER_CODE as u32))?;
        a.log_eax()?;
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, dword_ptr(USER_CODE as u32))?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.log(ecx)?;
        a.mov(eax, dword_ptr(USER_CODE as u32))?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Bits32)?;
    b.map(USER_CODE, FRAMES, page::KERNEL)?;
    b.write(FRAMES, 0x11)?;
    b.write(USER_CODE, 0x22)?;
    same("the values", b.run()?.values(), vec![0x11, 0x22, 0x11])
}

fn pae(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        for offset in [0, 0x20_0000] {
            a.mov(eax, dword_ptr(FREE + offset))?;
            a.log_eax()?;
        }
        a.faulting(|a| a.mov(byte_ptr(FREE + 0x1000), al))?;
        a.mov(dword_ptr(FREE + 0x20_1000), 0x66)?;
        // No PDPTE there.
        a.faulting(|a| a.mov(al, byte_ptr(0xc000_0000u32)))?;
        a.mov(ebx, (FREE + 0x20_0000) as u32)?;
        a.call(ebx)?;
        Ok(())
    })?;
    b.page_legacy(Paging::Pae)?;
    b.state.msrs.efer = efer::NXE;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.map(FREE + 0x1000, FRAMES, page::P)?;
    b.map_at(2, FREE + 0x20_0000, FRAMES, page::KERNEL | page::PS | page::NX)?;
    b.write(FRAMES, 0x1234)?;
    b.expect_fault(FREE + 0x20_0000, OWN)?;
    legacy(b, (32, OWN, 0), |a| Ok(a.log(esp)?))?;
    let run = b.run()?;
    same("the values", run.values().get(..2).map(<[u64]>::to_vec), Some(vec![0x1234; 2]))?;
    same("the faults", run.faults(), vec![(14, 3), (14, 0), (14, 0x11)])?;
    same("what was written", b.read(FRAMES + 0x1000)?, 0x66)?;
    let entry = b.read_entry(b.entry(FREE + 0x20_0000, 2)?)?;
    same("A and D", entry & (page::A | page::D), page::A | page::D)
}

fn pae_reserved(b: &mut Bench<'_>) -> Checked {
    let entries = [
        // Bits above the processor's physical addresses; NX without NXE; bit 13 of a page of 2 MiB.
        (1, FRAMES | page::KERNEL | 1 << 52),
        (1, FRAMES | page::KERNEL | 1 << 62),
        (1, FRAMES | page::KERNEL | page::NX),
        (2, FRAMES | page::KERNEL | page::PS | 1 << 13),
        (2, FRAMES | page::KERNEL | page::PS | 1 << 52),
        (2, FRAMES | page::KERNEL | page::NX),
    ];
    for (level, entry) in entries {
        protected(b, |a| {
            a.faulting(|a| a.mov(al, byte_ptr(FREE)))?;
            a.faulting(|a| a.mov(byte_ptr(FREE), al))?;
            Ok(())
        })?;
        b.page_legacy(Paging::Pae)?;
        b.map_at(level, FREE, entry, 0)?;
        same(format!("the faults of {entry:x}"), b.run()?.faults(), vec![(14, 9), (14, 0xb)])?;
    }
    Ok(())
}

fn cached(b: &mut Bench<'_>) -> Checked {
    let read: fn(&mut crate::bench::Asm) -> Checked = |a| {
        a.mov(eax, dword_ptr(FREE))?;
        Ok(a.log_eax()?)
    };
    protected(b, |a| {
        read(a)?;
        // The PDPTE in memory is another now, and even not present. INVLPG and a change of PGE-less CR0.TS read none.
        a.mov(ebx, dword_ptr(DATA))?;
        a.mov(ecx, dword_ptr(DATA + 4))?;
        a.mov(dword_ptr(ebx), ecx)?;
        a.invlpg(ptr(FREE))?;
        read(a)?;
        a.clts()?;
        read(a)?;
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)?;
        read(a)
    })?;
    b.page_legacy(Paging::Pae)?;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.write(FRAMES, 0x11)?;
    b.write(FRAMES + 0x1000, 0x22)?;
    // Another page directory with another table.
    let first = b.state.cr3;
    let pdpte = b.entry(FREE, 3)?;
    b.page_legacy(Paging::Pae)?;
    b.map(FREE, FRAMES + 0x1000, page::KERNEL)?;
    let other = b.read_entry(b.entry(FREE, 3)?)?;
    b.state.cr3 = first;
    b.write(DATA, pdpte | other << 32)?;
    same("the values", b.run()?.values(), vec![0x11, 0x11, 0x11, 0x22])
}

fn bad_pdptes(b: &mut Bench<'_>) -> Checked {
    let bits = [1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 52, 1 << 63];
    for bit in bits {
        protected(b, |a| {
            a.mov(eax, dword_ptr(DATA))?;
            a.faulting(|a| a.mov(cr3, eax))?;
            a.mov(ebx, cr3)?;
            a.cmp(eax, ebx)?;
            a.sete(al)?;
            a.movzx(eax, al)?;
            a.log_eax()?;
            // The one that was loaded goes on.
            a.mov(eax, dword_ptr(FREE))?;
            a.log_eax()?;
            Ok(())
        })?;
        b.page_legacy(Paging::Pae)?;
        b.state.msrs.efer = efer::NXE;
        b.map(FREE, FRAMES, page::KERNEL)?;
        b.write(FRAMES, 0x1234)?;
        let table = b.table()?;
        for slot in 0..4 {
            let entry = b.read(b.state.cr3 + 8 * slot)?;
            b.write(table + 8 * slot, entry)?;
        }
        b.write(table + 24, 0x1000 | page::P | bit)?;
        b.write(DATA, table)?;
        let run = b.run()?;
        same(format!("the faults of bit {bit:x}"), run.faults(), vec![(13, 0)])?;
        same("whether CR3 changed, and a word", run.values(), vec![0, 0x1234])?;
        // One that is not present may have any bit.
        b.write(table + 24, bit)?;
        same("the faults", b.run()?.faults(), vec![])?;
    }
    // Turning paging on, and changing CR4, load them too.
    protected(b, |a| {
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.faulting(|a| a.mov(cr0, eax))?;
        a.mov(eax, cr0)?;
        a.shr(eax, 31)?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Pae)?;
    b.state.cr0 &= !cr0::PG;
    b.write(b.state.cr3 + 24, 0x1003)?;
    let run = b.run()?;
    same("the fault of MOV to CR0", run.faults(), vec![(13, 0)])?;
    same("PG", run.values(), vec![0])?;
    protected(b, |a| {
        a.mov(ebx, dword_ptr(DATA))?;
        a.mov(dword_ptr(ebx + 24), 0x1003)?;
        a.mov(eax, cr4)?;
        a.xor(eax, cr4::PGE as i32)?;
        a.faulting(|a| a.mov(cr4, eax))?;
        Ok(())
    })?;
    b.page_legacy(Paging::Pae)?;
    b.write(DATA, b.state.cr3)?;
    same("the fault of MOV to CR4", b.run()?.faults(), vec![(13, 0)])
}

fn unaligned(b: &mut Bench<'_>) -> Checked {
    protected(b, |a| {
        a.mov(eax, dword_ptr(DATA))?;
        a.mov(cr3, eax)?;
        a.mov(eax, dword_ptr(FREE))?;
        a.log_eax()?;
        Ok(())
    })?;
    b.page_legacy(Paging::Pae)?;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.write(FRAMES, 0x1234)?;
    let table = b.table()? + 0x7e0;
    for slot in 0..4 {
        let entry = b.read(b.state.cr3 + 8 * slot)?;
        b.write(table + 8 * slot, entry)?;
    }
    // PWT and PCD are no part of the address.
    b.write(DATA, table | 0x18)?;
    same("the value", b.run()?.values(), vec![0x1234])
}

fn to_long_mode(b: &mut Bench<'_>) -> Checked {
    const LONG: u64 = OWN + 0x800;
    protected(b, |a| {
        // Without PAE the combination of LME and PG is refused.
        a.mov(ecx, motu_x86::msr::EFER)?;
        a.xor(edx, edx)?;
        a.mov(eax, efer::LME as u32)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.faulting(|a| a.mov(cr0, eax))?;
        a.mov(eax, cr4)?;
        a.or(eax, cr4::PAE as i32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.rdmsr()?;
        a.log_eax()?;
        // Compatibility mode so far.
        a.log_selector(cs)?;
        Ok(a.far_jump(crate::layout::legacy::FREE_SELECTOR, LONG as u32)?)
    })?;
    b.set_paging(Paging::Long)?;
    for at in (0..crate::layout::USER_CODE).step_by(0x1000) {
        b.map(at, at, page::KERNEL)?;
    }
    b.own(0, crate::bench::descriptor(0, 0xfffff, 0xa09b))?;
    let mut a = b.assembler(64)?;
    a.mov(rax, 0x1_0000_0001u64)?;
    a.shr(rax, 32)?;
    a.out(i32::from(crate::board::port::LOG), eax)?;
    a.xor(eax, eax)?;
    a.out(i32::from(crate::board::port::END), eax)?;
    a.db(&[0xeb, 0xfe])?;
    b.load(LONG, &mut a)?;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Value(0))?;
    same("the fault", run.faults(), vec![(13, 0)])?;
    same("EFER, CS, and a register of 64 bits", run.values(), vec![efer::LME | efer::LMA, 8, 1])
}
