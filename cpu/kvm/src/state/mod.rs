//! [`CpuState`] out of the kernel's vCPU and into it.

mod events;
mod fpu;
pub mod lapic;
pub mod registers;

pub use fpu::Components;

use crate::host::failed;
use crate::profile::Sampler;
use crate::vcpu::KvmVcpu;
use crate::{msi, msr};
use kvm_bindings::{Msrs, kvm_debugregs, kvm_msr_entry, kvm_xcrs};
use motu_hv::{HvError, Msi};
use motu_x86::{CpuState, Nanos, Shadow, msr as number};
use std::sync::PoisonError;

impl KvmVcpu {
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub(crate) fn read_state(&self, now: Nanos) -> Result<CpuState, HvError> {
        let mut state = CpuState::default();
        events::take_in_starts(self)?;
        registers::read(&mut state, &self.fd.get_regs().map_err(failed("reading the registers"))?);
        let base = registers::get_system(&self.fd, &mut state).map_err(failed("reading the system registers"))?;
        state.xcr0 = self.read_xcr0()?;
        let xsave = self.fd.get_xsave().map_err(failed("reading the vector registers"))?;
        fpu::read(&mut state, &xsave, self.setup.components);
        let debug = self.fd.get_debug_regs().map_err(failed("reading the debug registers"))?;
        state.dr = [debug.db[0], debug.db[1], debug.db[2], debug.db[3], 0, 0, debug.dr6, debug.dr7];
        self.read_msrs(&mut state)?;
        state.tsc = self.tsc(now)?;
        lapic::read(&mut state, &self.fd.get_lapic().map_err(failed("reading the local APIC"))?, base);
        let message = self.id == 0 && self.shared.ext_int.has_message();
        lapic::put_extra(&mut state, self.apic_extra, message);
        lapic::put_spent_count(&mut state, self.spent_count);
        events::read(self, &mut state)?;
        match self.standing {
            None => lapic::expire(&mut state, self.count),
            Some(standing) => standing.show(&mut state),
        }
        self.msrs.save(&mut state);
        Ok(state)
    }

    /// # Errors
    /// A state that no processor can be in, or that this KVM refuses.
    pub(crate) fn write_state(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        motu_hv::check_mode(state)?;
        if state.pending_debug != 0 && state.interrupt_shadow == Shadow::MovSs {
            // The kernel would let it in at once, before the instruction that the manual lets come first (SDM vol. 3, 6.8.3).
            return Err(HvError::NotYet("a debug trap waits behind MOV SS".into()));
        }
        let last = self.last.get_mut().take();
        let last = last.as_ref().map(|(last, at)| (last.as_ref(), *at));
        let refused = |what: &'static str| {
            move |e: kvm_ioctls::Error| HvError::State(format!("the host's KVM refuses the {what} ({e})"))
        };
        if last.is_none() {
            self.sampler.iter().for_each(Sampler::forget);
            // Of a state that did not come from here nobody knows what came before.
            self.shared.slots.forget_shadow_pages(&self.shared.fd)?;
        }
        self.fd.set_regs(&registers::write(state)).map_err(refused("registers"))?;
        // Page tables may have changed since the kernel last ran the guest. It forgets translations when CR3 changes.
        let elsewhere = CpuState { cr3: state.cr3 ^ 0x1000, ..state.clone() };
        registers::set_system(&self.fd, &elsewhere).map_err(refused("system registers"))?;
        registers::set_system(&self.fd, state).map_err(refused("system registers"))?;
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0].value = state.xcr0;
        self.fd.set_xcrs(&xcrs).map_err(refused("value of XCR0"))?;
        let xsave = fpu::write(state, self.setup.components);
        // SAFETY: the kernel reads 4096 bytes, as motu asks for none of the components that need more (arch_prctl).
        unsafe { self.fd.set_xsave(&xsave) }.map_err(refused("vector registers"))?;
        let [d0, d1, d2, d3, ..] = state.dr;
        let (dr6, dr7) = events::debug_control(state);
        let debug = kvm_debugregs { db: [d0, d1, d2, d3], dr6, dr7, ..Default::default() };
        self.fd.set_debug_regs(&debug).map_err(refused("debug registers"))?;
        if last.is_none_or(|(last, at)| (last.tsc, at) != (state.tsc, now)) {
            self.set_tsc(state.tsc, now)?;
        }
        let numbers = msr::kernel_msrs(self.setup.spec_ctrl);
        self.set_msrs(&numbers.iter().map(|&number| (number, msr::get(&state.msrs, number))).collect::<Vec<_>>())?;
        let last = last.map(|(last, _)| last);
        if last.is_none_or(|last| last.lapic != state.lapic) {
            self.write_lapic(state, last)?;
        }
        events::write(self, state, last)?;
        self.msrs.restore(state);
        if let Some(standing) = &mut self.standing {
            standing.set(state);
        }
        Ok(())
    }

    /// Notes what the timer's count is when no instruction of the guest's runs any more.
    pub(crate) fn note_timer(&mut self) -> Result<(), kvm_ioctls::Error> {
        self.count = lapic::count(&self.fd.get_lapic()?);
        Ok(())
    }

    /// Replaces the local APIC, but for what was sent to it since `last` was read.
    fn write_lapic(&mut self, state: &CpuState, last: Option<&CpuState>) -> Result<(), HvError> {
        let sending = self.shared.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kernel = lapic::write(state);
        if let Some(last) = last {
            let now = self.fd.get_lapic().map_err(failed("reading the local APIC"))?;
            lapic::keep_new(&mut kernel, &now, &last.lapic);
        }
        self.fd
            .set_lapic(&kernel)
            .map_err(|e| HvError::State(format!("the host's KVM refuses the local APIC ({e})")))?;
        drop(sending);
        // Behind the local APIC, which says in which mode the timer is.
        self.set_msrs(&[(number::TSC_DEADLINE, state.lapic.tsc_deadline)])?;
        let (extra, message) = lapic::extra(&state.lapic);
        self.apic_extra = extra;
        self.spent_count = lapic::spent_count(&state.lapic);
        self.count = state.lapic.registers[lapic::CURRENT_COUNT];
        if self.id == 0 && last.is_none_or(|last| lapic::extra(&last.lapic).1 != message) {
            self.shared.ext_int.set_message(message);
        }
        // The ends of those that came while another engine ran the CPU are to be told of, too.
        for vector in lapic::level_triggered(&state.lapic) {
            let address = 0xfee0_0000 | u64::from(self.id) << 12;
            self.shared.watch_end_of(Msi { address, data: msi::LEVEL_ASSERTED | u32::from(vector) });
        }
        Ok(())
    }

    fn read_xcr0(&self) -> Result<u64, HvError> {
        let xcrs = self.fd.get_xcrs().map_err(failed("reading XCR0"))?;
        let known = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
        Ok(known.into_iter().find(|entry| entry.xcr == 0).map_or(1, |entry| entry.value))
    }

    fn read_msrs(&self, state: &mut CpuState) -> Result<(), HvError> {
        let mut numbers = msr::kernel_msrs(self.setup.spec_ctrl);
        numbers.push(number::TSC_DEADLINE);
        for (number, value) in self.get_msrs(&numbers)? {
            match number {
                number::TSC_DEADLINE => state.lapic.tsc_deadline = value,
                _ => msr::set(&mut state.msrs, number, value),
            }
        }
        Ok(())
    }

    pub(crate) fn get_msrs(&self, numbers: &[u32]) -> Result<Vec<(u32, u64)>, HvError> {
        let entries: Vec<_> = numbers.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| HvError::State("too many MSRs for KVM".into()))?;
        let read = self.fd.get_msrs(&mut msrs).map_err(failed("reading MSRs"))?;
        if let Some(number) = numbers.get(read) {
            return Err(failed(format!("reading MSR {number:#x}"))(kvm_ioctls::Error::new(libc::EINVAL)));
        }
        Ok(msrs.as_slice().iter().map(|entry| (entry.index, entry.data)).collect())
    }

    pub(crate) fn set_msrs(&self, values: &[(u32, u64)]) -> Result<(), HvError> {
        let entry = |&(index, data): &(u32, u64)| kvm_msr_entry { index, data, ..Default::default() };
        let entries: Vec<_> = values.iter().map(entry).collect();
        let msrs = Msrs::from_entries(&entries).map_err(|_| HvError::State("too many MSRs for KVM".into()))?;
        let written = self.fd.set_msrs(&msrs).map_err(failed("writing MSRs"))?;
        match values.get(written) {
            Some((number, value)) => {
                Err(HvError::State(format!("the host's KVM refuses {value:#x} in MSR {number:#x}")))
            }
            None => Ok(()),
        }
    }

    /// The guest's TSC now.
    fn current_tsc(&self) -> Result<u64, HvError> {
        Ok(self.get_msrs(&[number::TSC])?.first().map_or(0, |(_, value)| *value))
    }

    /// The guest's TSC at the machine's time `now`; what it is while that is read where the kernel tells no offset.
    fn tsc(&self, now: Nanos) -> Result<u64, HvError> {
        Ok(self.tsc_and_host(now)?.0)
    }

    /// With the host's of that moment, where the kernel tells an offset.
    pub(crate) fn tsc_and_host(&self, now: Nanos) -> Result<(u64, Option<u64>), HvError> {
        let Some(offset) = registers::tsc_offset(&self.fd) else { return Ok((self.current_tsc()?, None)) };
        let host = self.host_tsc(offset, now)?;
        Ok((offset.wrapping_add(host), Some(host)))
    }

    /// The host's TSC by now, at the guest's rate; 0 where the kernel tells no offset.
    pub(crate) fn current_host_tsc(&self) -> Result<u64, HvError> {
        registers::tsc_offset(&self.fd).map_or(Ok(0), |offset| Ok(self.current_tsc()?.wrapping_sub(offset)))
    }

    /// Makes the guest's TSC go on from `tsc` at the machine's time `now`. The kernel takes a write of the MSR near what it
    /// expects for an attempt to synchronise CPUs, and ignores it; so the offset is set, where that can be done.
    pub(crate) fn set_tsc(&self, tsc: u64, now: Nanos) -> Result<(), HvError> {
        let Some(offset) = registers::tsc_offset(&self.fd) else { return self.set_msrs(&[(number::TSC, tsc)]) };
        let host = self.host_tsc(offset, now)?;
        registers::set_tsc_offset(&self.fd, tsc.wrapping_sub(host))
            .map_or_else(|| self.set_msrs(&[(number::TSC, tsc)]), Ok)
    }

    /// The host's TSC at the machine's time `now`, at the guest's rate; `offset` is what the guest's has more.
    fn host_tsc(&self, offset: u64, now: Nanos) -> Result<u64, HvError> {
        self.shared.host_tsc.at(now, || Ok(self.current_tsc()?.wrapping_sub(offset)))
    }
}
