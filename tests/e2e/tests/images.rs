//! Images of disks and of trees of files: got, run, given away, removed.

use motu_e2e::{Ended, command, home, motu, root_tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A store of its own that can make `tiny` without a network, and files to make images of.
struct World {
    place: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { place: tempfile::tempdir().unwrap() };
        assert_eq!(motu(["run", "--", "true"]).status, 0);
        for part in ["packages", "blobs/sha256"] {
            fs::create_dir_all(world.at("home").join(part)).unwrap();
            for entry in fs::read_dir(home().join(part)).unwrap().flatten() {
                fs::copy(entry.path(), world.at("home").join(part).join(entry.file_name())).unwrap();
            }
        }
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = command(line);
        command.env("MOTU_HOME", self.at("home")).current_dir(self.place.path());
        command
    }

    fn run(&self, line: &[&str]) -> Ended {
        self.command(line).output().unwrap().into()
    }

    #[track_caller]
    fn succeeds(&self, line: &[&str]) -> String {
        let ended = self.run(line);
        assert_eq!(ended.status, 0, "{line:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// One line, with all of these words, and nothing half done.
    #[track_caller]
    fn refused(&self, line: &[&str], words: &[&str]) {
        let before = self.run(&["image", "ls", "--json"]).stdout;
        let ended = self.run(line);
        assert_eq!(ended.status, 125, "{line:?}: {}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "{line:?}: no {word:?} in\n{}", ended.stderr);
        }
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert_eq!(self.run(&["image", "ls", "--json"]).stdout, before);
        let left: Vec<_> = fs::read_dir(self.at("home/tmp")).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Runs a program of the host's; false, and said, if it is not there.
fn host(program: &str, args: &[&str], folder: &Path) -> bool {
    match Command::new(program).args(args).current_dir(folder).stdout(Stdio::null()).status() {
        Ok(status) => {
            assert!(status.success(), "{program} {args:?}: {status}");
            true
        }
        Err(error) => {
            println!("SKIPPED: {program} cannot be run ({error})");
            false
        }
    }
}

#[test]
fn a_tree_is_run_and_is_never_written() {
    let world = World::new();
    root_tree(&world.at("tree"));
    let said = world.succeeds(&["image", "pull", "dir:tree", "-t", "app:1"]);
    assert!(said.starts_with("app:1 sha256:"), "{said}");
    let script = "cat /etc/motd /etc/absolute; stat -c %h /etc/hard; id -u; echo x > /etc/new; ls /etc/new; \
                  df / | wc -l; touch /srv/a && sync";
    let shown = world.succeeds(&["run", "app:1", "--", "sh", "-c", script]);
    assert_eq!(shown, "hello from the tree\nhello from the tree\n2\n0\n/etc/new\n2\n");
    // Another machine begins as the image is.
    let ended = world.run(&["run", "app:1", "--", "test", "-e", "/etc/new"]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let shown = world.succeeds(&[
        "run",
        "-e",
        "A=B",
        "-u",
        "app",
        "-w",
        "/srv",
        "app:1",
        "--",
        "sh",
        "-c",
        "echo $A; id -u; pwd",
    ]);
    assert_eq!(shown, "B\n1000\n/srv\n");
    world.succeeds(&["system", "check"]);
    assert_eq!(fs::read_dir(world.at("home/tmp")).unwrap().count(), 0);
    // From the source itself: got once.
    world.succeeds(&["run", "dir:tree", "--", "true"]);
    let listed = world.succeeds(&["image", "ls"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");

    world.succeeds(&["image", "tag", "app:1", "app:stable"]);
    world.succeeds(&["image", "export", "app:1", "-o", "app.raw"]);
    host("e2fsck", &["-fn", "app.raw"], world.place.path());
    // What was exported is a root file system again.
    world.succeeds(&["image", "import", "app.raw", "-t", "again"]);
    assert_eq!(world.succeeds(&["run", "again", "--", "cat", "/etc/motd"]), "hello from the tree\n");
    let removed = world.succeeds(&["image", "rm", "app:1"]);
    assert_eq!(removed, "Untagged: app:1\n");
    let removed = world.succeeds(&["image", "rm", "app:stable"]);
    assert!(removed.contains("Deleted: sha256:"), "{removed}");
    world.succeeds(&["system", "prune", "--all"]);
    assert!(world.succeeds(&["image", "ls", "--json"]).trim() == "[]");
    assert_eq!(fs::read_dir(world.at("home/blobs/sha256")).unwrap().count(), 0);
}

#[test]
fn an_image_stays_while_a_machine_stands_on_it() {
    use std::io::{BufRead, BufReader};
    let world = World::new();
    root_tree(&world.at("tree"));
    world.succeeds(&["image", "pull", "dir:tree"]);
    let mut child = world.command(&["run", "tree", "--", "sh", "-c", "echo up; sleep 1000"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let ended = world.run(&["image", "rm", "tree"]);
    assert!(ended.status == 125 && ended.stderr.contains("in use by the machine"), "{}", ended.stderr);
    assert_eq!(world.succeeds(&["image", "rm", "--force", "tree"]), "Untagged: tree:latest\n");
    assert!(!world.succeeds(&["image", "prune"]).contains("Deleted"));
    assert!(world.succeeds(&["system", "df"]).contains("Machines        1      1"));
    child.kill().unwrap();
    child.wait().unwrap();
    // Nothing was left that anybody needs.
    assert!(world.succeeds(&["image", "prune"]).contains("Deleted"));
    assert_eq!(fs::read_dir(world.at("home/tmp")).unwrap().count(), 0);
}

#[test]
fn qemus_disks_come_in_with_all_that_they_stand_on() {
    let world = World::new();
    let place = world.place.path();
    let content: Vec<u8> = (0..1 << 17).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(world.at("base.raw"), &content).unwrap();
    if !host("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "base.raw", "packed.qcow2"], place) {
        return;
    }
    host("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "packed.qcow2", "-F", "qcow2", "top.qcow2"], place);
    host("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-o", "compat=0.10", "base.raw", "old.qcow2"], place);
    for name in ["base.raw", "packed.qcow2", "top.qcow2", "old.qcow2"] {
        let before = fs::read(world.at(name)).unwrap();
        world.succeeds(&["image", "pull", &format!("disk:{name}"), "-t", "disk"]);
        assert!(fs::read(world.at(name)).unwrap() == before, "{name} was written");
        world.succeeds(&["image", "export", "disk", "-o", "out.raw"]);
        assert!(fs::read(world.at("out.raw")).unwrap() == content, "{name}");
        fs::remove_file(world.at("out.raw")).unwrap();
    }
    world.succeeds(&["image", "export", "disk", "-o", "out.qcow2"]);
    host("qemu-img", &["check", "-q", "out.qcow2"], place);
    world.refused(&["run", "disk"], &["no kernel beside its disk", "--kernel"]);
}

#[test]
fn a_kernel_beside_a_disk_has_its_console_here() {
    use motu_e2e::{Code, Kernel};
    let world = World::new();
    let kernel = Kernel::new(Code::new().print("hello from the kernel\n").power_off().spin());
    fs::write(world.at("disk.raw"), [0; 1 << 20]).unwrap();
    let path = kernel.path();
    let kernel = path.to_str().unwrap();
    world.succeeds(&["image", "pull", "disk:disk.raw", "-t", "own", "--kernel", kernel, "--append", "some words"]);
    let shown = world.succeeds(&["run", "own"]);
    assert!(shown.contains("hello from the kernel"), "{shown}");
    world.refused(&["run", "own", "--", "ls"], &["no agent", "leave out what follows --"]);
}

#[test]
fn what_cannot_be_an_image_is_one_error() {
    let world = World::new();
    world.succeeds(&["image", "ls"]);
    fs::create_dir(world.at("empty")).unwrap();
    fs::write(world.at("odd.raw"), [0; 1000]).unwrap();
    fs::write(world.at("bad.qcow2"), b"QFI\xfb\0\0\0\x03 and no more").unwrap();
    fs::write(world.at("plain"), "text").unwrap();
    world.refused(&["run", "tinny"], &["no image \"tinny\"", "motu image ls"]);
    world.refused(&["run", "alpine"], &["no image \"alpine\"", "motu image pull oci:alpine"]);
    world.refused(&["image", "rm", "none"], &["no image \"none\""]);
    world.refused(&["image", "inspect", "none"], &["no image \"none\""]);
    world.refused(&["image", "tag", "none", "other"], &["no image \"none\""]);
    world.refused(&["image", "export", "none", "-o", "x.raw"], &["no image \"none\""]);
    world.refused(&["image", "export", "none", "-o", "x"], &["--format qcow2"]);
    world.refused(&["image", "pull", "alpine"], &["oci:alpine", "disk:cloud.qcow2"]);
    world.refused(&["image", "pull", "plain"], &["is disk:plain meant?"]);
    world.refused(&["image", "pull", "dsk:plain"], &["is disk:plain meant?"]);
    world.refused(&["image", "pull", "disk:none.raw"], &["none.raw"]);
    world.refused(&["image", "pull", "disk:odd.raw"], &["odd.raw", "1000 bytes"]);
    world.refused(&["image", "pull", "disk:bad.qcow2"], &["bad.qcow2"]);
    world.refused(&["image", "pull", "dir:none"], &["none"]);
    world.refused(&["image", "pull", "dir:plain"], &["plain", "not a directory"]);
    world.refused(&["image", "pull", "dir:empty", "--kernel", "k"], &["are for disks"]);
    world.refused(&["image", "pull", "disk:odd.raw", "--initrd", "k"], &["--kernel"]);
    world.refused(&["image", "pull", "dir:empty", "-t", "Bad"], &["it has capitals"]);
    world.refused(&["image", "import", "nowhere"], &["no file or folder nowhere"]);
    // A tree without a shell is an image, and says what it lacks when it is run.
    world.succeeds(&["image", "pull", "dir:empty"]);
    let ended = world.run(&["run", "empty"]);
    assert_eq!(ended.status, 127, "{}", ended.stderr);
    world.refused(&["image", "export", "tiny", "-o", "x.raw"], &["tiny has no disk"]);
}

#[test]
fn a_motufile_is_built_step_by_step_and_each_step_once() {
    let world = World::new();
    root_tree(&world.at("tree"));
    fs::create_dir_all(world.at("context/src/deep")).unwrap();
    let write = |name: &str, text: &str| fs::write(world.at("context").join(name), text).unwrap();
    write("src/deep/a", "data\n");
    write("start", "#!/bin/sh\necho started $A $(pwd) $(id -u)\n");
    let motufile = "FROM dir:tree\nENV A=1\nWORKDIR /srv/app\nCOPY src ./data\nCOPY start /bin/start\n\
                    RUN cat data/deep/a && sh -c 'echo $A > built' \\\n  && rm /etc/motd\nUSER app\nCMD [\"sh\", \"/bin/start\"]\n";
    write("Motufile", motufile);
    let build = |more: &[&str]| world.run(&[&["image", "build", "context"], more].concat());
    let ended = build(&["-t", "app:1"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let built = ended.stdout.clone();
    assert!(built.starts_with("app:1 sha256:"), "{built}");
    assert!(ended.stderr.contains("data\n") && !ended.stderr.contains("done before"), "{}", ended.stderr);
    assert_eq!(world.succeeds(&["run", "app:1"]), "started 1 /srv/app 1000\n");
    let script = "cat built; cat data/deep/a; test -e /etc/motd || cat /etc/hard";
    assert_eq!(world.succeeds(&["run", "app:1", "--", "sh", "-c", script]), "1\ndata\nhello from the tree\n");
    // Nothing is done again, whatever the times of files are; what another file is used in, is.
    write("start", "#!/bin/sh\necho started $A $(pwd) $(id -u)\n");
    let ended = build(&["-t", "app:1"]);
    assert_eq!(ended.stderr.matches("done before").count(), 3, "{}", ended.stderr);
    assert_eq!(ended.stdout, built, "the same image");
    write("start", "#!/bin/sh\necho another\n");
    let ended = build(&["-t", "app:2"]);
    assert_eq!(ended.stderr.matches("done before").count(), 1, "{}", ended.stderr);
    assert_eq!(world.succeeds(&["run", "app:2"]), "another\n");
    // The base may go: what was built stands by itself.
    world.succeeds(&["image", "rm", "tree"]);
    world.succeeds(&["system", "prune"]);
    world.succeeds(&["system", "check"]);
    assert_eq!(world.succeeds(&["run", "app:1"]), "started 1 /srv/app 1000\n");

    // A step that fails is named, and there is no image.
    for (text, words) in [
        (
            "FROM app:1\nUSER root\nRUN echo no >&2; exit 3",
            "line 3: RUN echo no >&2; exit 3: the command ended with status 3",
        ),
        ("FROM app:1\nRNU ls", "line 2: \"RNU\" is no instruction; is RUN meant?"),
        ("FROM none:1\nRUN ls", "FROM none:1: there is no image"),
        ("FROM tiny\nRUN ls", "has no root disk"),
        ("FROM app:1\nCOPY ../tree /", "not in the context"),
        ("FROM app:1\nPACKAGES curl", "FROM deb:SUITE"),
    ] {
        write("Motufile", text);
        world.refused(&["image", "build", "context", "-t", "bad"], &[words, "context/Motufile"]);
    }
    world.refused(&["image", "build", "tree", "-t", "bad"], &["there is no Motufile in tree"]);
}
