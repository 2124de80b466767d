//! In which order processors see each other's accesses (Intel SDM vol. 3, 9.2.3).
//!
//! The litmus tests of the manual, again and again: what must never be seen is counted.

use super::super::kernel;
use super::{READY, others, ready, wait_for, word};
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "stores are seen in order", manual: "vol. 3, 9.2.3.2", check: message_passing },
    Guest { name: "loads are not passed by later stores", manual: "vol. 3, 9.2.3.3", check: load_buffering },
    Guest { name: "MFENCE between store and load", manual: "vol. 3, 9.2.5", check: fenced },
    Guest { name: "a locked instruction between store and load", manual: "vol. 3, 9.2.3.9", check: locked },
    Guest { name: "an aligned quadword is written at once", manual: "vol. 3, 9.1.1", check: whole },
    Guest { name: "time goes on from one processor to the next", manual: "vol. 3, 18.17.1", check: time },
];

const ROUNDS: i32 = 400;
const X: u64 = word(0);
const Y: u64 = word(2);
/// What the two processors have read.
const SEEN: [u64; 2] = [word(4), word(6)];
/// Rounds that each has begun and ended.
const BEGUN: u64 = word(8);
const ENDED: u64 = word(10);
const FORBIDDEN: u64 = word(12);

type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Runs the two parts at the same time, [`ROUNDS`] times, each from X and Y zero, and counts how often what they have left in [`SEEN`]
/// makes `forbidden` jump to the label that it is given.
fn litmus(
    b: &mut Bench<'_>,
    parts: [Part; 2],
    forbidden: fn(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>,
) -> Checked {
    fn rounds(a: &mut CodeAssembler, part: Part) -> Checked {
        let mut again = a.create_label();
        a.xor(ebp, ebp)?;
        a.set_label(&mut again)?;
        a.inc(rbp)?;
        // Both leave here at once.
        a.lock().inc(qword_ptr(BEGUN))?;
        meet(a, BEGUN)?;
        part(a)?;
        a.lock().inc(qword_ptr(ENDED))?;
        meet(a, ENDED)?;
        a.cmp(edi, 0)?;
        let mut other = a.create_label();
        a.jne(other)?;
        judge(a)?;
        a.set_label(&mut other)?;
        a.cmp(ebp, ROUNDS)?;
        a.jne(again)?;
        Ok(())
    }
    /// Waits until both have counted the round in RBP.
    fn meet(a: &mut CodeAssembler, at: u64) -> Checked {
        let (mut wait, mut met) = (a.create_label(), a.create_label());
        a.lea(rax, ptr(rbp + rbp))?;
        a.mov(ecx, 100)?;
        a.set_label(&mut wait)?;
        a.cmp(qword_ptr(at), rax)?;
        a.jae(met)?;
        // At first without PAUSE, so that they meet closely.
        a.sub(ecx, 1)?;
        a.jnc(wait)?;
        a.xor(ecx, ecx)?;
        a.pause()?;
        a.jmp(wait)?;
        a.set_label(&mut met)?;
        a.nop()?;
        Ok(())
    }
    fn judge(a: &mut CodeAssembler) -> Checked {
        Ok(a.call(JUDGE)?)
    }
    const JUDGE: u64 = smp::CODE + 0x1000;
    let mut a = b.assembler(64)?;
    let (mut seen, mut done) = (a.create_label(), a.create_label());
    forbidden(&mut a, seen)?;
    a.jmp(done)?;
    a.set_label(&mut seen)?;
    a.inc(qword_ptr(FORBIDDEN))?;
    a.set_label(&mut done)?;
    a.mov(qword_ptr(X), 0)?;
    a.mov(qword_ptr(Y), 0)?;
    a.ret()?;
    b.load(JUDGE, &mut a)?;
    let [first, second] = parts;
    others(b, 2, |a| {
        ready(a)?;
        rounds(a, second)
    })?;
    kernel(b, |a| {
        wait_for(a, READY, 1)?;
        a.xor(edi, edi)?;
        rounds(a, first)?;
        a.mov(rax, qword_ptr(FORBIDDEN))?;
        Ok(a.log(rax)?)
    })?;
    same("how often it was seen", b.run()?.values(), vec![0])
}

fn message_passing(b: &mut Bench<'_>) -> Checked {
    litmus(
        b,
        [
            |a| {
                a.mov(qword_ptr(X), 1)?;
                a.mov(qword_ptr(Y), 1)
            },
            |a| {
                a.mov(rbx, qword_ptr(Y))?;
                a.mov(rcx, qword_ptr(X))?;
                a.mov(qword_ptr(SEEN[0]), rbx)?;
                a.mov(qword_ptr(SEEN[1]), rcx)
            },
        ],
        |a, forbidden| {
            let mut fine = a.create_label();
            a.cmp(qword_ptr(SEEN[0]), 1)?;
            a.jne(fine)?;
            a.cmp(qword_ptr(SEEN[1]), 1)?;
            a.jne(forbidden)?;
            a.set_label(&mut fine)?;
            a.nop()
        },
    )
}

/// Neither reads 1 and 1.
fn both(value: i32, a: &mut CodeAssembler, forbidden: CodeLabel) -> Result<(), IcedError> {
    let mut fine = a.create_label();
    a.cmp(qword_ptr(SEEN[0]), value)?;
    a.jne(fine)?;
    a.cmp(qword_ptr(SEEN[1]), value)?;
    a.je(forbidden)?;
    a.set_label(&mut fine)?;
    a.nop()
}

fn load_buffering(b: &mut Bench<'_>) -> Checked {
    litmus(
        b,
        [
            |a| {
                a.mov(rbx, qword_ptr(X))?;
                a.mov(qword_ptr(Y), 1)?;
                a.mov(qword_ptr(SEEN[0]), rbx)
            },
            |a| {
                a.mov(rbx, qword_ptr(Y))?;
                a.mov(qword_ptr(X), 1)?;
                a.mov(qword_ptr(SEEN[1]), rbx)
            },
        ],
        |a, forbidden| both(1, a, forbidden),
    )
}

fn fenced(b: &mut Bench<'_>) -> Checked {
    litmus(
        b,
        [
            |a| {
                a.mov(qword_ptr(X), 1)?;
                a.mfence()?;
                a.mov(rbx, qword_ptr(Y))?;
                a.mov(qword_ptr(SEEN[0]), rbx)
            },
            |a| {
                a.mov(qword_ptr(Y), 1)?;
                a.mfence()?;
                a.mov(rbx, qword_ptr(X))?;
                a.mov(qword_ptr(SEEN[1]), rbx)
            },
        ],
        |a, forbidden| both(0, a, forbidden),
    )
}

fn locked(b: &mut Bench<'_>) -> Checked {
    litmus(
        b,
        [
            |a| {
                a.mov(ecx, 1)?;
                a.xchg(qword_ptr(X), rcx)?;
                a.mov(rbx, qword_ptr(Y))?;
                a.mov(qword_ptr(SEEN[0]), rbx)
            },
            |a| {
                a.mov(qword_ptr(Y), 1)?;
                a.lock().add(dword_ptr(rsp - 64), 0)?;
                a.mov(rbx, qword_ptr(X))?;
                a.mov(qword_ptr(SEEN[1]), rbx)
            },
        ],
        |a, forbidden| both(0, a, forbidden),
    )
}

/// One processor writes a quadword of equal halves, the other finds them equal.
fn whole(b: &mut Bench<'_>) -> Checked {
    others(b, 2, |a| {
        let mut again = a.create_label();
        ready(a)?;
        a.xor(eax, eax)?;
        a.mov(rdx, 0x1_0000_0001u64)?;
        a.set_label(&mut again)?;
        a.add(rax, rdx)?;
        a.mov(qword_ptr(X), rax)?;
        a.jmp(again)?;
        Ok(())
    })?;
    kernel(b, |a| {
        let (mut again, mut fine) = (a.create_label(), a.create_label());
        wait_for(a, READY, 1)?;
        a.mov(ebp, 20 * ROUNDS)?;
        a.xor(esi, esi)?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(X))?;
        a.mov(rcx, rax)?;
        a.shr(rcx, 32)?;
        a.cmp(ecx, eax)?;
        a.je(fine)?;
        a.inc(esi)?;
        a.set_label(&mut fine)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.mov(rax, rsi)?;
        Ok(a.log(rax)?)
    })?;
    same("quadwords in two pieces", b.run()?.values(), vec![0])
}

/// Each reads the time, tells it, and the other's next reading is no earlier.
fn time(b: &mut Bench<'_>) -> Checked {
    fn read(a: &mut CodeAssembler) -> Checked {
        a.lfence()?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        Ok(())
    }
    /// Waits for the other's reading, and counts if it is later than one of now.
    fn compare(a: &mut CodeAssembler, theirs: u64) -> Checked {
        let (mut wait, mut fine) = (a.create_label(), a.create_label());
        a.set_label(&mut wait)?;
        a.pause()?;
        a.mov(rbx, qword_ptr(theirs))?;
        a.cmp(rbx, rsi)?;
        a.je(wait)?;
        a.mov(rsi, rbx)?;
        read(a)?;
        a.cmp(rax, rbx)?;
        a.jae(fine)?;
        a.lock().inc(qword_ptr(FORBIDDEN))?;
        a.set_label(&mut fine)?;
        // Two readings are never the same, so that each is news.
        a.or(rax, 1)?;
        Ok(())
    }
    const TIMES: i32 = ROUNDS / 4;
    others(b, 2, |a| {
        let mut again = a.create_label();
        a.xor(esi, esi)?;
        a.mov(ebp, TIMES)?;
        a.set_label(&mut again)?;
        a.nop()?;
        compare(a, X)?;
        a.mov(qword_ptr(Y), rax)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        Ok(())
    })?;
    kernel(b, |a| {
        let mut again = a.create_label();
        a.xor(esi, esi)?;
        a.mov(ebp, TIMES)?;
        read(a)?;
        a.set_label(&mut again)?;
        a.mov(qword_ptr(X), rax)?;
        compare(a, Y)?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.mov(rax, qword_ptr(FORBIDDEN))?;
        Ok(a.log(rax)?)
    })?;
    same("how often time went back", b.run()?.values(), vec![0])
}
