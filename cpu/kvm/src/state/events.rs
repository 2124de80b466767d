//! Pending events, and what the processor does between instructions (API, 4.31 and 4.38).

use super::lapic;
use crate::host::failed;
use crate::vcpu::KvmVcpu;
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_mp_state,
    kvm_vcpu_events,
};
use motu_hv::HvError;
use motu_x86::flags::rflags;
use motu_x86::{Activity, CpuState};

const VALID_NMI_PENDING: u32 = 1;
const VALID_SHADOW: u32 = 4;
/// KVM_X86_SHADOW_INT_MOV_SS and KVM_X86_SHADOW_INT_STI.
const SHADOW_OF_MOV_SS: u8 = 1;
const SHADOW_OF_STI: u8 = 2;

pub fn read(vcpu: &KvmVcpu, state: &mut CpuState) -> Result<(), HvError> {
    let events = vcpu.fd.get_vcpu_events().map_err(failed("reading pending events"))?;
    state.interrupt_shadow = events.interrupt.shadow != 0;
    state.nmi_pending = events.nmi.pending != 0 || events.nmi.injected != 0;
    // An NMI that is on its way in blocks others only when it has come.
    state.nmi_blocked = events.nmi.masked != 0 && events.nmi.injected == 0;
    // An exception on its way in needs no word: its instruction will run into it again.
    if events.interrupt.injected != 0 && events.interrupt.soft == 0 && !lapic::give_back(state, events.interrupt.nr) {
        tracing::warn!("interrupt {:#x} of the 8259 pair is lost with the CPU's state", events.interrupt.nr);
    }
    let running = vcpu.fd.get_mp_state().map_err(failed("reading what the CPU does"))?;
    state.activity = match running.mp_state {
        _ if vcpu.shut_down => Activity::Shutdown,
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Active,
    };
    Ok(())
}

pub fn write(vcpu: &mut KvmVcpu, state: &CpuState) -> Result<(), HvError> {
    let mut events = kvm_vcpu_events { flags: VALID_NMI_PENDING | VALID_SHADOW, ..Default::default() };
    events.nmi.pending = u8::from(state.nmi_pending);
    events.nmi.masked = u8::from(state.nmi_blocked);
    // Which of the two instructions it was, the state does not say; STI leaves interrupts enabled (SDM vol. 3, 26.3.1.5).
    events.interrupt.shadow = match (state.interrupt_shadow, state.rflags & rflags::IF != 0) {
        (false, _) => 0,
        (true, false) => SHADOW_OF_MOV_SS,
        (true, true) => SHADOW_OF_STI,
    };
    vcpu.fd.set_vcpu_events(&events).map_err(failed("setting pending events"))?;
    let mp_state = match state.activity {
        Activity::Active | Activity::Shutdown => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
    };
    vcpu.fd.set_mp_state(kvm_mp_state { mp_state }).map_err(failed("setting what the CPU does"))?;
    vcpu.shut_down = state.activity == Activity::Shutdown;
    Ok(())
}
