//! Host code that must not pass.

use super::walk::{Made, prove};
use super::words;
use crate::harness::UserHarness;
use crate::mmu::Entry;
use crate::translate::frame::at;
use crate::translate::mode::Mode;
use crate::translate::slots::{Site, Slot};
use crate::translate::thunks::request;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::collections::BTreeMap;
use std::mem::offset_of;

/// Slots for reading eight bytes, and for writing four.
const SITES: [Site; 2] =
    [Site { slot: 3, op: 0, bytes: 8, write: false }, Site { slot: 4, op: 0, bytes: 4, write: true }];

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
    let (mode, resumes) = (Mode { user: true, narrow: false }, BTreeMap::new());
    let made = Made { code: &code, entrances: &[0], mode, resumes, sites: &SITES };
    // SAFETY: the frame lives as long as the harness, and no translated code runs.
    prove(made, unsafe { frame.as_ref() })
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

/// Compares RBX + 16 with what slot `number` has.
fn look_up_slot(a: &mut CodeAssembler, out: CodeLabel, number: u16, request: u32) -> Result<(), IcedError> {
    let word = |field: usize| rsp + at::slot(number) + field as i32;
    let (mut miss, mut again) = (a.create_label(), a.create_label());
    let (mut found, mut over) = (a.create_label(), a.create_label());
    a.set_label(&mut again)?;
    a.lea(r10, rbx + 16)?;
    a.sub(r10, qword_ptr(word(offset_of!(Slot, low))))?;
    a.cmp(r10, qword_ptr(word(offset_of!(Slot, limit))))?;
    a.jae(miss)?;
    a.mov(r11, qword_ptr(word(offset_of!(Slot, addend))))?;
    a.set_label(&mut found)?;
    a.lea(r11, r11 + 16)?;
    a.jmp(over)?;
    // The thunk wants jumps of five bytes: they are to go far.
    a.nops_with_size(200)?;
    a.set_label(&mut miss)?;
    a.lea(r10, rbx + 16)?;
    a.mov(dword_ptr(rsp + at::EXIT), 1)?;
    a.mov(r11d, request)?;
    a.call(qword_ptr(rsp + at::FILL_SLOT))?;
    for target in [again, out, found] {
        a.jmp(target)?;
    }
    a.nops_with_size(200)?;
    a.set_label(&mut over)
}

const READ_8: u32 = 8 | request::USER | 3 << request::SLOT;
const WRITE_4: u32 = 4 | request::USER | request::WRITE | 4 << request::SLOT;

#[test]
fn a_slot_gives_what_its_access_asked_for() {
    let reads = |number: u16, request: u32, at: i32| {
        proved(move |a, out| {
            look_up_slot(a, out, number, request)?;
            a.mov(rax, qword_ptr(rbx + r11 + at))
        })
    };
    assert_eq!(reads(3, READ_8, 0), Ok(1));
    for (number, request, at, problem) in [
        (3, READ_8, 1, "8 bytes at"),
        (3, READ_8, -1, "8 bytes at"),
        (4, WRITE_4, 0, "8 bytes at"),
        (3, READ_8 & !request::USER, 0, "a slot for another access"),
        (3, READ_8 + 8, 0, "a slot for another access"),
        (3, READ_8 | request::WRITE, 0, "a slot for another access"),
        (3, WRITE_4, 0, ""),
        (5, READ_8 + (2 << request::SLOT), 0, "a slot of somebody else's"),
    ] {
        let found = reads(number, request, at).expect_err("it passed");
        assert!(found.starts_with(problem), "{found}");
    }
}

#[test]
fn a_slot_for_reading_gives_no_right_to_write() {
    let writes = |number: u16, request: u32| {
        proved(move |a, out| {
            look_up_slot(a, out, number, request)?;
            a.mov(dword_ptr(rbx + r11), eax)
        })
    };
    assert_eq!(writes(4, WRITE_4), Ok(1));
    let problem = writes(3, READ_8).expect_err("it passed");
    assert!(problem.starts_with("an access by an entry without a check"), "{problem}");
}

#[test]
fn code_does_not_write_slots() {
    refuses("an access to bytes", |a, _| a.mov(qword_ptr(rsp + at::slot(3)), rbx));
}
