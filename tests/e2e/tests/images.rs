//! Images of disks and of trees of files: got, run, given away, removed.

use motu_e2e::{Home, root_tree};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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
    let home = Home::new();
    root_tree(&home.at("tree"));
    let said = home.succeeds(["image", "pull", "dir:tree", "-t", "app:1"]);
    assert!(said.starts_with("app:1 sha256:"), "{said}");
    let script = "cat /etc/motd /etc/absolute; stat -c %h /etc/hard; id -u; echo x > /etc/new; ls /etc/new; \
                  df / | wc -l; touch /srv/a && sync";
    let shown = home.succeeds(["run", "app:1", "--", "sh", "-c", script]);
    assert_eq!(shown, "hello from the tree\nhello from the tree\n2\n0\n/etc/new\n2\n");
    // Another machine begins as the image is.
    let ended = home.run(["run", "app:1", "--", "test", "-e", "/etc/new"]);
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let shown = home.succeeds([
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
    home.succeeds(["system", "check"]);
    assert!(home.left("tmp").is_empty());
    // From the source itself: got once.
    home.succeeds(["run", "dir:tree", "--", "true"]);
    let listed = home.succeeds(["image", "ls"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");

    home.succeeds(["image", "tag", "app:1", "app:stable"]);
    home.succeeds(["image", "export", "app:1", "-o", "app.raw"]);
    host("e2fsck", &["-fn", "app.raw"], home.place());
    // What was exported is a root file system again.
    home.succeeds(["image", "import", "app.raw", "-t", "again"]);
    assert_eq!(home.succeeds(["run", "again", "--", "cat", "/etc/motd"]), "hello from the tree\n");
    let removed = home.succeeds(["image", "rm", "app:1"]);
    assert_eq!(removed, "Untagged: app:1\n");
    let removed = home.succeeds(["image", "rm", "app:stable"]);
    assert!(removed.contains("Deleted: sha256:"), "{removed}");
    home.succeeds(["system", "prune", "--all"]);
    assert!(home.succeeds(["image", "ls", "--json"]).trim() == "[]");
    assert!(home.left("blobs/sha256").is_empty());
}

#[test]
fn an_image_stays_while_a_machine_stands_on_it() {
    use std::io::{BufRead, BufReader};
    let home = Home::new();
    root_tree(&home.at("tree"));
    home.succeeds(["image", "pull", "dir:tree"]);
    let mut child = home.command(["run", "tree", "--", "sh", "-c", "echo up; sleep 1000"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let ended = home.run(["image", "rm", "tree"]);
    assert!(ended.status == 125 && ended.stderr.contains("in use by the machine"), "{}", ended.stderr);
    assert_eq!(home.succeeds(["image", "rm", "--force", "tree"]), "Untagged: tree:latest\n");
    assert!(!home.succeeds(["image", "prune"]).contains("Deleted"));
    assert!(home.succeeds(["system", "df"]).contains("Machines        1      1"));
    child.kill().unwrap();
    child.wait().unwrap();
    // Nothing was left that anybody needs.
    assert!(home.succeeds(["image", "prune"]).contains("Deleted"));
    assert!(home.left("tmp").is_empty());
}

#[test]
fn qemus_disks_come_in_with_all_that_they_stand_on() {
    let home = Home::new();
    let place = home.place();
    let content: Vec<u8> = (0..1 << 17).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(home.at("base.raw"), &content).unwrap();
    if !host("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", "base.raw", "packed.qcow2"], place) {
        return;
    }
    host("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "packed.qcow2", "-F", "qcow2", "top.qcow2"], place);
    host("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-o", "compat=0.10", "base.raw", "old.qcow2"], place);
    for name in ["base.raw", "packed.qcow2", "top.qcow2", "old.qcow2"] {
        let before = fs::read(home.at(name)).unwrap();
        home.succeeds(["image", "pull", &format!("disk:{name}"), "-t", "disk"]);
        assert!(fs::read(home.at(name)).unwrap() == before, "{name} was written");
        home.succeeds(["image", "export", "disk", "-o", "out.raw"]);
        assert!(fs::read(home.at("out.raw")).unwrap() == content, "{name}");
        fs::remove_file(home.at("out.raw")).unwrap();
    }
    home.succeeds(["image", "export", "disk", "-o", "out.qcow2"]);
    host("qemu-img", &["check", "-q", "out.qcow2"], place);
    home.refused(&["run", "disk"], &["no kernel beside its disk", "--kernel"]);
}

#[test]
fn a_kernel_beside_a_disk_has_its_console_here() {
    use motu_e2e::{Code, Kernel};
    let home = Home::new();
    let kernel = Kernel::new(Code::new().print("hello from the kernel\n").power_off().spin());
    fs::write(home.at("disk.raw"), [0; 1 << 20]).unwrap();
    let path = kernel.path();
    let kernel = path.to_str().unwrap();
    home.succeeds(["image", "pull", "disk:disk.raw", "-t", "own", "--kernel", kernel, "--append", "some words"]);
    let shown = home.succeeds(["run", "own"]);
    assert!(shown.contains("hello from the kernel"), "{shown}");
    home.refused(&["run", "own", "--", "ls"], &["no agent", "leave out what follows --"]);
}

#[test]
fn what_cannot_be_an_image_is_one_error() {
    let home = Home::new();
    home.succeeds(["image", "ls"]);
    fs::create_dir(home.at("empty")).unwrap();
    fs::write(home.at("odd.raw"), [0; 1000]).unwrap();
    fs::write(home.at("bad.qcow2"), b"QFI\xfb\0\0\0\x03 and no more").unwrap();
    fs::write(home.at("plain"), "text").unwrap();
    home.refused(&["run", "tinny"], &["no image \"tinny\"", "motu image ls"]);
    home.refused(&["run", "alpine"], &["no image \"alpine\"", "motu image pull oci:alpine"]);
    home.refused(&["image", "rm", "none"], &["no image \"none\""]);
    home.refused(&["image", "inspect", "none"], &["no image \"none\""]);
    home.refused(&["image", "tag", "none", "other"], &["no image \"none\""]);
    home.refused(&["image", "export", "none", "-o", "x.raw"], &["no image \"none\""]);
    home.refused(&["image", "export", "none", "-o", "x"], &["--format qcow2"]);
    home.refused(&["image", "pull", "alpine"], &["oci:alpine", "disk:cloud.qcow2"]);
    home.refused(&["image", "pull", "plain"], &["is disk:plain meant?"]);
    home.refused(&["image", "pull", "dsk:plain"], &["is disk:plain meant?"]);
    home.refused(&["image", "pull", "disk:none.raw"], &["none.raw"]);
    home.refused(&["image", "pull", "disk:odd.raw"], &["odd.raw", "1000 bytes"]);
    home.refused(&["image", "pull", "disk:bad.qcow2"], &["bad.qcow2"]);
    home.refused(&["image", "pull", "dir:none"], &["none"]);
    home.refused(&["image", "pull", "dir:plain"], &["plain", "not a directory"]);
    home.refused(&["image", "pull", "dir:empty", "--kernel", "k"], &["are for disks"]);
    home.refused(&["image", "pull", "disk:odd.raw", "--initrd", "k"], &["--kernel"]);
    home.refused(&["image", "pull", "dir:empty", "-t", "Bad"], &["it has capitals"]);
    home.refused(&["image", "import", "nowhere"], &["no file or folder nowhere"]);
    // A tree without a shell is an image, and says what it lacks when it is run.
    home.succeeds(["image", "pull", "dir:empty"]);
    let ended = home.run(["run", "empty"]);
    assert_eq!(ended.status, 127, "{}", ended.stderr);
    home.refused(&["image", "export", "tiny", "-o", "x.raw"], &["tiny has no disk"]);
}

#[test]
fn a_motufile_is_built_step_by_step_and_each_step_once() {
    let home = Home::new();
    root_tree(&home.at("tree"));
    fs::create_dir_all(home.at("context/src/deep")).unwrap();
    let write = |name: &str, text: &str| fs::write(home.at("context").join(name), text).unwrap();
    write("src/deep/a", "data\n");
    write("start", "#!/bin/sh\necho started $A $(pwd) $(id -u)\n");
    let motufile = "FROM dir:tree\nENV A=1\nWORKDIR /srv/app\nCOPY src ./data\nCOPY start /bin/start\n\
                    RUN cat data/deep/a && sh -c 'echo $A > built' \\\n  && rm /etc/motd\nUSER app\nCMD [\"sh\", \"/bin/start\"]\n";
    write("Motufile", motufile);
    let build = |more: &[&str]| home.run([&["image", "build", "context"], more].concat());
    let ended = build(&["-t", "app:1"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let built = ended.stdout.clone();
    assert!(built.starts_with("app:1 sha256:"), "{built}");
    assert!(ended.stderr.contains("data\n") && !ended.stderr.contains("done before"), "{}", ended.stderr);
    assert_eq!(home.succeeds(["run", "app:1"]), "started 1 /srv/app 1000\n");
    let script = "cat built; cat data/deep/a; test -e /etc/motd || cat /etc/hard";
    assert_eq!(home.succeeds(["run", "app:1", "--", "sh", "-c", script]), "1\ndata\nhello from the tree\n");
    // Nothing is done again, whatever the times of files are; what another file is used in, is.
    write("start", "#!/bin/sh\necho started $A $(pwd) $(id -u)\n");
    let ended = build(&["-t", "app:1"]);
    assert_eq!(ended.stderr.matches("done before").count(), 3, "{}", ended.stderr);
    assert_eq!(ended.stdout, built, "the same image");
    write("start", "#!/bin/sh\necho another\n");
    let ended = build(&["-t", "app:2"]);
    assert_eq!(ended.stderr.matches("done before").count(), 1, "{}", ended.stderr);
    assert_eq!(home.succeeds(["run", "app:2"]), "another\n");
    // The base may go: what was built stands by itself.
    home.succeeds(["image", "rm", "tree"]);
    home.succeeds(["system", "prune"]);
    home.succeeds(["system", "check"]);
    assert_eq!(home.succeeds(["run", "app:1"]), "started 1 /srv/app 1000\n");

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
        home.refused(&["image", "build", "context", "-t", "bad"], &[words, "context/Motufile"]);
    }
    home.refused(&["image", "build", "tree", "-t", "bad"], &["there is no Motufile in tree"]);
}
