//! Kernels inside of gzip files.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::ffi::OsStr;
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_kernel_boots_as_the_kernel_inside() {
    for (spec, magic) in [(ElfSpec::multiboot(0), 0x2bad_b002), (ElfSpec::i386(), 0), (ElfSpec::default(), 0)] {
        let ram = ram(16);
        let state = boot(&ram, gzip(&spec.build()), "").unwrap();
        assert_eq!(state, boot(&self::ram(16), spec.build(), "").unwrap());
        assert_eq!(state.gpr[0], magic);
        assert_eq!(read(&ram, spec.address, spec.code.len()), spec.code);
    }
}

#[test]
fn its_modules_are_a_list() {
    let kernel = kernel(gzip(&ElfSpec::multiboot(0).build()));
    let error = Module::open_all(&kernel, OsStr::new("/no/such/file x,y")).unwrap_err().to_string();
    assert!(error.contains("the module /no/such/file cannot"), "{error}");
}

#[test]
fn what_follows_the_compressed_data_is_ignored() {
    let mut bytes = gzip(&ElfSpec::default().build());
    bytes.extend([0; 100]);
    boot(&ram(16), bytes, "").unwrap();
}

#[test]
fn files_that_are_damaged_or_hold_no_kernel() {
    let text = |bytes: Vec<u8>| boot(&ram(4), bytes, "").unwrap_err().to_string();
    let whole = gzip(&ElfSpec::default().build());
    for len in 3..whole.len() {
        let error = boot(&ram(4), whole[..len].to_vec(), "").unwrap_err();
        assert!(matches!(error, BootError::Gzip { .. }), "{len} bytes: {error}");
    }
    let mut wrong = whole.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(text(wrong).contains("uncompressing the kernel the-kernel"));
    assert!(text(gzip(b"a shopping list\n")).contains("looks like text"));
    assert!(text(gzip(&whole)).contains("gzip data inside of gzip data"));
    assert!(text(gzip(b"")).contains("empty"));
}

#[test]
fn a_small_file_that_becomes_a_large_one_is_stopped() {
    let bomb = gzip(&vec![0; 5 << 20]);
    assert!(bomb.len() < 10_000);
    let text = boot(&ram(4), bomb.clone(), "").unwrap_err().to_string();
    assert!(text.contains("more than the 4 MiB"), "{text}");
    assert!(matches!(boot(&ram(16), bomb, ""), Err(BootError::NotAKernel { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_changes_never_panic(at in any::<prop::sample::Index>(), junk in prop::collection::vec(any::<u8>(), 1..16)) {
        let mut bytes = gzip(&ElfSpec::multiboot(0).build());
        let at = 3 + at.index(bytes.len() - 3);
        let end = (at + junk.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&junk[..end - at]);
        let _ = boot(&ram(4), bytes, "quiet");
    }
}
