//! Images by content, names, work, machines and what is deleted when.

use crate::lock::{Lock, Mode};
use crate::{
    Boot, Digest, DiskImport, Image, ImageConfig, ImageName, ImageRecord, Kernel, Layer, Life, Progress, Prune,
    RECORD_VERSION, RootDisk, Silent, Store, StoreError, Timestamp, Watch, Work,
};
use motu_disk::{Disk, Format};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const SIZE: u64 = 1 << 20;

fn watch() -> Watch<'static> {
    Watch::silent()
}

struct World {
    root: TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let root = TempDir::new().expect("a folder");
        let store = Store::open(root.path().join("store")).expect("a store");
        Self { root, store }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A raw disk with `content` at its beginning.
    fn disk(&self, content: &[u8]) -> PathBuf {
        let path = self.at("disk.raw");
        fs::write(&path, content).expect("written");
        fs::File::options().write(true).open(&path).and_then(|file| file.set_len(SIZE)).expect("of that size");
        path
    }

    fn import(&self, content: &[u8], names: &[&str]) -> Image {
        let path = self.disk(content);
        let import = DiskImport { path: &path, format: None, kernel: None, initrd: None, cmdline: None };
        self.store.import_disk(&import, &names_of(names), watch()).expect("imported")
    }

    fn names(&self) -> Vec<String> {
        self.store.names().expect("readable").keys().map(ToString::to_string).collect()
    }

    fn blobs(&self) -> usize {
        fs::read_dir(self.at("store/blobs/sha256")).expect("a folder").count()
    }

    fn is_clean(&self) -> bool {
        self.store.check(watch()).expect("readable").troubles.is_empty()
    }
}

fn names_of(names: &[&str]) -> Vec<ImageName> {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

fn kept(name: Option<&str>) -> Life<'_> {
    Life::Kept { name, files: &[("file", b"content")] }
}

fn record(kernel: Digest) -> ImageRecord {
    ImageRecord {
        version: RECORD_VERSION,
        source: "test".to_owned(),
        manifest: None,
        created: Timestamp::from_unix(1),
        boot: Boot::Kernel(Kernel { kernel, initrd: None, cmdline: String::new(), agent: None }),
        disk: None,
        config: ImageConfig::default(),
        packages: Vec::new(),
    }
}

fn begins(disk: &dyn Disk) -> Vec<u8> {
    let mut sector = vec![0; 512];
    disk.read(0, &mut sector).expect("readable");
    sector.truncate(4);
    sector
}

#[test]
fn an_image_is_the_digest_of_its_record_and_names_point_to_it() {
    let world = World::new();
    let image = world.import(b"one!", &["one", "example.org/a/b:2"]);
    let text = fs::read(world.store.image_record(image.digest)).expect("a record");
    assert_eq!(Digest::of(&text), image.digest);
    assert_eq!(world.names(), ["example.org/a/b:2", "one:latest"]);
    for name in ["one", "one:latest", "example.org/a/b:2", &image.digest.to_string(), &image.digest.short()] {
        assert_eq!(world.store.find(name).expect("found").digest, image.digest, "{name}");
    }
    let prefixed = format!("sha256:{}", image.digest.short());
    assert_eq!(world.store.find(&prefixed).expect("found").record, image.record);
    let error = world.store.find("oen").expect_err("none").to_string();
    assert!(error.contains("is one meant?"), "{error}");
    // A name goes over to another image; what it was is dangling then.
    let other = world.import(b"two!", &["one"]);
    assert_eq!(world.store.find("one").expect("found").digest, other.digest);
    assert_eq!(world.store.find("example.org/a/b:2").expect("found").digest, image.digest);
    assert!(world.is_clean());
}

#[test]
fn the_last_name_takes_the_image_with_it() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    world.store.tag("one", &"two".parse().expect("a name"), watch()).expect("tagged");
    let error = world.store.remove(&image.digest.short(), false, watch()).expect_err("two names").to_string();
    assert!(error.contains("one:latest, two:latest"), "{error}");
    let removed = world.store.remove("one", false, watch()).expect("removed");
    assert_eq!((removed.untagged.len(), removed.deleted), (1, None));
    assert_eq!(world.blobs(), 1);
    let removed = world.store.remove("two", false, watch()).expect("removed");
    assert_eq!(removed.deleted, Some(image.digest));
    assert_eq!((world.blobs(), world.names().len()), (0, 0));
    assert!(matches!(world.store.find(&image.digest.short()), Err(StoreError::NoImage { .. })));
}

#[test]
fn what_a_machine_stands_on_stays() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let machine = world.store.create_machine(Some(&image), Life::Ephemeral, watch()).expect("a machine");
    let error = world.store.remove("one", false, watch()).expect_err("in use").to_string();
    assert!(error.contains(machine.id()) && error.contains("--force"), "{error}");
    assert_eq!(world.names(), ["one:latest"]);
    let removed = world.store.remove("one", true, watch()).expect("untagged");
    assert_eq!((removed.untagged.len(), removed.deleted), (1, None));
    let pruned = world.store.prune(Prune { unused: true, caches: true }, watch()).expect("pruned");
    assert!(pruned.images.is_empty());
    let disk = image.record.disk.as_ref().expect("a disk");
    let opened = machine.open_disk("one", disk, watch()).expect("opened");
    assert_eq!(begins(&opened), b"one!");
    opened.write(0, &[7; 512]).expect("written");
    drop(opened);
    assert_eq!(begins(world.store.open_disk("one", disk, watch()).expect("opened").as_ref()), b"one!");
    assert_eq!(begins(&machine.open_disk("one", disk, watch()).expect("opened")), [7; 4]);
    let path = machine.path().to_owned();
    drop(machine);
    assert!(!path.exists());
    let pruned = world.store.prune(Prune::default(), watch()).expect("pruned");
    assert_eq!(pruned.images, [(image.digest, Vec::new())]);
    assert_eq!(world.blobs(), 0);
    // No machine begins from what is gone.
    let gone = world.store.create_machine(Some(&image), Life::Ephemeral, watch());
    assert!(matches!(gone, Err(StoreError::NoImage { .. })));
    assert_eq!(fs::read_dir(world.at("store/tmp")).expect("tmp").count(), 0);
}

#[test]
fn a_kept_machine_stays_with_its_disk_until_it_is_deleted() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let disk = image.record.disk.as_ref().expect("a disk");
    let machine = world.store.create_machine(Some(&image), kept(Some("web")), watch()).expect("a machine");
    let id = machine.id().to_owned();
    assert_eq!(fs::read(machine.path().join("file")).expect("there from the start"), b"content");
    let mode = fs::metadata(machine.path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "nobody else on this host looks into it");
    assert!(matches!(world.store.open_machine(&id), Err(StoreError::MachineRuns { .. })));
    let twice = world.store.create_machine(Some(&image), kept(Some("web")), watch()).expect_err("the name is taken");
    assert!(twice.to_string().contains(&id), "{twice}");
    machine.open_disk("one", disk, watch()).expect("opened").write(0, &[7; 512]).expect("written");
    // As a kill leaves them.
    let half = [".tmpAbCdEf", ".motu-disk-AbCdEf"].map(|name| machine.path().join(name));
    half.iter().for_each(|path| fs::write(path, "half").expect("written"));
    drop(machine);
    let error = world.store.remove("one", false, watch()).expect_err("in use").to_string();
    assert!(error.contains("the machine web"), "{error}");
    let found = world.store.find_machine("web").expect("found");
    assert!(!found.running && !found.ephemeral && found.id == id);
    assert!(world.store.find_machine(&id[..3]).is_ok());
    assert!(world.store.find_machine("wbe").expect_err("none").to_string().contains("is web meant?"));
    let machine = world.store.open_machine(&id).expect("opened");
    assert!(half.iter().all(|path| !path.exists()));
    assert_eq!(begins(&machine.open_disk("one", disk, watch()).expect("opened")), [7; 4]);
    assert!(matches!(world.store.delete_machine(&id), Err(StoreError::MachineRuns { .. })));
    drop(machine);
    world.store.delete_machine(&id).expect("deleted");
    assert!(matches!(world.store.delete_machine(&id), Err(StoreError::NoMachine { .. })));
    assert!(world.store.machines().expect("readable").is_empty());
    assert!(matches!(world.store.open_machine("../../etc"), Err(StoreError::NoMachine { .. })));
    world.store.remove("one", false, watch()).expect("removed");
    assert_eq!(world.blobs(), 0);
}

#[test]
fn a_damaged_machine_keeps_every_image_and_is_named() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let machine = world.store.create_machine(Some(&image), kept(None), watch()).expect("a machine");
    let (id, path) = (machine.id().to_owned(), machine.path().join("base.json"));
    drop(machine);
    fs::write(&path, "{").expect("written");
    let error = world.store.remove("one", false, watch()).expect_err("perhaps in use").to_string();
    assert!(error.contains(&id), "{error}");
    let report = world.store.check(watch()).expect("readable");
    assert_eq!(report.troubles.iter().map(|trouble| &trouble.path).collect::<Vec<_>>(), [&path]);
    fs::write(&path, r#"{"version": 2, "created": "2026-11-23T12:00:00Z"}"#).expect("written");
    let error = world.store.open_machine(&id).expect_err("another motu's").to_string();
    assert!(error.contains("has version 2") && error.contains(&format!("motu rm {id}")), "{error}");
    world.store.delete_machine(&id).expect("deleted");
    world.store.remove("one", false, watch()).expect("no machine is damaged any more");
}

#[test]
fn who_looks_is_not_taken_for_an_owner() {
    let world = World::new();
    let machine = world.store.create_machine(None, kept(Some("web")), watch()).expect("a machine");
    let (id, path) = (machine.id().to_owned(), machine.path().to_owned());
    let running = || world.store.find_machine("web").expect("found").running;
    assert!(running() && Lock::is_taken(&path).expect("there"));
    drop(machine);
    // As long as another motu looks.
    let looks = fs::File::open(&path).expect("there");
    rustix::fs::flock(&looks, rustix::fs::FlockOperation::LockShared).expect("shared");
    assert!(!running());
    std::thread::scope(|scope| {
        let opens = scope.spawn(|| world.store.open_machine(&id).map(drop));
        std::thread::sleep(Duration::from_millis(20));
        drop(looks);
        opens.join().expect("no panic").expect("it was waited for");
    });
    assert!(Lock::try_folder(&path).expect("there").is_some());
    // A folder that has gone between its opening and its locking has no lock to be had.
    assert!(Lock::try_folder(&world.at("none")).expect("looked").is_none());
    assert!(!Lock::is_taken(&world.at("none")).expect("looked"));
}

#[test]
fn a_damaged_name_can_be_taken_away() {
    let world = World::new();
    let image = world.import(b"one!", &["one", "two"]);
    fs::remove_file(world.at("store/names/one:latest.json")).expect("there");
    fs::write(world.at("store/names/one:latest.json"), "{").expect("written");
    let error = world.store.remove("two", false, watch()).expect_err("nobody knows what one is").to_string();
    assert!(error.contains("motu image rm one:latest"), "{error}");
    let removed = world.store.remove("one", false, watch()).expect("removed");
    assert_eq!((removed.untagged, removed.deleted), (names_of(&["one"]), None));
    assert_eq!(world.store.find("two").expect("there").digest, image.digest);
    assert!(world.is_clean());
}

#[test]
fn machines_are_not_counted_as_work() {
    let world = World::new();
    let _machine = world.store.create_machine(None, Life::Ephemeral, watch()).expect("a machine");
    let _work = world.store.work(watch()).expect("begun");
    let usage = world.store.usage(watch()).expect("readable");
    assert_eq!((usage.machines.count, usage.machines.active), (1, 1));
    assert_eq!((usage.work.count, usage.work.active), (1, 1));
}

#[test]
fn what_a_killed_machine_left_is_deleted_by_the_next() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let machine = world.store.create_machine(Some(&image), Life::Ephemeral, watch()).expect("a machine");
    // As a kill leaves it: the folder, and nobody who has its lock.
    let left = world.at("store/tmp/machine-0123456789ab");
    fs::create_dir(&left).expect("a folder");
    fs::copy(machine.path().join("base.json"), left.join("base.json")).expect("copied");
    drop(machine);
    assert!(world.is_clean());
    world.store.remove("one", false, watch()).expect("nobody uses it");
    let next = world.store.create_machine(None, Life::Ephemeral, watch()).expect("a machine");
    assert!(!left.exists() && next.path().exists());
}

#[test]
fn work_is_whole_or_not_at_all() {
    let world = World::new();
    let work = world.store.work(watch()).expect("begun");
    let blob = work.add(b"a kernel").expect("added");
    assert_eq!(world.blobs(), 0, "nobody sees it yet");
    let lost = record(Digest::of(b"never added"));
    assert!(matches!(work.commit(&lost, &names_of(&["lost"]), watch()), Err(StoreError::Lost(_))));
    assert!(world.names().is_empty());
    let digest = work.commit(&record(blob.digest), &names_of(&["a"]), watch()).expect("committed");
    assert_eq!(world.store.find("a").expect("found").digest, digest);
    let folder = work.folder().to_owned();
    drop(work);
    assert!(!folder.exists());
    assert!(world.is_clean());
}

#[test]
fn one_works_while_another_deletes() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let work = world.store.work(watch()).expect("begun");
    let staged = work.add(b"staged").expect("added");
    assert!(work.pin(image.digest, watch()).expect("looked"));
    assert!(!work.pin(Digest::of(b"nothing"), watch()).expect("looked"));
    work.add(b"cached").expect("added");
    let cached = Digest::of(b"cached");
    work.cache(cached, "a layer", watch()).expect("cached");
    // Somebody else, meanwhile.
    let error = world.store.remove("one", false, watch()).expect_err("pinned").to_string();
    assert!(error.contains("under way"), "{error}");
    world.store.prune(Prune { unused: true, caches: true }, watch()).expect("pruned");
    assert!(world.store.find("one").is_ok() && work.path_of(staged.digest).exists());
    assert!(work.path_of(cached).exists(), "what is cached by live work is not pruned under it");
    let mut both = record(staged.digest);
    both.disk = image.record.disk.clone();
    work.commit(&both, &names_of(&["two"]), watch()).expect("committed");
    drop(work);
    assert!(world.is_clean());
    world.store.prune(Prune { unused: false, caches: true }, watch()).expect("pruned");
    assert!(!world.at("store/blobs/sha256").join(cached.to_string()).exists());
}

#[test]
fn a_layer_is_checked_by_its_seal_and_read_when_that_does_not_fit() {
    #[derive(Default)]
    struct Reads(AtomicBool);
    impl Progress for Reads {
        fn start(&self, what: &str, _: Option<u64>) {
            assert!(what.contains("checking a file of one"), "{what}");
            self.0.store(true, Ordering::SeqCst);
        }
        fn advance(&self, _: u64) {}
        fn finish(&self) {}
    }
    static GO_ON: AtomicBool = AtomicBool::new(false);
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let disk = image.record.disk.as_ref().expect("a disk");
    let blob = world.store.blobs().path(disk.layers[0].digest);
    let open = |was_read: bool| {
        let reads = Reads::default();
        let opened = world.store.open_disk("one", disk, Watch { progress: &reads, cancel: &GO_ON });
        assert_eq!(reads.0.load(Ordering::SeqCst), was_read);
        opened.map(|disk| begins(disk.as_ref()))
    };
    assert_eq!(open(false).expect("sealed"), b"one!");
    // Another file with the same bytes, as a copy of the whole store has it: read once.
    let bytes = fs::read(&blob).expect("readable");
    fs::remove_file(&blob).expect("removed");
    fs::write(&blob, &bytes).expect("written");
    assert_eq!(open(true).expect("whole"), b"one!");
    assert_eq!(open(false).expect("sealed anew"), b"one!");
    fs::remove_file(world.at("store/seals").join(disk.layers[0].digest.to_string())).expect("removed");
    assert_eq!(open(true).expect("whole"), b"one!");
    // Changed in its place, with its times put back.
    let times = fs::metadata(&blob).expect("there").modified().expect("known");
    let mut other = bytes.clone();
    *other.last_mut().expect("some") ^= 1;
    let file = fs::File::options().write(true).open(&blob).expect("root, or the owner");
    std::os::unix::fs::FileExt::write_all_at(&file, &other, 0).expect("written");
    file.set_modified(times).expect("put back");
    drop(file);
    let error = open(true).expect_err("damaged").to_string();
    assert!(error.contains("the image one is damaged") && error.contains("has the digest"), "{error}");
    assert!(!world.is_clean());
}

#[test]
fn a_disk_goes_in_and_comes_out_as_it_was() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    assert_eq!(image.record.boot, Boot::Firmware);
    let error = world.store.boot_files(&image, watch()).expect_err("no firmware").to_string();
    assert!(error.contains("--kernel and --initrd"), "{error}");
    let original = fs::read(world.at("disk.raw")).expect("there");
    for format in [Format::Raw, Format::Qcow2] {
        let out = world.at(&format!("out.{format}"));
        world.store.export_disk(&image, format, &out, watch()).expect("exported");
        let disk = motu_disk::open(&out, &motu_disk::OpenOptions { format: Some(format), read_only: true });
        let mut bytes = vec![0; SIZE as usize];
        disk.expect("opened").read(0, &mut bytes).expect("read");
        assert!(bytes == original, "{format}");
        let again = world.store.export_disk(&image, format, &out, watch()).expect_err("it is there").to_string();
        assert!(again.contains("already"), "{again}");
    }
    let left: Vec<_> = fs::read_dir(world.root.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
    let kernel = world.at("vmlinuz");
    fs::write(&kernel, "kernel").expect("written");
    let (path, cmdline) = (world.at("disk.raw"), Some("root=/dev/vda1"));
    let import = DiskImport { path: &path, format: None, kernel: Some(&kernel), initrd: None, cmdline };
    let image = world.store.import_disk(&import, &[], watch()).expect("imported");
    let boot = world.store.boot_files(&image, watch()).expect("whole").expect("a kernel");
    assert_eq!((fs::read(boot.kernel).expect("there"), boot.cmdline.as_str()), (b"kernel".to_vec(), "root=/dev/vda1"));
}

#[test]
fn what_a_machine_wrote_becomes_a_layer() {
    let world = World::new();
    let image = world.import(b"one!", &["one"]);
    let disk = image.record.disk.clone().expect("a disk");
    let machine = world.store.create_machine(Some(&image), Life::Ephemeral, watch()).expect("a machine");
    let overlay = machine.open_disk("one", &disk, watch()).expect("opened");
    let work = world.store.work(watch()).expect("begun");
    let base = || world.store.open_disk("one", &disk, watch()).expect("opened");
    assert_eq!(work.add_changes(&overlay, base(), watch()).expect("looked"), None);
    overlay.write(0, &[7; 512]).expect("written");
    overlay.write(SIZE - 512, &[9; 512]).expect("written");
    let layer = work.add_changes(&overlay, base(), watch()).expect("kept").expect("something was written");
    assert!(layer.bytes < SIZE, "{}", layer.bytes);
    let mut built = image.record.clone();
    built.disk = Some(RootDisk { layers: vec![disk.layers[0].clone(), layer.clone()], ..disk.clone() });
    work.commit(&built, &names_of(&["two"]), watch()).expect("committed");
    let two = world.store.find("two").expect("found").record.disk.expect("a disk");
    let opened = world.store.open_disk("two", &two, watch()).expect("opened");
    let mut last = vec![0; 512];
    opened.read(SIZE - 512, &mut last).expect("read");
    assert_eq!((begins(opened.as_ref()), last), (vec![7; 4], vec![9; 512]));
    // One layer serves both images.
    drop((work, machine, opened, overlay));
    world.store.remove("one", false, watch()).expect("removed");
    assert_eq!(world.blobs(), 2);
    assert!(world.is_clean());
    let usage = world.store.usage(watch()).expect("readable");
    assert_eq!((usage.images.count, usage.images.active), (1, 0));
    assert_eq!(usage.images.reclaimable, usage.images.bytes);
}

#[test]
fn a_record_that_cannot_be_is_refused() {
    let world = World::new();
    let work: Work = world.store.work(watch()).expect("begun");
    let blob = work.add(&[0; 512]).expect("added");
    let raw = Layer { digest: blob.digest, format: Format::Raw, bytes: 512 };
    for layers in [vec![], vec![raw.clone(), raw.clone()], vec![raw.clone(); 65]] {
        let disk = RootDisk { size: 512, filesystem: None, layers };
        let record = ImageRecord { disk: Some(disk), ..record(blob.digest) };
        let refused = work.commit(&record, &[], watch());
        assert!(matches!(refused, Err(StoreError::Record { .. })), "{refused:?}");
    }
    let disk = RootDisk { size: 1024, filesystem: None, layers: vec![raw] };
    let record = ImageRecord { disk: Some(disk.clone()), ..record(blob.digest) };
    work.commit(&record, &names_of(&["a"]), watch()).expect("it may be");
    let error = world.store.open_disk("a", &disk, watch()).expect_err("of another size").to_string();
    assert!(error.contains("1024 bytes of a disk of 512"), "{error}");
}

#[test]
fn who_waits_for_the_lock_can_be_stopped_and_goes_on_when_it_is_free() {
    let world = World::new();
    let lock = world.at("store/lock");
    let held = Lock::take(&lock, Mode::Alone, "", watch()).expect("held");
    static STOPPED: AtomicBool = AtomicBool::new(true);
    let stopped = world.store.create_machine(None, Life::Ephemeral, Watch { progress: &Silent, cancel: &STOPPED });
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| world.store.create_machine(None, Life::Ephemeral, watch()).map(drop));
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        waits.join().expect("no panic").expect("made");
    });
    let shared = Lock::take(&lock, Mode::Shared, "", watch()).expect("held");
    world.store.create_machine(None, Life::Ephemeral, watch()).expect("two share it");
    drop(shared);
}

/// A tree of files as an image, read by `debugfs` where it is there.
#[test]
fn a_tree_becomes_a_root_file_system() {
    use std::os::unix::fs::symlink;
    let world = World::new();
    let tree = world.at("tree");
    fs::create_dir_all(tree.join("etc/deep")).expect("folders");
    fs::write(tree.join("etc/deep/file"), b"content\n").expect("a file");
    fs::write(tree.join(".wh.name"), b"no whiteout\n").expect("a file");
    fs::hard_link(tree.join("etc/deep/file"), tree.join("hard")).expect("a link");
    symlink("/etc//deep/.", tree.join("absolute")).expect("a link");
    symlink("x".repeat(200), tree.join("long")).expect("a link");
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("a socket");
    let image = world.store.import_folder(&tree, &names_of(&["tree"]), watch()).expect("imported");
    assert_eq!(image.record.boot, Boot::Default);
    assert!(world.store.bytes_of(&image.record) < 100 << 20);
    let raw = world.at("tree.raw");
    world.store.export_disk(&image, Format::Raw, &raw, watch()).expect("exported");
    let debugfs = |request: &str| {
        let output = std::process::Command::new("debugfs").args(["-R", request]).arg(&raw).output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(content) = debugfs("cat /etc/deep/file") else {
        println!("SKIPPED: there is no debugfs to read the file system with");
        return;
    };
    assert_eq!(content, "content\n");
    assert_eq!(debugfs("cat /hard").as_deref(), Some("content\n"));
    assert_eq!(debugfs("cat /.wh.name").as_deref(), Some("no whiteout\n"));
    assert!(debugfs("stat /absolute").expect("there").contains("\"/etc//deep/.\""));
    assert!(debugfs("ls /").expect("there").contains("long"));
    assert!(debugfs("stat /etc/deep/file").expect("there").contains("Links: 2"));
    assert!(!debugfs("ls /").expect("there").contains("socket"));
    for bad in [Path::new("/no/such/tree"), &raw] {
        assert!(world.store.import_folder(bad, &[], watch()).is_err(), "{}", bad.display());
    }
    assert_eq!(fs::read_dir(world.at("store/tmp")).expect("tmp").count(), 0);
}
