//! Kernels that start by a protocol other than PVH: multiboot with modules, and flat binaries.

use motu_e2e::{Ended, motu};
use std::fs;
use tempfile::TempDir;

/// `mov al, byte; mov dx, 0x3f8; out dx, al`, then power-off, in 32-bit and 64-bit mode.
fn print_wide(byte: u8) -> Vec<u8> {
    [&[0xb0, byte, 0x66, 0xba, 0xf8, 0x03, 0xee], POWER_OFF_WIDE].concat()
}

/// The same in 16-bit mode.
fn print_16(byte: u8) -> Vec<u8> {
    vec![0xb0, byte, 0xba, 0xf8, 0x03, 0xee, 0xba, 0x04, 0x06, 0xb8, 0x00, 0x34, 0xef, 0xeb, 0xfe]
}

/// `mov dx, 0x604; mov ax, 0x3400; out dx, ax; jmp $`
const POWER_OFF_WIDE: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xeb, 0xfe];
/// Prints from ESI to a NUL: `lodsb; test al, al; jz end; mov dx, 0x3f8; out dx, al; jmp start`
const PRINT_TEXT: &[u8] = &[0xac, 0x84, 0xc0, 0x74, 0x07, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf4];

/// A kernel of 32-bit code at 1 MiB behind a multiboot header that has its addresses itself.
fn multiboot(code: &[u8]) -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    const LOAD: u32 = 0x10_0000;
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    let header = [MAGIC, FLAGS, checksum, LOAD, LOAD, 0, 0, LOAD + 32];
    [header.iter().flat_map(|word| word.to_le_bytes()).collect(), code.to_vec()].concat()
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn run(kernel: &str, more: &[&str]) -> Ended {
    motu([&["run", "--memory", "16M", "--timeout", "60s", "--kernel", kernel], more].concat())
}

#[test]
fn a_multiboot_kernel_is_told_its_command_line_and_its_modules() {
    // From the information in EBX: the command line, then the second module's text and its content.
    let code = [
        &[0x8b, 0x73, 16][..],
        PRINT_TEXT,
        &[0x8b, 0x4b, 24, 0x8b, 0x71, 24],
        PRINT_TEXT,
        &[0x8b, 0x4b, 24, 0x8b, 0x71, 16],
        PRINT_TEXT,
        POWER_OFF_WIDE,
    ]
    .concat();
    let files = Files::new();
    let kernel = files.file("kernel", &multiboot(&code));
    let (first, second) = (files.file("first", b"1\0"), files.file("second", b" content\n\0"));
    let modules = format!("{first},{second} x=1,,2");
    let ended = run(&kernel, &["--initrd", &modules, "--append", "quiet "]);
    let expected = format!("{kernel} quiet {second} x=1,2 content\n");
    assert_eq!((ended.status, ended.stdout), (0, expected), "{}", ended.stderr);
}

#[test]
fn a_module_that_is_missing_is_named() {
    let files = Files::new();
    let kernel = files.file("kernel", &multiboot(POWER_OFF_WIDE));
    let first = files.file("first", b"1");
    let ended = run(&kernel, &["--initrd", &format!("{first} a b,/no/such/file c")]);
    assert_eq!(ended.status, 125);
    assert!(ended.stderr.contains("the module /no/such/file cannot be opened"), "{}", ended.stderr);
}

#[test]
fn a_flat_binary_starts_in_the_mode_that_was_asked_for() {
    let files = Files::new();
    let (wide, real) = (files.file("wide", &print_wide(b'w')), files.file("real", &print_16(b'r')));
    let cases: [(&str, &[&str], &str); 5] = [
        (&real, &["--kernel-address", "0x7c00", "--kernel-mode", "real"], "r"),
        (&real, &["--kernel-address", "0x20000", "--kernel-mode", "real"], "r"),
        (&wide, &["--kernel-address", "0x100000"], "w"),
        (&wide, &["--kernel-address", "31744", "--kernel-mode", "protected"], "w"),
        (&wide, &["--kernel-address", "0x100000", "--kernel-mode", "long"], "w"),
    ];
    for (kernel, more, expected) in cases {
        let ended = run(kernel, more);
        assert_eq!((ended.status, ended.stdout.as_str()), (0, expected), "{more:?}: {}", ended.stderr);
    }
}

#[test]
fn a_flat_binary_that_cannot_be_where_it_is_to_be() {
    let files = Files::new();
    let kernel = files.file("flat", &print_wide(b'w'));
    let refused = |more: &[&str], words: &[&str]| {
        let ended = run(&kernel, more);
        assert_eq!((ended.status, ended.stdout.as_str()), (125, ""), "{more:?}");
        for word in words {
            assert!(ended.stderr.contains(word), "{more:?}: no {word:?} in\n{}", ended.stderr);
        }
    };
    refused(&[], &["no kernel that can be booted", "multiboot", "--kernel-address"]);
    refused(&["--kernel-address", "0x1000000"], &["0x1000000", "more memory"]);
    refused(&["--kernel-address", "0x4f0"], &["GDT"]);
    refused(&["--kernel-address", "0x10001", "--kernel-mode", "real"], &["0x10001", "multiple of 16"]);
    refused(&["--kernel-address", "0x7c00", "--append", "quiet"], &["command line"]);
    refused(&["--kernel-address", "0x7c00", "--initrd", &kernel], &["initrd"]);
    refused(&["--kernel-mode", "long"], &["--kernel-address"]);
}
