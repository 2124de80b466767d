//! Much of what a CPU can do, with the guest's every result compared with the host's own.

use motu_e2e::{home, motu, motu_with, newc};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../guests/mixed-load.sh");
const ROUNDS: &str = "1";
/// Some 20 s of one CPU in a guest on an optimised motu.
const SCALE: &str = "1";
/// Lines of a round: one for each step.
const STEPS: usize = 15;

#[test]
fn a_guest_and_the_host_come_to_the_same_results() {
    let script = fs::read(SCRIPT).unwrap_or_else(|error| panic!("reading {SCRIPT}: {error}"));
    let in_guest = format!("cat >/tmp/m.sh; sh /tmp/m.sh {ROUNDS} {SCALE}");
    let guest = motu_with(["run", "--", "sh", "-c", &in_guest], &script);
    assert_eq!(guest.status, 0, "in the guest:\n{}{}", guest.stdout, guest.stderr);

    // After the run, which makes the image if it is not there.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let busybox = folder.path().join("busybox");
    fs::write(&busybox, busybox_of_tiny()).expect("busybox is written");
    fs::set_permissions(&busybox, Permissions::from_mode(0o755)).expect("busybox is made executable");
    let host = on_host(&busybox, folder.path());

    let (guest, host) = (lines(&guest.stdout), lines(&host));
    for (guest, host) in guest.iter().zip(&host) {
        assert_eq!(guest, host, "the guest's line differs from the host's");
    }
    assert_eq!((guest.len(), host.len()), (STEPS, STEPS), "the guest printed {guest:?}");
}

fn lines(printed: &str) -> Vec<&str> {
    printed.lines().collect()
}

/// What the script prints on the host, run by the shell of this busybox.
fn on_host(busybox: &Path, folder: &Path) -> String {
    let mut command = Command::new(busybox);
    command.args(["sh", SCRIPT, ROUNDS, SCALE]).env("BUSYBOX", busybox).env("TMPDIR", folder);
    let output = command.output().expect("the image's busybox, a static x86-64 program, starts on the host");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "on the host, {}:\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// The busybox in the initial RAM disk that the image's machines boot.
fn busybox_of_tiny() -> Vec<u8> {
    let listed = motu(["image", "ls", "--json"]);
    assert_eq!(listed.status, 0, "motu image ls: {}", listed.stderr);
    let images: serde_json::Value = serde_json::from_str(&listed.stdout).expect("motu image ls --json prints JSON");
    let is_tiny = |image: &&serde_json::Value| image["names"][0] == "tiny:latest";
    let tiny = images.as_array().and_then(|images| images.iter().find(is_tiny));
    let digest = tiny.and_then(|tiny| tiny["record"]["boot"]["kernel"]["initrd"].as_str());
    let digest = digest.unwrap_or_else(|| panic!("motu image ls names no initrd of tiny:\n{}", listed.stdout));
    let path = home().join("blobs/sha256").join(digest);
    let initrd = fs::read(&path).unwrap_or_else(|error| panic!("reading tiny's initrd {}: {error}", path.display()));
    let found = newc::file(&initrd, "bin/busybox");
    found.unwrap_or_else(|error| panic!("tiny's initrd {}: {error}", path.display())).to_vec()
}
