//! Folders of the host in machines of the image `tiny`.

use motu_e2e::{Ended, command};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

fn run(folder: &Path, shares: &[&str], script: &str) -> Ended {
    let shares = shares.iter().flat_map(|share| ["-v", share]);
    let args = ["run"].into_iter().chain(shares).chain(["--", "sh", "-ec", script]);
    command(args).current_dir(folder).output().unwrap().into()
}

#[track_caller]
fn succeeds(folder: &Path, shares: &[&str], script: &str) -> String {
    let ended = run(folder, shares, script);
    assert_eq!(ended.status, 0, "{script}: {}{}", ended.stdout, ended.stderr);
    ended.stdout
}

#[test]
fn a_folder_is_read_and_written_by_both_sides() {
    let place = TempDir::new().unwrap();
    let host = |name: &str| place.path().join(name);
    fs::create_dir_all(host("a b/sub")).unwrap();
    fs::write(host("a b/f"), "from the host\n").unwrap();
    fs::write(host("outside"), "of nobody's business").unwrap();
    symlink("../outside", host("a b/out")).unwrap();
    symlink("sub", host("a b/in")).unwrap();
    let script = "cd '/s h/w'; cat f; mkdir new; echo guest > in/g; ln f new/hard; ln -s ../f new/soft; chmod 640 sub/g; mv sub/g new/g;
        rmdir sub; seq 1 20000 > new/many; md5sum < new/many; seq 1 20000 | md5sum; if cat out; then exit 9; fi 2>/dev/null;
        for n in $(seq 1 60); do : > new/n$n; done; ls new | wc -l";
    let said = succeeds(place.path(), &["a b/:/s h/w"], script);
    let lines: Vec<_> = said.lines().collect();
    let [content, first, second, count] = lines[..] else { panic!("{said}") };
    assert_eq!((content, first), ("from the host", second));
    assert_eq!(count.trim(), "64");
    assert_eq!(fs::read_to_string(host("a b/new/g")).unwrap(), "guest\n");
    assert_eq!(fs::metadata(host("a b/new/g")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::metadata(host("a b/f")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(host("a b/new/soft")).unwrap(), Path::new("../f"));
    assert_eq!(fs::read_to_string(host("a b/new/many")).unwrap().lines().count(), 20_000);
    assert!(!host("a b/sub").exists());
}

#[test]
fn a_read_only_folder_stays_as_it_is_whatever_the_guest_mounts() {
    let place = TempDir::new().unwrap();
    fs::create_dir(place.path().join("src")).unwrap();
    fs::write(place.path().join("src/f"), "as it was").unwrap();
    let script = "cat /src/f; ! echo x > /src/f; ! rm /src/f; umount /src; mount -t virtiofs share0 /src; ! echo x > /src/f;
        ! mkdir /src/d; ! chmod 777 /src/f; mount -t virtiofs share1 /mnt2 2>/dev/null || true; echo done > /other/said";
    let said = succeeds(place.path(), &["./src:/src:ro", ".:/other"], script);
    assert_eq!(said, "as it was");
    assert_eq!(fs::read_to_string(place.path().join("src/f")).unwrap(), "as it was");
    assert_eq!(fs::read_to_string(place.path().join("said")).unwrap(), "done\n");
}

#[test]
fn what_cannot_be_shared_is_one_error() {
    let place = TempDir::new().unwrap();
    fs::write(place.path().join("file"), "").unwrap();
    for (share, why) in [
        ("./none:/a", "./none cannot be shared"),
        ("./file:/a", "is no folder"),
        ("volume:/a", "./volume"),
        (".:a", "begin with /"),
        (".:/a:x", "ro and rw"),
        (".:/proc/version", "the shared folder /proc/version"),
    ] {
        let ended = run(place.path(), &[share], "true");
        assert_eq!(ended.status, 125, "{share}: {}", ended.stderr);
        assert!(ended.stderr.contains(why), "{share}: {}", ended.stderr);
    }
}
