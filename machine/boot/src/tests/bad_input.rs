//! Every bad input gets its own clear error.

use super::*;
use std::fs::File;
use std::path::Path;

fn error(bytes: Vec<u8>) -> BootError {
    boot(&ram(32), bytes, "").unwrap_err()
}

fn error_text(bytes: Vec<u8>) -> String {
    error(bytes).to_string()
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let open = |path: &Path| Image::open(Role::Kernel, path).unwrap_err();
    let missing = folder.path().join("nothing");
    assert!(matches!(open(&missing), BootError::Open { .. }));
    assert!(open(&missing).to_string().contains("No such file"));
    assert!(matches!(open(folder.path()), BootError::NotAFile { what: "a directory", .. }));
    assert!(matches!(open(Path::new("/dev/zero")), BootError::NotAFile { what: "a device", .. }));
    let empty = folder.path().join("empty");
    File::create(&empty).unwrap();
    assert!(matches!(open(&empty), BootError::Empty { .. }));
    assert!(matches!(Image::from_bytes(Role::Initrd, "i", vec![]), Err(BootError::Empty { role: Role::Initrd, .. })));
}

#[test]
fn files_that_are_no_kernel() {
    let text = error_text(b"#!/bin/sh\nexit 0\n".to_vec());
    for word in ["the-kernel", "a script", "bzImage", "PVH", "multiboot", "--kernel-address"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    assert!(error_text(vec![0x55]).contains("text"));
}

#[test]
fn elf_files_that_do_not_boot() {
    let text = |spec: ElfSpec| error_text(spec.build());
    assert!(text(ElfSpec { entry: 0, ..ElfSpec::default() }).contains("without a PVH entry"));
    let program = ElfSpec { entry: 0, address: 0, ..ElfSpec::default() };
    assert!(text(program).contains("without a PVH entry"), "a position-independent program");
    assert!(text(ElfSpec { class: 3, ..ElfSpec::default() }).contains("neither 32 nor 64"));
    assert!(text(ElfSpec { machine: 40, ..ElfSpec::default() }).contains("32-bit ARM"));
    assert!(text(ElfSpec { machine: 183, ..ElfSpec::default() }).contains("64-bit ARM"));
    assert!(text(ElfSpec { data: 2, ..ElfSpec::default() }).contains("big-endian"));
    let damaged = |spec: ElfSpec| matches!(error(spec.build()), BootError::Damaged { .. });
    assert!(damaged(ElfSpec { entry: 0x5_0000, ..ElfSpec::default() }), "entry outside");
    assert!(damaged(ElfSpec { address: 0x7000, entry: 0x7000, ..ElfSpec::default() }), "below 1 MiB");
    assert!(damaged(ElfSpec { address: u64::MAX - 16, ..ElfSpec::default() }), "around the end");
    assert!(damaged(ElfSpec { memory_len: 16, ..ElfSpec::default() }), "more in the file than in memory");
    let huge = ElfSpec { memory_len: 1 << 40, ..ElfSpec::default() };
    assert!(matches!(error(huge.build()), BootError::KernelTooLarge { .. }));
}

#[test]
fn an_elf_cut_anywhere_is_truncated_or_no_kernel() {
    let whole = ElfSpec::default().build();
    for len in 1..whole.len() {
        let error = error(whole[..len].to_vec());
        assert!(matches!(error, BootError::Truncated { .. } | BootError::NotAKernel { .. }), "{len} bytes: {error}");
    }
    boot(&ram(32), whole, "").unwrap();
}

#[test]
fn bzimages_that_are_too_old_or_misplaced() {
    let old = BzImageSpec { version: 0x201, ..BzImageSpec::default() };
    let text = error_text(old.build());
    assert!(text.contains("protocol 2.01") && text.contains("2.02"), "{text}");
    let low = BzImageSpec { pref_address: 0x9_0000, ..BzImageSpec::default() };
    assert!(matches!(error(low.build()), BootError::Damaged { .. }));
    let wild = BzImageSpec { pref_address: u64::MAX, ..BzImageSpec::default() };
    assert!(matches!(error(wild.build()), BootError::Damaged { .. }));
    let hollow = BzImageSpec { code: vec![], ..BzImageSpec::default() };
    assert!(matches!(error(hollow.build()), BootError::Damaged { .. }));
}

#[test]
fn a_bzimage_cut_anywhere_is_truncated_or_no_kernel() {
    let whole = BzImageSpec::default().build();
    // The last paragraph need not be whole.
    let paragraphs = whole.len() - 16;
    boot(&ram(32), whole[..paragraphs + 1].to_vec(), "").unwrap();
    for len in (1..paragraphs).step_by(7).chain([paragraphs]) {
        let error = error(whole[..len].to_vec());
        let truncated = matches!(error, BootError::Truncated { has, .. } if has == len as u64);
        assert!(truncated || (len < 0x206 && matches!(error, BootError::NotAKernel { .. })), "{len} bytes: {error}");
    }
}

#[test]
fn what_does_not_fit() {
    let boot_with = |mib, initrd_len: usize| {
        let modules = initrd(vec![1; initrd_len]);
        let source = BootSource { modules, ..source(BzImageSpec::default().build()) };
        load(&ram(mib), &source, &BoardTables::default())
    };
    assert!(matches!(boot_with(1, 1), Err(BootError::TooLittleMemory { .. })));
    let text = boot_with(16, 1).unwrap_err().to_string();
    assert!(text.contains("up to 17 MiB") && text.contains("has 16 MiB"), "{text}");
    let text = boot_with(18, 1 + (1 << 20)).unwrap_err().to_string();
    assert!(text.contains("the-initrd") && text.contains("1 MiB are free"), "{text}");
    boot_with(18, 1 << 20).unwrap();
}

#[test]
fn command_lines() {
    let spec = BzImageSpec { cmdline_size: 20, ..BzImageSpec::default() };
    boot(&ram(32), spec.build(), &"x".repeat(20)).unwrap();
    let long = boot(&ram(32), spec.build(), &"x".repeat(21)).unwrap_err();
    assert!(matches!(long, BootError::CommandLineTooLong { length: 21, max: 20 }));
    let nul = boot(&ram(32), spec.build(), "a\0b").unwrap_err();
    assert!(matches!(nul, BootError::CommandLineNul { position: 1 }));
    // A header that takes anything does not make the line run into the reserved area.
    let greedy = BzImageSpec { cmdline_size: u32::MAX, ..BzImageSpec::default() };
    let long = boot(&ram(32), greedy.build(), &"x".repeat(0x1_0000)).unwrap_err();
    assert!(matches!(long, BootError::CommandLineTooLong { max: 0xffff, .. }));
    let long = boot(&ram(32), ElfSpec::default().build(), &"x".repeat(2048)).unwrap_err();
    assert!(matches!(long, BootError::CommandLineTooLong { max: 2047, .. }));
}

#[test]
fn a_huge_sparse_file_is_not_read_to_its_end() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let boot_file = |file: &File| {
        let kernel = Image::from_file(Role::Kernel, "sparse", file.try_clone().unwrap()).unwrap();
        load(&ram(32), &BootSource { kernel, ..source(vec![1]) }, &BoardTables::default())
    };
    assert!(matches!(boot_file(&file), Err(BootError::NotAKernel { .. })));
    file.write_all_at(&BzImageSpec::default().build(), 0).unwrap();
    boot_file(&file).unwrap();
    let initrd = Image::from_file(Role::Initrd, "sparse", file).unwrap();
    let modules = vec![Module::new(initrd, Vec::new())];
    let source = BootSource { modules, ..source(BzImageSpec::default().build()) };
    let refused = load(&ram(32), &source, &BoardTables::default());
    assert!(matches!(refused, Err(BootError::InitrdTooLarge { bytes, .. }) if bytes == 1 << 40));
}

#[test]
fn boards_with_a_number_out_of_range() {
    let refused = |board: BoardTables| {
        let result = load(&ram(32), &source(BzImageSpec::default().build()), &board);
        matches!(result, Err(BootError::Board(_)))
    };
    let board = BoardTables::default;
    assert!(!refused(BoardTables { cpus: BoardTables::MAX_CPUS, ..board() }));
    assert!(refused(BoardTables { cpus: 0, ..board() }));
    assert!(refused(BoardTables { cpus: 255, ..board() }));
    assert!(refused(BoardTables { physical_bits: 64, ..board() }));
    assert!(refused(BoardTables { pci_memory: 0xd000_0000..0xd000_0000, ..board() }));
    assert!(refused(BoardTables { pci_slots: 33, ..board() }));
    assert!(refused(BoardTables { keyboard_irq: 16, ..board() }));
}
