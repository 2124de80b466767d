//! Waiting for a processor that may not run: more of them than the host has CPUs for.

use super::super::kernel;
use super::{READY, others, ready, wait_for, word};
use crate::Guest;
use crate::bench::{Bench, Checked, same};
use crate::handlers::Idioms;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "eight processors take turns at a ticket lock", manual: "vol. 2, PAUSE", check: tickets },
    Guest { name: "eight processors meet at a barrier", manual: "vol. 2, PAUSE", check: barrier },
];

const COUNT: usize = 8;
const TICKET: u64 = word(0);
const SERVED: u64 = word(1);
const SUM: u64 = word(2);
const DONE: u64 = word(3);

/// Whoever has the next ticket is the only one that can go on.
fn tickets(b: &mut Bench<'_>) -> Checked {
    const ROUNDS: i32 = 100;
    fn rounds(a: &mut CodeAssembler) -> Checked {
        let (mut again, mut wait, mut mine) = (a.create_label(), a.create_label(), a.create_label());
        ready(a)?;
        wait_for(a, READY, COUNT as i32)?;
        a.mov(ebp, ROUNDS)?;
        a.set_label(&mut again)?;
        a.mov(eax, 1)?;
        a.lock().xadd(qword_ptr(TICKET), rax)?;
        a.set_label(&mut wait)?;
        a.cmp(qword_ptr(SERVED), rax)?;
        a.je(mine)?;
        a.pause()?;
        a.jmp(wait)?;
        a.set_label(&mut mine)?;
        a.inc(qword_ptr(SUM))?;
        a.inc(qword_ptr(SERVED))?;
        a.dec(ebp)?;
        a.jnz(again)?;
        a.lock().inc(qword_ptr(DONE))?;
        Ok(())
    }
    others(b, COUNT, rounds)?;
    kernel(b, |a| {
        rounds(a)?;
        wait_for(a, DONE, COUNT as i32)?;
        a.mov(rax, qword_ptr(SUM))?;
        Ok(a.log(rax)?)
    })?;
    same("the sum", b.run()?.values(), vec![COUNT as u64 * ROUNDS as u64])
}

fn barrier(b: &mut Bench<'_>) -> Checked {
    const ROUNDS: i32 = 50;
    fn rounds(a: &mut CodeAssembler) -> Checked {
        let (mut again, mut wait) = (a.create_label(), a.create_label());
        a.xor(ebp, ebp)?;
        a.set_label(&mut again)?;
        a.add(rbp, COUNT as i32)?;
        a.lock().inc(qword_ptr(SUM))?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(SUM), rbp)?;
        a.jb(wait)?;
        a.cmp(ebp, COUNT as i32 * ROUNDS)?;
        a.jne(again)?;
        Ok(())
    }
    others(b, COUNT, rounds)?;
    kernel(b, |a| {
        rounds(a)?;
        a.mov(rax, qword_ptr(SUM))?;
        Ok(a.log(rax)?)
    })?;
    same("arrivals", b.run()?.values(), vec![COUNT as u64 * ROUNDS as u64])
}
