//! Control and debug registers, CPUID, MSR access, time, and the rest of ring 0 (Intel SDM vol. 2 and 3).

use super::operand::{Source, in_segment};
use super::width::Width;
use crate::cpu::{CodeSize, Cpu, Done, Faulting, Flow, alert, slot};
use crate::decode::Op;
use motu_x86::Exception;
use motu_x86::contract::CpuidInputs;
use motu_x86::flags::{cr0, cr4, efer, xcr0};

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
    fn set_cr0(&mut self, value: u64) -> Faulting<()> {
        let paging = value & cr0::PG != 0;
        let invalid =
            value >> 32 != 0 || (paging && value & cr0::PE == 0) || (value & cr0::NW != 0 && value & cr0::CD == 0);
        if invalid {
            return self.general_protection(0);
        }
        let was_paging = self.cr0 & cr0::PG != 0;
        if paging && !was_paging && self.msrs.efer & efer::LME != 0 {
            if self.cr4 & cr4::PAE == 0 || self.segments[crate::cpu::seg::CS].attributes & motu_x86::Segment::L != 0 {
                return self.general_protection(0);
            }
            self.msrs.efer |= efer::LMA;
        }
        if !paging && was_paging {
            if self.code_size == CodeSize::Bits64 {
                return self.general_protection(0);
            }
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
        if self.long_mode() && value >> self.contract.physical_address_bits() != 0 {
            return self.general_protection(0);
        }
        self.cr3 = value;
        self.mmu.set_root(value);
        Ok(())
    }

    fn set_cr4(&mut self, value: u64) -> Faulting<()> {
        let leaves_pae = self.long_mode() && value & cr4::PAE == 0;
        if value & !self.contract.cr4_allowed() != 0 || leaves_pae {
            return self.general_protection(0);
        }
        const TRANSLATION: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
        let flush = (value ^ self.cr4) & TRANSLATION != 0;
        self.cr4 = value;
        if flush {
            self.mmu.flush_all();
        }
        self.mode_changed();
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

/// MOV r, DRn.
pub fn read_debug(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let Some(index) = debug_index(cpu, op.imm) else { return cpu.undefined() };
    cpu.set_gpr(op.dst >> 3, cpu.dr[index] & cpu.linear_mask);
    Ok(Flow::Next)
}

/// MOV DRn, r.
pub fn write_debug(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let Some(index) = debug_index(cpu, op.imm) else { return cpu.undefined() };
    let value = cpu.gpr(op.src >> 3) & cpu.linear_mask;
    if index >= 6 && value >> 32 != 0 {
        return cpu.general_protection(0);
    }
    cpu.dr[index] = match index {
        6 => (value & 0xe00f) | 0xffff_0ff0,
        7 => (value & 0xffff_2bff) | 0x400,
        _ => value,
    };
    Ok(Flow::Stop)
}

/// DR4 and DR5 are DR6 and DR7 unless CR4.DE is set.
fn debug_index(cpu: &Cpu, number: u64) -> Option<usize> {
    match number {
        0..=3 | 6 | 7 => Some(number as usize),
        4 | 5 if cpu.cr4 & cr4::DE == 0 => Some(number as usize + 2),
        _ => None,
    }
}

pub fn invlpg(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let address = op.linear(cpu);
    cpu.mmu.flush_page(address);
    Ok(Flow::Stop)
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

pub fn cpuid(cpu: &mut Cpu, _: &Op) -> Done {
    let inputs = CpuidInputs {
        apic_id: cpu.id,
        cpus: cpu.vcpus,
        cr4: cpu.cr4,
        misc_enable: cpu.msrs.misc_enable,
        xcr0: cpu.xcr0,
        apic_enabled: cpu.lapic.is_enabled(),
    };
    let leaf = cpu.gpr(slot::RAX) as u32;
    let subleaf = cpu.gpr(slot::RCX) as u32;
    let found = cpu.contract.cpuid(leaf, subleaf, &inputs);
    cpu.set_gpr(slot::RAX, found.eax.into());
    cpu.set_gpr(slot::RBX, found.ebx.into());
    cpu.set_gpr(slot::RCX, found.ecx.into());
    cpu.set_gpr(slot::RDX, found.edx.into());
    Ok(Flow::Next)
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
    if cpu.gpr(slot::RCX) as u32 != 0 {
        return cpu.general_protection(0);
    }
    let value = cpu.xcr0;
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
