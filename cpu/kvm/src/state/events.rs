//! Pending events, and what the processor does between instructions (API, 4.31 and 4.38).

use crate::host::failed;
use crate::vcpu::KvmVcpu;
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_mp_state,
    kvm_vcpu_events,
};
use motu_hv::HvError;
use motu_x86::{Activity, CpuState, Exception, Shadow};

const VALID_NMI_PENDING: u32 = 1;
const VALID_SHADOW: u32 = 4;
/// KVM_X86_SHADOW_INT_MOV_SS and KVM_X86_SHADOW_INT_STI.
const SHADOW_OF_MOV_SS: u8 = 1;
const SHADOW_OF_STI: u8 = 2;

pub fn read(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<(), HvError> {
    let events = vcpu.fd.get_vcpu_events().map_err(failed("reading pending events"))?;
    state.interrupt_shadow = match events.interrupt.shadow {
        0 => Shadow::None,
        shadow if shadow & SHADOW_OF_MOV_SS != 0 => Shadow::MovSs,
        _ => Shadow::Sti,
    };
    state.nmi_pending = events.nmi.pending != 0 || events.nmi.injected != 0;
    // An NMI that is on its way in blocks others only when it has come.
    state.nmi_blocked = events.nmi.masked != 0 && events.nmi.injected == 0;
    // INT n runs again, as it is not yet behind RIP.
    state.interrupt = (events.interrupt.injected != 0 && events.interrupt.soft == 0).then_some(events.interrupt.nr);
    let exception = events.exception;
    if (exception.injected != 0 || exception.pending != 0) && exception.nr == Exception::DB {
        state.pending_debug = traps(state.dr[6], state.dr[7]);
        if is_of_guard(state) {
            state.dr[7] |= GUARD;
        }
    }
    state.activity = match take_in_starts(vcpu)? {
        _ if vcpu.shut_down => Activity::Shutdown,
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Active,
    };
    Ok(())
}

/// Has the kernel take in INIT and start-up messages, which replace registers, and tells what the CPU does then: a KVM_MP_STATE.
pub fn take_in_starts(vcpu: &KvmVcpu) -> Result<u32, HvError> {
    Ok(vcpu.fd.get_mp_state().map_err(failed("reading what the CPU does"))?.mp_state)
}

/// DR6: single step and task switch (SDM vol. 3, 17.2.3).
const STEP_OR_TASK: u64 = 3 << 14;
/// DR6: the four breakpoints.
const BREAKPOINTS: u64 = 0xf;
/// DR6: debug registers that were guarded were accessed.
const GUARD_HIT: u64 = 1 << 13;
/// DR7: the debug registers are guarded.
const GUARD: u64 = 1 << 13;

/// Of a debug exception on its way in: what of DR6 told of a trap. Any other exception, and a breakpoint on an instruction,
/// is a fault, which needs no word: its instruction will run into it again.
fn traps(dr6: u64, dr7: u64) -> u64 {
    let of_data = |n: &u64| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 != 0;
    let data = (0..4).filter(of_data).fold(0, |bits, n| bits | 1 << n);
    dr6 & (STEP_OR_TASK | data)
}

/// Whether the debug exception on its way in is for an access to guarded debug registers: such a fault, too, but the kernel has
/// taken the guard away, as for its handler, so that the instruction would not run into it again.
fn is_of_guard(state: &CpuState) -> bool {
    let dr7 = state.dr[7];
    let at = state.segments.cs.base.wrapping_add(state.rip);
    let is_at = |n: usize| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 == 0 && state.dr[n] == at;
    state.dr[6] & GUARD_HIT != 0 && state.pending_debug == 0 && !(0..4).any(is_at)
}

/// DR6 and DR7 as the handler of the debug trap that is due finds them: the kernel lets in what is put there, and no more.
pub fn debug_control(state: &CpuState) -> (u64, u64) {
    let [.., dr6, dr7] = state.dr;
    match state.pending_debug {
        0 => (dr6, dr7),
        bits if bits & BREAKPOINTS != 0 => (dr6 & !BREAKPOINTS | bits, dr7 & !GUARD),
        bits => (dr6 | bits, dr7 & !GUARD),
    }
}

/// `last` is what was last read, if the CPU has not run since.
pub fn write(vcpu: &mut KvmVcpu, state: &CpuState, last: Option<&CpuState>) -> Result<(), HvError> {
    let mut events = kvm_vcpu_events { flags: VALID_SHADOW, ..Default::default() };
    // One that came meanwhile stays.
    if last.is_none_or(|last| last.nmi_pending) || state.nmi_pending {
        events.flags |= VALID_NMI_PENDING;
    }
    events.nmi.pending = u8::from(state.nmi_pending);
    events.nmi.masked = u8::from(state.nmi_blocked);
    events.interrupt.shadow = match state.interrupt_shadow {
        Shadow::None => 0,
        Shadow::MovSs => SHADOW_OF_MOV_SS,
        Shadow::Sti => SHADOW_OF_STI,
    };
    if let Some(vector) = state.interrupt {
        (events.interrupt.injected, events.interrupt.nr) = (1, vector);
    }
    if state.pending_debug != 0 {
        (events.exception.injected, events.exception.nr) = (1, Exception::DB);
    }
    vcpu.fd.set_vcpu_events(&events).map_err(failed("setting pending events"))?;
    let mp_state = match state.activity {
        Activity::Active | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        // What is on its way in ends HLT.
        Activity::Halted if state.interrupt.is_some() || state.pending_debug != 0 => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    vcpu.fd.set_mp_state(kvm_mp_state { mp_state }).map_err(failed("setting what the CPU does"))?;
    vcpu.shut_down = state.activity == Activity::Shutdown;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traps_are_told_from_breakpoints_on_instructions() {
        let write_at_1 = 0x400 | 1 << 2 | 1 << 20;
        assert_eq!(traps(0xffff_0ff2, write_at_1), 2);
        assert_eq!(traps(0xffff_0ff1, 0x401), 0, "a breakpoint on an instruction");
        assert_eq!(traps(0xffff_4ff0, 0x400), 1 << 14);
    }

    #[test]
    fn a_guard_that_was_hit_is_told_from_a_breakpoint() {
        let at = |rip| CpuState { dr: [0x1000, 0, 0, 0, 0, 0, 0xffff_2ff1, 0x401], rip, ..CpuState::default() };
        assert!(is_of_guard(&at(0x2000)));
        assert!(!is_of_guard(&at(0x1000)), "an older hit, and the breakpoint");
        assert!(!is_of_guard(&CpuState { pending_debug: 1 << 14, ..at(0x2000) }), "a trap of the instruction before");
    }

    #[test]
    fn the_handler_finds_why_it_was_called() {
        let state = |pending_debug| CpuState {
            dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff1, 0x2400],
            pending_debug,
            ..CpuState::default()
        };
        assert_eq!(debug_control(&state(0)), (0xffff_0ff1, 0x2400));
        assert_eq!(debug_control(&state(2)), (0xffff_0ff2, 0x400));
        assert_eq!(debug_control(&state(1 << 14)), (0xffff_4ff1, 0x400));
    }
}
