//! Machines that stay: their life, commands in them, files to and from them.

use motu_e2e::{Ended, Home, Terminal, root_tree};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// A tiny root file system on a disk, as the image `disk`.
fn make_disk_image(home: &Home) {
    let tree = home.at("tree");
    root_tree(&tree);
    fs::create_dir_all(tree.join("home/web")).unwrap();
    fs::write(tree.join("etc/passwd"), "root:x:0:0:::\nweb:x:1000:1001::/home/web:\n").unwrap();
    fs::write(tree.join("etc/group"), "web:x:1001:\nssl:x:50:web\n").unwrap();
    home.succeeds(["image", "pull", "dir:tree", "-t", "disk"]);
}

/// What `motu inspect` says of a machine.
fn inspect(home: &Home, name: &str) -> serde_json::Value {
    let mut machines: serde_json::Value = serde_json::from_str(&home.succeeds(["inspect", name])).unwrap();
    machines[0].take()
}

fn pid(home: &Home, name: &str) -> Pid {
    Pid::from_raw(inspect(home, name)["state"]["pid"].as_i64().unwrap() as i32).unwrap()
}

fn digest(path: &Path) -> String {
    let sum = Command::new("sha256sum").stdin(fs::File::open(path).unwrap()).output().unwrap();
    String::from_utf8(sum.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_machine_lives() {
    let home = Home::new();
    let script = "trap 'echo bye; exit 3' TERM; echo hello; echo oh >&2; while :; do sleep 0.1 & wait; done";
    assert_eq!(home.succeeds(["run", "-d", "--name", "web", "-e", "A=1", "--", "sh", "-c", script]), "web\n");
    let listed = home.succeeds(["ls"]);
    assert!(listed.contains("web") && listed.contains("tiny") && listed.contains("Up "), "{listed}");
    home.refused(&["run", "-d", "--name", "web"], &["\"web\" already"]);
    home.refused(&["create", "--name", "web"], &["\"web\" already"]);
    home.refused(&["rm", "web"], &["web is running", "motu stop web"]);
    assert_eq!(home.succeeds(["start", "web"]), "web\n", "it runs, which is what was wanted");

    let report = inspect(&home, "web");
    assert_eq!(report["state"]["status"], "running");
    assert!(report["guest"]["memory"]["total"].as_u64().unwrap() > 100 << 20, "{report}");

    home.succeeds(["rename", "web", "www"]);
    home.refused(&["exec", "web", "true"], &["no machine \"web\""]);
    let mut waiting = home.command(["wait", "www"]).spawn().unwrap();
    let follower = home.command(["logs", "-f", "www"]).spawn().unwrap();
    assert_eq!(home.succeeds(["stop", "www"]), "www\n");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    let followed: Ended = follower.wait_with_output().unwrap().into();
    assert_eq!((followed.stdout.as_str(), followed.stderr.as_str()), ("hello\nbye\n", "oh\n"));
    assert_eq!(home.succeeds(["wait", "www"]), "3\n");
    assert_eq!(home.succeeds(["logs", "-n", "1", "www"]), "bye\n");

    assert!(!home.succeeds(["ls"]).contains("www"));
    assert!(home.succeeds(["ls", "-a"]).contains("Exited (3)"));
    let listed: serde_json::Value = serde_json::from_str(&home.succeeds(["ls", "-a", "--json"])).unwrap();
    assert_eq!((listed[0]["name"].as_str(), listed[0]["state"].as_str()), (Some("www"), Some("exited")));
    home.refused(&["exec", "www", "true"], &["www is not running", "motu start www"]);
    home.refused(&["cp", "www:/etc/passwd", "."], &["www is not running"]);
    home.refused(&["kill", "www"], &["www is not running"]);
    assert_eq!(home.succeeds(["stop", "www"]), "www\n", "it is stopped, which is what was wanted");

    let id = inspect(&home, "www")["id"].as_str().unwrap().to_owned();
    home.succeeds(["start", &id[..5]]);
    assert_eq!(home.succeeds(["kill", "www"]), "www\n");
    assert_eq!(home.succeeds(["wait", "www"]), "137\n");
    assert_eq!(home.succeeds(["rm", "www"]), "www\n");
    assert_eq!(home.succeeds(["ls", "-aq"]), "");
}

#[test]
fn many_commands_run_at_once() {
    let home = Home::new();
    home.succeeds(["run", "-d", "--name", "web"]);
    let count = 12u32;
    let input: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let running: Vec<_> = (0..count)
        .map(|n| {
            let script = format!("sha256sum; echo err {n} >&2; exit {n}");
            let mut child =
                home.command(["exec", "-i", "web", "--", "sh", "-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
            let (mut stdin, input) = (child.stdin.take().unwrap(), input.clone());
            let feeder = std::thread::spawn(move || stdin.write_all(&input).unwrap());
            (child, feeder)
        })
        .collect();
    let mut answers = Vec::new();
    for (n, (child, feeder)) in (0..).zip(running) {
        feeder.join().unwrap();
        let ended: Ended = child.wait_with_output().unwrap().into();
        assert_eq!((ended.status, ended.stderr), (n, format!("err {n}\n")));
        answers.push(ended.stdout);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");

    // A flood that nobody reads holds up no other; its reader's end is the end of it.
    let mut flood = home.command(["exec", "web", "yes"]).spawn().unwrap();
    let mut first = [0; 2];
    flood.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(home.succeeds(["exec", "web", "echo", "through"]), "through\n");
    drop(flood.stdout.take());
    assert_eq!(flood.wait().unwrap().code(), Some(141));

    // Who hangs up ends the command.
    let mut sleeper = home.command(["exec", "web", "sleep", "1000"]).spawn().unwrap();
    let sleeps = || home.succeeds(["exec", "web", "ps"]).contains("sleep 1000");
    while !sleeps() {}
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    while sleeps() {}

    let around = ["exec", "-e", "A=5", "-e", "B=", "-w", "/tmp/made", "web", "--", "sh", "-c", "pwd; echo $A$B; umask"];
    assert_eq!(home.succeeds(around), "/tmp/made\n5\n0022\n");
    assert_eq!(home.succeeds(["exec", "-u", "1000:1001", "web", "id"]), "uid=1000 gid=1001\n");
    let nobody = home.run(["exec", "-u", "nobody", "web", "id"]);
    assert_eq!(nobody.status, 126);
    assert!(nobody.stderr.contains("no user \"nobody\""), "{}", nobody.stderr);
    assert_eq!(home.run(["exec", "web", "no-such-command"]).status, 127);
    assert_eq!(home.run(["exec", "web", "--", "sh", "-c", "kill -9 $$"]).status, 137);
}

#[test]
fn a_command_may_have_a_terminal() {
    let home = Home::new();
    home.succeeds(["run", "-d", "--name", "web"]);
    let mut terminal = Terminal::start(home.command(["exec", "-it", "web", "sh"]));
    terminal.wait_for("# ");
    assert!(!terminal.echoes());
    terminal.type_in("stty size; tty\r");
    let shown = terminal.wait_for("/dev/pts/0");
    assert!(shown.contains("33 111"), "{shown}");
    terminal.type_in("exit 5\r");
    assert_eq!(terminal.end().code(), Some(5));
    assert!(terminal.echoes());

    // A machine's own shell, attached to: left, it goes on; ended, the machine does.
    let mut terminal = Terminal::start(home.command(["run", "--name", "own", "-t"]));
    terminal.wait_for("# ");
    terminal.type_in("echo in $((6 * 7))\r");
    terminal.wait_for("in 42");
    terminal.type_in("\x1d");
    terminal.wait_for("the machine own goes on");
    assert_eq!(terminal.end().code(), Some(0));
    assert_eq!(home.succeeds(["exec", "own", "echo", "there"]), "there\n");
    home.succeeds(["stop", "own"]);
    let ended = home.run(["run", "--name", "once", "--", "sh", "-c", "echo out; exit 4"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (4, "out\n"));
    assert_eq!(home.succeeds(["logs", "once"]), "out\n");
    assert_eq!(inspect(&home, "once")["state"]["exit_status"], 4);
}

#[test]
fn files_go_both_ways() {
    let home = Home::new();
    home.succeeds(["run", "-d", "--name", "web", "--memory", "1G"]);
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let text = |name: &str| at(name).to_str().unwrap().to_owned();

    // 256 MiB that are not the same everywhere.
    let mut state = 1u64;
    let block: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(1 << 20)
    .collect();
    let mut big = fs::File::create(at("big")).unwrap();
    for n in 0..256u32 {
        big.write_all(&n.to_le_bytes()).and_then(|()| big.write_all(&block[4..])).unwrap();
    }
    home.succeeds(["cp", &text("big"), "web:/tmp/"]);
    home.succeeds(["cp", "web:/tmp/big", &text("back")]);
    let sum = digest(&at("big"));
    assert_eq!(digest(&at("back")), sum);
    assert!(home.succeeds(["exec", "web", "sha256sum", "/tmp/big"]).starts_with(&sum));

    fs::create_dir_all(at("tree/in/deep")).unwrap();
    fs::write(at("tree/in/file"), "content").unwrap();
    fs::set_permissions(at("tree/in/file"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(at("tree/in/file"), at("tree/twin")).unwrap();
    symlink("../file", at("tree/in/deep/link")).unwrap();
    symlink("/etc/passwd", at("tree/away")).unwrap();
    home.succeeds(["cp", &text("tree"), "web:/root"]);
    let listed = home.succeeds(["exec", "web", "ls", "-l", "/root/tree/in/file", "/root/tree/away"]);
    assert!(listed.contains("-rw-r-----    2 root") && listed.contains("-> /etc/passwd"), "{listed}");
    home.succeeds(["cp", "web:/root/tree", &text("copy")]);
    let meta = |name: &str| at(name).symlink_metadata().unwrap();
    for name in ["in/file", "twin", "away", "in/deep/link", "in/deep"] {
        let (from, to) = (meta(&format!("tree/{name}")), meta(&format!("copy/{name}")));
        assert_eq!((from.mode(), from.mtime()), (to.mode(), to.mtime()), "{name}");
    }
    assert_eq!(meta("copy/in/file").ino(), meta("copy/twin").ino());
    assert_eq!(fs::read_link(at("copy/in/deep/link")).unwrap(), Path::new("../file"));

    // What comes from a guest does not leave the folder that it goes to.
    fs::create_dir_all(at("outside")).unwrap();
    fs::create_dir_all(at("target/tree")).unwrap();
    symlink(at("outside"), at("target/tree/in")).unwrap();
    home.refused(&["cp", "web:/root/tree", &text("target")], &["a folder in the place of", "a symbolic link"]);
    assert_eq!(fs::read_dir(at("outside")).unwrap().count(), 0);

    home.refused(&["cp", "web:/no/such", &text("x")], &["/no/such", "No such file"]);
    home.refused(&["cp", &text("none"), "web:/x"], &["none", "No such file"]);
    home.refused(&["cp", "web:/dev/null", &text("x")], &["a device"]);
    home.refused(&["cp", "web:/etc/passwd", &text("none/x")], &["there is no folder"]);
    home.refused(&["cp", "a", "b"], &["MACHINE:PATH"]);
    // A full disk is told, and nothing half made stays; the agent goes on.
    home.succeeds(["exec", "web", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/root"]);
    home.refused(&["cp", &text("big"), "web:/root/full"], &["No space left"]);
    assert_eq!(home.succeeds(["exec", "web", "ls", "-A", "/root"]), "");
    assert!(!at("x").exists());
}

#[test]
fn what_is_killed_is_seen_as_ended() {
    let home = Home::new();
    home.succeeds(["run", "-d", "--name", "web", "--", "sleep", "1000"]);
    let mut exec = home.command(["exec", "web", "sleep", "1000"]).spawn().unwrap();
    kill_process(pid(&home, "web"), Signal::KILL).unwrap();
    assert_eq!(exec.wait().unwrap().code(), Some(125), "its machine has gone");
    assert_eq!(home.succeeds(["wait", "web"]), "137\n");
    assert!(home.succeeds(["ls", "-a"]).contains("killed"));
    home.refused(&["exec", "web", "true"], &["not running"]);
    home.succeeds(["start", "web"]);
    assert_eq!(home.succeeds(["exec", "web", "echo", "again"]), "again\n");
    home.succeeds(["rm", "-f", "web"]);

    // Who starts a machine, or is attached to it, may be killed: the machine goes on.
    let mut attached = home.command(["run", "--name", "own", "--", "sh", "-c", "echo up; sleep 1000"]).spawn().unwrap();
    let mut up = [0; 3];
    attached.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    attached.kill().unwrap();
    attached.wait().unwrap();
    assert!(home.succeeds(["exec", "own", "ps"]).contains("sleep 1000"));
    // The guest's own end is the machine's.
    let gone = home.run(["exec", "own", "--", "sh", "-c", "poweroff -f; sleep 100"]);
    assert_eq!(gone.status, 125, "{}", gone.stderr);
    assert_eq!(home.succeeds(["wait", "own"]), "0\n");
    home.succeeds(["start", "own"]);
    home.run(["exec", "own", "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100"]);
    assert_eq!(home.succeeds(["wait", "own"]), "123\n");
    let error = inspect(&home, "own")["state"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("restarted"), "{error}");
    assert!(home.succeeds(["logs", "--console", "own"]).contains("Kernel panic"));
}

#[test]
fn a_machine_that_cannot_be_is_told_of_and_gone() {
    let home = Home::new();
    // What some of them have made first stays.
    home.succeeds(["run", "--", "true"]);
    home.refused(&["run", "-d", "--name", "a/b"], &["no machine name"]);
    home.refused(&["run", "-d", "--name", "web", "--memory", "1M"], &["at least 16M"]);
    home.refused(&["run", "-d", "--name", "web", "no-such-image"], &["no-such-image"]);
    home.refused(&["run", "-d", "--name", "web", "--disk", "/no/such.raw"], &["/no/such.raw"]);
    home.refused(&["run", "-d", "--name", "web", "--append", "motu.root=/dev/vdz"], &["no root disk /dev/vdz"]);
    home.refused(&["run", "-d", "-e", "=1"], &["NAME=VALUE"]);
    let ended = home.run(["run", "-d", "--name", "web", "--", "no-such-command"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (127, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("no-such-command"), "{}", ended.stderr);
    assert_eq!(home.succeeds(["ls", "-aq"]), "");
    assert_eq!(home.run(["create", "--name", "web", "--timeout", "1s"]).status, 0);
    home.refused(&["exec", "web", "true"], &["not running"]);
    home.refused(&["logs", "wbe"], &["is web meant"]);
    // It may be over before the machine is up.
    home.run(["start", "web"]);
    assert_eq!(home.succeeds(["wait", "web"]), "124\n");
    home.refused(&["kill", "-s", "TREM", "web"], &["no signal"]);
    home.refused(&["stop", "non", "none"], &["\"non\"", "\"none\""]);
}

#[test]
fn a_machine_keeps_its_disk() {
    let home = Home::new();
    make_disk_image(&home);
    home.succeeds(["run", "-d", "--name", "web", "disk"]);
    home.succeeds(["run", "-d", "--name", "other", "--memory", "128M", "disk", "--", "sleep", "1000"]);
    let root = home.succeeds(["exec", "web", "cat", "/proc/mounts", "/etc/hostname"]);
    assert!(root.contains("/dev/vda / ext4 rw") && root.ends_with("\nweb\n"), "{root}");
    assert!(home.succeeds(["exec", "-u", "web", "web", "id"]).contains("uid=1000(web) gid=1001(web) groups=50(ssl)"));
    assert_eq!(
        home.succeeds(["exec", "-u", "web:ssl", "web", "--", "sh", "-c", "echo $HOME; echo x > /dev/stdout"]),
        "/home/web\nx\n"
    );
    // What was flushed stays when the process is killed, what was written when the machine is stopped; the image is as it was.
    home.succeeds(["exec", "web", "--", "sh", "-c", "echo flushed > /file; sync"]);
    kill_process(pid(&home, "web"), Signal::KILL).unwrap();
    home.succeeds(["wait", "web"]);
    home.succeeds(["start", "web"]);
    assert_eq!(home.succeeds(["exec", "web", "cat", "/file"]), "flushed\n");
    home.succeeds(["exec", "web", "--", "sh", "-c", "echo written >> /file"]);
    home.succeeds(["stop", "web"]);
    home.succeeds(["start", "web"]);
    assert_eq!(home.succeeds(["exec", "web", "cat", "/file"]), "flushed\nwritten\n");
    assert_eq!(home.run(["exec", "other", "cat", "/file"]).status, 1);
    // A guest out of memory loses what took it, and neither its agent nor its own command.
    assert_eq!(home.run(["exec", "other", "busybox", "tail", "/dev/zero"]).status, 137);
    assert_eq!(home.succeeds(["exec", "other", "echo", "there"]), "there\n");
    let console = home.succeeds(["logs", "--console", "web"]);
    assert!(!console.contains("EXT4-fs error") && !console.contains("EXT4-fs warning"), "{console}");
    let refused = home.run(["image", "rm", "disk"]);
    assert_eq!(refused.status, 125, "{}", refused.stderr);
    // The machine's own end is the end of its command, and what it wrote is on its disk.
    home.succeeds(["rm", "-f", "web"]);
    let ended = home.run(["run", "--name", "web", "disk", "--", "sh", "-c", "echo last > /file"]);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(inspect(&home, "web")["state"]["exit_status"], 0);
}
