//! General and system registers, and the TSC's offset.

use kvm_bindings::{
    KVM_SREGS2_FLAGS_PDPTRS_VALID, kvm_device_attr, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs, kvm_sregs2,
};
use kvm_ioctls::VcpuFd;
use motu_x86::{CpuState, DescriptorTable, Segment};
use std::os::fd::AsRawFd;

pub fn read(state: &mut CpuState, regs: &kvm_regs) {
    let r = regs;
    state.gpr =
        [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    (state.rip, state.rflags) = (r.rip, r.rflags);
}

pub fn write(state: &CpuState) -> kvm_regs {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let (rip, rflags) = (state.rip, state.rflags);
    kvm_regs { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags }
}

pub fn read_system(state: &mut CpuState, system: &kvm_sregs) {
    let s = &mut state.segments;
    (s.es, s.cs, s.ss) = (segment(&system.es), segment(&system.cs), segment(&system.ss));
    (s.ds, s.fs, s.gs) = (segment(&system.ds), segment(&system.fs), segment(&system.gs));
    (s.ldtr, s.tr) = (segment(&system.ldt), segment(&system.tr));
    let table = |table: &kvm_dtable| DescriptorTable { base: table.base, limit: table.limit };
    (state.gdtr, state.idtr) = (table(&system.gdt), table(&system.idt));
    (state.cr0, state.cr2, state.cr3, state.cr4) = (system.cr0, system.cr2, system.cr3, system.cr4);
    state.msrs.efer = system.efer;
}

pub fn write_system(state: &CpuState) -> kvm_sregs {
    let s = &state.segments;
    let table = |table: DescriptorTable| kvm_dtable { base: table.base, limit: table.limit, ..Default::default() };
    kvm_sregs {
        es: kernel_segment(s.es),
        cs: kernel_segment(s.cs),
        ss: kernel_segment(s.ss),
        ds: kernel_segment(s.ds),
        fs: kernel_segment(s.fs),
        gs: kernel_segment(s.gs),
        ldt: kernel_segment(s.ldtr),
        tr: kernel_segment(s.tr),
        gdt: table(state.gdtr),
        idt: table(state.idtr),
        cr0: state.cr0,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        // The TPR comes with the local APIC.
        cr8: u64::from(state.lapic.registers[8] >> 4 & 0xf),
        efer: state.msrs.efer,
        apic_base: state.lapic.base_msr,
        interrupt_bitmap: [0; 4],
    }
}

/// Bits of [`Segment::attributes`] beside the type, DPL and those with a constant there.
const AVL: u32 = 1 << 12;

fn segment(kernel: &kvm_segment) -> Segment {
    let bit = |set: u8, bit: u32| if set != 0 { bit } else { 0 };
    let attributes = u32::from(kernel.type_ & 0xf)
        | bit(kernel.s, Segment::S)
        | u32::from(kernel.dpl & 3) << 5
        | bit(kernel.present, Segment::PRESENT)
        | bit(kernel.avl, AVL)
        | bit(kernel.l, Segment::L)
        | bit(kernel.db, Segment::DB)
        | bit(kernel.g, Segment::G)
        | bit(kernel.unusable, Segment::UNUSABLE);
    Segment { selector: kernel.selector, base: kernel.base, limit: kernel.limit, attributes }
}

fn kernel_segment(segment: Segment) -> kvm_segment {
    let bit = |bit: u32| u8::from(segment.attributes & bit != 0);
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind() as u8,
        present: bit(Segment::PRESENT),
        dpl: segment.dpl(),
        db: bit(Segment::DB),
        s: bit(Segment::S),
        l: bit(Segment::L),
        g: bit(Segment::G),
        avl: bit(AVL),
        unusable: bit(Segment::UNUSABLE),
        padding: 0,
    }
}

/// KVM_GET_SREGS2 and KVM_SET_SREGS2 (API, 4.132 and 4.133): `_IOR(0xae, 0xcc, struct kvm_sregs2)` and `_IOW(0xae, 0xcd, ...)`. They
/// have the PDPTEs.
const GET_SYSTEM2: libc::c_ulong = 0x8140_aecc;
const SET_SYSTEM2: libc::c_ulong = 0x4140_aecd;
const PDPTES_VALID: u64 = KVM_SREGS2_FLAGS_PDPTRS_VALID as u64;

/// Reads the system registers into a state; gives IA32_APIC_BASE. A kernel before Linux 5.14 tells no PDPTEs.
pub fn get_system(fd: &VcpuFd, state: &mut CpuState) -> Result<u64, kvm_ioctls::Error> {
    let system = fd.get_sregs()?;
    read_system(state, &system);
    state.pdptes = get_system2(fd).filter(|more| more.flags & PDPTES_VALID != 0).map(|more| more.pdptrs);
    Ok(system.apic_base)
}

/// None where the kernel has no such call.
fn get_system2(fd: &VcpuFd) -> Option<kvm_sregs2> {
    let mut more = kvm_sregs2::default();
    // SAFETY: the kernel writes a `kvm_sregs2`, which `more` is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), GET_SYSTEM2, &mut more) };
    (result == 0).then_some(more)
}

/// Writes a state's system registers. Without PDPTEs in it the kernel reads them from memory, as one before Linux 5.14 always does.
pub fn set_system(fd: &VcpuFd, state: &CpuState) -> Result<(), kvm_ioctls::Error> {
    let system = write_system(state);
    fd.set_sregs(&system)?;
    let Some(pdptrs) = state.pdptes else { return Ok(()) };
    let more = with_pdptes(&system, pdptrs);
    // SAFETY: the kernel reads a `kvm_sregs2`, which `more` is.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), SET_SYSTEM2, &more) };
    let error = kvm_ioctls::Error::last();
    if result == 0 || get_system2(fd).is_none() { Ok(()) } else { Err(error) }
}

fn with_pdptes(system: &kvm_sregs, pdptrs: [u64; 4]) -> kvm_sregs2 {
    let kvm_sregs { cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, .. } = *system;
    let kvm_sregs { cr0, cr2, cr3, cr4, cr8, efer, apic_base, .. } = *system;
    let flags = PDPTES_VALID;
    kvm_sregs2 { cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags, pdptrs }
}

/// KVM_SET_DEVICE_ATTR and KVM_GET_DEVICE_ATTR (API, 4.80): `_IOW(0xae, 0xe1 and 0xe2, struct kvm_device_attr)`.
const SET_ATTRIBUTE: libc::c_ulong = 0x4018_aee1;
const GET_ATTRIBUTE: libc::c_ulong = 0x4018_aee2;

/// KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst, 4): what the guest's TSC has more than the
/// host's, scaled.
fn tsc_offset_attribute(value: &mut u64) -> kvm_device_attr {
    kvm_device_attr { group: 0, attr: 0, addr: std::ptr::from_mut(value) as u64, flags: 0 }
}

/// None where the kernel has no such attribute (before Linux 5.16).
pub fn tsc_offset(fd: &VcpuFd) -> Option<u64> {
    let mut value = 0;
    let attribute = tsc_offset_attribute(&mut value);
    // SAFETY: the kernel reads the attribute and writes 8 bytes to where it points, which is `value`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), GET_ATTRIBUTE, &attribute) };
    (result == 0).then_some(value)
}

pub fn set_tsc_offset(fd: &VcpuFd, mut value: u64) -> Option<()> {
    let attribute = tsc_offset_attribute(&mut value);
    // SAFETY: the kernel reads the attribute and 8 bytes from where it points, which is `value`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), SET_ATTRIBUTE, &attribute) };
    (result == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_come_back_as_they_went(selector: u16, base: u64, limit: u32, attributes in 0u32..0x20000) {
            let segment_ = Segment { selector, base, limit, attributes: attributes & !0xf00 };
            prop_assert_eq!(segment(&kernel_segment(segment_)), segment_);
        }

        #[test]
        fn registers_come_back_as_they_went(gpr: [u64; 16], rip: u64, rflags: u64) {
            let state = CpuState { gpr, rip, rflags, ..CpuState::default() };
            let mut back = CpuState::default();
            read(&mut back, &write(&state));
            prop_assert_eq!(back, state);
        }
    }

    #[test]
    fn system_registers_come_back_as_they_went() {
        let mut state = CpuState { cr0: 1, cr2: 2, cr3: 3, cr4: 4, ..CpuState::default() };
        state.gdtr = DescriptorTable { base: 5, limit: 6 };
        state.idtr = DescriptorTable { base: 7, limit: 8 };
        state.msrs.efer = 9;
        state.segments.tr = Segment { selector: 10, base: 11, limit: 12, attributes: 0x8b };
        let mut back = CpuState::default();
        read_system(&mut back, &write_system(&state));
        assert_eq!(back, state);
    }
}
