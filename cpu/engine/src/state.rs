//! [`CpuState`] out of a software CPU and into one.

use crate::cpu::{Cpu, alert, seg};
use crate::exec::debug::dr6;
use crate::lapic::Moment;
use motu_hv::HvError;
use motu_x86::{Activity, CpuState, Nanos, Segments, Shadow};

impl Cpu {
    /// The state at the machine's time `now`.
    pub fn save(&self, now: Nanos) -> CpuState {
        let s = &self.segments;
        let at = Moment { now, tsc: self.tsc_at(now) };
        let activity = if self.is_alerted(alert::WAIT_FOR_SIPI) {
            Activity::WaitForSipi
        } else if self.is_alerted(alert::SHUTDOWN) {
            Activity::Shutdown
        } else if self.is_alerted(alert::HALTED) {
            Activity::Halted
        } else {
            Activity::Active
        };
        CpuState {
            gpr: *self.gprs(),
            rip: self.rip,
            rflags: self.rflags(),
            segments: Segments {
                es: s[seg::ES],
                cs: s[seg::CS],
                ss: s[seg::SS],
                ds: s[seg::DS],
                fs: s[seg::FS],
                gs: s[seg::GS],
                ldtr: self.ldtr,
                tr: self.tr,
            },
            gdtr: self.gdtr,
            idtr: self.idtr,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            pdptes: self.pae_paging().then_some(self.directories),
            cr4: self.cr4,
            xcr0: self.xcr0,
            dr: self.dr,
            msrs: self.msrs.clone(),
            xsave: self.saved_fpu(),
            pkru: self.pkru,
            lapic: self.lapic.save(at),
            tsc: at.tsc,
            activity,
            interrupt_shadow: match self.is_alerted(alert::SHADOW) {
                false => Shadow::None,
                true if self.no_step => Shadow::MovSs,
                true => Shadow::Sti,
            },
            interrupt: self.acknowledged,
            pending_debug: self.debug_trap_bits,
            nmi_pending: self.nmi_pending,
            nmi_blocked: self.nmi_blocked,
        }
    }

    /// The FPU's registers as an image whose header says that all of them are there. PKRU is not among them.
    fn saved_fpu(&self) -> motu_x86::XsaveArea {
        let mut image = (*self.fpu).clone();
        let components = (self.contract.xcr0_mask() & !motu_x86::flags::xcr0::PKRU).to_le_bytes();
        if let Some(bytes) = image.0.get_mut(motu_x86::XsaveArea::XSTATE_BV..motu_x86::XsaveArea::XSTATE_BV + 8) {
            bytes.copy_from_slice(&components);
        }
        image
    }

    /// # Errors
    /// A combination of control bits that no processor can have, or such an APIC.
    pub fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        motu_hv::check_mode(state)?;
        self.tsc_offset = state.tsc.wrapping_sub(now.0);
        let at = Moment { now, tsc: state.tsc };
        self.lapic.restore(&state.lapic, at).map_err(|e| HvError::State(e.to_string()))?;
        *self.gprs_mut() = state.gpr;
        self.rip = state.rip;
        self.set_rflags(state.rflags);
        let s = &state.segments;
        self.segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs];
        self.ldtr = s.ldtr;
        self.tr = s.tr;
        self.gdtr = state.gdtr;
        self.idtr = state.idtr;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.xcr0 = state.xcr0;
        self.dr = state.dr;
        self.msrs = state.msrs.clone();
        *self.fpu = state.xsave.clone();
        crate::native::make_live(&mut self.fpu);
        self.pkru = state.pkru;
        self.alerts = 0;
        self.set_alert(alert::HALTED, state.activity == Activity::Halted);
        self.set_alert(alert::WAIT_FOR_SIPI, state.activity == Activity::WaitForSipi);
        self.set_alert(alert::SHUTDOWN, state.activity == Activity::Shutdown);
        self.set_alert(alert::SHADOW, state.interrupt_shadow != Shadow::None);
        self.no_step = state.interrupt_shadow == Shadow::MovSs;
        self.acknowledged = state.interrupt;
        self.nmi_pending = state.nmi_pending;
        self.nmi_blocked = state.nmi_blocked;
        self.cpl = if self.virtual_8086() {
            3
        } else if self.protected_mode() {
            (s.cs.selector & 3) as u8
        } else {
            0
        };
        self.init_pending = false;
        (self.restart, self.external) = (None, 0);
        self.repeat_flags = None;
        (self.watch_hits, self.debug_trap_bits) = (0, state.pending_debug & dr6::WRITABLE);
        self.set_alert(alert::TRAP, self.debug_trap_bits != 0);
        self.code_writes.clear();
        self.note_events();
        self.breakpoints_changed();
        match state.pdptes {
            Some(directories) => self.directories = directories,
            None => self.reload_directories(),
        }
        self.mode_changed();
        Ok(())
    }
}
