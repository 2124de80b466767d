//! Page faults, rights, accessed and dirty bits, and the TLB.

use crate::Guest;
use crate::bench::{Bench, Checked, page, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] =
    &[Guest { name: "page-fault error codes of the supervisor", manual: "vol. 3, 4.7", check: supervisor_codes }];

fn supervisor_codes(b: &mut Bench<'_>) -> Checked {
    b.map(FREE, FRAMES, page::P)?;
    let mut a = b.assembler(64)?;
    let [mut n1, mut n2, mut n3] = [(); 3].map(|()| a.create_label());
    a.mov(rbx, FREE + 0x1008)?;
    a.resume_at(n1)?;
    a.mov(rax, qword_ptr(rbx))?;
    a.set_label(&mut n1)?;
    a.resume_at(n2)?;
    a.mov(qword_ptr(rbx), rax)?;
    a.set_label(&mut n2)?;
    a.mov(rbx, FREE + 0x10)?;
    a.resume_at(n3)?;
    a.mov(qword_ptr(rbx), rax)?;
    a.set_label(&mut n3)?;
    a.finish()?;
    b.load(CODE, &mut a)?;
    let run = b.run()?;
    same("the exceptions", run.faults(), vec![(14, 0), (14, 2), (14, 3)])?;
    same("CR2", run.trap(2)?.cr2, FREE + 0x10)
}
