//! Exceptions: which, with what error code, and how they are delivered.

use crate::Guest;
use crate::bench::{Bench, Checked, End, Gate, same};
use crate::handlers::Idioms;
use crate::layout::*;
use iced_x86::code_asm::*;

pub(crate) const GUESTS: &[Guest] = &[
    Guest { name: "exceptions without error code", manual: "vol. 3, 6.15", check: plain },
    Guest { name: "triple fault shuts down", manual: "vol. 3, 6.15, interrupt 8", check: triple_fault },
];

fn plain(b: &mut Bench<'_>) -> Checked {
    let mut a = b.assembler(64)?;
    let mut at = Vec::new();
    type Emit = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let cases: [(u64, Emit); 4] = [
        (0, |a| {
            a.xor(ecx, ecx)?;
            a.div(ecx)
        }),
        (6, |a| a.ud2()),
        (6, |a| a.db(&[0x0f, 0x04])),
        (7, |a| a.fninit()),
    ];
    for (vector, emit) in cases {
        let (mut next, mut start) = (a.create_label(), a.create_label());
        if vector == 7 {
            a.mov(rax, cr0)?;
            a.or(rax, 8)?;
            a.mov(cr0, rax)?;
        }
        a.resume_at(next)?;
        a.set_label(&mut start)?;
        emit(&mut a)?;
        a.set_label(&mut next)?;
        a.nop()?;
        at.push(start);
    }
    a.finish()?;
    let code = b.load(CODE, &mut a)?;
    let run = b.run()?;
    same("the exceptions", run.faults(), cases.iter().map(|case| (case.0, 0)).collect::<Vec<_>>())?;
    for (trap, (label, skip)) in run.traps().iter().zip(at.iter().zip([2, 0, 0, 0])) {
        same("RIP of the fault", trap.rip, code.at(label)? + skip)?;
    }
    Ok(())
}

fn triple_fault(b: &mut Bench<'_>) -> Checked {
    let mut a = b.assembler(64)?;
    let mut at = a.create_label();
    a.mov(eax, 0x1234)?;
    a.set_label(&mut at)?;
    a.ud2()?;
    let code = b.load(CODE, &mut a)?;
    b.gate(6, Gate { present: false, ..Gate::to(HANDLERS) })?;
    b.gate(8, Gate { present: false, ..Gate::to(HANDLERS) })?;
    b.gate(11, Gate { present: false, ..Gate::to(HANDLERS) })?;
    let run = b.run_anyhow()?;
    same("the end", run.end, End::Shutdown)?;
    same("RIP", run.report.state.rip, code.at(&at)?)?;
    same("RAX", run.report.state.gpr[0], 0x1234)?;
    let last = run.report.recent.last().map(|instruction| instruction.text.clone());
    same("the last instruction of the report", last, Some("ud2".into()))
}
