//! Disks that grow: while their machine runs, and while it does not.

use motu_e2e::{Home, root_tree};
use std::fs;

/// The size in the record of a machine's first `--disk`.
fn recorded(home: &Home, name: &str) -> u64 {
    let machines: serde_json::Value = serde_json::from_str(&home.succeeds(["inspect", name])).unwrap();
    machines[0]["spec"]["disks"][0]["size"].as_u64().unwrap()
}

#[test]
fn a_disk_grows_while_its_machine_runs_and_while_it_does_not() {
    let home = Home::new();
    root_tree(&home.at("tree"));
    home.succeeds(["image", "pull", "dir:tree", "-t", "disk"]);
    let disk = "data.raw,size=8M,serial=DATA";
    home.succeeds(["run", "-d", "--name", "db", "--disk", disk, "disk", "--", "sleep", "100000"]);
    let guest =
        |script: &str| home.succeeds(["exec", "db", "--", "sh", "-ec", &format!("exec 2>&1; PATH=/bin; {script}")]);
    let sectors = |disk: &str| guest(&format!("cat /sys/class/block/{disk}/size")).trim().parse::<u64>().unwrap();
    let room =
        || guest("busybox df -m / | busybox tail -n 1 | busybox awk '{ print $2 }'").trim().parse::<u64>().unwrap();
    let len = || fs::metadata(home.at("data.raw")).unwrap().len();

    assert_eq!(home.succeeds(["disk", "resize", "db", "data.raw", "+8M"]), "vdb 16M\n");
    assert_eq!(len(), 16 << 20);
    guest("while [ $(cat /sys/class/block/vdb/size) != 32768 ]; do sleep 0.05; done");
    assert_eq!(guest("busybox dmesg | busybox grep -c 'vdb. new size: 32768 512-byte'"), "1\n");
    guest("echo the end | dd of=/dev/vdb bs=512 seek=32767 conv=fsync");
    let (root, before) = (sectors("vda"), room());
    let said = home.succeeds(["disk", "resize", "--grow-fs", "db", "+1G"]);
    assert!(said.starts_with("vda "), "{said}");
    assert_eq!(sectors("vda"), root + (1 << 21));
    assert!(room() > before + 900, "{} MiB after {before}", room());
    guest("echo kept > /etc/kept; sync");

    home.refused(&["disk", "resize", "db", "vdb", "15M"], &["vdb has 16777216 bytes", "does not shrink"]);
    home.refused(&["disk", "resize", "--grow-fs", "db", "DATA", "17M"], &["vdb has 17M now", "not mounted"]);
    assert_eq!(len(), 17 << 20);
    home.succeeds(["stop", "-t", "0", "db"]);
    assert_eq!(recorded(&home, "db"), 17 << 20);

    home.refused(&["disk", "resize", "db", "vdb", "1M"], &["vdb", "does not shrink"]);
    home.refused(&["disk", "resize", "--grow-fs", "db", "20M"], &["motu start db"]);
    assert_eq!(home.succeeds(["disk", "resize", "db", "/dev/vdb", "20M"]), "vdb 20M\n");
    home.succeeds(["disk", "resize", "db", "+1G"]);
    home.succeeds(["start", "db"]);
    assert_eq!((sectors("vda"), sectors("vdb")), (root + (2 << 21), 40960));
    let kept = guest("dd if=/dev/vdb bs=512 skip=32767 count=1 status=none | head -n 1; cat /etc/kept");
    assert_eq!(kept, "the end\nkept\n");
}

#[test]
fn a_disk_that_cannot_grow_is_one_error() {
    let home = Home::new();
    fs::write(home.at("old.raw"), [0; 4096]).unwrap();
    home.succeeds(["create", "--name", "none"]);
    home.succeeds(["create", "--name", "two", "--disk", "new.raw,size=1M", "--disk", "old.raw,readonly"]);
    let refused = |args: &[&str], words: &[&str]| home.refused(&[&["disk", "resize"], args].concat(), words);
    refused(&["gone", "1G"], &["gone"]);
    refused(&["none", "1G"], &["has no disk", "--disk"]);
    refused(&["two", "1G"], &["say which", "vda", "new.raw", "vdb", "old.raw"]);
    refused(&["two", "vdc", "1G"], &["no disk vdc", "vda"]);
    refused(&["two", "vdb", "1G"], &["vdb is read-only"]);
    refused(&["two", "vda", "1025K1"], &["+2G"]);
    refused(&["two", "vda", "-1M"], &["does not shrink"]);
    refused(&["two", "-1M"], &["does not shrink"]);
    refused(&["two", "vda", "+1"], &["whole sectors", "1049088"]);
    refused(&["two", "vda", "65T"], &["at most"]);
    refused(&["two"], &["<SIZE>"]);
    assert!(!home.at("new.raw").exists(), "nothing half done");
    // It is made for this, and found when the machine starts.
    assert_eq!(home.succeeds(["disk", "resize", "two", "vda", "+1M"]), "vda 2M\n");
    assert_eq!(fs::metadata(home.at("new.raw")).unwrap().len(), 2 << 20);
    assert_eq!(recorded(&home, "two"), 2 << 20);
}
