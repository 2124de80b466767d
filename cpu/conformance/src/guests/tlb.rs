//! What translations may be cached, and when they must be gone.

use super::kernel;
use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use motu_x86::flags::{cr0, cr4};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "INVLPG takes a page away", manual: "vol. 3, 4.10.4.1", check: by_invlpg },
    Guest { name: "INVLPG takes a global page away", manual: "vol. 3, 4.10.4.1", check: global_by_invlpg },
    Guest { name: "INVLPG takes all of a large page away", manual: "vol. 3, 4.10.4.1", check: large_by_invlpg },
    Guest { name: "INVLPG of a non-canonical address does nothing", manual: "vol. 2, INVLPG", check: invlpg_anywhere },
    Guest { name: "CR3 writes take pages away", manual: "vol. 3, 4.10.4.1", check: by_cr3 },
    Guest { name: "CR3 writes switch address spaces", manual: "vol. 3, 4.10.4.1", check: other_space },
    Guest { name: "PGE changes take global pages away", manual: "vol. 3, 4.10.4.1", check: by_pge },
    Guest { name: "a page that faulted is not cached", manual: "vol. 3, 4.10.2.3", check: not_present },
    Guest { name: "rights that grew need no invalidation", manual: "vol. 3, 4.10.4.3", check: grown_rights },
    Guest { name: "privilege decides at each access", manual: "vol. 3, 4.6", check: both_privileges },
];

const OLD: u64 = 0x0101;
const NEW: u64 = 0x0202;

/// A page is read, moved to another frame, invalidated by `how`, and read again.
fn moved(b: &mut Bench<'_>, flags: u64, how: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Checked {
    b.write(FRAMES, OLD)?;
    b.write(FRAMES + 0x1000, NEW)?;
    b.map(FREE, FRAMES, page::KERNEL | flags)?;
    let entry = b.entry(FREE, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.log(rax)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.add(qword_ptr(entry), 0x1000)?;
        how(a)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.log(rax)?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![OLD, NEW])?;
    same("where the store went", b.read(FRAMES + 0x1008)?, NEW)
}

fn by_invlpg(b: &mut Bench<'_>) -> Checked {
    moved(b, 0, |a| a.invlpg(byte_ptr(rbx + 0x123)))
}

fn global_by_invlpg(b: &mut Bench<'_>) -> Checked {
    moved(b, page::G, |a| a.invlpg(byte_ptr(rbx)))
}

fn by_cr3(b: &mut Bench<'_>) -> Checked {
    moved(b, 0, |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    })
}

fn by_pge(b: &mut Bench<'_>) -> Checked {
    moved(b, page::G, |a| {
        a.mov(rax, cr4)?;
        a.btr(rax, 7)?;
        a.mov(cr4, rax)?;
        a.bts(rax, 7)?;
        a.mov(cr4, rax)
    })?;
    same("CR4.PGE is on again", b.runs.last().map_or(0, |run| run.report.state.cr4) & cr4::PGE, cr4::PGE)
}

fn large_by_invlpg(b: &mut Bench<'_>) -> Checked {
    b.map_at(2, FREE, 0x20_0000, page::KERNEL | page::PS)?;
    b.write(0x20_0000 + 0x7_0000, OLD)?;
    b.write(0x20_0000 + 0x9_0000, OLD)?;
    b.write(FRAMES + 0x7_0000, NEW)?;
    b.write(FRAMES + 0x9_0000, NEW)?;
    let entry = b.entry(FREE, 2)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(rax, qword_ptr(rbx + 0x7_0000))?;
        a.mov(rax, qword_ptr(rbx + 0x9_0000))?;
        a.add(qword_ptr(entry), 0x20_0000)?;
        a.invlpg(byte_ptr(rbx + 0x12_3000))?;
        for offset in [0x7_0000, 0x9_0000] {
            a.mov(rax, qword_ptr(rbx + offset))?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![NEW, NEW])
}

fn invlpg_anywhere(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rbx, 1u64 << 47)?;
        a.invlpg(byte_ptr(rbx))?;
        a.invlpg(byte_ptr(FREE))?;
        a.log_number(1)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![1])
}

fn other_space(b: &mut Bench<'_>) -> Checked {
    // A second PML4 with the first entry's tables but another page at 512 GiB.
    const LINEAR: u64 = 1 << 39;
    let second = TABLES_END - 0x1000;
    b.write(FRAMES, OLD)?;
    b.write(FRAMES + 0x1000, NEW)?;
    b.map(LINEAR, FRAMES, page::KERNEL)?;
    let first = std::mem::replace(&mut b.state.cr3, second);
    b.write(second, b.read(first)?)?;
    b.map(LINEAR, FRAMES + 0x1000, page::KERNEL)?;
    b.state.cr3 = first;
    kernel(b, |a| {
        a.mov(rbx, LINEAR)?;
        for root in [first, second, first] {
            a.mov(rax, root)?;
            a.mov(cr3, rax)?;
            a.mov(rax, qword_ptr(rbx))?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![OLD, NEW, OLD])
}

fn not_present(b: &mut Bench<'_>) -> Checked {
    b.write(FRAMES, NEW)?;
    b.map(FREE, FRAMES, 0)?;
    let entry = b.entry(FREE, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.mov(rax, qword_ptr(rbx)))?;
        a.or(qword_ptr(entry), page::P as i32)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![NEW])
}

fn grown_rights(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::P)?;
    let entry = b.entry(FREE, 1)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.faulting(|a| a.mov(dword_ptr(rbx), 1))?;
        // The fault itself took the cached translation away.
        a.or(qword_ptr(entry), page::W as i32)?;
        a.mov(dword_ptr(rbx), NEW as i32)?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(14, 3)])?;
    same("the value", b.read(FRAMES)?, NEW)
}

fn both_privileges(b: &mut Bench<'_>) -> Checked {
    b.state.cr0 |= cr0::WP;
    b.map(FREE, FRAMES, page::KERNEL)?;
    kernel(b, |a| {
        a.mov(rbx, FREE)?;
        a.mov(dword_ptr(rbx), 1)?;
        a.to_user(USER_CODE, USER_STACK, 2)?;
        Ok(())
    })?;
    let mut a = b.assembler(64)?;
    a.mov(rbx, FREE)?;
    a.faulting(|a| a.mov(dword_ptr(rbx), 2))?;
    a.faulting(|a| a.mov(eax, dword_ptr(rbx)))?;
    a.finish()?;
    b.load(USER_CODE, &mut a)?;
    same("the faults", b.run()?.faults(), vec![(14, 7), (14, 5)])?;
    same("the value", b.read(FRAMES)?, 1)
}
