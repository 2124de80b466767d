//! Guests that others have written: kernels, a hypervisor and a memory tester from Debian's packages. What the host's
//! sources have not is skipped, with a line that says so.

use motu_e2e::packages::{Packages, file};
use motu_e2e::{Ended, Screen, command, motu, newc};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a package that a guest is in comes to, or `None` with a line that says why not.
fn package(architecture: &'static str, name: &str) -> Option<PathBuf> {
    let found = Packages::of(architecture).and_then(|packages| packages.unpacked(name));
    found.map_err(|why| println!("SKIPPED: no package {name} of {architecture}: {why}")).ok()
}

/// Commands for a busybox shell that is process 1.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
echo \"machine $(uname -m)\"
echo \"sum $(seq 1000 | sha256sum | cut -c1-16)\"
i=0; while [ $i -lt 20 ]; do (exit $i) || total=$((total + $?)); i=$((i + 1)); done
echo \"forks $total\"
awk 'BEGIN { for (i = 1; i < 2000; i++) s += 1 / i; printf \"harmonic %.9f\\n\", s }'
poweroff -f
";

/// What [`INIT`] prints on a machine of this name.
fn expected(machine: &str) -> [String; 4] {
    let sum = "sum 67d4ff71d43921d5";
    [&format!("machine {machine}"), sum, "forks 190", "harmonic 8.177868104"].map(str::to_owned)
}

/// A RAM disk with this busybox and [`INIT`].
fn initrd(folder: &Path, busybox: &Path) -> PathBuf {
    const FOLDER: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    let busybox = fs::read(busybox).expect("the package's busybox can be read");
    let members = [
        newc::member("bin", FOLDER, b""),
        newc::member("proc", FOLDER, b""),
        newc::member("dev", FOLDER, b""),
        newc::member("bin/busybox", PROGRAM, &busybox),
        newc::member("init", PROGRAM, INIT.as_bytes()),
        newc::member("TRAILER!!!", 0, b""),
    ];
    let path = folder.join("initrd");
    fs::write(&path, members.concat()).expect("the RAM disk is written");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// The ELF file in a kernel that is packed by xz, as Debian's ordinary ones are (Documentation/arch/x86/boot.rst:
/// setup_sects, payload_offset, payload_length).
fn unpacked(kernel: &Path) -> Vec<u8> {
    let kernel = fs::read(kernel).expect("the package's kernel can be read");
    let number = |at: usize| u32::from_le_bytes(kernel[at..at + 4].try_into().expect("four bytes")) as usize;
    let start = (usize::from(kernel[0x1f1]) + 1) * 512 + number(0x248);
    let mut elf = Vec::new();
    // Behind the xz stream is the size of what it unpacks to.
    let packed = &kernel[start..start + number(0x24c)];
    lzma_rust2::XzReader::new(packed, false).read_to_end(&mut elf).expect("the kernel is packed by xz");
    elf
}

/// Boots a kernel of the package with [`INIT`].
fn boot(kernel: &Path, busybox: &Path) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kernel = file(&kernel.join("boot"), "vmlinuz-").expect("the package has a kernel");
    let initrd = initrd(folder.path(), &busybox.join("bin/busybox"));
    let append = "console=ttyS0 quiet panic=-1 cryptomgr.notests";
    let machine = ["run", "--memory", "256M", "--timeout", "600s", "--kernel", text(&kernel)];
    motu(machine.into_iter().chain(["--initrd", text(&initrd), "--append", append]))
}

#[test]
fn a_32_bit_kernel_boots_to_its_programs() {
    let packages = ["linux-image-686", "busybox-static"].map(|name| package("i386", name));
    let [Some(kernel), Some(busybox)] = packages else { return };
    let ended = boot(&kernel, &busybox);
    assert_eq!(ended.status, 0, "{}\n{}", ended.stdout, ended.stderr);
    for line in expected("i686") {
        assert!(ended.stdout.contains(&line), "no {line:?} in\n{}", ended.stdout);
    }
}

/// A hypervisor in the guest, and its first domain, paravirtual: its kernel runs in ring 3 of 64-bit mode.
#[test]
fn xen_boots_its_first_domain() {
    let packages = ["xen-hypervisor-4.17-amd64", "linux-image-amd64", "busybox-static"];
    let [Some(xen), Some(kernel), Some(busybox)] = packages.map(|name| package("amd64", name)) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = initrd(folder.path(), &busybox.join("bin/busybox"));
    let kernel = file(&kernel.join("boot"), "vmlinuz-").expect("the package has a kernel");
    // Xen's own unpacking would be half of all that runs.
    let vmlinux = folder.path().join("vmlinux");
    fs::write(&vmlinux, unpacked(&kernel)).expect("the kernel is written");
    let xen = xen.join("boot/xen-4.17-amd64.gz");
    let machine = ["run", "--memory", "512M", "--timeout", "600s", "--kernel", text(&xen)];
    let dom0 = "console=hvc0 panic=-1 quiet cryptomgr.notests";
    let modules = format!("{} {dom0},{}", text(&vmlinux), text(&initrd));
    let append = "com1=115200,8n1 console=com1 dom0_mem=256M";
    let ended = motu(machine.into_iter().chain(["--initrd", &modules, "--append", append]));
    assert_eq!(ended.status, 0, "{}\n{}", ended.stdout, ended.stderr);
    for line in expected("x86_64").iter().map(String::as_str).chain(["(XEN) Entering ACPI S5 state."]) {
        assert!(ended.stdout.contains(line), "no {line:?} in\n{}", ended.stdout);
    }
}

/// The first six of memtest86+'s tests: a whole pass takes minutes (docs/guests.md).
fn memtest(file: &str) {
    let Some(package) = package("amd64", "memtest86+") else { return };
    let kernel = package.join("boot").join(file);
    let machine = ["run", "--memory", "16M", "--timeout", "600s", "--kernel", text(&kernel)];
    let append = ["--append", "console=ttyS0,115200 nosmp nobench"];
    let mut child = command(machine.into_iter().chain(append)).spawn().expect("motu starts");
    let mut output = child.stdout.take().expect("stdout is a pipe");
    let mut screen = Screen::default();
    let mut buffer = [0; 4096];
    while !screen.shows("Test #6 ") {
        let read = output.read(&mut buffer).expect("a pipe can be read");
        assert_ne!(read, 0, "it ended: {:?}\n{screen}", child.wait());
        screen.write(&buffer[..read]);
    }
    child.kill().and_then(|()| child.wait()).expect("motu is ended");
    assert!(screen.shows("Errors: 0 "), "{screen}");
}

#[test]
fn the_64_bit_memory_tester_finds_no_error() {
    memtest("memtest86+x64.bin");
}

#[test]
fn the_32_bit_memory_tester_finds_no_error() {
    memtest("memtest86+ia32.bin");
}
