//! A host whose disk is full: one error that says so, everything else as before.

use motu_e2e::Home;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Of the disk that the store is on: enough for what `tiny` is made from and itself, twice over.
const SIZE: &str = "size=128M";

/// A store on a small disk of its own.
struct Small(Home);

impl Small {
    /// None if this host gives no such disk.
    fn new() -> Option<Self> {
        let home = Home::new();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "motu-full"]).arg(home.at("home")).output();
        if !mount.is_ok_and(|mount| mount.status.success()) {
            println!("SKIPPED: a full disk: only root mounts a small one");
            return None;
        }
        home.bring_packages();
        Some(Self(home))
    }

    fn is_as_before(&self) {
        let images = self.0.succeeds(["image", "ls"]);
        assert!(images.contains("tiny") && images.contains("tree") && images.lines().count() == 3, "{images}");
        self.0.succeeds(["system", "check"]);
        assert_eq!(self.0.left("tmp"), Vec::<String>::new());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.0.remove_machines();
        let _ = Command::new("umount").arg("--lazy").arg(self.0.at("home")).status();
    }
}

/// A file of so many MiB that nothing makes smaller.
fn noise(path: &Path, mib: usize) {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state
    });
    let bytes: Vec<u8> = words.take(mib << 17).flat_map(u64::to_le_bytes).collect();
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_has_no_room_is_told_and_nothing_is_left_of_it() {
    let Some(small) = Small::new() else { return };
    let home = &small.0;
    motu_e2e::root_tree(&home.at("tree"));
    fs::create_dir(home.at("tree/data")).unwrap();
    home.succeeds(["image", "pull", "dir:tree", "--tag", "tree"]);
    home.succeeds(["run", "--", "true"]);

    noise(&home.at("large.raw"), 128);
    home.refused(&["image", "pull", "disk:large.raw"], &["is full", "motu system df"]);
    small.is_as_before();

    // The guest is told, and goes on; so is the person, as the command does not say it.
    let fills = "dd if=/dev/urandom of=/data/x bs=1M count=128 conv=fsync; echo dd $?";
    let ended = home.run(["run", "tree", "--", "sh", "-c", fills]);
    assert!(ended.stdout.contains("dd 1"), "{}", ended.stdout);
    assert!(ended.status == 125 && ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    assert!(ended.stderr.lines().count() < 8, "a guest fills no log: {}", ended.stderr);
    small.is_as_before();

    // A step that takes no notice, and gives the space back, is no step.
    fs::create_dir(home.at("context")).unwrap();
    let step = format!("RUN {fills}; rm /data/x; sync; fstrim /; true\n");
    fs::write(home.at("context/Motufile"), format!("FROM tree\n{step}")).unwrap();
    let ended = home.run(["image", "build", "--tag", "built", "context"]);
    assert!(ended.status == 125 && ended.stderr.contains("the host failed at writing"), "{}", ended.stderr);
    small.is_as_before();

    // Nothing can be logged either: the machine's process says nothing, and does its work.
    home.succeeds(["run", "--detach", "--name", "stays", "tree", "--", "sleep", "1000"]);
    let fill = home.at("home/fill");
    assert!(fs::write(&fill, vec![0; 256 << 20]).is_err());
    let fills = "dd if=/dev/urandom of=/data/x bs=1M count=4 conv=fsync";
    let ended = home.run(["exec", "stays", "--", "sh", "-c", fills]);
    assert_eq!((ended.status, ended.stderr.contains("error")), (1, true), "{ended:?}");
    home.succeeds(["exec", "stays", "--", "true"]);
    fs::remove_file(fill).unwrap();
    home.succeeds(["stop", "stays"]);
    home.succeeds(["start", "stays"]);
    home.succeeds(["rm", "--force", "stays"]);
    small.is_as_before();
    home.succeeds(["run", "tree", "--", "true"]);
}
