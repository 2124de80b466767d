//! `--profile`: tells a [`Profiler`] where the guest is, at the ticks of a clock of the host's.
//!
//! Behind each tick the vCPU is rung, as for a kick: KVM_RUN comes back between two instructions, and what the time belongs to
//! is read from the kernel's registers. A CPU that sleeps in HLT is found there.

use crate::kick::Door;
use crate::state::registers;
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use motu_hv::{Frames, GuestSample, HvError, MAX_CALLERS, Profiler, Ticks};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::flags::efer;
use motu_x86::{CpuState, Gpa, Paging, Segment, msr};
use std::sync::Arc;

/// A profiler and its clock, which stops when this is dropped.
pub struct Sampler {
    profiler: Box<dyn Profiler>,
    ticks: Ticks,
    ram: GuestRam,
}

impl Sampler {
    /// # Errors
    /// The host gives no thread.
    pub fn start(profiler: Box<dyn Profiler>, door: Arc<Door>, ram: GuestRam) -> Result<Self, HvError> {
        Ok(Self { profiler, ticks: Ticks::start(move || door.ring())?, ram })
    }

    /// What passed before now is no time of the guest's.
    pub fn forget(&self) {
        self.ticks.forget();
    }

    /// A tick has come since the last time.
    pub fn is_due(&self) -> bool {
        self.ticks.has_come()
    }

    /// Tells where the CPU is, between two instructions, if a tick has come since the last time.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub fn take(&mut self, fd: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        let Some(time) = self.ticks.take() else { return Ok(()) };
        let mut state = CpuState::default();
        registers::read(&mut state, &fd.get_regs()?);
        registers::get_system(fd, &mut state)?;
        // A CPU that waits to be started sleeps, too.
        let halted = fd.get_mp_state()?.mp_state != KVM_MP_STATE_RUNNABLE;
        let mut callers = [0; MAX_CALLERS];
        let count = if halted { 0 } else { callers_of(&state, &self.ram, &mut callers) };
        let code = &state.segments.cs;
        self.profiler.sample(&GuestSample {
            time,
            halted,
            linear: if is_64_bit(&state) { state.rip } else { state.rip.wrapping_add(code.base) & 0xffff_ffff },
            // Also in real mode, where it is 0, and in virtual-8086 mode, where it is 3.
            cpl: state.segments.ss.dpl(),
            cr3: state.cr3,
            syscall_entry: syscall_entry(fd),
            callers: callers.get(..count).unwrap_or_default(),
        });
        Ok(())
    }
}

fn syscall_entry(fd: &VcpuFd) -> u64 {
    let entry = kvm_msr_entry { index: msr::LSTAR, ..Default::default() };
    let Ok(mut msrs) = Msrs::from_entries(&[entry]) else { return 0 };
    let read = fd.get_msrs(&mut msrs);
    msrs.as_slice().first().filter(|_| read == Ok(1)).map_or(0, |entry| entry.data)
}

fn is_64_bit(state: &CpuState) -> bool {
    state.msrs.efer & efer::LMA != 0 && state.segments.cs.attributes & Segment::L != 0
}

/// Puts the return addresses of the chain of frame pointers into `callers`; gives how many there are.
fn callers_of(state: &CpuState, ram: &GuestRam, callers: &mut [u64]) -> usize {
    let segments = &state.segments;
    let (word, code_base, stack_base, mask) = if is_64_bit(state) {
        (8, 0, 0, u64::MAX)
    } else if segments.cs.attributes & Segment::DB != 0 {
        (4, segments.cs.base, segments.ss.base, 0xffff_ffff)
    } else {
        // Code of 16 bits has near and far calls, and no frames that one could tell from data.
        return 0;
    };
    let linear = |offset: u64| offset.wrapping_add(stack_base) & mask;
    let paging = Paging { directories: state.pdptes, ..Paging::of(state) };
    let read = |address: u64, out: &mut [u8]| look_at(&paging, ram, address & mask, out);
    let (rsp, rbp) = (state.gpr[4], state.gpr[5]);
    Frames { word, code_base, read }.callers(linear(rsp), linear(rbp), callers)
}

/// Fills `out`, of a few bytes, from linear `address` on, whatever rights its pages have; false if some of it is not mapped, or is no RAM.
fn look_at(paging: &Paging, ram: &GuestRam, address: u64, out: &mut [u8]) -> bool {
    let physical = |linear: u64| {
        paging.physical(linear, |at| {
            let mut bytes = [0; 8];
            ram.read(at, &mut bytes).ok().map(|()| u64::from_le_bytes(bytes))
        })
    };
    let here = (PAGE_SIZE - address % PAGE_SIZE).min(out.len() as u64) as usize;
    let Some((first, second)) = out.split_at_mut_checked(here) else { return false };
    let read = |at: Option<Gpa>, out: &mut [u8]| out.is_empty() || at.is_some_and(|at| ram.read(at, out).is_ok());
    read(physical(address), first) && read(physical(address.wrapping_add(here as u64)), second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_found_by_the_guests_page_tables() {
        const TABLES: u64 = 0x1000;
        let ram = GuestRam::new(1 << 20).unwrap();
        let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).unwrap();
        for level in 0..3 {
            put(TABLES + level * 0x1000, (TABLES + (level + 1) * 0x1000) | 1);
        }
        // Linear 0x10000 and 0x11000 lie in pages that are not neighbours; code at 0x12000.
        for (page, physical) in [(0x10, 0x20000), (0x11, 0x30000), (0x12, 0x40000)] {
            put(TABLES + 0x3000 + 8 * page, physical | 1);
        }
        ram.write(Gpa(0x40000), &[0xe8, 0, 0, 0, 0]).unwrap();
        // A frame across the pages' border, and the one above it.
        put(0x20ff8, 0x11010);
        put(0x30000, 0x12005);
        put(0x30010, 0);
        put(0x30018, 0x12005);
        let mut state = CpuState { cr0: 0x8000_0001, cr4: 0x20, cr3: TABLES, ..CpuState::default() };
        state.msrs.efer = 0x500;
        state.segments.cs = Segment::flat_code(8, true);
        (state.gpr[4], state.gpr[5]) = (0x10ff0, 0x10ff8);
        let mut callers = [0; 4];
        assert_eq!(callers_of(&state, &ram, &mut callers), 2);
        assert_eq!(callers, [0x12005, 0x12005, 0, 0]);
        // Bytes of both pages.
        let mut bytes = [0; 4];
        assert!(look_at(&Paging::of(&state), &ram, 0x10ffe, &mut bytes));
        assert_eq!(bytes, [0, 0, 0x05, 0x20]);
        assert!(!look_at(&Paging::of(&state), &ram, 0x12ffe, &mut bytes), "the next page is not mapped");
        state.segments.cs.attributes &= !(Segment::L | Segment::DB);
        assert_eq!(callers_of(&state, &ram, &mut callers), 0, "code of 16 bits");
    }
}
