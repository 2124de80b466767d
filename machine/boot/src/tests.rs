//! Whole boots of small synthetic kernels, and everything that a person can get wrong.

use super::*;
use crate::layout::{BOOT_INFO, COMMAND_LINE, HIGH_MEMORY, ZERO_PAGE};
use linux_loader::bootparam::boot_params;
use linux_loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use motu_memory::{HIGH_RAM_START, LOW_RAM_END};
use proptest::prelude::*;
use vm_memory::ByteValued;

mod bad_input;
mod compressed;
mod flat;
mod multiboot;
mod synthetic;
mod thirty_two_bit;

use synthetic::{BzImageSpec, ElfSpec};

const MIB: u64 = 1 << 20;

fn ram(mib: u64) -> GuestRam {
    GuestRam::new(mib * MIB).unwrap()
}

fn kernel(bytes: Vec<u8>) -> Image {
    Image::from_bytes(Role::Kernel, "the-kernel", bytes).unwrap()
}

/// Just a kernel.
fn source(bytes: Vec<u8>) -> BootSource {
    BootSource { kernel: kernel(bytes), modules: Vec::new(), cmdline: String::new(), flat: None }
}

fn initrd(content: Vec<u8>) -> Vec<Module> {
    vec![Module::new(Image::from_bytes(Role::Initrd, "the-initrd", content).unwrap(), Vec::new())]
}

fn boot(ram: &GuestRam, bytes: Vec<u8>, cmdline: &str) -> Result<CpuState, BootError> {
    load(ram, &BootSource { cmdline: cmdline.into(), ..source(bytes) }, &BoardTables::default())
}

fn read(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ram.read(Gpa(at), &mut bytes).unwrap();
    bytes
}

fn read_as<T: ByteValued + Default>(ram: &GuestRam, at: u64) -> T {
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(&read(ram, at, size_of::<T>()));
    value
}

#[test]
fn a_bzimage_is_entered_as_the_boot_protocol_wants() {
    let ram = ram(64);
    let spec = BzImageSpec::default();
    let state = boot(&ram, spec.build(), "console=ttyS0").unwrap();

    assert_eq!(state.rip, spec.pref_address + 0x200);
    assert_eq!(state.gpr[6], ZERO_PAGE);
    assert_eq!((state.segments.cs.selector, state.segments.ds.selector), (0x10, 0x18));
    assert_eq!((state.cr0 & 0x8000_0001, state.cr4 & 0x20, state.msrs.efer), (0x8000_0001, 0x20, 0x500));
    assert_eq!(read(&ram, spec.pref_address, spec.code.len()), spec.code);
    assert_eq!(read(&ram, COMMAND_LINE, 14), b"console=ttyS0\0");

    let params: boot_params = read_as(&ram, ZERO_PAGE);
    let header = params.hdr;
    assert_eq!({ header.type_of_loader }, 0xff);
    assert_eq!({ header.cmd_line_ptr }, COMMAND_LINE as u32);
    assert_eq!({ header.ramdisk_size }, 0);
    assert_eq!({ header.version }, 0x20f);
    assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
    assert_eq!(params.e820_entries, 3);
    let (table, last) = (params.e820_table, params.e820_table[2]);
    assert_eq!(({ last.addr }, { last.size }, { last.r#type }), (HIGH_MEMORY, 63 * MIB, 1));
    assert_eq!({ table[3].size }, 0);
    assert_eq!(read(&ram, 0x40e, 2), [0xc0, 0x9f]);
    assert_eq!(read(&ram, 0x413, 2), [0x7f, 0x02]);
}

#[test]
fn header_bytes_beyond_its_own_length_stay_out_of_the_zero_page() {
    let mut image = BzImageSpec::default().build();
    // The header ends before handover_offset, where code may lie.
    image[0x201] = 0x62;
    image[0x264..0x26c].fill(0xee);
    let ram = ram(64);
    boot(&ram, image, "").unwrap();
    let params: boot_params = read_as(&ram, ZERO_PAGE);
    let header = params.hdr;
    assert_eq!({ header.handover_offset }, 0);
    assert_ne!({ header.init_size }, 0);
}

#[test]
fn an_initrd_lies_as_high_as_the_kernel_reaches() {
    let place = |ram: &GuestRam, spec: BzImageSpec, len: usize| {
        let content: Vec<u8> = (0..len).map(|n| n as u8).collect();
        let source = BootSource { modules: initrd(content.clone()), ..source(spec.build()) };
        load(ram, &source, &BoardTables::default()).unwrap();
        let header = read_as::<boot_params>(ram, ZERO_PAGE).hdr;
        assert_eq!({ header.ramdisk_size } as usize, len);
        assert_eq!(read(ram, u64::from(header.ramdisk_image), len), content);
        u64::from(header.ramdisk_image)
    };
    assert_eq!(place(&ram(64), BzImageSpec::default(), 5000), 64 * MIB - 8192);
    let near = BzImageSpec { initrd_addr_max: 0x2ff_ffff, ..BzImageSpec::default() };
    assert_eq!(place(&ram(64), near, 4096), 48 * MIB - 4096);
}

#[test]
fn ram_above_three_gib_is_in_the_map_and_the_initrd_below_it() {
    let ram = GuestRam::new(LOW_RAM_END + 16 * MIB).unwrap();
    let spec = BzImageSpec { initrd_addr_max: u32::MAX, ..BzImageSpec::default() };
    let source = BootSource { modules: initrd(vec![7; 4096]), ..source(spec.build()) };
    load(&ram, &source, &BoardTables::default()).unwrap();
    let params: boot_params = read_as(&ram, ZERO_PAGE);
    let (header, last) = (params.hdr, params.e820_table[3]);
    assert_eq!(u64::from(header.ramdisk_image), LOW_RAM_END - 4096);
    assert_eq!(({ last.addr }, { last.size }), (HIGH_RAM_START, 16 * MIB));
}

#[test]
fn a_pvh_kernel_is_entered_in_protected_mode() {
    let ram = ram(64);
    // What an earlier kernel left where the new one's zeroed data goes.
    ram.write(Gpa(2 * MIB), &[0xaa; 0x3000]).unwrap();
    let spec = ElfSpec::default();
    let source = BootSource { modules: initrd(vec![7; 100]), cmdline: "quiet".into(), ..source(spec.build()) };
    let state = load(&ram, &source, &BoardTables::default()).unwrap();

    assert_eq!(state.rip, u64::from(spec.entry));
    assert_eq!(state.gpr[3], BOOT_INFO);
    assert_eq!((state.cr0 & 0x8000_0001, state.cr4, state.msrs.efer), (1, 0, 0));
    assert_eq!(state.segments.cs, motu_x86::Segment::flat_code(0x10, false));
    assert_eq!(read(&ram, spec.address, spec.code.len()), spec.code);
    let zeros = (spec.memory_len - spec.code.len() as u64) as usize;
    assert_eq!(read(&ram, spec.address + spec.code.len() as u64, zeros), vec![0; zeros]);

    let info: hvm_start_info = read_as(&ram, BOOT_INFO);
    assert_eq!((info.magic, info.version, info.rsdp_paddr), (0x336e_c578, 1, 0xe_0000));
    assert_eq!(read(&ram, info.cmdline_paddr, 6), b"quiet\0");
    let module: hvm_modlist_entry = read_as(&ram, info.modlist_paddr);
    assert_eq!((info.nr_modules, module.paddr, module.size), (1, 64 * MIB - 4096, 100));
    let map: Vec<_> = (0..u64::from(info.memmap_entries))
        .map(|n| read_as::<hvm_memmap_table_entry>(&ram, info.memmap_paddr + n * 24))
        .map(|entry| (entry.addr, entry.size, entry.type_))
        .collect();
    let expected: Vec<_> = memory_map(ram.len()).iter().map(|e| (e.start, e.len, e.kind as u32)).collect();
    assert_eq!(map, expected);
}

#[test]
fn the_entry_note_is_found_behind_others_and_at_either_alignment() {
    for align in [4, 8] {
        let spec = ElfSpec { other_notes: 3, note_align: align, ..ElfSpec::default() };
        assert_eq!(boot(&ram(16), spec.build(), "").unwrap().rip, u64::from(spec.entry));
    }
}

#[test]
fn a_kernel_is_loaded_from_a_file_as_from_memory() {
    use std::io::Write;
    let spec = BzImageSpec::default();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&spec.build()).unwrap();
    let kernel = Image::open(Role::Kernel, file.path()).unwrap();
    let ram = ram(64);
    load(&ram, &BootSource { kernel, ..source(vec![1]) }, &BoardTables::default()).unwrap();
    assert_eq!(read(&ram, spec.pref_address, spec.code.len()), spec.code);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 1..4096)) {
        prop_assert!(boot(&ram(4), bytes, "").is_err());
    }

    /// Whatever the header says, the answer is a state or an error.
    #[test]
    fn random_bzimage_headers_never_panic(header in prop::collection::vec(any::<u8>(), 0x7b), keep in 0usize..0x7b) {
        let mut image = BzImageSpec::default().build();
        let intact = image.clone();
        image[0x1f1..0x1f1 + 0x7b].copy_from_slice(&header);
        image[0x1fe..0x202 + 6].copy_from_slice(&intact[0x1fe..0x202 + 6]);
        let end = 0x1f1 + keep.max(0x17);
        image[0x1f1..end].copy_from_slice(&intact[0x1f1..end]);
        let _ = boot(&ram(32), image, "quiet");
    }

    #[test]
    fn random_elf_headers_never_panic(
        at in 0usize..0x200, junk in prop::collection::vec(any::<u8>(), 1..64), narrow in any::<bool>(),
    ) {
        let spec = if narrow { ElfSpec::i386() } else { ElfSpec::default() };
        let mut image = ElfSpec { other_notes: 2, ..spec }.build();
        let at = at.max(4);
        let end = (at + junk.len()).min(image.len());
        image[at..end].copy_from_slice(&junk[..end - at]);
        let _ = boot(&ram(4), image, "quiet");
    }
}
