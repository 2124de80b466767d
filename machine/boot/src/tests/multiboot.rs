//! Multiboot kernels: ELF or not, and what they are told.

use super::synthetic::multiboot_header;
use super::*;
use std::ffi::OsStr;
use std::fs;

/// The header says itself where the file goes.
const HAS_ADDRESSES: u32 = 1 << 16;
const MAGIC: u64 = 0x2bad_b002;

/// The information structure as 32-bit words.
fn info(ram: &GuestRam, state: &CpuState) -> Vec<u32> {
    let bytes = read(ram, state.gpr[3], 88);
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The text that lies at `at`, to its NUL.
fn text(ram: &GuestRam, at: u32) -> String {
    let bytes = read(ram, at.into(), 300);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

fn modules(given: &[(usize, &str)]) -> Vec<Module> {
    let image = |len: usize| Image::from_bytes(Role::Module, "m", vec![len as u8; len]).unwrap();
    given.iter().map(|(len, text)| Module::new(image(*len), text.as_bytes().to_vec())).collect()
}

fn error(bytes: Vec<u8>) -> BootError {
    boot(&ram(16), bytes, "").unwrap_err()
}

#[test]
fn an_elf_is_entered_in_protected_mode_with_the_magic_number() {
    let ram = ram(64);
    let spec = ElfSpec::multiboot(3);
    let state = boot(&ram, spec.build(), "").unwrap();
    assert_eq!((state.rip, state.gpr[0], state.gpr[3]), (spec.header_entry, MAGIC, BOOT_INFO));
    assert_eq!((state.cr0 & 0x8000_0001, state.rflags), (1, 2));
    assert_eq!(state.segments.cs, motu_x86::Segment::flat_code(0x10, false));
    assert_eq!(read(&ram, spec.address, spec.code.len()), spec.code);
    let zeros = (spec.memory_len - spec.code.len() as u64) as usize;
    assert_eq!(read(&ram, spec.address + spec.code.len() as u64, zeros), vec![0; zeros]);
}

#[test]
fn the_information_has_memory_command_line_and_loader() {
    let ram = ram(64);
    let state = boot(&ram, ElfSpec::multiboot(3).build(), "com1=115200 x").unwrap();
    let info = info(&ram, &state);
    assert_eq!(info[0], 0b10_0100_0101, "memory, command line, memory map, loader's name");
    assert_eq!((info[1], info[2]), (639, 63 * 1024));
    assert_eq!(text(&ram, info[4]), "the-kernel com1=115200 x");
    assert_eq!(text(&ram, info[16]), "motu");
    assert_eq!((info[5], info[6]), (0, 0), "no modules");

    let entries: Vec<_> = read(&ram, info[12].into(), info[11] as usize)
        .chunks_exact(24)
        .map(|entry| {
            let long = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            assert_eq!(entry[..4], [20, 0, 0, 0], "bytes behind the size field");
            (long(4), long(12), u32::from(entry[20]))
        })
        .collect();
    let expected: Vec<_> = memory_map(ram.len()).iter().map(|e| (e.start, e.len, e.kind as u32)).collect();
    assert_eq!(entries, expected);
}

#[test]
fn a_large_machine_says_what_lies_below_4_gib() {
    let ram = GuestRam::new(LOW_RAM_END + 16 * MIB).unwrap();
    let state = boot(&ram, ElfSpec::multiboot(0).build(), "").unwrap();
    assert_eq!(info(&ram, &state)[2], (LOW_RAM_END >> 10) as u32 - 1024);
    assert_eq!(text(&ram, info(&ram, &state)[4]), "the-kernel");
}

#[test]
fn modules_lie_on_pages_behind_the_kernel_with_their_texts() {
    let ram = ram(64);
    let spec = ElfSpec::multiboot(3);
    let modules = modules(&[(5000, "vmlinuz console=hvc0"), (3, "initrd.img")]);
    let state = load(&ram, &BootSource { modules, ..source(spec.build()) }, &BoardTables::default()).unwrap();
    let info = info(&ram, &state);
    assert_eq!((info[0] & 8, info[5]), (8, 2));
    let list: Vec<u32> = read(&ram, info[6].into(), 32)
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let first = (spec.address + spec.memory_len).next_multiple_of(4096) as u32;
    assert_eq!((list[0], list[1], list[3]), (first, first + 5000, 0));
    assert_eq!((list[4], list[5], list[7]), (first + 8192, first + 8195, 0));
    assert_eq!(text(&ram, list[2]), "vmlinuz console=hvc0");
    assert_eq!(text(&ram, list[6]), "initrd.img");
    assert_eq!(read(&ram, list[0].into(), 5000), vec![5000usize as u8; 5000]);
    assert_eq!(read(&ram, list[4].into(), 3), vec![3; 3]);
}

#[test]
fn an_entry_that_is_a_virtual_address_is_translated() {
    let spec = ElfSpec { virtual_offset: 0xc000_0000, header_entry: 0xc020_0020, ..ElfSpec::multiboot(0) };
    assert_eq!(boot(&ram(16), spec.build(), "").unwrap().rip, 0x20_0020);
    let wide = ElfSpec { class: 2, machine: 62, ..spec };
    assert_eq!(boot(&ram(16), wide.build(), "").unwrap().rip, 0x20_0020, "in 64 bits too");
}

#[test]
fn a_multiboot_header_counts_before_a_pvh_note() {
    let spec = ElfSpec { entry: 0x20_0040, ..ElfSpec::multiboot(0) };
    assert_eq!(boot(&ram(16), spec.build(), "").unwrap().gpr[0], MAGIC);
}

/// A file with its header at 8, loaded with the 8 bytes before it.
fn kludge(load: u32, load_end: u32, bss_end: u32, entry: u32) -> Vec<u8> {
    let mut file = vec![0x90; 8];
    file.extend(multiboot_header(HAS_ADDRESSES, &[load + 8, load, load_end, bss_end, entry]));
    file.resize(0x1000, 0x91);
    file
}

#[test]
fn a_file_that_is_no_elf_goes_where_its_header_says() {
    let ram = ram(16);
    ram.write(Gpa(MIB), &[0xaa; 0x3000]).unwrap();
    let file = kludge(MIB as u32, MIB as u32 + 0x100, MIB as u32 + 0x2000, MIB as u32 + 0x28);
    let state = boot(&ram, file.clone(), "").unwrap();
    assert_eq!((state.rip, state.gpr[0]), (MIB + 0x28, MAGIC));
    assert_eq!(read(&ram, MIB, 0x100), file[..0x100]);
    assert_eq!(read(&ram, MIB + 0x100, 0x1f00), vec![0; 0x1f00]);
    assert_eq!(read(&ram, MIB + 0x2000, 1), [0xaa]);

    let whole = boot(&ram, kludge(MIB as u32, 0, 0, MIB as u32), "").unwrap();
    assert_eq!(whole.rip, MIB);
    assert_eq!(read(&ram, MIB, 0x1000), kludge(MIB as u32, 0, 0, MIB as u32));
}

#[test]
fn headers_that_contradict_themselves() {
    let load = MIB as u32;
    let damaged = |file: Vec<u8>, word: &str| {
        let error = error(file);
        assert!(matches!(error, BootError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    damaged(kludge(load, load - 1, 0, load), "ends before");
    damaged(kludge(load, load + 0x1001, 0, load), "more is loaded");
    damaged(kludge(load, load + 0x100, load + 0xff, load), "zeroed data");
    damaged(kludge(load, 0, 0, load - 1), "entry");
    let behind = multiboot_header(HAS_ADDRESSES, &[load - 4, load, 0, 0, load]);
    damaged(behind, "behind its own header");
    let before = multiboot_header(HAS_ADDRESSES, &[load + 4, load, 0, 0, load]);
    damaged(before, "before it");
    damaged(multiboot_header(0, &[0; 20]), "no ELF");
    damaged(ElfSpec { header_entry: 0x30_0000, ..ElfSpec::multiboot(0) }.build(), "entry");
    damaged(ElfSpec { memory_len: 16, ..ElfSpec::multiboot(0) }.build(), "16 in memory");
}

#[test]
fn needs_of_a_kernel() {
    let text = error(ElfSpec::multiboot(0x10).build()).to_string();
    assert!(text.contains("flags 0x10") && text.contains("the-kernel"), "{text}");
    boot(&ram(16), ElfSpec::multiboot(4).build(), "").expect("a video mode is not insisted on");
}

#[test]
fn low_memory_is_free_but_for_what_is_written_there() {
    boot(&ram(16), kludge(0x7000, 0, 0, 0x7000), "").unwrap();
    boot(&ram(16), kludge(0x3_0000, 0, 0x9_fc00, 0x3_0000), "").unwrap();
    for (load, what) in
        [(0, "GDT"), (0x5800, "multiboot information"), (0x2_ffff, "command line"), (0xf_0000, "tables")]
    {
        let error = error(kludge(load, 0, 0, load));
        assert!(matches!(error, BootError::Overlap { start, .. } if start == u64::from(load)), "{error}");
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn what_does_not_fit() {
    let with = |given: &[(usize, &str)], cmdline: &str| {
        let source =
            BootSource { modules: modules(given), cmdline: cmdline.into(), ..source(ElfSpec::multiboot(0).build()) };
        load(&ram(4), &source, &BoardTables::default())
    };
    let room = 4 * MIB as usize - 0x20_3000;
    with(&[(room, "m")], "").unwrap();
    let text = with(&[(room + 1, "m")], "").unwrap_err().to_string();
    assert!(text.contains("the module m of") && text.contains("more memory"), "{text}");
    assert!(matches!(with(&[(room, "m"), (1, "n")], ""), Err(BootError::InitrdTooLarge { bytes: 1, free: 0, .. })));
    let long = "x".repeat(0x8000);
    with(&[(1, &long)], "").unwrap();
    let text = with(&[(1, &long), (1, &long)], "").unwrap_err().to_string();
    assert!(text.contains("65536"), "{text}");
    assert!(matches!(with(&[(1, "a\0b")], ""), Err(BootError::CommandLineNul { position: 1 })));
    assert!(matches!(with(&[], "a\0b"), Err(BootError::CommandLineNul { position: 1 })));
    let huge = ElfSpec { memory_len: 0x1000_0000, ..ElfSpec::multiboot(0) };
    assert!(matches!(error(huge.build()), BootError::KernelTooLarge { .. }));
}

#[test]
fn the_list_of_modules_is_one_only_for_a_multiboot_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["a", "b", "a x,b"] {
        fs::write(path(name), name).unwrap();
    }
    let multiboot = kernel(ElfSpec::multiboot(0).build());
    let list = format!("{} x=1,,2,{}", path("a"), path("b"));
    let opened = Module::open_all(&multiboot, OsStr::new(&list)).unwrap();
    let texts: Vec<_> = opened.iter().map(|module| String::from_utf8_lossy(module.command_line())).collect();
    assert_eq!(texts, [format!("{} x=1,2", path("a")), path("b")]);
    assert_eq!(opened[1].image().size(), 1);

    let linux = kernel(BzImageSpec::default().build());
    let opened = Module::open_all(&linux, OsStr::new(&path("a x,b"))).unwrap();
    assert_eq!((opened.len(), opened[0].image().size()), (1, 5));

    for text in ["", " x", ",b"] {
        let error = Module::open_all(&multiboot, OsStr::new(text)).unwrap_err();
        assert!(matches!(error, BootError::NoModuleName { .. }), "{error}");
    }
    let missing = Module::open_all(&multiboot, OsStr::new("/no/such/file with args")).unwrap_err().to_string();
    assert!(missing.contains("the module /no/such/file cannot"), "{missing}");
    let missing = Module::open_all(&linux, OsStr::new("/no/such/file with args")).unwrap_err().to_string();
    assert!(missing.contains("the initrd /no/such/file with args cannot"), "{missing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_addresses_never_panic(
        values in prop::array::uniform5(any::<u32>()), small in any::<bool>(), at in 0usize..3000,
    ) {
        let values = if small { values.map(|value| value % (4 * MIB as u32)) } else { values };
        let mut file = vec![0x90; at * 4];
        file.extend(multiboot_header(HAS_ADDRESSES, &values));
        let _ = boot(&ram(4), file, "quiet");
    }

    #[test]
    fn random_bytes_in_an_elf_never_panic(at in 4usize..0x100, junk in prop::collection::vec(any::<u8>(), 1..64)) {
        let mut image = ElfSpec::multiboot(3).build();
        let end = (at + junk.len()).min(image.len());
        image[at..end].copy_from_slice(&junk[..end - at]);
        let modules = modules(&[(10, "a b"), (20, "")]);
        let _ = load(&ram(4), &BootSource { modules, ..source(image) }, &BoardTables::default());
    }
}
