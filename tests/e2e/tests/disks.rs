//! Disks of the image `tiny`: what is written stays, whatever ends the machine.

use motu_e2e::{Code, Ended, Kernel, command, motu};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Runs a script in a machine with these disks; it must succeed.
#[track_caller]
fn run(folder: &Path, disks: &[&str], script: &str) -> Ended {
    let disks = disks.iter().flat_map(|disk| ["--disk", disk]);
    let args = ["run"].into_iter().chain(disks).chain(["--", "sh", "-ec", script]);
    let ended: Ended = command(args).current_dir(folder).output().unwrap().into();
    assert_eq!(ended.status, 0, "{script}: {}{}", ended.stdout, ended.stderr);
    ended
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs `qemu-img`; false where there is none.
fn qemu_img<S: AsRef<OsStr>>(folder: &Path, args: impl IntoIterator<Item = S>, right: &[i32]) -> bool {
    match Command::new("qemu-img").current_dir(folder).args(args).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code().is_some_and(|code| right.contains(&code)), "{}: {said}", output.status);
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: images of QEMU's: qemu-img cannot be run ({error}); it is in Debian's qemu-utils");
            false
        }
    }
}

const MOUNT: &str = "mkdir -p /m; mount -t ext4 /dev/vda /m";

#[test]
fn a_file_system_is_there_for_the_next_machine() {
    let place = folder();
    for disk in ["a.raw", "b.qcow2"] {
        let new = format!("{disk},size=64M,serial=SER-1");
        let script = format!("cat /sys/block/vda/serial; mke2fs -q /dev/vda; {MOUNT}; seq 1 100000 > /m/f; sync");
        let ended = run(place.path(), &[&new], &script);
        assert!(ended.stdout.starts_with("SER-1"), "{}", ended.stdout);
        let ended = run(place.path(), &[disk], &format!("{MOUNT}; md5sum < /m/f; seq 1 100000 | md5sum; umount /m"));
        let sums: Vec<_> = ended.stdout.lines().collect();
        assert_eq!(sums[0], sums[1], "{disk}");
    }
    qemu_img(place.path(), ["check", "-q", "b.qcow2"], &[0]);
}

#[test]
fn a_base_below_an_image_is_not_written() {
    let place = folder();
    run(place.path(), &["base.raw,size=32M"], &format!("mke2fs -q /dev/vda; {MOUNT}; echo base > /m/f; umount /m"));
    let base = fs::read(place.path().join("base.raw")).unwrap();
    let args = ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "top.qcow2"];
    if !qemu_img(place.path(), args, &[0]) {
        return;
    }
    run(place.path(), &["top.qcow2"], &format!("{MOUNT}; cat /m/f; echo top > /m/g; umount /m"));
    let ended = run(place.path(), &["top.qcow2"], &format!("{MOUNT}; cat /m/f /m/g"));
    assert_eq!(ended.stdout, "base\ntop\n");
    assert!(fs::read(place.path().join("base.raw")).unwrap() == base, "the base was written");
    qemu_img(place.path(), ["check", "-q", "top.qcow2"], &[0]);
}

#[test]
fn a_read_only_disk_and_many_disks() {
    let place = folder();
    for name in ["a.raw", "b.raw"] {
        fs::write(place.path().join(name), vec![name.as_bytes()[0]; 1 << 20]).unwrap();
    }
    let script = "cat /sys/block/vda/ro /sys/block/vdb/ro; head -c 1 /dev/vda; head -c 1 /dev/vdb; \
                  ! dd if=/dev/zero of=/dev/vda count=1 2>/dev/null; echo new | dd of=/dev/vdb conv=fsync 2>/dev/null";
    let ended = run(place.path(), &["a.raw,readonly", "path=b.raw,format=raw"], script);
    assert_eq!(ended.stdout, "1\n0\nab");
    assert_eq!(fs::read(place.path().join("a.raw")).unwrap(), vec![b'a'; 1 << 20]);
    assert!(fs::read(place.path().join("b.raw")).unwrap().starts_with(b"new\n"));
}

#[test]
fn space_that_the_guest_needs_no_more_goes_back_to_the_host() {
    let place = folder();
    for disk in ["a.raw", "b.qcow2"] {
        let used = || fs::metadata(place.path().join(disk)).unwrap().blocks() * 512;
        let script =
            format!("mke2fs -q /dev/vda; {MOUNT}; dd if=/dev/urandom of=/m/f bs=1M count=40 2>/dev/null; umount /m");
        run(place.path(), &[&format!("{disk},size=64M")], &script);
        let full = used();
        assert!(full >= 40 << 20, "{full}");
        run(place.path(), &[disk], &format!("{MOUNT}; rm /m/f; sync; fstrim /m; umount /m"));
        assert!(used() < full - (35 << 20), "{disk}: {} of {full} bytes are still used", used());
    }
}

/// Every block whose number the guest told after its fsync must be there after motu was killed.
#[test]
fn a_kill_takes_nothing_that_was_synced() {
    let place = folder();
    let write = "i=0; while :; do i=$((i + 1)); \
                 echo block $i | dd of=/dev/vda bs=4096 seek=$i conv=sync,fsync 2>/dev/null; echo $i; done";
    for (n, disk) in ["a.raw", "b.qcow2", "c.raw", "d.qcow2"].iter().enumerate() {
        let new = format!("{disk},size=1G");
        let mut child =
            command(["run", "--disk", &new, "--", "sh", "-c", write]).current_dir(place.path()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let some = 7 + (std::process::id() as usize * 31 + n * 17) % 50;
        let told: Vec<u32> = lines.by_ref().take(some).map(|line| line.unwrap().parse().unwrap()).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let last = *told.last().unwrap();
        let read = format!(
            "for i in $(seq 1 {last}); do dd if=/dev/vda bs=4096 skip=$i count=1 2>/dev/null | head -n 1; done"
        );
        let ended = run(place.path(), &[disk], &read);
        let expected: String = (1..=last).map(|i| format!("block {i}\n")).collect();
        assert_eq!(ended.stdout, expected, "{disk}");
        if disk.ends_with("qcow2") {
            // Space that nobody refers to is all that a kill may cost.
            qemu_img(place.path(), ["check", "-q", disk], &[0, 3]);
        }
    }
}

/// Runs motu and expects status 125 and one line with all of these words.
#[track_caller]
fn refused(folder: &Path, disks: &[&str], words: &[&str]) {
    let disks = disks.iter().flat_map(|disk| ["--disk", disk]);
    let args = ["run", "--kernel", "kernel"].into_iter().chain(disks);
    let ended: Ended = command(args).current_dir(folder).output().unwrap().into();
    assert_eq!(ended.status, 125, "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "no {word:?} in\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn disks_that_cannot_be_used_are_one_error() {
    let kernel = Kernel::new(Code::new().power_off().spin());
    let place = kernel.folder();
    let file = |name: &str, content: &[u8]| fs::write(place.join(name), content).unwrap();
    file("unsaid", &[0; 1024]);
    file("odd.raw", &[0; 1000]);
    file("good.raw", &[0; 1024]);
    file("no.qcow2", &[0; 1024]);
    file("qcow2.raw", b"QFI\xfb\0\0\0\x03");
    refused(place, &["none.raw"], &["none.raw", "give a size"]);
    refused(place, &["."], &["folder"]);
    refused(place, &["/dev/null"], &["/dev/null", "neither a file"]);
    refused(place, &["unsaid"], &["unsaid", "format=raw"]);
    refused(place, &["odd.raw"], &["1000 bytes", "1024"]);
    refused(place, &["no.qcow2"], &["no.qcow2", "no qcow2 image"]);
    refused(place, &["unsaid,format=qcow2"], &["no qcow2 image"]);
    refused(place, &["qcow2.raw"], &["named as raw", "begins as qcow2"]);
    refused(place, &["good.raw,size=1G"], &["exists", "1024 bytes"]);
    refused(place, &["new,size=1G"], &["format=raw or format=qcow2"]);
    refused(place, &["new.raw,size=1000"], &["whole sectors"]);
    refused(place, &["no/new.raw,size=1G"], &["no/new.raw", "make the folder"]);
    refused(place, &["good.raw", "good.raw"], &["given twice"]);
    refused(place, &["good.raw", "./good.raw"], &["./good.raw", "given twice"]);
    refused(place, &["new.raw,size=1M", "none.raw"], &["none.raw"]);
    refused(place, &["good.raw,ro"], &["readonly"]);
    refused(place, &["good.raw,format=vmdk"], &["raw, qcow2 and auto"]);
    let many: Vec<String> = (0..29).map(|n| format!("{n}.raw,size=1M")).collect();
    refused(place, &many.iter().map(String::as_str).collect::<Vec<_>>(), &["29 disks", "at most 28"]);
    let ended: Ended =
        command(["run", "--kernel", "none", "--disk", "new.raw,size=1M"]).current_dir(place).output().unwrap().into();
    assert_eq!(ended.status, 125, "{ended:?}");
    for name in ["0.raw", "new.raw"] {
        assert!(!place.join(name).exists(), "{name}: nothing half done");
    }
    // As many as there may be.
    let disks = many[..28].iter().flat_map(|disk| ["--disk", disk]);
    let ended: Ended =
        command(["run", "--kernel", "kernel"].into_iter().chain(disks)).current_dir(place).output().unwrap().into();
    assert_eq!(ended.status, 0, "{}", ended.stderr);
}

#[test]
fn a_disk_that_a_machine_writes_is_no_other_machines() {
    let kernel = Kernel::new(Code::new().print("up\n").spin());
    let place = kernel.folder();
    let args = ["run", "--kernel", "kernel", "--disk", "a.raw,size=1M"];
    let mut first = command(args).current_dir(place).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "up");
    refused(place, &["a.raw"], &["a.raw", "in use", "has it open"]);
    refused(place, &["a.raw,readonly"], &["a.raw", "writes to it"]);
    first.kill().unwrap();
    first.wait().unwrap();
    let ended = motu([
        "run",
        "--timeout",
        "1s",
        "--kernel",
        kernel.path().to_str().unwrap(),
        "--disk",
        place.join("a.raw").to_str().unwrap(),
    ]);
    assert_eq!(ended.status, 124, "{}", ended.stderr);
}
