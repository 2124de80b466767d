//! INIT and start-up messages (Intel SDM vol. 3, 9.4 and 10.1).

use crate::cpu::{Cpu, alert, seg};
use motu_x86::flags::{cr0, rflags};
use motu_x86::{CpuState, DescriptorTable, Segment};

/// The processor that starts without being told.
const BOOTSTRAP: u32 = 0;
/// The family, model and stepping that EDX tells behind INIT are CPUID leaf 1's.
const SIGNATURE_LEAF: u32 = 1;

/// A segment of real-address mode at reset.
fn real_segment(selector: u16, base: u64, code: bool) -> Segment {
    let kind = if code { 0xb } else { 3 };
    Segment { selector, base, limit: 0xffff, attributes: kind | Segment::S | Segment::PRESENT }
}

impl Cpu {
    /// INIT: everything but the FPU, most MSRs and the caches is as after power-up (SDM vol. 3, table 9-1). The
    /// bootstrap processor then starts at the reset vector, any other one waits for a start-up message.
    pub fn initialize(&mut self) {
        let reset = CpuState::default();
        *self.gprs_mut() = reset.gpr;
        let signature = self.contract.cpuid(SIGNATURE_LEAF, 0, &self.cpuid_inputs()).eax;
        self.set_gpr(crate::cpu::slot::RDX, signature.into());
        self.set_rflags(rflags::FIXED_1);
        self.segments = [real_segment(0, 0, false); 6];
        self.segments[seg::CS] = real_segment(0xf000, 0xffff_0000, true);
        self.rip = 0xfff0;
        self.ldtr = Segment { limit: 0xffff, attributes: 2 | Segment::PRESENT, ..Segment::default() };
        self.tr = Segment { limit: 0xffff, attributes: 0xb | Segment::PRESENT, ..Segment::default() };
        self.gdtr = DescriptorTable { base: 0, limit: 0xffff };
        self.idtr = DescriptorTable { base: 0, limit: 0xffff };
        self.cr0 = (self.cr0 & (cr0::CD | cr0::NW)) | cr0::ET;
        (self.cr2, self.cr3, self.cr4) = (0, 0, 0);
        self.dr = reset.dr;
        self.msrs.efer = 0;
        self.pkru = 0;
        self.cpl = 0;
        self.directories = [0; 4];
        self.acknowledged = None;
        (self.init_pending, self.nmi_pending, self.nmi_blocked) = (false, false, false);
        self.repeat_flags = None;
        self.lapic.init();
        self.alerts = 0;
        self.set_alert(alert::WAIT_FOR_SIPI, self.id != BOOTSTRAP);
        self.mmu.flush_all();
        self.breakpoints_changed();
        self.note_events();
    }

    /// A start-up message: real-address mode at page `vector` of the first MiB; of no effect unless one waits for it.
    pub fn start_up(&mut self, vector: u8) {
        if !self.is_alerted(alert::WAIT_FOR_SIPI) {
            return;
        }
        self.set_alert(alert::WAIT_FOR_SIPI, false);
        self.segments[seg::CS] = real_segment(u16::from(vector) << 8, u64::from(vector) << 12, true);
        self.rip = 0;
        self.mode_changed();
    }
}
