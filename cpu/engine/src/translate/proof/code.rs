//! The instructions of host code: which are reached, and which may be there at all.

use super::walk::Checked;
use crate::translate::frame::at;
use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic as M, OpKind, Register,
};
use std::collections::BTreeMap;

/// All instructions that are reached from some, by their offset.
pub fn reached(code: &[u8], from: impl Iterator<Item = u32>) -> Checked<BTreeMap<u32, Instruction>> {
    let mut found: BTreeMap<u32, Instruction> = BTreeMap::new();
    let mut open: Vec<u64> = from.map(u64::from).collect();
    while let Some(at) = open.pop() {
        let offset = u32::try_from(at).map_err(|_| format!("a way leads to {at:#x}"))?;
        if found.contains_key(&offset) {
            continue;
        }
        let bytes = code.get(offset as usize..).unwrap_or_default();
        let instruction = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE).decode();
        if instruction.is_invalid() {
            return Err(format!("a way leads to {at:#x}, where no instruction begins"));
        }
        let before = found.range(..offset).next_back().is_some_and(|(_, before)| before.next_ip() > at);
        let behind = found.range(offset..).next().is_some_and(|(&behind, _)| u64::from(behind) < instruction.next_ip());
        if before || behind {
            return Err(format!("two ways of reading the code at {at:#x}"));
        }
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch => open.push(instruction.near_branch_target()),
            FlowControl::ConditionalBranch => open.extend([instruction.near_branch_target(), instruction.next_ip()]),
            FlowControl::IndirectBranch => {}
            FlowControl::IndirectCall => {
                let next = instruction.next_ip();
                open.push(next);
                // One that fills the TLB may return behind the jump that follows, and of a slot behind the next one, too.
                let jumps = match instruction.memory_displacement64() as i32 {
                    at::REFILL => 1,
                    at::FILL_SLOT => 2,
                    _ => 0,
                };
                let rest = code.get(next as usize..).unwrap_or_default();
                let decoder = Decoder::with_ip(64, rest, next, DecoderOptions::NONE);
                let behind = decoder.into_iter().take(jumps).take_while(Instruction::is_jmp_near);
                open.extend(behind.map(|jump| jump.next_ip()));
            }
            _ => open.push(instruction.next_ip()),
        }
        found.insert(offset, instruction);
    }
    Ok(found)
}

/// Whether an instruction is one that ring 3 code of the host may have without effect on anything but general and vector
/// registers, arithmetic flags and memory.
pub fn permitted(instruction: &Instruction) -> Checked {
    let of_system = instruction.is_privileged()
        || instruction.cpuid_features().iter().any(|feature| {
            use CpuidFeature as F;
            let state = [F::XSAVE, F::XSAVEOPT, F::XSAVEC, F::XSAVES, F::FXSR, F::FSGSBASE, F::PKU, F::SMAP];
            let host = [F::RDRAND, F::RDSEED, F::RDPID, F::RDTSCP, F::TSC, F::RTM, F::HLE, F::CPUID, F::RDPMC];
            state.contains(feature) || host.contains(feature)
        })
        || matches!(
            instruction.mnemonic(),
            M::Popf | M::Popfd | M::Popfq | M::Std | M::Cli | M::Sti | M::Smsw | M::Sgdt | M::Sidt | M::Sldt | M::Str
        );
    if of_system {
        return Err("an instruction of the system".to_owned());
    }
    let segment = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_segment_register());
    if segment {
        return Err("a segment register".to_owned());
    }
    let stack = (0..instruction.op_count()).any(|n| {
        let register = instruction.op_register(n);
        instruction.op_kind(n) == OpKind::Register && register.is_gpr() && register.full_register() == Register::RSP
    });
    let flags = matches!(instruction.code(), Code::Pushfq | Code::Pop_r64);
    let of_stack = instruction.is_stack_instruction() && instruction.flow_control() == FlowControl::Next;
    if stack || (of_stack && !flags) {
        return Err("the frame's register is an operand".to_owned());
    }
    Ok(())
}
