//! i386 kernels: the 32-bit entry of a bzImage, and PVH in an ELF of 32 bits.

use super::*;
use motu_x86::Segment;

/// Flat 32-bit protected mode without paging, interrupts off, descriptors in memory.
#[track_caller]
fn assert_flat_protected(ram: &GuestRam, state: &CpuState) {
    let segments = state.segments;
    assert_eq!((state.cr0 & 0x8000_0001, state.cr4, state.msrs.efer), (1, 0, 0));
    assert_eq!(segments.cs, Segment::flat_code(0x10, false));
    for data in [segments.ds, segments.es, segments.ss] {
        assert_eq!(data, Segment::flat_data(0x18));
    }
    assert_eq!(state.rflags, 2, "IF and all else is off");
    assert_eq!(read(ram, state.gdtr.base + 0x10, 8), 0x00cf_9b00_0000_ffffu64.to_le_bytes());
    assert_eq!(read(ram, state.gdtr.base + 0x18, 8), 0x00cf_9300_0000_ffffu64.to_le_bytes());
    assert!(state.gdtr.limit >= 0x1f);
}

#[test]
fn a_32_bit_bzimage_is_entered_where_it_is_loaded() {
    let ram = ram(64);
    let spec = BzImageSpec { xloadflags: 0x4, ..BzImageSpec::default() };
    let state = boot(&ram, spec.build(), "console=ttyS0").unwrap();
    assert_flat_protected(&ram, &state);
    assert_eq!(state.rip, spec.pref_address);
    let [_, _, _, ebx, _, ebp, esi, edi, ..] = state.gpr;
    assert_eq!((ebx, ebp, esi, edi), (0, 0, ZERO_PAGE, 0));
    assert_eq!(read(&ram, spec.pref_address, spec.code.len()), spec.code);
    let header = read_as::<boot_params>(&ram, ZERO_PAGE).hdr;
    assert_eq!(({ header.code32_start }, { header.cmd_line_ptr }), (spec.pref_address as u32, COMMAND_LINE as u32));
}

#[test]
fn a_flag_that_is_newer_than_the_protocol_says_nothing() {
    let spec = BzImageSpec { version: 0x20b, ..BzImageSpec::default() };
    let state = boot(&ram(64), spec.build(), "").unwrap();
    assert_eq!((state.rip, state.cr0 & 0x8000_0001), (spec.pref_address, 1));
}

#[test]
fn old_protocols_have_the_limits_of_their_time() {
    // 2.09: no preferred address; 2.02: neither a limit for the initrd nor one for the command line.
    let ram = GuestRam::new(1024 * MIB).unwrap();
    let old = |version: u16| BzImageSpec { version, initrd_addr_max: 0, cmdline_size: 0, ..BzImageSpec::default() };
    let place = |spec: BzImageSpec, cmdline: &str| {
        let source = BootSource { modules: initrd(vec![7; 100]), cmdline: cmdline.into(), ..source(spec.build()) };
        let state = load(&ram, &source, &BoardTables::default())?;
        let initrd = read_as::<boot_params>(&ram, ZERO_PAGE).hdr.ramdisk_image;
        Ok::<_, BootError>((state.rip, initrd))
    };
    assert_eq!(place(old(0x202), &"x".repeat(255)).unwrap(), (HIGH_MEMORY, 0x37ff_f000));
    let long = place(old(0x202), &"x".repeat(256)).unwrap_err();
    assert!(matches!(long, BootError::CommandLineTooLong { length: 256, max: 255 }));
    let limits = BzImageSpec { initrd_addr_max: 0x1fff_ffff, cmdline_size: 300, ..old(0x209) };
    assert_eq!(place(limits, &"x".repeat(300)).unwrap(), (HIGH_MEMORY, 0x1fff_f000));
}

#[test]
fn the_size_of_the_oldest_is_that_of_the_file() {
    // Before 2.04 the upper half of syssize was something else.
    let spec = BzImageSpec { version: 0x203, ..BzImageSpec::default() };
    let mut image = spec.build();
    image[0x1f6..0x1f8].copy_from_slice(&[0xff, 0xff]);
    let ram = ram(64);
    boot(&ram, image.clone(), "").unwrap();
    assert_eq!(read(&ram, HIGH_MEMORY, spec.code.len()), spec.code);
    image[0x206] = 4;
    assert!(matches!(boot(&ram, image, ""), Err(BootError::Truncated { .. })));
}

#[test]
fn a_last_paragraph_in_part_is_loaded_so_far() {
    let spec = BzImageSpec::default();
    let mut image = spec.build();
    image.truncate(image.len() - 8);
    let ram = ram(64);
    boot(&ram, image, "").unwrap();
    let loaded = read(&ram, spec.pref_address, spec.code.len());
    let (whole, cut) = loaded.split_at(spec.code.len() - 8);
    assert_eq!((whole, cut), (&spec.code[..whole.len()], [0; 8].as_slice()));
}

#[test]
fn a_pvh_kernel_of_32_bits() {
    let ram = ram(64);
    let spec = ElfSpec::i386();
    let state = boot(&ram, spec.build(), "quiet").unwrap();
    assert_flat_protected(&ram, &state);
    assert_eq!((state.rip, state.gpr[3]), (u64::from(spec.entry), BOOT_INFO));
    assert_eq!(read(&ram, spec.address, spec.code.len()), spec.code);
    let info: hvm_start_info = read_as(&ram, BOOT_INFO);
    assert_eq!(read(&ram, info.cmdline_paddr, 6), b"quiet\0");
}

#[test]
fn a_32_bit_elf_for_x86_64_boots_too_and_a_64_bit_one_for_i386_does_not() {
    boot(&ram(16), ElfSpec { machine: 62, ..ElfSpec::i386() }.build(), "").unwrap();
    let mixed = boot(&ram(16), ElfSpec { machine: 3, ..ElfSpec::default() }.build(), "");
    assert!(matches!(mixed, Err(BootError::NotAKernel { .. })));
}

#[test]
fn a_32_bit_elf_cut_anywhere_is_truncated_or_no_kernel() {
    let whole = ElfSpec::i386().build();
    for len in 1..whole.len() {
        let error = boot(&ram(4), whole[..len].to_vec(), "").unwrap_err();
        assert!(matches!(error, BootError::Truncated { .. } | BootError::NotAKernel { .. }), "{len} bytes: {error}");
    }
}

#[test]
fn two_files_are_no_initrd() {
    for kernel in [BzImageSpec::default().build(), ElfSpec::default().build()] {
        let modules = initrd(vec![1]).into_iter().chain(initrd(vec![2])).collect();
        let refused = load(&ram(64), &BootSource { modules, ..source(kernel) }, &BoardTables::default());
        assert!(matches!(refused, Err(BootError::OneInitrd { given: 2, .. })));
    }
}
