//! Handlers of far transfers, system instructions and port I/O.

use super::operands::{Kind, kind, segment_index, size};
use super::{Handler, Op};
use crate::exec::operand::{Dst, Imm, Mem, Src};
use crate::exec::segment::{self as sg, Selector, SystemWord};
use crate::exec::{data, debug, far as t, interrupt, io, iret::iret, syscall as y, system as s};
use iced_x86::{Code as C, Instruction, Mnemonic as M, OpKind, Register};

/// The handler of a system instruction; fills in what `op` lacks.
pub fn handler(i: &Instruction, op: &mut Op) -> Option<Handler> {
    far(i, op).or_else(|| segments(i, op)).or_else(|| control(i, op)).or_else(|| ports(i, op))
}

fn far(i: &Instruction, op: &mut Op) -> Option<Handler> {
    match i.mnemonic() {
        M::Jmp | M::Call if matches!(i.op_kind(0), OpKind::FarBranch16 | OpKind::FarBranch32) => {
            let short = i.op_kind(0) == OpKind::FarBranch16;
            op.imm = if short { i.far_branch16().into() } else { i.far_branch32().into() };
            op.disp = i.far_branch_selector().into();
            return Some(match (i.mnemonic(), short) {
                (M::Jmp, _) => t::jmp_far,
                (_, true) => t::call_far::<u16>,
                (_, false) => t::call_far::<u32>,
            });
        }
        _ => {}
    }
    Some(match i.code() {
        C::Jmp_m1616 => t::jmp_far_memory::<u16>,
        C::Jmp_m1632 => t::jmp_far_memory::<u32>,
        C::Jmp_m1664 => t::jmp_far_memory::<u64>,
        C::Call_m1616 => t::call_far_memory::<u16>,
        C::Call_m1632 => t::call_far_memory::<u32>,
        C::Call_m1664 => t::call_far_memory::<u64>,
        C::Retfw | C::Retfw_imm16 => t::retf::<u16>,
        C::Retfd | C::Retfd_imm16 => t::retf::<u32>,
        C::Retfq | C::Retfq_imm16 => t::retf::<u64>,
        C::Iretw => iret::<u16>,
        C::Iretd => iret::<u32>,
        C::Iretq => iret::<u64>,
        C::Syscall => y::syscall,
        C::Sysretd => y::sysret::<u32>,
        C::Sysretq => y::sysret::<u64>,
        C::Sysenter => y::sysenter,
        C::Sysexitd => y::sysexit::<u32>,
        C::Sysexitq => y::sysexit::<u64>,
        C::Int_imm8 => interrupt::int,
        C::Int3 => interrupt::int3,
        C::Int1 => interrupt::int1,
        C::Into => interrupt::into,
        C::Bound_r16_m1616 => interrupt::bound::<u16>,
        C::Bound_r32_m3232 => interrupt::bound::<u32>,
        C::Swapgs => y::swapgs,
        C::Rdfsbase_r32 | C::Rdgsbase_r32 | C::Wrfsbase_r32 | C::Wrgsbase_r32 => base(i, op, true)?,
        C::Rdfsbase_r64 | C::Rdgsbase_r64 | C::Wrfsbase_r64 | C::Wrgsbase_r64 => base(i, op, false)?,
        _ => return None,
    })
}

fn base(i: &Instruction, op: &mut Op, short: bool) -> Option<Handler> {
    op.imm = if matches!(i.mnemonic(), M::Rdfsbase | M::Wrfsbase) { 4 } else { 5 };
    Some(match (i.mnemonic(), short) {
        (M::Rdfsbase | M::Rdgsbase, true) => y::read_base::<u32>,
        (M::Rdfsbase | M::Rdgsbase, false) => y::read_base::<u64>,
        (_, true) => y::write_base::<u32>,
        (_, false) => y::write_base::<u64>,
    })
}

fn segments(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let is_segment =
        |n: u32| n < i.op_count() && i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register();
    match i.mnemonic() {
        M::Mov if is_segment(0) => {
            if i.op_register(0) == Register::CS {
                return None;
            }
            op.dst = segment_index(i.op_register(0));
            Some(if kind(i, 1) == Kind::Memory { sg::mov_to::<Mem> } else { sg::mov_to::<Src> })
        }
        M::Mov if is_segment(1) => {
            op.src = segment_index(i.op_register(1));
            Some(match (kind(i, 0), size(i, 0)) {
                (Kind::Memory, _) => data::mov::<u16, Mem, Selector>,
                (_, 2) => data::mov::<u16, Dst, Selector>,
                _ => data::mov::<u64, Dst, Selector>,
            })
        }
        M::Push if is_segment(0) => {
            op.src = segment_index(i.op_register(0));
            Some(match i.stack_pointer_increment() {
                -2 => data::push::<u16, Selector>,
                -4 => data::push::<u32, Selector>,
                _ => data::push::<u64, Selector>,
            })
        }
        M::Pop if is_segment(0) => {
            op.dst = segment_index(i.op_register(0));
            Some(match i.stack_pointer_increment() {
                2 => sg::pop::<u16>,
                4 => sg::pop::<u32>,
                _ => sg::pop::<u64>,
            })
        }
        M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => {
            op.imm = match i.mnemonic() {
                M::Les => 0,
                M::Lss => 2,
                M::Lds => 3,
                M::Lfs => 4,
                _ => 5,
            };
            Some(match size(i, 0) {
                2 => sg::load_far_pointer::<u16>,
                4 => sg::load_far_pointer::<u32>,
                _ => sg::load_far_pointer::<u64>,
            })
        }
        M::Lgdt | M::Lidt => {
            op.imm = if matches!(i.code(), C::Lgdt_m1632_16 | C::Lidt_m1632_16) { 0x00ff_ffff } else { 0xffff_ffff };
            Some(if i.mnemonic() == M::Lidt { sg::load_table::<true> } else { sg::load_table::<false> })
        }
        M::Sgdt => Some(sg::store_table::<false>),
        M::Sidt => Some(sg::store_table::<true>),
        M::Lldt if kind(i, 0) == Kind::Memory => Some(sg::load_system::<false, Mem>),
        M::Lldt => Some(sg::load_system::<false, Dst>),
        M::Ltr if kind(i, 0) == Kind::Memory => Some(sg::load_system::<true, Mem>),
        M::Ltr => Some(sg::load_system::<true, Dst>),
        M::Sldt | M::Str | M::Smsw => {
            op.imm = match i.mnemonic() {
                M::Sldt => sg::LDTR,
                M::Str => sg::TASK,
                _ => sg::STATUS,
            };
            Some(match (kind(i, 0), size(i, 0)) {
                (Kind::Memory, _) => data::mov::<u16, Mem, SystemWord>,
                (_, 2) => data::mov::<u16, Dst, SystemWord>,
                (_, 4) => data::mov::<u32, Dst, SystemWord>,
                _ => data::mov::<u64, Dst, SystemWord>,
            })
        }
        M::Lar => Some(rights::<false>(i)),
        M::Lsl => Some(rights::<true>(i)),
        M::Verr if kind(i, 0) == Kind::Memory => Some(sg::verify::<false, Mem>),
        M::Verr => Some(sg::verify::<false, Dst>),
        M::Verw if kind(i, 0) == Kind::Memory => Some(sg::verify::<true, Mem>),
        M::Verw => Some(sg::verify::<true, Dst>),
        _ => None,
    }
}

fn rights<const LIMIT: bool>(i: &Instruction) -> Handler {
    match (size(i, 0), kind(i, 1)) {
        (2, Kind::Memory) => sg::load_rights::<LIMIT, u16, Mem>,
        (2, _) => sg::load_rights::<LIMIT, u16, Src>,
        (4, Kind::Memory) => sg::load_rights::<LIMIT, u32, Mem>,
        (4, _) => sg::load_rights::<LIMIT, u32, Src>,
        (_, Kind::Memory) => sg::load_rights::<LIMIT, u64, Mem>,
        _ => sg::load_rights::<LIMIT, u64, Src>,
    }
}

/// The number of a control or debug register.
fn number(register: Register) -> u64 {
    register.number() as u64
}

fn control(i: &Instruction, op: &mut Op) -> Option<Handler> {
    if i.mnemonic() == M::Mov {
        let (to, from) = (i.op0_register(), i.op1_register());
        let (register, write) = if to.is_cr() || to.is_dr() { (to, true) } else { (from, false) };
        if !register.is_cr() && !register.is_dr() {
            return None;
        }
        op.imm = number(register);
        return Some(match (register.is_cr(), write) {
            (true, true) => s::write_control,
            (true, false) => s::read_control,
            (false, true) => debug::write,
            (false, false) => debug::read,
        });
    }
    Some(match i.mnemonic() {
        M::Lmsw if kind(i, 0) == Kind::Memory => s::lmsw::<Mem>,
        M::Lmsw => s::lmsw::<Dst>,
        M::Clts => s::clts,
        M::Stac => s::set_alignment_check::<true>,
        M::Clac => s::set_alignment_check::<false>,
        M::Rdpkru => s::protection_keys::<false>,
        M::Wrpkru => s::protection_keys::<true>,
        M::Invpcid => s::invpcid,
        M::Invlpg => s::invlpg,
        M::Invd | M::Wbinvd | M::Wbnoinvd => s::invalidate_caches,
        M::Hlt => s::hlt,
        M::Cpuid => s::cpuid,
        M::Rdtsc => s::rdtsc::<false>,
        M::Rdtscp => s::rdtsc::<true>,
        M::Rdmsr => s::rdmsr,
        M::Wrmsr => s::wrmsr,
        M::Rdpmc => s::rdpmc,
        M::Xgetbv => s::xgetbv,
        M::Xsetbv => s::xsetbv,
        M::Rdrand | M::Rdseed => match size(i, 0) {
            2 => s::random::<u16>,
            4 => s::random::<u32>,
            _ => s::random::<u64>,
        },
        M::Rdpid => s::rdpid,
        M::Ud0 | M::Ud1 | M::Ud2 => s::undefined,
        M::Clflush | M::Clflushopt | M::Clwb => s::touch,
        M::Cldemote | M::Prefetch | M::Prefetchw | M::Prefetchwt1 | M::Rdsspd | M::Rdsspq => data::nop,
        _ => return None,
    })
}

fn ports(i: &Instruction, op: &mut Op) -> Option<Handler> {
    let accumulator = match i.mnemonic() {
        M::In => i.op_register(0),
        M::Out => i.op_register(1),
        _ => return None,
    };
    op.dst = 0;
    let input = i.mnemonic() == M::In;
    let in_dx = kind(i, u32::from(input)) == Kind::Register;
    Some(match (input, in_dx, accumulator.size()) {
        (true, true, 1) => io::input::<u8, io::Dx>,
        (true, true, 2) => io::input::<u16, io::Dx>,
        (true, true, _) => io::input::<u32, io::Dx>,
        (true, false, 1) => io::input::<u8, Imm>,
        (true, false, 2) => io::input::<u16, Imm>,
        (true, false, _) => io::input::<u32, Imm>,
        (false, true, 1) => io::output::<u8, io::Dx>,
        (false, true, 2) => io::output::<u16, io::Dx>,
        (false, true, _) => io::output::<u32, io::Dx>,
        (false, false, 1) => io::output::<u8, Imm>,
        (false, false, 2) => io::output::<u16, Imm>,
        (false, false, _) => io::output::<u32, Imm>,
    })
}
