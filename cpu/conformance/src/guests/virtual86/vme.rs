//! The virtual-8086 mode extensions, and protected-mode virtual interrupts (SDM vol. 3, 20.3 and 20.4).

use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::guests::{Emit, legacy, protected, protected_user, virtual86};
use crate::layout::legacy::*;
use crate::layout::{TSS, USER_STACK};
use iced_x86::code_asm::*;
use motu_x86::Gpa;
use motu_x86::flags::{cr4, rflags};

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "VME: CLI, STI, PUSHF and POPF change VIF", manual: "vol. 3, 20.3.3.4", check: virtual_flag },
    Guest { name: "VME: VIP", manual: "vol. 3, 20.3.3.4", check: pending },
    Guest { name: "VME: 32-bit operands and TF fault", manual: "vol. 2, PUSHF, POPF, IRET", check: refused },
    Guest { name: "VME: INT n to the 8086 program, IOPL 0", manual: "vol. 3, 20.3.3.4, method 6", check: redirected },
    Guest {
        name: "VME: INT n to the 8086 program, IOPL 3",
        manual: "vol. 3, 20.3.3.3, method 5",
        check: redirected_iopl3,
    },
    Guest { name: "VME: INT n to the monitor", manual: "vol. 3, table 20-2", check: monitor },
    Guest { name: "VME: INT3 and INTO are not redirected", manual: "vol. 3, 20.3.3", check: breakpoints },
    Guest { name: "VME: redirection map past the TSS", manual: "vol. 3, 20.3.3", check: no_map },
    Guest { name: "PVI: CLI and STI in ring 3", manual: "vol. 3, 20.4", check: pvi },
    Guest { name: "PVI: not with IOPL 3, nor in ring 0", manual: "vol. 3, 20.4", check: not_pvi },
];

/// Logs FLAGS as PUSHF has them. Changes EAX.
const LOG_FLAGS: fn(&mut crate::bench::Asm) -> Checked = |a| {
    a.pushf()?;
    a.pop(ax)?;
    a.movzx(eax, ax)?;
    Ok(a.log_eax()?)
};

fn vme<T>(
    b: &mut Bench<'_>,
    flags: u64,
    emit: impl FnOnce(&mut crate::bench::Asm) -> Checked<T>,
) -> Checked<(crate::bench::Code, T)> {
    let made = virtual86(b, flags, emit)?;
    b.state.cr4 |= cr4::VME;
    Ok(made)
}

/// A handler of the 8086 program's own for a vector; it logs the image of FLAGS, and FLAGS.
fn handler(b: &mut Bench<'_>, vector: u64) -> Checked {
    legacy(b, (16, OWN, OWN), |a| {
        a.mov(bp, sp)?;
        a.movzx(eax, word_ptr(bp + 4))?;
        a.log_eax()?;
        LOG_FLAGS(a)?;
        a.log_selector(cs)?;
        a.movzx(eax, sp)?;
        a.log_eax()?;
        Ok(a.iret()?)
    })?;
    Ok(b.ram.write(Gpa(4 * vector), &((OWN << 12) as u32).to_le_bytes())?)
}

fn virtual_flag(b: &mut Bench<'_>) -> Checked {
    vme(b, 0x202 | rflags::VIF, |a| {
        LOG_FLAGS(a)?;
        a.cli()?;
        LOG_FLAGS(a)?;
        a.int3()?;
        a.sti()?;
        LOG_FLAGS(a)?;
        a.push(3)?;
        a.popf()?;
        LOG_FLAGS(a)?;
        a.push(0x202)?;
        a.popf()?;
        LOG_FLAGS(a)?;
        a.int3()?;
        // IRET as POPF.
        let mut next = a.create_label();
        a.push(0x3002)?;
        a.push(cs)?;
        a.call(next)?;
        LOG_FLAGS(a)?;
        let mut end = a.create_label();
        a.jmp(end)?;
        a.set_label(&mut next)?;
        a.iret()?;
        a.set_label(&mut end)?;
        Ok(a.nop()?)
    })?;
    let run = b.run()?;
    // The image has VIF for IF, and IOPL 3.
    same("FLAGS", run.values(), vec![0x3202, 0x3002, 0x3202, 0x3003, 0x3202, 0x3002])?;
    let real: Vec<u64> =
        run.traps().iter().map(|trap| trap.flags & (rflags::IF | rflags::VIF | rflags::IOPL)).collect();
    same("IF, VIF and IOPL themselves", real, vec![rflags::IF, rflags::IF | rflags::VIF])
}

fn pending(b: &mut Bench<'_>) -> Checked {
    vme(b, 0x202 | rflags::VIP, |a| {
        a.faulting(|a| a.sti())?;
        a.cli()?;
        a.push(0x202)?;
        a.faulting(|a| a.popf())?;
        a.pop(ax)?;
        // With IF clear it may be popped.
        a.push(2)?;
        a.popf()?;
        LOG_FLAGS(a)?;
        a.push(0x202)?;
        a.push(cs)?;
        a.push(0)?;
        a.faulting(|a| a.iret())?;
        a.add(sp, 6)?;
        a.movzx(eax, sp)?;
        a.log_eax()?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 3])?;
    same("FLAGS, SP", run.values(), vec![0x3002, V86_SP])?;
    same("VIP, VIF in the image", run.trap(2)?.flags & (rflags::VIP | rflags::VIF), rflags::VIP)
}

fn refused(b: &mut Bench<'_>) -> Checked {
    const CASES: [Emit; 4] = [|a| a.pushfd(), |a| a.popfd(), |a| a.iretd(), |a| a.popf()];
    vme(b, 0x202, |a| {
        a.push(0x102)?;
        for case in CASES {
            a.faulting(case)?;
        }
        a.log(esp)?;
        Ok(())
    })?;
    let run = b.run()?;
    same("the faults", run.faults(), vec![(13, 0); 4])?;
    same("ESP", run.values(), vec![V86_SP - 2])
}

fn redirected(b: &mut Bench<'_>) -> Checked {
    vme(b, 0x202 | rflags::VIF, |a| {
        a.int(0x40)?;
        LOG_FLAGS(a)?;
        a.int3()?;
        Ok(())
    })?;
    handler(b, 0x40)?;
    let run = b.run()?;
    // The image has VIF for IF and IOPL 3; VIF is cleared and IF is not.
    same("the values", run.values(), vec![0x3202, 0x3002, OWN >> 4, V86_SP - 6, 0x3202])?;
    let flags = run.trap(0)?.flags & (rflags::IF | rflags::VIF | rflags::IOPL);
    same("IF, VIF and IOPL at last", flags, rflags::IF | rflags::VIF)
}

fn redirected_iopl3(b: &mut Bench<'_>) -> Checked {
    vme(b, 0x3202, |a| {
        a.int(0x40)?;
        LOG_FLAGS(a)?;
        Ok(())
    })?;
    handler(b, 0x40)?;
    same("the values", b.run()?.values(), vec![0x3202, 0x3002, OWN >> 4, V86_SP - 6, 0x3202])
}

fn monitor(b: &mut Bench<'_>) -> Checked {
    // With the bit set: a fault with IOPL 0, the gate with IOPL 3.
    for (flags, expected) in [(0x202, vec![(13, 0)]), (0x3202, vec![(0x41, 0)])] {
        vme(b, flags, |a| {
            a.faulting(|a| a.int(0x41))?;
            Ok(())
        })?;
        b.ram.write(Gpa(TSS + REDIRECTION + 0x41 / 8), &[2])?;
        same(format!("the traps with EFLAGS {flags:#x}"), b.run()?.faults(), expected)?;
    }
    // Without VME the map does not count.
    virtual86(b, 0x3202, |a| Ok(a.int(0x41)?))?;
    let trap = b.run()?.trap(0)?;
    same("vector, VM", (trap.vector, trap.flags & rflags::VM), (0x41, rflags::VM))
}

fn breakpoints(b: &mut Bench<'_>) -> Checked {
    vme(b, 0x202, |a| {
        a.int3()?;
        a.mov(al, 0x7f)?;
        a.inc(al)?;
        a.db(&[0xce])?;
        // INT 3 of two bytes is redirected as any other.
        a.db(&[0xcd, 0x03])?;
        Ok(())
    })?;
    handler(b, 3)?;
    let run = b.run()?;
    same("the traps", run.faults(), vec![(3, 0), (4, 0)])?;
    same("CS of the handler", run.values().get(2).copied(), Some(OWN >> 4))
}

fn no_map(b: &mut Bench<'_>) -> Checked {
    vme(b, 0x202, |a| {
        a.faulting(|a| a.int(0x40))?;
        Ok(())
    })?;
    // The byte for the vector is past the TSS's limit; so is the I/O map: the log goes by the handler.
    b.ram.write(Gpa(TSS + 0x66), &0x130u16.to_le_bytes())?;
    let mut a = crate::bench::Asm::new(32)?;
    a.mov(eax, dword_ptr(esp))?;
    a.log_eax()?;
    a.finish()?;
    b.load_legacy(OWN, 0, a)?;
    b.gate32(13, crate::bench::gate(0x8e, crate::layout::selector::CODE, OWN, 0))?;
    same("the error code", b.run()?.values(), vec![0])
}

fn pvi(b: &mut Bench<'_>) -> Checked {
    protected_user(b, (0x202 | rflags::VIF) as i32, |a| {
        a.log_flags()?;
        a.cli()?;
        a.log_flags()?;
        a.sti()?;
        a.log_flags()?;
        // POPF changes neither IF nor VIF.
        a.push(2)?;
        a.popfd()?;
        a.log_flags()?;
        a.log(esp)?;
        Ok(())
    })?;
    b.state.cr4 |= cr4::PVI;
    let (with, without) = (0x202 | rflags::VIF, 0x202);
    same("EFLAGS", b.run()?.values(), vec![with, without, with, with, USER_STACK])?;
    protected_user(b, (0x202 | rflags::VIP) as i32, |a| {
        a.faulting(|a| a.sti())?;
        a.cli()?;
        a.log_flags()?;
        Ok(())
    })?;
    b.state.cr4 |= cr4::PVI;
    let run = b.run()?;
    same("the fault", run.faults(), vec![(13, 0)])?;
    same("EFLAGS", run.values(), vec![0x202 | rflags::VIP])
}

fn not_pvi(b: &mut Bench<'_>) -> Checked {
    protected_user(b, (0x3202 | rflags::VIF) as i32, |a| {
        a.cli()?;
        a.log_flags()?;
        a.sti()?;
        a.log_flags()?;
        Ok(())
    })?;
    b.state.cr4 |= cr4::PVI;
    same("EFLAGS", b.run()?.values(), vec![0x3002 | rflags::VIF, 0x3202 | rflags::VIF])?;
    protected(b, |a| {
        a.sti()?;
        a.log_flags()?;
        a.cli()?;
        a.log_flags()?;
        Ok(())
    })?;
    b.state.cr4 |= cr4::PVI;
    let flags: Vec<u64> = b.run()?.values().iter().map(|flags| flags & (rflags::IF | rflags::VIF)).collect();
    same("IF and VIF in ring 0", flags, vec![rflags::IF, 0])?;
    // Without PVI CLI faults.
    protected_user(b, 0x202, |a| {
        a.faulting(|a| a.cli())?;
        a.faulting(|a| a.sti())?;
        Ok(())
    })?;
    same("the faults", b.run()?.faults(), vec![(13, 0); 2])
}
