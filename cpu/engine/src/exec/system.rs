//! Control and debug registers, CPUID, MSR access, time, and the rest of ring 0 (Intel SDM vol. 2 and 3).

use super::operand::{Source, in_segment};
use super::width::Width;
use crate::cpu::{CodeSize, Cpu, Done, Faulting, Flow, alert, slot};
use crate::decode::Op;
use motu_x86::contract::{CpuidInputs, Feature};
use motu_x86::flags::{cr0, cr4, efer, rflags, xcr0};
use motu_x86::{Exception, Segment};

/// CR0 bits that software can change; ET reads as one, the rest as zero.
const CR0_WRITABLE: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;

/// MOV r, CRn: `op.imm` is n.
pub fn read_control(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = match op.imm {
        0 => cpu.cr0,
        2 => cpu.cr2,
        3 => cpu.cr3,
        4 => cpu.cr4,
        8 => cpu.lapic.cr8(),
        _ => return cpu.undefined(),
    };
    cpu.set_gpr(op.dst >> 3, value & cpu.linear_mask);
    Ok(Flow::Next)
}

/// MOV CRn, r.
pub fn write_control(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = cpu.gpr(op.src >> 3) & cpu.linear_mask;
    match op.imm {
        0 => cpu.set_cr0(value)?,
        2 => cpu.cr2 = value,
        3 => cpu.set_cr3(value)?,
        4 => cpu.set_cr4(value)?,
        8 => {
            if value > 15 {
                return cpu.general_protection(0);
            }
            cpu.lapic.set_cr8(value);
            cpu.note_events();
        }
        _ => return cpu.undefined(),
    }
    Ok(Flow::Stop)
}

impl Cpu {
    /// CR0.PG and CR4.PAE without long mode.
    pub fn pae_paging(&self) -> bool {
        self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 && !self.long_mode()
    }

    /// Takes over the page-directory-pointer-table entries of PAE paging.
    fn load_directories(&mut self, root: u64) -> Faulting<()> {
        match self.mmu.read_directories(root) {
            Some(entries) => {
                self.directories = entries;
                Ok(())
            }
            None => self.general_protection(0),
        }
    }

    /// The same where there is nobody to tell of a reserved bit: a state is restored.
    pub fn reload_directories(&mut self) {
        if self.pae_paging() {
            self.directories = self.mmu.read_directories(self.cr3).unwrap_or_default();
        }
    }

    fn set_cr0(&mut self, value: u64) -> Faulting<()> {
        let paging = value & cr0::PG != 0;
        let invalid =
            value >> 32 != 0 || (paging && value & cr0::PE == 0) || (value & cr0::NW != 0 && value & cr0::CD == 0);
        if invalid || (!paging && self.cr4 & cr4::PCIDE != 0) {
            return self.general_protection(0);
        }
        let was_paging = self.cr0 & cr0::PG != 0;
        let enters_long = paging && !was_paging && self.msrs.efer & efer::LME != 0;
        if enters_long {
            let cs = self.segments[crate::cpu::seg::CS].attributes;
            if self.cr4 & cr4::PAE == 0 || cs & Segment::L != 0 || matches!(self.tr.kind(), 1 | 3) {
                return self.general_protection(0);
            }
        }
        if !paging && was_paging && self.code_size == CodeSize::Bits64 {
            return self.general_protection(0);
        }
        const RELOADING: u64 = cr0::PG | cr0::CD | cr0::NW;
        let pae = paging && self.cr4 & cr4::PAE != 0 && !enters_long && !self.long_mode();
        if pae && (value ^ self.cr0) & RELOADING != 0 {
            self.load_directories(self.cr3)?;
        }
        if enters_long {
            self.msrs.efer |= efer::LMA;
        } else if !paging {
            self.msrs.efer &= !efer::LMA;
        }
        self.cr0 = (value & CR0_WRITABLE) | cr0::ET;
        if paging != was_paging {
            self.mmu.flush_all();
        }
        self.mode_changed();
        Ok(())
    }

    fn set_cr3(&mut self, value: u64) -> Faulting<()> {
        // With PCIDs bit 63 asks that translations be kept, which nothing needs to do (SDM vol. 3, 4.10.4.1).
        let value = if self.cr4 & cr4::PCIDE != 0 { value & !(1 << 63) } else { value };
        if self.long_mode() && value >> self.contract.physical_address_bits() != 0 {
            return self.general_protection(0);
        }
        if self.pae_paging() {
            self.load_directories(value)?;
        }
        self.use_root(value);
        Ok(())
    }

    fn use_root(&mut self, value: u64) {
        self.cr3 = value;
        self.mmu.control.directories = self.directories;
        self.mmu.set_root(value);
    }

    /// CR3 from a TSS.
    pub fn load_task_root(&mut self, value: u64) -> Faulting<()> {
        if self.pae_paging() {
            self.load_directories(value)?;
        }
        self.use_root(value);
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Faulting<()> {
        let leaves_pae = self.long_mode() && value & cr4::PAE == 0;
        let enters_pcid = value & !self.cr4 & cr4::PCIDE != 0;
        let no_pcid = enters_pcid && (!self.long_mode() || self.cr3 & 0xfff != 0);
        if value & !self.contract.cr4_allowed() != 0 || leaves_pae || no_pcid {
            return self.general_protection(0);
        }
        const TRANSLATION: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
        let changed = value ^ self.cr4;
        let pae = self.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 && !self.long_mode();
        if pae && changed & TRANSLATION != 0 {
            self.load_directories(self.cr3)?;
        }
        self.cr4 = value;
        if changed & (TRANSLATION | cr4::PCIDE) != 0 {
            self.mmu.flush_all();
        }
        self.breakpoints_changed();
        Ok(())
    }
}

/// LMSW: PE can be set, not cleared.
pub fn lmsw<S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let word = u64::from(S::get::<u16>(cpu, op)?) & 0xf;
    let value = (cpu.cr0 & !0xe) | word;
    cpu.set_cr0(value)?;
    Ok(Flow::Stop)
}

pub fn clts(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    cpu.cr0 &= !cr0::TS;
    Ok(Flow::Stop)
}

pub fn invlpg(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let address = op.linear(cpu);
    cpu.mmu.flush_page(address);
    Ok(Flow::Stop)
}

/// INVPCID (SDM vol. 2). There are no tags in the TLB: whatever is asked for, all that it covers goes.
pub fn invpcid(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let kind = if cpu.code_size == CodeSize::Bits64 {
        cpu.register::<u64>(op.dst)
    } else {
        cpu.register::<u32>(op.dst).into()
    };
    let at = op.linear(cpu);
    let pcid = cpu.load::<u64>(at).map_err(|fault| in_segment(cpu, op, fault))?;
    let address = cpu.load::<u64>(at.wrapping_add(8) & cpu.linear_mask).map_err(|fault| in_segment(cpu, op, fault))?;
    let names_pcid = kind < 2;
    let wrong_pcid = pcid & 0xfff != 0 && cpu.cr4 & cr4::PCIDE == 0;
    let wrong_address = kind == 0 && !crate::mmu::is_canonical(address);
    if kind > 3 || pcid >> 12 != 0 || (names_pcid && wrong_pcid) || wrong_address {
        return cpu.general_protection(0);
    }
    match kind {
        0 => cpu.mmu.flush_page(address),
        2 => cpu.mmu.flush_all(),
        _ => cpu.mmu.flush_local(),
    }
    Ok(Flow::Stop)
}

/// STAC, and CLAC where not `ON`.
pub fn set_alignment_check<const ON: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.cpl != 0 || !cpu.protected_mode() {
        return cpu.undefined();
    }
    let flags = cpu.rflags();
    cpu.set_rflags(if ON { flags | rflags::AC } else { flags & !rflags::AC });
    Ok(Flow::Stop)
}

/// RDPKRU and WRPKRU (`WRITE`).
pub fn protection_keys<const WRITE: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.cr4 & cr4::PKE == 0 {
        return cpu.undefined();
    }
    let zero = |register: u8| cpu.gpr(register) as u32 == 0;
    if !zero(slot::RCX) || (WRITE && !zero(slot::RDX)) {
        return cpu.general_protection(0);
    }
    if WRITE {
        cpu.set_pkru(cpu.gpr(slot::RAX) as u32);
    } else {
        set_pair(cpu, cpu.pkru.into());
    }
    Ok(Flow::Stop)
}

impl Cpu {
    pub fn set_pkru(&mut self, value: u32) {
        if self.pkru != value {
            self.pkru = value;
            self.mode_changed();
        }
    }
}

/// INVD, WBINVD: caches are always coherent here.
pub fn invalidate_caches(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    Ok(Flow::Next)
}

/// CLFLUSH, CLFLUSHOPT, CLWB: nothing to flush, but the address must be readable (SDM vol. 2, CLFLUSH).
pub fn touch(cpu: &mut Cpu, op: &Op) -> Done {
    let address = op.linear(cpu);
    cpu.load::<u8>(address).map_err(|fault| in_segment(cpu, op, fault))?;
    Ok(Flow::Next)
}

pub fn hlt(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    cpu.set_alert(alert::HALTED, true);
    Ok(Flow::Stop)
}

impl Cpu {
    /// What CPUID depends on beside the contract.
    pub fn cpuid_inputs(&self) -> CpuidInputs {
        CpuidInputs {
            apic_id: self.id,
            cpus: self.processors.count(),
            cr4: self.cr4,
            misc_enable: self.msrs.misc_enable,
            xcr0: self.xcr0,
            apic_enabled: self.lapic.is_enabled(),
        }
    }
}

pub fn cpuid(cpu: &mut Cpu, _: &Op) -> Done {
    let inputs = cpu.cpuid_inputs();
    let leaf = cpu.gpr(slot::RAX) as u32;
    let subleaf = cpu.gpr(slot::RCX) as u32;
    let found = cpu.contract.cpuid(leaf, subleaf, &inputs);
    cpu.set_gpr(slot::RAX, found.eax.into());
    cpu.set_gpr(slot::RBX, found.ebx.into());
    cpu.set_gpr(slot::RCX, found.ecx.into());
    cpu.set_gpr(slot::RDX, found.edx.into());
    // It serialises (SDM vol. 3, 9.3): what other processors have written to the code behind it runs.
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(Flow::Stop)
}

fn set_pair(cpu: &mut Cpu, value: u64) {
    cpu.set_gpr(slot::RAX, value & 0xffff_ffff);
    cpu.set_gpr(slot::RDX, value >> 32);
}

fn pair(cpu: &Cpu) -> u64 {
    (cpu.gpr(slot::RDX) << 32) | (cpu.gpr(slot::RAX) & 0xffff_ffff)
}

/// RDTSC, and RDTSCP where `WITH_AUX`.
pub fn rdtsc<const WITH_AUX: bool>(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0 {
        return cpu.general_protection(0);
    }
    let tsc = cpu.tsc();
    set_pair(cpu, tsc);
    if WITH_AUX {
        cpu.set_gpr(slot::RCX, cpu.msrs.tsc_aux.into());
    }
    Ok(Flow::Next)
}

pub fn rdmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = cpu.read_msr(cpu.gpr(slot::RCX) as u32)?;
    set_pair(cpu, value);
    Ok(Flow::Next)
}

pub fn wrmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = pair(cpu);
    cpu.write_msr(cpu.gpr(slot::RCX) as u32, value)?;
    Ok(Flow::Stop)
}

/// No contract has performance counters: every counter number is out of range.
pub fn rdpmc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.general_protection(0)
}

pub fn xgetbv(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return cpu.undefined();
    }
    let value = match cpu.gpr(slot::RCX) as u32 {
        0 => cpu.xcr0,
        1 if cpu.contract.has(Feature::XgetbvInUse) => cpu.xcr0 & cpu.components_in_use(),
        _ => return cpu.general_protection(0),
    };
    set_pair(cpu, value);
    Ok(Flow::Next)
}

pub fn xsetbv(cpu: &mut Cpu, _: &Op) -> Done {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return cpu.undefined();
    }
    cpu.require_cpl0()?;
    let value = pair(cpu);
    let avx_without_sse = value & xcr0::AVX != 0 && value & xcr0::SSE == 0;
    let invalid = value & !cpu.contract.xcr0_mask() != 0 || value & xcr0::X87 == 0 || avx_without_sse;
    if cpu.gpr(slot::RCX) as u32 != 0 || invalid {
        return cpu.general_protection(0);
    }
    cpu.xcr0 = value;
    Ok(Flow::Stop)
}

/// RDRAND and RDSEED: from the host's kernel, which every host has. CF is clear when it has none to
/// give, and then the register is zero (SDM vol. 2, RDRAND).
pub fn random<W: Width>(cpu: &mut Cpu, op: &Op) -> Done {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    let ok = got == bytes.len() as isize;
    let value = if ok { u64::from_le_bytes(bytes) } else { 0 };
    cpu.set_register(op.dst, W::from_u64(value));
    cpu.arith = if ok { super::width::arith::CF } else { 0 };
    Ok(Flow::Next)
}

/// RDPID.
pub fn rdpid(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.set_gpr(op.dst >> 3, cpu.msrs.tsc_aux.into());
    Ok(Flow::Next)
}

/// #UD: what no contract has, and what decodes to nothing.
pub fn undefined(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.raise(Exception::plain(Exception::UD))
}

/// #GP(0): an instruction longer than 15 bytes (SDM vol. 2, 2.3.11).
pub fn too_long(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.general_protection(0)
}
