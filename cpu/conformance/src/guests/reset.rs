//! INIT and SIPI, as far as one processor can be asked.

use super::kernel;
use crate::Guest;
use crate::bench::{Asm, Bench, Checked, same};
use crate::handlers::Idioms;
use crate::layout::legacy::OWN;
use crate::layout::*;
use iced_x86::code_asm::*;
use motu_x86::Gpa;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "INIT to the boot processor itself", manual: "vol. 3, 9.1.1 and table 9-1", check: init },
    Guest { name: "SIPI to a processor that runs is ignored", manual: "vol. 3, 8.4.2", check: sipi },
];

fn init(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(rbx, DATA)?;
        a.mov(eax, 0x1234_5678)?;
        a.mov(dr0, rax)?;
        a.movd(xmm0, eax)?;
        a.mov(r15, cr0)?;
        // Physical destination 0, INIT, assert.
        a.mov(dword_ptr(APIC + 0x310), 0)?;
        a.mov(dword_ptr(APIC + 0x300), 0x4500)?;
        a.stop()?;
        Ok(())
    })?;
    // At FFFFFFF0 there is no memory: whatever an engine makes of that, #UD or #GP, comes by real-address mode's
    // vectors.
    let mut a = Asm::new(16)?;
    a.mov(esi, edx)?;
    a.mov(bp, sp)?;
    a.mov(eax, cr0)?;
    a.log_eax()?;
    a.mov(eax, cr4)?;
    a.log_eax()?;
    a.movzx(eax, word_ptr(bp))?;
    a.log_eax()?;
    a.movzx(eax, word_ptr(bp + 2))?;
    a.log_eax()?;
    a.movzx(eax, word_ptr(bp + 4))?;
    a.log_eax()?;
    for register in [ebx, ecx, edi] {
        a.log(register)?;
    }
    for segment in [ds, es, ss] {
        a.log_selector(segment)?;
    }
    a.mov(eax, dr7)?;
    a.log_eax()?;
    a.finish()?;
    b.load_legacy(OWN, OWN, a)?;
    for vector in [6, 13] {
        b.ram.write(Gpa(4 * vector), &((OWN << 12) as u32).to_le_bytes())?;
    }
    let cd_and_nw = 0x6000_0000;
    let before = b.state.cr0 & cd_and_nw;
    let expected = vec![before | 0x10, 0, 0xfff0, 0xf000, 2, 0, 0, 0, 0, 0, 0, 0x400];
    same("CR0, CR4, IP, CS, FLAGS, EBX, ECX, EDI, DS, ES, SS, DR7", b.run()?.values(), expected)
}

fn sipi(b: &mut Bench<'_>) -> Checked {
    kernel(b, |a| {
        a.mov(dword_ptr(APIC + 0x310), 0)?;
        a.mov(dword_ptr(APIC + 0x300), 0x4610)?;
        a.nop()?;
        a.mov(eax, 7)?;
        a.log(rax)?;
        // INIT level de-assert does nothing.
        a.mov(dword_ptr(APIC + 0x300), 0x8500)?;
        a.log(rax)?;
        Ok(())
    })?;
    same("the values", b.run()?.values(), vec![7, 7])
}
