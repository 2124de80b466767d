//! Host code that must not pass.

use super::walk::{Made, prove};
use super::words;
use crate::harness::UserHarness;
use crate::mmu::Entry;
use crate::translate::frame::at;
use crate::translate::mode::Mode;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::collections::BTreeMap;
use std::mem::offset_of;

/// What becomes of a block of ring 3 that these instructions end, but for the way out.
fn proved(emit: impl FnOnce(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>) -> Result<usize, String> {
    let mut harness = UserHarness::new("v3-2026", &[]).unwrap();
    let mut a = CodeAssembler::new(64).unwrap();
    let mut out = a.create_label();
    emit(&mut a, out).unwrap();
    a.set_label(&mut out).unwrap();
    a.mov(dword_ptr(rsp + at::EXIT), 1).unwrap();
    a.jmp(qword_ptr(rsp + at::LEAVE)).unwrap();
    let code = a.assemble(0).unwrap();
    let frame = harness.cpu().mmu.tlb.frame();
    // SAFETY: the frame lives as long as the harness, and no translated code runs.
    prove(
        Made { code: &code, entrances: &[0], mode: Mode { user: true, narrow: false }, resumes: BTreeMap::new() },
        unsafe { frame.as_ref() },
    )
}

fn tag(right: usize) -> i32 {
    words::tlb(true).start as i32 + right as i32
}

const READ: usize = offset_of!(Entry, read);
const WRITE: usize = offset_of!(Entry, write);
const ADDEND: usize = offset_of!(Entry, addend);

/// Looks RBX + 16 up with a right for so many bytes.
fn look_up(a: &mut CodeAssembler, out: CodeLabel, right: usize, bytes: i32) -> Result<(), IcedError> {
    a.lea(r10, rbx + 16)?;
    a.rorx(r11, r10, 7)?;
    a.and(r11d, 0x1ffe0)?;
    a.sub(r10, qword_ptr(rsp + r11 + tag(right)))?;
    a.cmp(r10, 4096 - bytes)?;
    a.ja(out)
}

/// What to add to RBX for the host's address of RBX + 16.
fn addend(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(r11, qword_ptr(rsp + r11 + tag(ADDEND)))?;
    a.lea(r11, r11 + 16)
}

fn refuses(what: &str, emit: impl FnOnce(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>) {
    let problem = proved(emit).expect_err("it passed");
    assert!(problem.starts_with(what), "{problem}");
}

#[test]
fn what_was_checked_passes() {
    let checked = proved(|a, out| {
        look_up(a, out, READ, 8)?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11))?;
        a.add(rbx, 4)?;
        a.mov(ecx, dword_ptr(rbx + r11))
    });
    assert_eq!(checked, Ok(2));
}

/// Looks up what RBX points to, if it is so aligned as `mask` says.
fn look_up_by_test(a: &mut CodeAssembler, out: CodeLabel, mask: i32) -> Result<(), IcedError> {
    a.lea(r10, rbx + 0)?;
    a.rorx(r11, r10, 7)?;
    a.and(r11d, 0x1ffe0)?;
    a.sub(r10, qword_ptr(rsp + r11 + tag(READ)))?;
    a.test(r10, mask)?;
    a.jne(out)?;
    a.mov(r11, qword_ptr(rsp + r11 + tag(ADDEND)))
}

#[test]
fn a_test_of_page_and_alignment_checks_as_many_bytes_as_are_aligned() {
    let access = |a: &mut CodeAssembler| a.movups(xmm0, xmmword_ptr(rbx + r11));
    let passes = proved(|a, out| {
        look_up_by_test(a, out, -0x1000 | 15)?;
        access(a)
    });
    assert_eq!(passes, Ok(1));
    for mask in [-0x1000 | 7, -0x1000, -0x2000 | 15, 15, 0xff] {
        refuses("", |a, out| {
            look_up_by_test(a, out, mask)?;
            access(a)
        });
    }
}

#[test]
fn what_must_be_aligned_is() {
    let checked = |bits: i32, more: i32| {
        proved(|a, out| {
            look_up(a, out, READ, 64)?;
            a.test(r10b, bits)?;
            a.jne(out)?;
            addend(a)?;
            a.movaps(xmm0, xmmword_ptr(rbx + r11 + more))
        })
    };
    assert_eq!(checked(15, 32), Ok(1));
    for (bits, more) in [(7, 32), (15, 8), (14, 32)] {
        let problem = checked(bits, more).expect_err("it passed");
        assert!(problem.starts_with("an access that may not be aligned"), "{problem}");
    }
    let any = proved(|a, out| {
        look_up(a, out, READ, 64)?;
        addend(a)?;
        a.movups(xmm0, xmmword_ptr(rbx + r11))?;
        a.vaddps(ymm0, ymm1, ymmword_ptr(rbx + r11))
    });
    assert_eq!(any, Ok(2));
    refuses("an access that may not be aligned", |a, out| {
        look_up(a, out, READ, 64)?;
        addend(a)?;
        a.addps(xmm0, xmmword_ptr(rbx + r11))
    });
    refuses("an access that may not be aligned", |a, out| {
        // In a loop, the second time around it is another address.
        let mut again = a.create_label();
        look_up(a, out, READ, 64)?;
        a.test(r10b, 15)?;
        a.jne(out)?;
        a.set_label(&mut again)?;
        a.lea(rbx, rbx + 4)?;
        look_up(a, out, READ, 64)?;
        addend(a)?;
        a.movaps(xmm0, xmmword_ptr(rbx + r11))?;
        a.jmp(again)
    });
}

#[test]
fn no_division_may_fault() {
    let unsigned = |a: &mut CodeAssembler, out| {
        a.mov(r10, rcx)?;
        a.cmp(rdx, r10)?;
        a.jae(out)?;
        a.div(r10)
    };
    assert_eq!(proved(unsigned), Ok(0));
    refuses("a division that may fault", |a, _| a.div(r10));
    refuses("a division that may fault", |a, out| {
        a.cmp(rdx, r10)?;
        a.ja(out)?;
        a.div(r10)
    });
    refuses("a division that may fault", |a, out| {
        a.cmp(edx, r10d)?;
        a.jae(out)?;
        a.div(r10)
    });
    refuses("a division that may fault", |a, out| {
        let mut here = a.create_label();
        a.jrcxz(here)?;
        a.cmp(rdx, r10)?;
        a.jae(out)?;
        a.set_label(&mut here)?;
        a.div(r10)
    });
    refuses("a division of a few bits", |a, _| a.div(r10w));
}

#[test]
fn addresses_of_the_guest_are_not_the_hosts() {
    refuses("an unchecked access", |a, _| a.mov(rax, qword_ptr(rbx)));
    refuses("an unchecked access", |a, _| a.mov(rax, qword_ptr(rip_relative())));
    refuses("an access to bytes", |a, _| a.mov(qword_ptr(rsp + at::TLB), rax));
    refuses("an access to bytes", |a, _| a.mov(rax, qword_ptr(rsp - 8)));
    refuses("an access to the frame that may be anywhere", |a, _| a.mov(rax, qword_ptr(rsp + rcx)));
    refuses("an access through the host's", |a, _| a.mov(rax, qword_ptr(rcx).fs()));
    refuses("an address that is not", |a, _| a.mov(rax, qword_ptr(ecx)));
}

fn rip_relative() -> AsmMemoryOperand {
    ptr(0x1000_0000i64)
}

#[test]
fn a_check_is_of_that_address_right_and_length() {
    refuses("8 bytes at", |a, out| {
        look_up(a, out, READ, 4)?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11))
    });
    refuses("8 bytes at", |a, out| {
        look_up(a, out, READ, 8)?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11 - 1))
    });
    refuses("an access by an entry without a check", |a, out| {
        look_up(a, out, READ, 8)?;
        addend(a)?;
        a.mov(qword_ptr(rbx + r11), rax)
    });
    refuses("an access at an unknown distance", |a, out| {
        look_up(a, out, WRITE, 8)?;
        addend(a)?;
        a.add(rbx, rcx)?;
        a.mov(qword_ptr(rbx + r11), rax)
    });
    refuses("an access by an entry without a check", |a, out| {
        look_up(a, out, READ, 8)?;
        a.mov(r11, rcx)?;
        a.and(r11d, 0x1ffe0)?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11))
    });
    refuses("an access by an entry without a check", |a, out| {
        // The index is another address's.
        a.rorx(r11, rcx, 7)?;
        a.and(r11d, 0x1ffe0)?;
        a.lea(r10, rbx + 0)?;
        a.sub(r10, qword_ptr(rsp + r11 + tag(READ)))?;
        a.cmp(r10, 4088)?;
        a.ja(out)?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11))
    });
}

#[test]
fn a_change_of_the_tlb_makes_what_was_read_of_it_old() {
    refuses("an access by an entry without a check", |a, out| {
        look_up(a, out, READ, 8)?;
        a.mov(r11d, 8)?;
        a.call(qword_ptr(rsp + at::REFILL))?;
        a.lea(r10, rbx + 16)?;
        a.rorx(r11, r10, 7)?;
        a.and(r11d, 0x1ffe0)?;
        a.sub(r10, qword_ptr(rsp + r11 + tag(READ)))?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11))
    });
}

#[test]
fn a_check_on_one_way_is_none_on_another() {
    refuses("an access by an entry without a check", |a, out| {
        let mut on = a.create_label();
        a.lea(r10, rbx + 16)?;
        a.rorx(r11, r10, 7)?;
        a.and(r11d, 0x1ffe0)?;
        a.sub(r10, qword_ptr(rsp + r11 + tag(READ)))?;
        a.test(eax, eax)?;
        a.je(on)?;
        a.cmp(r10, 4088)?;
        a.ja(out)?;
        a.set_label(&mut on)?;
        addend(a)?;
        a.mov(rax, qword_ptr(rbx + r11))
    });
}

#[test]
fn the_guest_learns_no_address_of_the_host() {
    refuses("Register(0) of the guest", |a, _| a.mov(rax, qword_ptr(rsp + at::LEAVE)));
    refuses("Register(0) of the guest", |a, _| a.lea(rax, rsp + 8));
    refuses("what is known of the host", |a, out| {
        look_up(a, out, WRITE, 8)?;
        addend(a)?;
        a.mov(qword_ptr(rbx + r11), r11)
    });
}

#[test]
fn code_stays_inside_its_sandbox() {
    refuses("the frame's register", |a, _| a.mov(rsp, rax));
    refuses("the frame's register", |a, _| a.push(rax));
    refuses("an instruction of the system", |a, _| a.rdfsbase(rax));
    refuses("an instruction of the system", |a, _| a.std());
    refuses("control flow", |a, _| a.syscall());
    refuses("control flow", |a, _| a.ret());
    refuses("a jump to what is not in the frame", |a, _| a.jmp(qword_ptr(rax)));
    refuses("a jump by what is not", |a, _| a.jmp(qword_ptr(rsp + at::R9)));
    refuses("a jump to what lies anywhere", |a, _| a.jmp(qword_ptr(rsp + r11 * 8 + at::JUMPS)));
    refuses("a call of what is no thunk", |a, _| a.call(qword_ptr(rsp + at::LEAVE)));
    refuses("a way leads to", |a, _| a.jmp(0x1000));
    refuses("an access of unknown length", |a, _| a.rep().movsb());
}

#[test]
fn strings_are_looked_up_with_the_rights_of_the_code() {
    let call = |array: i64| {
        proved(|a, _| {
            a.mov(r11, array as u64)?;
            a.call(qword_ptr(rsp + at::STRINGS))
        })
    };
    assert_eq!(call(words::tlb(true).start), Ok(0));
    let problem = call(words::tlb(false).start).expect_err("it passed");
    assert!(problem.starts_with("a thunk with another array"), "{problem}");
}
