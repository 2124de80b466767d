//! The store and the making of `tiny`, with programs in the place of apt and dpkg-deb that do what
//! each test needs. A package is a plain tar archive here, which the stand-in for dpkg-deb prints.

mod images;

use crate::modules::tests::module;
use crate::process::Host;
use crate::{BootFiles, Image, Progress, Prune, Silent, Store, StoreError, Watch, default_path};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

static GO_ON: AtomicBool = AtomicBool::new(false);

const AGENT: &[u8] = b"the agent";

/// A host with an empty home.
struct World {
    root: TempDir,
}

const APT_CACHE: &str = r#"
for name; do :; done
case "$name" in
linux-image-cloud-amd64) printf 'Package: %s\nVersion: 1\nDepends: linux-image-1-cloud (= 1)\nSize: 1\n' "$name";;
linux-image-1-cloud|busybox-static) printf 'Package: %s\nVersion: 1\nSize: 1000\n' "$name";;
*) echo 'E: No packages found' >&2; exit 100;;
esac
"#;

/// Copies the packages that the test made to where apt would put them.
const APT_GET: &str = r#"
case "$*" in
*' update') mkdir -p "$HERE/.." && for a; do case "$a" in Dir::State::lists=*) : > "${a#*=}/x_Packages";; esac; done;;
*' download '*) echo 'dlstatus:1:40.0:fetching'; echo 'Get:1 something'
  cp "$HERE"/*.deb . && echo 'dlstatus:2:100.0:fetching';;
esac
"#;

const DPKG_DEB: &str = r#"cat "$2""#;

impl World {
    /// A host on which all goes well.
    fn new() -> World {
        let world = World { root: TempDir::new().expect("a folder") };
        fs::create_dir(world.bin()).expect("bin");
        world.tool("apt-get", APT_GET);
        world.tool("apt-cache", APT_CACHE);
        world.tool("dpkg-deb", DPKG_DEB);
        let kernel = [
            ("./boot/vmlinuz-1-cloud", b"the kernel".to_vec()),
            ("./lib/modules/1-cloud/modules.builtin", b"kernel/drivers/char/hw_random/rng-core.ko\n".to_vec()),
            ("./lib/modules/1-cloud/kernel/virtio_pci.ko", module("virtio,novel")),
            ("./lib/modules/1-cloud/kernel/virtio.ko", module("")),
            ("./lib/modules/1-cloud/kernel/novel.ko", module("")),
            ("./lib/modules/1-cloud/kernel/unneeded.ko", module("")),
            ("./lib/modules/1-cloud/kernel/virtio_console.ko", module("virtio")),
        ];
        world.package("linux-image-1-cloud", &kernel);
        let busybox = b"code\0[\0[[\0cat\0ls\0mount\0sh\0\0".to_vec();
        world.package("busybox-static", &[("./usr/bin/busybox", busybox)]);
        world
    }

    fn bin(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    fn store_path(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.bin().join(name);
        let here = self.bin();
        let script = format!("#!/bin/sh\nPATH=/usr/bin:/bin; HERE='{}'\n{script}\n", here.display());
        // By another process: while this one has a file open for writing, a child that another test is
        // just starting has it too, and the kernel runs no file that is open for writing (ETXTBSY).
        let write = r#"printf '%s' "$1" > "$2" && chmod 755 "$2""#;
        let written = Command::new("/bin/sh").args(["-c", write, "sh", &script]).arg(&path).status();
        assert!(written.is_ok_and(|status| status.success()), "{}", path.display());
    }

    fn without(&self, name: &str) {
        fs::remove_file(self.bin().join(name)).expect("the tool was there");
    }

    fn package(&self, name: &str, members: &[(&str, Vec<u8>)]) {
        let file = fs::File::create(self.bin().join(format!("{name}_1_amd64.deb"))).expect("a package");
        let mut tar = tar::Builder::new(file);
        for (path, data) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, data.as_slice()).expect("a member");
        }
        tar.finish().expect("an archive");
    }

    fn store(&self) -> Store {
        let host = Host { path: Some(self.bin().into()), lists: self.root.path().join("no-lists") };
        Store::open(self.store_path()).expect("a store").with_host(host)
    }

    fn tiny(&self) -> Result<Image, StoreError> {
        self.store().tiny(AGENT, &Silent, &GO_ON)
    }

    /// What `tiny` is booted with, its files checked.
    fn boot(&self) -> Result<BootFiles, StoreError> {
        let image = self.tiny()?;
        Ok(self.store().boot_files(&image, Watch::silent())?.expect("a kernel of its own"))
    }

    fn remove(&self, name: &str) -> Result<bool, StoreError> {
        match self.store().remove(name, false, Watch::silent()) {
            Ok(removed) => Ok(removed.deleted.is_some()),
            Err(StoreError::NoImage { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Every file of the store but its locks.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.store_path()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else if entry.file_name() != "lock" && folder.file_name() != Some("turns".as_ref()) {
                    files.insert(entry.path(), fs::read(entry.path()).expect("a file"));
                }
            }
        }
        files
    }

    /// Makes the image, which must fail, and leave no image and nothing half made.
    fn fails(&self) -> String {
        let error = self.tiny().expect_err("it cannot be made").to_string();
        let files = self.files();
        let is_blob =
            |path: &Path| ["blobs", "seals"].iter().any(|part| path.starts_with(self.store_path().join(part)));
        let left: Vec<_> = files.keys().filter(|path| !is_blob(path)).collect();
        let packages = self.store_path().join("packages/tiny.json");
        assert!(left.iter().all(|path| **path == packages), "{left:?}");
        assert!(self.store().images().expect("readable").is_empty());
        error
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn the_image_is_made_of_the_packages_and_the_agent() {
    let world = World::new();
    let image = world.tiny().expect("made");
    let boot = world.boot().expect("whole");
    assert_eq!(fs::read(&boot.kernel).expect("a kernel"), b"the kernel");
    let initrd = fs::read(boot.initrd.expect("an initrd")).expect("an initrd");
    for part in [AGENT, b"bin/sh\0", b"bin/mount\0", b"dev/console\0"] {
        assert!(contains(&initrd, part), "{}", String::from_utf8_lossy(part));
    }
    let list = b"/lib/modules/1-cloud/kernel/virtio.ko\n/lib/modules/1-cloud/kernel/novel.ko\n\
        /lib/modules/1-cloud/kernel/virtio_pci.ko\n/lib/modules/1-cloud/kernel/virtio_console.ko\n";
    assert!(contains(&initrd, list), "the order of loading, with a dependency that was not foreseen");
    assert!(!contains(&initrd, b"unneeded.ko"));
    let packages: Vec<_> =
        image.record.packages.iter().map(|package| (package.name.as_str(), package.version.as_str())).collect();
    assert_eq!(packages, [("linux-image-1-cloud", "1"), ("busybox-static", "1")]);
}

#[test]
fn the_second_use_takes_no_tool_and_changes_nothing() {
    let world = World::new();
    let image = world.tiny().expect("made");
    let files = world.files();
    fs::remove_dir_all(world.bin()).expect("gone");
    assert_eq!(world.tiny().expect("found"), image);
    assert_eq!(world.files(), files);
}

#[test]
fn the_same_packages_and_agent_give_the_same_image() {
    let (one, other) = (World::new(), World::new());
    assert_eq!(one.tiny().expect("made").record.boot, other.tiny().expect("made").record.boot);
}

#[test]
fn another_agent_is_put_in_without_a_network() {
    let world = World::new();
    let before = world.boot().expect("made");
    world.without("apt-get");
    world.without("apt-cache");
    let newer = world.store().tiny(b"a newer agent", &Silent, &GO_ON).expect("made from kept packages");
    let boot = world.store().boot_files(&newer, Watch::silent()).expect("whole").expect("a kernel");
    assert_eq!(boot.kernel, before.kernel);
    assert!(contains(&fs::read(boot.initrd.expect("an initrd")).expect("readable"), b"a newer agent"));
    assert!(!before.initrd.expect("an initrd").exists(), "the image before is gone, as it can be made anew");
    assert_eq!(world.store().images().expect("readable").len(), 1);
}

#[test]
fn progress_adds_up_to_the_download() {
    #[derive(Debug, Default, PartialEq)]
    struct Step {
        what: String,
        total: Option<u64>,
        done: u64,
        finished: bool,
    }
    #[derive(Default)]
    struct Heard(Mutex<Vec<Step>>);
    impl Heard {
        fn last(&self, change: impl FnOnce(&mut Step)) {
            change(self.0.lock().expect("no panic").last_mut().expect("a step"));
        }
    }
    impl Progress for Heard {
        fn start(&self, what: &str, total: Option<u64>) {
            self.0.lock().expect("no panic").push(Step { what: what.to_owned(), total, ..Step::default() });
        }
        fn advance(&self, bytes: u64) {
            self.last(|step| step.done += bytes);
        }
        fn finish(&self) {
            self.last(|step| step.finished = true);
        }
    }
    let world = World::new();
    let heard = Heard::default();
    world.store().tiny(AGENT, &heard, &GO_ON).expect("made");
    let steps = heard.0.into_inner().expect("no panic");
    assert!(steps.iter().all(|step| step.finished), "{steps:?}");
    let download = Step { what: "fetching packages".into(), total: Some(2000), done: 2000, finished: true };
    assert!(steps.contains(&download), "{steps:?}");
}

#[test]
fn a_host_without_the_tools_is_told_what_to_pass() {
    for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
        let world = World::new();
        world.without(tool);
        let error = world.fails();
        assert!(error.contains(&format!("there is no {tool} on this host")), "{error}");
        assert!(error.contains("--kernel KERNEL --initrd INITRD"), "{error}");
    }
}

#[test]
fn what_apt_says_is_passed_on() {
    let world = World::new();
    world.tool("apt-get", "echo 'W: Failed to fetch: Could not resolve' >&2; exit 0");
    let error = world.fails();
    assert!(error.starts_with("apt-get could not fetch the lists of packages (no list came)"), "{error}");
    assert!(error.contains("Could not resolve"), "{error}");

    let world = World::new();
    world.tool(
        "apt-get",
        &format!("{APT_GET}\ncase \"$*\" in *' download '*) echo 'E: 404 Not Found' >&2; exit 100;; esac"),
    );
    let error = world.fails();
    assert!(error.contains("fetch linux-image-1-cloud and busybox-static (exit status 100)"), "{error}");
    assert!(error.contains("E: 404 Not Found"), "{error}");
}

#[test]
fn packages_that_apt_does_not_know_are_named() {
    let world = World::new();
    world.tool("apt-cache", "exit 100");
    let error = world.fails();
    assert!(error.contains("linux-image-cloud-amd64 nor linux-image-virtual"), "{error}");
    let world = World::new();
    world.tool("apt-cache", &APT_CACHE.replace("|busybox-static", ""));
    assert!(world.fails().contains("no package busybox-static"));
}

#[test]
fn a_split_kernel_is_put_together() {
    let world = World::new();
    world.tool(
        "apt-cache",
        r#"for name; do :; done
        case "$name" in
        linux-image-virtual) printf 'Package: %s\nVersion: 1\nDepends: linux-image-9\n' "$name";;
        linux-image-9) printf 'Package: %s\nVersion: 1\nDepends: kmod, linux-modules-9 (= 1)\n' "$name";;
        linux-modules-9|busybox-static) printf 'Package: %s\nVersion: 1\n' "$name";;
        *) exit 100;; esac"#,
    );
    world.package("linux-image-9", &[("./boot/vmlinuz-9", b"a kernel apart".to_vec())]);
    let builtin = b"kernel/virtio_pci.ko\nkernel/virtio_console.ko\n".to_vec();
    world.package("linux-modules-9", &[("./lib/modules/9/modules.builtin", builtin)]);
    let boot = world.boot().expect("made");
    assert_eq!(fs::read(&boot.kernel).expect("a kernel"), b"a kernel apart");
}

#[test]
fn packages_that_do_not_hold_it_are_named() {
    let world = World::new();
    world.package("busybox-static", &[("./usr/share/doc/x", b"".to_vec())]);
    assert!(world.fails().contains("holds no busybox (bin/busybox)"));
    let world = World::new();
    world.package("linux-image-1-cloud", &[("./boot/vmlinuz-1", b"x".to_vec())]);
    assert!(world.fails().contains("the package linux-image-1-cloud holds no module virtio_pci"));
    let world = World::new();
    fs::write(world.bin().join("busybox-static_1_amd64.deb"), [7u8; 1000]).expect("written");
    assert!(world.fails().contains("dpkg-deb could not unpack busybox-static"));
    let world = World::new();
    // More than a pipe holds, before it writes what is read.
    world.tool("dpkg-deb", "echo 'dpkg-deb: error: bad' >&2; head -c 200000 /dev/zero >&2; cat \"$2\"; exit 2");
    let error = world.fails();
    assert!(error.contains("bad") && error.contains("exit status 2") && error.len() < 20_000, "{error}");
}

#[test]
fn stopping_leaves_nothing_half_made() {
    let world = World::new();
    world.tool("apt-get", &APT_GET.replace("*' download '*)", "*' download '*) : > \"$HERE/at-it\"; sleep 600;"));
    let store = world.store();
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| store.tiny(AGENT, &Silent, &cancel));
        while !world.bin().join("at-it").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(making.join().expect("no panic"), Err(StoreError::Cancelled)));
    });
    assert_eq!(world.files(), BTreeMap::new());
    world.tool("apt-get", APT_GET);
    world.tiny().expect("made at the next try");
}

#[test]
fn what_a_killed_motu_left_is_never_used_and_cleared() {
    let world = World::new();
    world.store();
    let tmp = world.store_path().join("tmp");
    fs::create_dir_all(tmp.join("apt-killed/lists")).expect("a leftover");
    fs::write(tmp.join("apt-killed/lists/x"), "half").expect("a leftover");
    fs::write(tmp.join(".tmpHALF"), "half").expect("a leftover");
    // Killed between the blobs and the record that names them: they are no image.
    let orphan = world.store_path().join("blobs/sha256").join(crate::Digest::of(b"orphan").to_string());
    fs::write(&orphan, "orphan").expect("a leftover");
    assert!(world.store().images().expect("readable").is_empty());
    world.tiny().expect("made");
    assert!(world.store().check(Watch::silent()).expect("readable").troubles.is_empty());
    world.store().prune(Prune::default(), Watch::silent()).expect("pruned");
    assert_eq!(fs::read_dir(&tmp).expect("tmp").count(), 0);
    assert!(!orphan.exists());
}

#[test]
fn one_motu_waits_for_the_other() {
    let world = World::new();
    let store = world.store();
    let other = store.turn("tiny", Watch::silent()).expect("the turn");
    struct StopWhenWaiting<'a>(&'a AtomicBool);
    impl Progress for StopWhenWaiting<'_> {
        fn start(&self, what: &str, _: Option<u64>) {
            assert!(what.contains("another motu"));
            self.0.store(true, Ordering::Relaxed);
        }
        fn advance(&self, _: u64) {}
        fn finish(&self) {}
    }
    let cancel = AtomicBool::new(false);
    let stopped = store.tiny(AGENT, &StopWhenWaiting(&cancel), &cancel);
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
    drop(other);
    store.tiny(AGENT, &Silent, &GO_ON).expect("made once the other is done");
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[0] ^= 1;
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_damaged_blob_is_named_and_refused_until_it_is_made_anew() {
    let world = World::new();
    let boot = world.boot().expect("made");
    let initrd = boot.initrd.clone().expect("an initrd");
    for path in [&boot.kernel, &initrd] {
        damage(path);
        let error = world.boot().expect_err("damaged").to_string();
        assert!(error.contains("the image tiny is damaged") && error.contains(&path.display().to_string()), "{error}");
        let report = world.store().check(Watch::silent()).expect("readable");
        let found: Vec<_> = report.troubles.iter().map(|trouble| (&trouble.path, trouble.affects.concat())).collect();
        assert_eq!(found, [(path, "tiny:latest".to_owned())]);
        assert!(world.remove("tiny").expect("removed"));
        assert_eq!(world.boot().expect("made anew"), boot);
    }
    fs::remove_file(&boot.kernel).expect("removed");
    assert!(world.boot().expect_err("damaged").to_string().contains("is missing"));
}

#[test]
fn a_damaged_record_is_named_and_refused_until_it_is_made_anew() {
    let world = World::new();
    let boot = world.boot().expect("made");
    let record = world.store().image_record(world.tiny().expect("made").digest);
    damage(&record);
    let error = world.tiny().expect_err("damaged").to_string();
    assert!(error.contains("has another digest than its name says"), "{error}");
    // What it names is not known, so nothing is deleted for it.
    world.store().prune(Prune::default(), Watch::silent()).expect("pruned");
    assert!(boot.kernel.exists());
    assert!(world.remove("tiny").expect("removed"));
    assert_eq!(world.boot().expect("made anew"), boot);
    let name = world.store_path().join("names/tiny:latest.json");
    damage(&name);
    let error = world.tiny().expect_err("damaged").to_string();
    assert!(error.contains("tiny:latest.json is no record of this motu's"), "{error}");
}

#[test]
fn a_record_of_a_newer_motu_is_said_to_be_one() {
    let world = World::new();
    let text = br#"{"version": 3, "something": "new"}"#;
    let digest = crate::Digest::of(text);
    let store = world.store();
    fs::write(store.image_record(digest), text).expect("written");
    let error = store.find(&digest.short()).expect_err("newer").to_string();
    assert!(error.contains("newer motu") && error.contains("version 3"), "{error}");
    let report = store.check(Watch::silent()).expect("readable");
    let found: Vec<_> = report.troubles.iter().map(|trouble| trouble.path.clone()).collect();
    assert_eq!(found, [store.image_record(digest)]);
}

#[test]
fn what_an_older_motu_kept_is_made_anew() {
    let world = World::new();
    let store = world.store();
    let record = world.store_path().join("images/tiny.json");
    fs::write(&record, br#"{"kernel": "00", "recipe": 2}"#).expect("written");
    assert!(store.images().expect("readable").is_empty());
    world.tiny().expect("made");
    store.prune(Prune::default(), Watch::silent()).expect("pruned");
    assert!(!record.exists());
    world.boot().expect("whole");
}

#[test]
fn damaged_kept_packages_are_fetched_again() {
    let world = World::new();
    let boot = world.boot().expect("made");
    let deb = world.tiny().expect("made").record.packages[0].digest.to_string();
    damage(&world.store_path().join("blobs/sha256").join(deb));
    assert!(world.remove("tiny").expect("removed"));
    assert_eq!(world.boot().expect("made anew"), boot);
    let record = world.store_path().join("packages/tiny.json");
    damage(&record);
    assert!(world.remove("tiny").expect("removed"));
    assert_eq!(world.boot().expect("made anew"), boot);
}

#[test]
fn removing_keeps_the_packages_and_pruning_does_not() {
    let world = World::new();
    world.tiny().expect("made");
    assert!(world.remove("tiny").expect("removed"));
    assert!(!world.remove("tiny").expect("gone already"));
    let files = world.files();
    let seals = files.keys().filter(|path| path.starts_with(world.store_path().join("seals"))).count();
    assert_eq!(files.len() - seals, 3, "two packages and their record");
    let pruned = world.store().prune(Prune { caches: true, unused: false }, Watch::silent()).expect("pruned");
    assert!(pruned.bytes > 0);
    assert_eq!(world.files(), BTreeMap::new());
    for name in ["", "../x", "a/b", "Tiny", ".hidden"] {
        assert!(!world.remove(name).expect("nothing"), "{name:?}");
    }
}

#[test]
fn a_store_that_cannot_be_made_is_named() {
    let world = World::new();
    let file = world.root.path().join("file");
    fs::write(&file, "").expect("written");
    let error = Store::open(file.join("motu")).expect_err("it is in a file").to_string();
    assert!(error.starts_with("cannot make the folder ") && error.contains("file/motu"), "{error}");
}

#[test]
fn the_store_is_where_the_environment_says() {
    let path = |vars: &[(&str, &str)]| {
        let found = default_path(|name| vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.into()));
        found.map(|path| path.display().to_string()).map_err(|error| error.to_string())
    };
    let all = [("MOTU_HOME", "/m"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
    assert_eq!(path(&all).as_deref(), Ok("/m"));
    assert_eq!(path(&all[1..]).as_deref(), Ok("/x/motu"));
    assert_eq!(path(&all[2..]).as_deref(), Ok("/h/.local/share/motu"));
    assert_eq!(path(&[("XDG_DATA_HOME", "relative"), ("HOME", "/h")]).as_deref(), Ok("/h/.local/share/motu"));
    assert!(path(&[("HOME", "")]).is_err_and(|error| error.contains("MOTU_HOME")));
}
