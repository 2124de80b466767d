//! What newer processors protect: SMAP, UMIP, protection keys, PCIDs.

use super::{Emit, handler, kernel, protected_user, user, virtual86};
use crate::Guest;
use crate::bench::{Bench, Checked, Gate, page, same};
use crate::board::PAGE;
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Segment;
use motu_x86::flags::{cr0, cr4, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "SMAP: data of the user", manual: "vol. 3, 4.6.1", check: smap },
    Guest { name: "SMAP: implicit accesses", manual: "vol. 3, 4.6.1", check: smap_implicit },
    Guest { name: "SMAP: STAC and CLAC", manual: "vol. 2, STAC and CLAC", check: stac },
    Guest { name: "UMIP in ring 3", manual: "vol. 3, 2.5", check: umip },
    Guest { name: "UMIP in 32-bit code", manual: "vol. 2, SGDT to STR", check: umip_legacy },
    Guest { name: "UMIP in V86", manual: "vol. 2, SGDT to STR", check: umip_v86 },
    Guest { name: "protection keys of the user", manual: "vol. 3, 4.6.2", check: keys },
    Guest { name: "protection keys and page rights", manual: "vol. 3, 4.7", check: keys_and_rights },
    Guest { name: "protection keys of the supervisor", manual: "vol. 3, 4.6.2", check: supervisor_keys },
    Guest { name: "RDPKRU and WRPKRU", manual: "vol. 2", check: pkru },
    Guest { name: "PCIDs: what CR3 and CR4 refuse", manual: "vol. 3, 4.10.1", check: pcid_rules },
    Guest { name: "PCIDs: MOV to CR3 takes its own away", manual: "vol. 3, 4.10.4.1", check: pcid_flush },
    Guest { name: "INVPCID: faults", manual: "vol. 2, INVPCID", check: bad_invpcid },
    Guest { name: "INVPCID takes pages away", manual: "vol. 2, INVPCID", check: invpcid },
];

const OWN: u64 = HANDLERS + 0x8000;
const CONTRACT: &str = "max-2026";

/// The board and the common handler's cell are the supervisor's alone: under SMAP it would not reach them.
fn smap_bench(b: &mut Bench<'_>) -> Checked {
    b.contract = CONTRACT;
    b.state.cr4 |= cr4::SMAP;
    b.map(BOARD, PAGE, page::KERNEL | page::NX)?;
    b.map(RESUME, RESUME, page::KERNEL)
}

fn smap(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rbx, USER_DATA)?;
        a.faulting(|a| a.mov(al, byte_ptr(rbx)))?;
        a.faulting(|a| a.mov(byte_ptr(rbx), al))?;
        a.faulting(|a| a.push(qword_ptr(rbx)))?;
        a.stac()?;
        a.mov(al, byte_ptr(rbx))?;
        a.mov(byte_ptr(rbx), 0x77)?;
        a.clac()?;
        a.faulting(|a| a.mov(al, byte_ptr(rbx)))?;
        // Fetches are SMEP's.
        a.mov(rcx, USER_CODE)?;
        a.call(rcx)?;
        // POPFQ changes AC too.
        a.push((rflags::AC | 2) as i32)?;
        a.popfq()?;
        a.mov(al, byte_ptr(rbx))?;
        Ok(())
    })?;
    smap_bench(b)?;
    b.write(USER_CODE, 0xc3)?;
    same("the faults", b.run()?.faults(), vec![(14, 1), (14, 3), (14, 1), (14, 1)])?;
    same("what was written", b.read(USER_DATA)? & 0xff, 0x77)
}

fn smap_implicit(b: &mut Bench<'_>) -> Checked {
    // The LDT lies in a page of the user: AC does not help, in ring 3 neither.
    let load: Emit = |a| {
        a.mov(eax, 0x0f)?;
        a.mov(gs, eax)
    };
    handler(b, OWN, |a| {
        a.mov(rax, qword_ptr(rsp))?;
        a.log(rax)?;
        a.mov(rax, cr2)?;
        a.log(rax)?;
        Ok(a.finish()?)
    })?;
    b.gate(14, Gate::to(OWN))?;
    let table = USER_DATA + 0x1000;
    b.write(table + 8, b.read(GDT + 0x28)?)?;
    b.state.segments.ldtr = Segment { selector: 0x68, base: table, limit: 0x7f, attributes: 2 | Segment::PRESENT };
    kernel(b, |a| {
        a.stac()?;
        Ok(load(a)?)
    })?;
    smap_bench(b)?;
    same("code and CR2", b.run()?.values(), vec![1, table + 8])?;
    user(b, (rflags::AC | 2) as i32, |a| Ok(load(a)?))?;
    same("code and CR2 in ring 3", b.run()?.values(), vec![1, table + 8])
}

fn stac(b: &mut Bench<'_>) -> Checked {
    user(b, 2, |a| {
        a.faulting(|a| a.stac())?;
        a.faulting(|a| a.clac())?;
        Ok(())
    })?;
    b.contract = CONTRACT;
    same("the faults in ring 3", b.run()?.faults(), vec![(6, 0); 2])?;
    kernel(b, |a| {
        for emit in [(|a| a.stac()) as Emit, |a| a.clac()] {
            emit(a)?;
            a.pushfq()?;
            a.pop(rax)?;
            a.log(rax)?;
        }
        Ok(())
    })?;
    // CR4.SMAP does not matter.
    let flags: Vec<u64> = b.run()?.values().iter().map(|flags| flags & rflags::AC).collect();
    same("AC", flags, vec![rflags::AC, 0])
}

const TABLE_STORES: [Emit; 6] = [
    |a| a.sgdt(ptr(rbx)),
    |a| a.sidt(ptr(rbx)),
    |a| a.sldt(ecx),
    |a| a.str(ecx),
    |a| a.smsw(ecx),
    |a| a.smsw(word_ptr(rbx)),
];

fn umip(b: &mut Bench<'_>) -> Checked {
    for (with, faults) in [(true, vec![(13, 0); 6]), (false, vec![])] {
        user(b, 2, |a| {
            a.mov(rbx, USER_DATA)?;
            for emit in TABLE_STORES {
                a.faulting(emit)?;
            }
            // These two are left.
            a.mov(eax, i32::from(selector::USER_DATA))?;
            a.lar(ecx, eax)?;
            a.verr(ax)?;
            Ok(())
        })?;
        b.contract = CONTRACT;
        b.state.cr4 = b.state.cr4 & !cr4::UMIP | if with { cr4::UMIP } else { 0 };
        same(format!("the faults, UMIP {with}"), b.run()?.faults(), faults)?;
    }
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        for emit in TABLE_STORES {
            emit(a)?;
        }
        Ok(())
    })?;
    b.state.cr4 |= cr4::UMIP;
    same("the faults in ring 0", b.run()?.faults(), vec![])
}

/// SGDT `[EBX]`, SIDT `[EBX]`, SLDT EAX, STR EAX, SMSW EAX; of [BX+DI] and [BP+DI] and AX in 16-bit code.
const BYTES: [&[u8]; 5] =
    [&[0x0f, 0x01, 0x03], &[0x0f, 0x01, 0x0b], &[0x0f, 0x00, 0xc0], &[0x0f, 0x00, 0xc8], &[0x0f, 0x01, 0xe0]];

fn umip_legacy(b: &mut Bench<'_>) -> Checked {
    protected_user(b, 2, |a| {
        a.mov(ebx, USER_DATA as u32)?;
        for bytes in BYTES {
            a.faulting(|a| a.db(bytes))?;
        }
        Ok(())
    })?;
    b.contract = CONTRACT;
    b.state.cr4 |= cr4::UMIP;
    same("the faults in ring 3", b.run()?.faults(), vec![(13, 0); 5])
}

fn umip_v86(b: &mut Bench<'_>) -> Checked {
    virtual86(b, 0x3002, |a| {
        for bytes in BYTES {
            a.faulting(|a| a.db(bytes))?;
        }
        Ok(())
    })?;
    b.contract = CONTRACT;
    b.state.cr4 |= cr4::UMIP;
    same("the faults in V86", b.run()?.faults(), vec![(13, 0), (13, 0), (6, 0), (6, 0), (13, 0)])
}

/// A page at [`FREE`] + `index` pages with key `index`.
fn keyed(b: &mut Bench<'_>, rights: u64) -> Checked {
    b.contract = CONTRACT;
    b.state.cr4 |= cr4::PKE;
    for index in 0..4 {
        b.map(FREE + 0x1000 * index, FRAMES, rights | index << 59)?;
    }
    Ok(())
}

/// Key 1 without access, key 2 without writing, key 3 with neither bit; key 0 as given.
fn set_pkru(a: &mut CodeAssembler, key0: u32) -> Checked {
    a.xor(ecx, ecx)?;
    a.xor(edx, edx)?;
    a.mov(eax, 1 << 2 | 2 << 4 | key0)?;
    Ok(a.wrpkru()?)
}

fn try_pages(a: &mut CodeAssembler) -> Checked {
    for index in 0..4 {
        a.mov(rbx, FREE + 0x1000 * index)?;
        a.faulting(|a| a.mov(al, byte_ptr(rbx)))?;
        a.faulting(|a| a.mov(byte_ptr(rbx), al))?;
    }
    Ok(())
}

fn keys(b: &mut Bench<'_>) -> Checked {
    user(b, 2, |a| {
        set_pkru(a, 0)?;
        try_pages(a)?;
        // Fetches are not checked.
        a.mov(rbx, FREE + 0x1000)?;
        a.call(rbx)?;
        Ok(())
    })?;
    keyed(b, page::USER)?;
    b.write(FRAMES, 0xc3)?;
    // AL was 0xc3 from the load, but for the page that could not be read: RET stays RET.
    same("the faults", b.run()?.faults(), vec![(14, 0x25), (14, 0x27), (14, 0x27)])
}

fn keys_and_rights(b: &mut Bench<'_>) -> Checked {
    // Page rights and keys both count, and the code tells of both; a page that is not present has no key.
    user(b, 2, |a| {
        set_pkru(a, 0)?;
        try_pages(a)
    })?;
    keyed(b, page::P | page::U)?;
    let expected = vec![(14, 7), (14, 0x25), (14, 0x27), (14, 0x27), (14, 7)];
    same("the faults of read-only pages", b.run()?.faults(), expected)?;
    keyed(b, page::W | page::U)?;
    let absent = [(14, 4), (14, 6)].repeat(4);
    same("the faults of absent pages", b.run()?.faults(), absent)
}

fn supervisor_keys(b: &mut Bench<'_>) -> Checked {
    let emit = |a: &mut CodeAssembler| {
        set_pkru(a, 0)?;
        try_pages(a)
    };
    kernel(b, emit)?;
    keyed(b, page::USER)?;
    same("the faults", b.run()?.faults(), vec![(14, 0x21), (14, 0x23), (14, 0x23)])?;
    // Without WP the supervisor writes in spite of WD, though not of AD.
    b.state.cr0 &= !cr0::WP;
    same("the faults without WP", b.run()?.faults(), vec![(14, 0x21), (14, 0x23)])?;
    // The supervisor's own pages have no keys.
    keyed(b, page::KERNEL)?;
    same("the faults of the supervisor's pages", b.run()?.faults(), vec![])?;
    // Nothing has any without PKE: the bits are ignored.
    kernel(b, try_pages)?;
    keyed(b, page::USER)?;
    b.state.cr4 &= !cr4::PKE;
    same("the faults without PKE", b.run()?.faults(), vec![])
}

fn pkru(b: &mut Bench<'_>) -> Checked {
    user(b, 2, |a| {
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.mov(eax, 0x5555_5554)?;
        a.wrpkru()?;
        a.mov(rdx, -1i64)?;
        a.rdpkru()?;
        a.log(rax)?;
        a.log(rdx)?;
        a.mov(edx, 1)?;
        a.faulting(|a| a.wrpkru())?;
        a.xor(edx, edx)?;
        a.mov(ecx, 1)?;
        a.faulting(|a| a.wrpkru())?;
        a.faulting(|a| a.rdpkru())?;
        // CPUID shows OSPKE.
        a.mov(eax, 7)?;
        a.xor(ecx, ecx)?;
        a.cpuid()?;
        a.shr(ecx, 3)?;
        a.and(ecx, 3)?;
        a.log(rcx)?;
        a.xor(eax, eax)?;
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.wrpkru()?;
        Ok(())
    })?;
    keyed(b, page::USER)?;
    let run = b.run()?;
    same("the values", run.values(), vec![0x5555_5554, 0, 3])?;
    same("the faults", run.faults(), vec![(13, 0); 3])?;
    user(b, 2, |a| {
        a.faulting(|a| a.rdpkru())?;
        a.faulting(|a| a.wrpkru())?;
        Ok(())
    })?;
    b.state.cr4 &= !cr4::PKE;
    same("the faults without PKE", b.run()?.faults(), vec![(6, 0); 2])
}

fn pcid_rules(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        // PCIDE with a PCID in CR3.
        a.mov(rbx, cr3)?;
        a.lea(rax, ptr(rbx + 8))?;
        a.mov(cr3, rax)?;
        a.mov(rcx, cr4)?;
        a.or(ecx, cr4::PCIDE as i32)?;
        a.faulting(|a| a.mov(cr4, rcx))?;
        a.mov(cr3, rbx)?;
        // Bit 63 without PCIDE.
        a.mov(rax, rbx)?;
        a.bts(rax, 63)?;
        a.faulting(|a| a.mov(cr3, rax))?;
        a.mov(cr4, rcx)?;
        // Bit 63 is no part of CR3.
        a.add(rax, 5)?;
        a.mov(cr3, rax)?;
        a.mov(rax, cr3)?;
        a.sub(rax, rbx)?;
        a.log(rax)?;
        // Paging cannot be turned off, bits above the physical addresses are reserved.
        a.mov(rax, cr0)?;
        a.btr(rax, 31)?;
        a.faulting(|a| a.mov(cr0, rax))?;
        a.mov(rax, 1u64 << 60)?;
        a.faulting(|a| a.mov(cr3, rax))?;
        // It can be cleared with a PCID.
        a.btr(rcx, 17)?;
        a.mov(cr4, rcx)?;
        Ok(())
    })?;
    b.contract = CONTRACT;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 4])?;
    same("the PCID in CR3", run.values(), vec![5])
}

/// Reads and logs the word at [`FREE`].
const READ: Emit = |a| {
    a.mov(rdi, FREE)?;
    a.mov(rax, qword_ptr(rdi))?;
    a.log(rax)
};

/// Maps [`FREE`] to the first frame, and gives where its entry is.
fn remappable(b: &mut Bench<'_>) -> Checked<u64> {
    b.contract = CONTRACT;
    b.state.cr4 |= cr4::PCIDE;
    b.map(FREE, FRAMES, page::KERNEL)?;
    b.write(FRAMES, 0x11)?;
    b.write(FRAMES + 0x1000, 0x22)?;
    b.entry(FREE, 1)
}

/// Has the entry, whose address is in RSI, lead to the second frame.
const REMAP: Emit = |a| {
    a.mov(rax, (FRAMES + 0x1000) | page::KERNEL)?;
    a.mov(qword_ptr(rsi), rax)
};

fn pcid_flush(b: &mut Bench<'_>) -> Checked {
    let entry = remappable(b)?;
    kernel(b, |a| {
        a.mov(rsi, entry)?;
        a.mov(rbx, cr3)?;
        READ(a)?;
        REMAP(a)?;
        // Away with another PCID, and back without bit 63: what was cached for PCID 0 is gone.
        a.lea(rax, ptr(rbx + 1))?;
        a.mov(cr3, rax)?;
        READ(a)?;
        a.mov(cr3, rbx)?;
        READ(a)?;
        // INVLPG works under each PCID.
        a.mov(rax, FRAMES | page::KERNEL)?;
        a.mov(qword_ptr(rsi), rax)?;
        a.invlpg(ptr(rdi))?;
        READ(a)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![0x11, 0x22, 0x22, 0x11])
}

fn bad_invpcid(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.xor(eax, eax)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(qword_ptr(rbx + 8), rax)?;
        // Types 4 and 2^63.
        a.mov(eax, 4)?;
        a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        a.mov(rax, 1u64 << 63)?;
        a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        // Reserved bits of the descriptor.
        a.xor(eax, eax)?;
        a.mov(qword_ptr(rbx), 0x1000)?;
        for kind in 0..4 {
            a.mov(eax, kind)?;
            a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        }
        // An address that is not canonical: type 0 alone looks at it.
        a.mov(qword_ptr(rbx), 0)?;
        a.mov(rcx, 1u64 << 63)?;
        a.mov(qword_ptr(rbx + 8), rcx)?;
        for kind in 0..4 {
            a.mov(eax, kind)?;
            a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        }
        // A PCID without PCIDE: types 0 and 1.
        a.mov(rcx, cr4)?;
        a.btr(rcx, 17)?;
        a.mov(cr4, rcx)?;
        a.mov(qword_ptr(rbx), 1)?;
        a.mov(qword_ptr(rbx + 8), 0)?;
        for kind in 0..2 {
            a.mov(eax, kind)?;
            a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        }
        // The descriptor is read.
        a.mov(rbx, FREE)?;
        a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        Ok(())
    })?;
    b.contract = CONTRACT;
    b.state.cr4 |= cr4::PCIDE;
    let expected = [vec![(13, 0); 9], vec![(14, 0)]].concat();
    same("the faults", b.run()?.faults(), expected)?;
    user(b, 2, |a| {
        a.mov(rbx, USER_DATA)?;
        a.faulting(|a| a.invpcid(rax, xmmword_ptr(rbx)))?;
        Ok(())
    })?;
    same("the fault in ring 3", b.run()?.faults(), vec![(13, 0)])
}

fn invpcid(b: &mut Bench<'_>) -> Checked {
    for kind in 0..4u32 {
        for global in [0, page::G] {
            // Types 0, 1 and 3 leave global pages alone; type 2 does not.
            if global != 0 && kind != 2 {
                continue;
            }
            let entry = remappable(b)?;
            b.map(FREE, FRAMES, page::KERNEL | global)?;
            kernel(b, |a| {
                a.mov(rsi, entry)?;
                READ(a)?;
                REMAP(a)?;
                a.mov(rbx, DATA)?;
                a.mov(qword_ptr(rbx), 0)?;
                a.mov(qword_ptr(rbx + 8), rdi)?;
                a.mov(eax, kind)?;
                a.invpcid(rax, xmmword_ptr(rbx))?;
                Ok(READ(a)?)
            })?;
            same(format!("the values of type {kind}"), b.run()?.values(), vec![0x11, 0x22])?;
        }
    }
    Ok(())
}
