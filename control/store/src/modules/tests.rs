use super::*;
use proptest::prelude::*;

/// A file that is a module as far as its dependencies go: an ELF header, the section `.modinfo`, the
/// names of the sections, and the headers of both.
pub(crate) fn module(depends: &str) -> Vec<u8> {
    let info = format!("license=GPL\0depends={depends}\0name=x\0").into_bytes();
    let names = b"\0.modinfo\0.shstrtab\0";
    let (info_at, names_at) = (0x40, 0x40 + info.len());
    let headers_at = names_at + names.len();
    let mut elf = vec![0; 0x40];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[0x28..0x30].copy_from_slice(&(headers_at as u64).to_le_bytes());
    elf[0x3a..0x40].copy_from_slice(&[0x40, 0, 3, 0, 2, 0]);
    elf.extend_from_slice(&info);
    elf.extend_from_slice(names);
    for (name, at, size) in [(0u32, 0, 0), (1, info_at, info.len()), (10, names_at, names.len())] {
        let mut header = [0; 0x40];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend_from_slice(&header);
    }
    elf
}

fn members(builtin: &[&str], modules: &[(&str, &str)]) -> Members {
    let mut members = Members::default();
    members.builtin.extend(builtin.iter().map(|name| (*name).to_owned()));
    for (path, depends) in modules {
        let name = name_of(path).expect("a module's path");
        members.modules.insert(name, ((*path).to_owned(), module(depends)));
    }
    members
}

fn searched(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const ALL: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "virtio_rng",
    "virtio_blk",
    "crc32c_intel",
    "crc32c_generic",
    "ext4",
    "virtiofs",
    "isofs",
];

fn paths(order: Result<Order, StoreError>) -> Vec<String> {
    match order {
        Ok(Order::Complete(modules)) => modules.into_iter().map(|module| module.path).collect(),
        other => panic!("no order: {other:?}"),
    }
}

#[test]
fn names_are_the_kernels() {
    assert_eq!(name_of("lib/modules/6.1/kernel/a/virtio-rng.ko").as_deref(), Some("virtio_rng"));
    assert_eq!(name_of("virtio_pci.ko.xz").as_deref(), Some("virtio_pci"));
    assert_eq!(name_of("virtio_pci.ko.zst").as_deref(), Some("virtio_pci"));
    assert_eq!(name_of("virtio_pci.ko.lz4"), None);
    assert_eq!(name_of("modules.dep"), None);
}

#[test]
fn each_comes_after_what_it_needs() {
    let members = members(
        &["rng_core"],
        &[
            ("k/virtio-rng.ko", "virtio,virtio-ring"),
            ("k/virtio_pci.ko", "virtio_ring,virtio"),
            ("k/virtio_console.ko", "virtio,virtio_ring"),
            ("k/virtio.ko", "virtio_ring"),
            ("k/virtio_ring.ko", ""),
        ],
    );
    let order = paths(order(&members, &searched(&ALL), "kernel"));
    let expected = ["k/virtio_ring.ko", "k/virtio.ko", "k/virtio_pci.ko", "k/virtio_console.ko", "k/virtio-rng.ko"];
    assert_eq!(order, expected);
}

#[test]
fn what_only_some_machines_need_comes_last_and_is_marked() {
    let modules = [
        ("k/virtio_pci.ko", "virtio"),
        ("k/virtio.ko", ""),
        ("k/ext4.ko", "jbd2"),
        ("k/jbd2.ko", ""),
        ("k/virtio_blk.ko", "virtio"),
        ("k/virtiofs.ko", "virtio,fuse"),
        ("k/cdrom.ko", ""),
        ("k/isofs.ko", "cdrom"),
        ("k/fuse.ko", ""),
    ];
    let members = members(&["virtio_console"], &modules);
    let Ok(Order::Complete(modules)) = order(&members, &searched(&ALL), "kernel") else { panic!("no order") };
    let marked: Vec<_> = modules.iter().map(|module| (module.path.as_str(), module.needed_by)).collect();
    let expected = [
        ("k/virtio.ko", NeededBy::All),
        ("k/virtio_pci.ko", NeededBy::All),
        ("k/virtio_blk.ko", NeededBy::Disks),
        ("k/jbd2.ko", NeededBy::Disks),
        ("k/ext4.ko", NeededBy::Disks),
        ("k/fuse.ko", NeededBy::Shares),
        ("k/virtiofs.ko", NeededBy::Shares),
        ("k/cdrom.ko", NeededBy::Seeds),
        ("k/isofs.ko", NeededBy::Seeds),
    ];
    assert_eq!(marked, expected);
}

#[test]
fn a_kernel_with_all_of_it_built_in_needs_no_module() {
    let members = members(&["virtio_pci", "virtio_console"], &[]);
    assert_eq!(paths(order(&members, &searched(&ALL), "kernel")), Vec::<String>::new());
}

#[test]
fn what_was_not_looked_for_is_asked_for() {
    let members = members(&["virtio_console"], &[("k/virtio_pci.ko", "novel,virtio")]);
    match order(&members, &searched(&ALL), "kernel") {
        Ok(Order::Missing(names)) => assert_eq!(names, ["novel", "virtio"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_needed_and_not_there_is_named() {
    let members = members(&["virtio_pci"], &[]);
    let error = order(&members, &searched(&ALL), "linux-image-x").expect_err("there is no console");
    assert_eq!(error.to_string(), "the package linux-image-x holds no module virtio_console, which the agent needs");
}

#[test]
fn a_circle_is_refused() {
    let members = members(&["virtio_console"], &[("k/virtio_pci.ko", "virtio"), ("k/virtio.ko", "virtio_pci")]);
    let error = order(&members, &searched(&["virtio_pci", "virtio", "virtio_rng"]), "kernel");
    assert!(error.is_err_and(|error| error.to_string().contains("needs itself")));
}

#[test]
fn compressed_modules_are_unpacked() {
    let plain = module("virtio");
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).expect("a writer");
    std::io::Write::write_all(&mut xz, &plain).expect("written");
    let xz = xz.finish().expect("finished");
    let zst = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    assert_eq!(unpack("a.ko.xz", &xz), Ok(plain.clone()));
    assert_eq!(unpack("a.ko.zst", &zst), Ok(plain.clone()));
    assert_eq!(unpack("a.ko", &plain), Ok(plain.clone()));
    assert!(unpack("a.ko.xz", &plain).is_err_and(|error| error.contains("no xz file")));
    assert!(unpack("a.ko.zst", &plain).is_err_and(|error| error.contains("no zstd file")));

    let mut members = members(&["virtio_console"], &[]);
    members.modules.insert("virtio_pci".into(), ("k/virtio_pci.ko.xz".into(), xz));
    members.builtin.insert("virtio".into());
    assert_eq!(paths(order(&members, &searched(&ALL), "kernel")), ["k/virtio_pci.ko"]);
}

proptest! {
    #[test]
    fn any_damage_to_a_module_is_survived(at in any::<prop::sample::Index>(), bits in 1u8.., keep in any::<prop::sample::Index>()) {
        let mut elf = module("a,b");
        let at = at.index(elf.len());
        elf[at] ^= bits;
        let _ = depends(&elf);
        elf.truncate(keep.index(elf.len()));
        let _ = depends(&elf);
    }
}
