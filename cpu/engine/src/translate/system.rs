//! Instructions on the CPU's own state that are worth more than a call of the interpreter's: RFLAGS beside the arithmetic
//! flags, SWAPGS.
//!
//! None of them changes the arithmetic flags, and neither does what is written here.

use super::asm::{Mem, R10, R11, RCX, frame};
use super::block::BlockTranslator;
use super::exit::ExitKind;
use super::frame::at;
use super::select::FlagChange;
use super::step::Current;
use crate::cpu::{Cpu, seg};
use motu_x86::Segment;
use std::mem::{offset_of, size_of};

/// A field of the CPU, whose address is in R10.
fn of_cpu(offset: usize) -> Mem {
    Mem { base: R10, index: None, disp: offset as i32 }
}

const FLAGS: usize = offset_of!(Cpu, system_flags);
const GS_SEGMENT: usize = offset_of!(Cpu, segments) + seg::GS * size_of::<Segment>() + offset_of!(Segment, base);
const GS_BASE: usize = offset_of!(Cpu, bases) + seg::GS * size_of::<u64>();
const KERNEL_GS_BASE: usize = offset_of!(Cpu, msrs.kernel_gs_base);
const _: () = assert!(size_of::<Cpu>() <= i32::MAX as usize);

impl BlockTranslator {
    /// CLI, STI, CLD, STD.
    pub(super) fn change_flag(&mut self, step: &Current<'_>, change: FlagChange) -> Option<()> {
        let opens = change == FlagChange { bit: 9, to: true };
        let out = opens.then(|| self.emit.leave(ExitKind::Interpret(self.emit.within()), step.rip()));
        self.emit.forget_r11();
        let asm = &mut self.emit.asm;
        asm.load(R10, frame(at::CPU));
        if let Some(out) = out {
            // Where nothing waits, nothing comes between STI and the instruction behind it: the code looks up later.
            asm.mov(R11, RCX);
            asm.load8(RCX, of_cpu(offset_of!(Cpu, alerts)));
            self.emit.leave_unless_zero(out);
        }
        let asm = &mut self.emit.asm;
        asm.load(R11, of_cpu(FLAGS));
        // The flag becomes the top bit and is shifted out.
        asm.rorx(R11, R11, change.bit + 1);
        asm.lea(R11, Mem { base: R11, index: Some((R11, 0)), disp: change.to.into() });
        asm.rorx(R11, R11, 64 - change.bit);
        asm.store(of_cpu(FLAGS), R11);
        Some(())
    }

    pub(super) fn swap_gs(&mut self) -> Option<()> {
        self.emit.forget_r11();
        let asm = &mut self.emit.asm;
        asm.load(R10, frame(at::CPU));
        asm.store(frame(at::RCX), RCX);
        asm.load(RCX, frame(at::GS_BASE));
        asm.load(R11, of_cpu(KERNEL_GS_BASE));
        asm.store(of_cpu(KERNEL_GS_BASE), RCX);
        asm.load(RCX, frame(at::RCX));
        asm.store(frame(at::GS_BASE), R11);
        asm.store(of_cpu(GS_BASE), R11);
        asm.store(of_cpu(GS_SEGMENT), R11);
        Some(())
    }

    /// RFLAGS into R10, as PUSHF has them: RF and VM are clear in translated code.
    pub(super) fn flags_to_r10(&mut self) {
        self.emit.forget_r11();
        let asm = &mut self.emit.asm;
        asm.pushf();
        asm.pop(R10);
        asm.pext(R10, R10, frame(at::ARITHMETIC));
        asm.pdep(R10, R10, frame(at::ARITHMETIC));
        asm.load(R11, frame(at::CPU));
        asm.load(R11, Mem { base: R11, index: None, disp: FLAGS as i32 });
        asm.lea(R10, Mem { base: R10, index: Some((R11, 0)), disp: 0 });
    }
}
