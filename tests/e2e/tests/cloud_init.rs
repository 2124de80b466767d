//! What cloud-init in a guest is given: a disk with the label `cidata`, read by `tiny`'s busybox; and by cloud-init itself, which
//! takes minutes: with `MOTU_CLOUD_INIT` set, as `cargo xtask cloud-init` does.

use motu_e2e::packages::Packages;
use motu_e2e::{Home, newc};
use std::fs;

const USER_DATA: &str = "#cloud-config
hostname: by-user-data
write_files:
- path: /etc/by-user-data
  content: hello
runcmd:
- [touch, /root/ran]
resize_rootfs: false
locale: false
";
/// A key of no use: 32 bytes of zeros.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@host\n";

/// A store, and files that are right.
fn world() -> Home {
    let world = Home::new();
    for (name, text) in [("user.yaml", USER_DATA), ("id.pub", KEY), ("net.yaml", "version: 2\n")] {
        fs::write(world.at(name), text).unwrap();
    }
    world
}

/// What shows all that is on a seed.
fn show(device: &str) -> String {
    format!("mkdir -p /m && mount -t iso9660 -o ro {device} /m && cd /m && head -n 99 *; cd /; umount /m")
}

/// The value of a line `"key": "value",` of meta-data.
#[track_caller]
fn value<'a>(shown: &'a str, key: &str) -> &'a str {
    let value = shown.lines().find_map(|line| line.trim().strip_prefix(&format!("\"{key}\": ")));
    value.unwrap_or_else(|| panic!("no {key} in {shown}")).trim_end_matches(',').trim_matches('"')
}

#[test]
fn a_seed_is_a_disk_of_the_guest() {
    let world = world();
    let seed = ["--user-data", "user.yaml", "--ssh-key", "id.pub", "--network-config", "net.yaml"];
    let run = |seed: &[&str], script: &str| world.succeeds([&["run"], seed, &["--", "sh", "-c", script]].concat());
    let shown = run(&seed, &format!("cat /sys/block/vda/serial /sys/block/vda/ro; {}", show("/dev/vda")));
    assert!(shown.starts_with("motu-seed1\n"), "{shown}");
    let files: Vec<_> = shown.lines().filter(|line| line.starts_with("==>")).collect();
    assert_eq!(files, ["==> meta-data <==", "==> network-config <==", "==> user-data <=="]);
    assert!(shown.contains(USER_DATA) && shown.contains(KEY.trim()) && shown.contains("\nversion: 2\n"), "{shown}");
    assert_eq!(value(&shown, "local-hostname"), "motu");
    // The same again is the same machine to cloud-init, something else another one.
    let again = run(&seed, &show("/dev/vda"));
    assert_eq!(value(&again, "instance-id"), value(&shown, "instance-id"));
    let other = run(&["--ssh-key", "id.pub"], &show("/dev/vda"));
    assert_ne!(value(&other, "instance-id"), value(&shown, "instance-id"));
}

#[test]
fn a_machine_that_stays_keeps_its_seed() {
    let world = world();
    world.succeeds(["create", "--name", "web", "--user-data", "user.yaml", "--ssh-key", "id.pub"]);
    ["user.yaml", "id.pub"].iter().for_each(|file| fs::remove_file(world.at(file)).unwrap());
    let show_in = |name: &str| {
        world.succeeds(["start", name]);
        let shown = world.succeeds(["exec", name, "--", "sh", "-c", &show("/dev/vda")]);
        world.succeeds(["stop", "-t", "0", name]);
        shown
    };
    let first = show_in("web");
    assert!(first.contains(USER_DATA) && first.contains(KEY.trim()), "{first}");
    assert_eq!(value(&first, "local-hostname"), "web");
    world.succeeds(["rename", "web", "www"]);
    let second = show_in("www");
    assert_eq!(value(&second, "local-hostname"), "www");
    assert_eq!(value(&second, "instance-id"), value(&first, "instance-id"));
}

#[test]
fn a_kernel_of_ones_own_finds_the_seed_behind_its_disks() {
    let world = world();
    world.succeeds(["run", "--", "true"]);
    let image: serde_json::Value = serde_json::from_str(&world.succeeds(["image", "inspect", "tiny"])).unwrap();
    let blob = |what: &str| {
        let digest = image[0]["record"]["boot"]["kernel"][what].as_str().unwrap();
        world.store("blobs/sha256").join(digest)
    };
    // Its own init in place of the agent: of two files in an archive that are called the same, the later one stands.
    let init = format!(
        "#!/bin/busybox sh\nmount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev\n\
         for module in $(cat /etc/motu/modules /etc/motu/modules-disk /etc/motu/modules-seed); do insmod $module; done\n\
         {}\npoweroff -f\n",
        show("/dev/vdb")
    );
    let mut initrd = fs::read(blob("initrd")).unwrap();
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    initrd.extend(newc::member("init", 0o100_755, init.as_bytes()));
    initrd.extend(newc::member("TRAILER!!!", 0, b""));
    fs::write(world.at("initrd"), initrd).unwrap();
    let kernel = blob("kernel");
    let boot = ["run", "--kernel", kernel.to_str().unwrap(), "--initrd", "initrd", "--append"];
    let append = "console=ttyS0 quiet panic=-1 cryptomgr.notests";
    let seed = ["--disk", "disk.raw,size=1M", "--user-data", "user.yaml"];
    let shown = world.succeeds([&boot[..], &[append], &seed[..]].concat()).replace('\r', "");
    assert!(shown.contains(USER_DATA), "{shown}");
    assert!(value(&shown, "instance-id").starts_with("motu-"), "{shown}");
}

#[test]
fn what_cloud_init_could_not_use_is_refused() {
    let world = world();
    for (name, text) in [
        ("id", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"),
        ("headless", "hostname: web\n"),
        ("broken", "#cloud-config\nruncmd: [a, b\nhostname: web\n"),
        ("list", "#cloud-config\n- a\n"),
        ("long", &format!("#!/bin/sh\n{}", "#".repeat(256 << 10))),
        ("meta", "local-hostname: web\n"),
        ("good-meta", "instance-id: web\n"),
        ("net", "ethernets: {}\n"),
        ("empty", ""),
    ] {
        fs::write(world.at(name), text).unwrap();
    }
    let cases: [(&[&str], &[&str]); 14] = [
        (&["--user-data", "none"], &["none", "No such file"]),
        (&["--user-data", "."], &["reading the user-data .", "directory"]),
        (&["--user-data", "empty"], &["it is empty"]),
        (&["--user-data", "headless"], &["headless", "\"hostname: web\"", "#cloud-config"]),
        (&["--user-data", "broken"], &["broken cannot be the user-data", "line ", "YAML"]),
        (&["--user-data", "list"], &["no mapping"]),
        (&["--user-data", "long"], &["more than 256 KiB"]),
        (&["--ssh-key", "id"], &["id cannot be the SSH key", "private key", ".pub"]),
        (&["--ssh-key", "user.yaml"], &["line 2", "ssh-ed25519 AAAAC3Nza"]),
        (&["--ssh-key", "empty"], &["it is empty"]),
        (&["--meta-data", "meta"], &["instance-id: web-1"]),
        (&["--meta-data", "good-meta", "--ssh-key", "id.pub"], &["public-keys"]),
        (&["--network-config", "net"], &["version: 2"]),
        (&["--user-data"], &["--user-data <FILE>"]),
    ];
    for (args, words) in cases {
        world.refused(&[&["run"], args].concat(), words);
    }
    world.refused(&["create", "--name", "web", "--user-data", "headless"], &["#cloud-config"]);
    assert_eq!(world.left("machines"), Vec::<String>::new());
}

/// What cloud-init's services do, one after the other, without systemd.
const CLOUD_INIT: &str = "set -e; export PATH=/usr/sbin:/usr/bin:/sbin:/bin
cloud-init init --local; cloud-init init; cloud-init modules --mode config; cloud-init modules --mode final";

#[test]
fn cloud_init_itself_does_what_it_is_told() {
    if std::env::var_os("MOTU_CLOUD_INIT").is_none() {
        return println!("SKIPPED: cloud-init's own package, which takes minutes: cargo xtask cloud-init");
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let Some(suite) = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")) else {
        return println!("SKIPPED: no image with cloud-init: /etc/os-release names no suite of packages");
    };
    if let Err(why) = Packages::of("amd64") {
        return println!("SKIPPED: no image with cloud-init: {why}");
    }
    let world = world();
    let source = format!("deb:{suite}");
    world.succeeds(["image", "pull", &source, "--include", "cloud-init,openssh-server", "--tag", "ci"]);
    let seed = ["--user-data", "user.yaml", "--ssh-key", "id.pub"];
    let start = ["run", "-d", "--memory", "768M", "--name", "web", "ci"];
    world.succeeds([&start[..], &seed[..], &["--", "sleep", "infinity"]].concat());
    let exec = |script: &str| world.succeeds(["exec", "web", "--", "sh", "-c", script]);
    exec(CLOUD_INIT);
    let said = exec(
        "cloud-init query instance_id; cloud-init query platform; hostname; cat /etc/by-user-data; \
         cat /home/*/.ssh/authorized_keys; ls /root/ran",
    );
    println!("{said}");
    assert!(said.starts_with("motu-"), "{said}");
    for words in ["nocloud", "\nby-user-data\n", "hello", KEY.trim(), "/root/ran"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    // At the next start it is the same machine: what is done once is not done again.
    exec("rm /root/ran");
    world.succeeds(["stop", "web"]);
    world.succeeds(["start", "web"]);
    exec(CLOUD_INIT);
    assert_eq!(
        exec("ls /root; cloud-init query instance_id"),
        format!("{}\n", said.lines().next().unwrap_or_default())
    );
}
