//! Making a distribution's image with programs in the place of apt and dpkg-deb. A package is a folder's worth of two tar
//! archives here, which the stand-in for dpkg-deb prints.

use super::*;
use crate::process::Host;
use crate::progress::Silent;
use ext4_view::{Ext4, Ext4Read};
use motu_disk::Disk;
use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use tempfile::TempDir;

const APT_GET: &str = r#"
case "$*" in *' -t '*) echo "$*" >> "$HERE/releases";; esac
case "$*" in
*' update') for a; do case "$a" in Dir::State::lists=*) : > "${a#*=}/x_Packages";; esac; done;;
*' indextargets '*) printf 'bookworm|oldstable|bookworm|Debian\nbookworm-updates|oldstable-updates|x|Debian\nnode||node|Nodes\n';;
*' nosuch') echo 'E: Unable to locate package nosuch' >&2; exit 100;;
*--print-uris*) echo 'Reading package lists...'
  for p in base-passwd dash; do
  if [ -e "$HERE/hashes" ]; then h=$(sha256sum < "$HERE/$p"); h=SHA256:${h%% *}; else h=MD5Sum:x; fi
  echo "'http://example.org/$p.deb' ${p}_1%3a2_amd64.deb 1000 $h"; done;;
*' download '*) for a; do case "$a" in *=1:2) p=${a%=*}; echo "$p" >> "$HERE/fetched"
  cp "$HERE/$p" "${p}_1%3a2_amd64.deb";; esac; done; echo 'dlstatus:1:100.0:fetching';;
esac
"#;

const APT_CACHE: &str = r#"echo 'E: No packages found' >&2; exit 100"#;

/// The package's file has the name of the folder that its archives are in.
const DPKG_DEB: &str =
    r#"d=$(cat "$2"); case "$1" in --ctrl-tarfile) cat "$d/control.tar";; *) cat "$d/data.tar";; esac"#;

struct World {
    root: TempDir,
}

fn tar(files: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        header.set_cksum();
        tar.append(&header, data.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

impl World {
    fn new() -> World {
        let world = World { root: TempDir::new().unwrap() };
        fs::create_dir(world.bin()).unwrap();
        for (name, script) in [("apt-get", APT_GET), ("apt-cache", APT_CACHE), ("dpkg-deb", DPKG_DEB)] {
            let script = format!("#!/bin/sh\nPATH=/usr/bin:/bin; HERE='{}'\n{script}\n", world.bin().display());
            // By another process: a file that is open for writing in this one cannot be run (ETXTBSY).
            let write = r#"printf '%s' "$1" > "$2" && chmod 755 "$2""#;
            let path = world.bin().join(name);
            let written = Command::new("/bin/sh").args(["-c", write, "sh", &script]).arg(path).status();
            assert!(written.is_ok_and(|status| status.success()));
        }
        world.package(
            "base-passwd",
            &[
                ("./control", 0o644, "Package: base-passwd\nVersion: 1:2\nArchitecture: amd64\nEssential: yes\n"),
                ("./preinst", 0o755, "#!/bin/sh\n"),
            ],
            &[("./", 0o755, ""), ("./bin/", 0o755, ""), ("./bin/update-passwd", 0o755, "up")],
        );
        let dash = "Package: dash\nVersion: 1:2\nArchitecture: amd64\nMulti-Arch: same\nDescription: a shell\n small\n";
        world.package(
            "dash",
            &[
                ("./control", 0o644, dash),
                ("./conffiles", 0o644, "/etc/dashrc\nremove-on-upgrade /etc/old\n"),
                ("./triggers", 0o644, "# none\ninterest-noawait /usr/share/shells.d\ninterest ldconfig\nactivate x\n"),
            ],
            &[("./", 0o755, ""), ("./bin/sh", 0o755, "sh"), ("./etc/dashrc", 0o644, "rc")],
        );
        world
    }

    fn bin(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    fn package(&self, name: &str, control: &[(&str, u32, &str)], data: &[(&str, u32, &str)]) {
        let folder = self.root.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("control.tar"), tar(control)).unwrap();
        fs::write(folder.join("data.tar"), tar(data)).unwrap();
        fs::write(self.bin().join(name), folder.to_str().unwrap()).unwrap();
    }

    fn store(&self) -> Store {
        let host = Host { path: Some(self.bin().into()), lists: self.root.path().join("no lists") };
        Store::open(self.root.path().join("store")).unwrap().with_host(host)
    }

    fn make(&self, spec: &DistributionSpec, configure: &dyn Configure) -> Result<Image, StoreError> {
        let names = ["debian".parse().unwrap()];
        self.store().make_distribution(
            &DistributionSpec { size: 64 << 20, ..spec.clone() },
            Some(&names),
            configure,
            Watch::silent(),
        )
    }

    /// Whether nothing at all was added.
    fn is_empty(&self) -> bool {
        let store = self.root.path().join("store");
        let files = |part: &str| fs::read_dir(store.join(part)).unwrap().count();
        ["blobs/sha256", "images", "names", "tmp"].into_iter().map(files).sum::<usize>() == 0
    }
}

/// A machine that does nothing but look at its disk.
struct Looks {
    seen: RefCell<Option<Ext4>>,
    status: Result<u8, String>,
}

impl Looks {
    fn ending(status: Result<u8, &str>) -> Self {
        Looks { seen: RefCell::default(), status: status.map_err(str::to_owned) }
    }
}

struct OnDisk(Box<dyn Disk>);

impl Ext4Read for OnDisk {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let first = start / 512 * 512;
        let mut sectors = vec![0; (start - first) as usize + into.len()];
        sectors.resize(sectors.len().next_multiple_of(512), 0);
        self.0.read(first, &mut sectors)?;
        into.copy_from_slice(&sectors[(start - first) as usize..][..into.len()]);
        Ok(())
    }
}

impl Configure for Looks {
    fn run(&self, disk: &Path, command: &[&str], line: &mut dyn FnMut(&str), _: Watch<'_>) -> Result<u8, String> {
        assert_eq!(command[..2], ["/bin/sh", "-c"]);
        (0..30).for_each(|number| line(&format!("line {number}")));
        let disk = motu_disk::open(disk, &motu_disk::OpenOptions::default()).unwrap();
        *self.seen.borrow_mut() = Some(Ext4::load(Box::new(OnDisk(disk))).unwrap());
        self.status.clone()
    }
}

#[test]
fn packages_are_unpacked_for_dpkg_to_configure() {
    let world = World::new();
    let looks = Looks::ending(Ok(0));
    let image = world.make(&DistributionSpec::default(), &looks).unwrap();
    let seen = looks.seen.take().unwrap();
    let text = |path: &str| seen.read_to_string(path).unwrap();
    assert_eq!(text("/usr/bin/sh"), "sh", "below the link");
    assert_eq!(seen.read_link("/bin").unwrap().as_ref(), b"usr/bin");
    assert_eq!(text("/etc/dashrc.dpkg-new"), "rc");
    assert_eq!(
        text("/var/lib/dpkg/status"),
        "Package: base-passwd\nStatus: install ok unpacked\nVersion: 1:2\nArchitecture: amd64\nEssential: yes\n\n\
         Package: dash\nStatus: install ok unpacked\nVersion: 1:2\nArchitecture: amd64\nMulti-Arch: same\n\
         Description: a shell\n small\nConffiles:\n /etc/dashrc newconffile\n\n"
    );
    assert_eq!(text("/var/lib/dpkg/info/dash:amd64.list"), "/.\n/bin/sh\n/etc/dashrc\n");
    assert_eq!(seen.metadata("/var/lib/dpkg/info/base-passwd.preinst").unwrap().mode() & 0o777, 0o755);
    assert_eq!(text("/var/lib/dpkg/triggers/File"), "/usr/share/shells.d dash:amd64/noawait\n");
    assert_eq!(text("/var/lib/dpkg/triggers/ldconfig"), "dash:amd64\n");
    assert_eq!(text("/var/lib/motu-packages"), "base-passwd\ndash:amd64\n");
    // It is locked as long as it is open.
    drop(seen);
    let record = &image.record;
    assert_eq!((record.source.as_str(), &record.boot), ("deb:bookworm", &Boot::Default));
    let versions: Vec<_> =
        record.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    assert_eq!(versions, ["base-passwd 1:2", "dash 1:2"]);
    let disk = record.disk.as_ref().unwrap();
    let opened = world.store().open_disk("debian", disk, Watch::silent()).unwrap();
    assert_eq!((opened.size(), opened.is_read_only()), (64 << 20, true));
    assert_eq!(world.store().find("debian").unwrap().digest, image.digest);
}

/// A machine that counts how often it was asked for.
struct Counts(std::sync::atomic::AtomicUsize, Result<u8, String>);

impl Configure for Counts {
    fn run(&self, _: &Path, _: &[&str], _: &mut dyn FnMut(&str), _: Watch<'_>) -> Result<u8, String> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.1.clone()
    }
}

impl Counts {
    fn ending(status: u8) -> Self {
        Counts(0.into(), Ok(status))
    }

    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn packages_are_fetched_once_and_the_same_image_is_made_once() {
    let world = World::new();
    fs::write(world.bin().join("hashes"), "").unwrap();
    let fetched = || fs::read_to_string(world.bin().join("fetched")).unwrap().lines().count();
    let plain = DistributionSpec::default();
    assert!(world.make(&plain, &Counts::ending(1)).is_err());
    assert_eq!(fetched(), 2, "kept, though no image was made of them");
    let machine = Counts::ending(0);
    let image = world.make(&plain, &machine).unwrap();
    assert_eq!((fetched(), machine.count()), (2, 1));
    let again = world.store().make_distribution(
        &DistributionSpec { size: 64 << 20, ..plain.clone() },
        Some(&["other".parse().unwrap()]),
        &machine,
        Watch::silent(),
    );
    assert_eq!((again.unwrap().digest, machine.count()), (image.digest, 1));
    assert_eq!(world.store().find("other").unwrap().digest, image.digest);
    // A package that was damaged is fetched once more; the image is another one.
    let store = world.store();
    store.remove(&image.digest.to_string(), true, Watch::silent()).unwrap();
    let package = store.blobs().path(image.record.packages[1].digest);
    fs::remove_file(&package).unwrap();
    fs::write(&package, "x").unwrap();
    world.make(&plain, &machine).unwrap();
    assert_eq!((fetched(), machine.count()), (3, 2));
    assert!(store.usage(Watch::silent()).unwrap().cache.count >= 2);
    store.prune(crate::Prune { unused: true, caches: true }, Watch::silent()).unwrap();
    assert!(world.is_empty());
}

#[test]
fn a_release_comes_with_its_security_updates() {
    let world = World::new();
    world.make(&DistributionSpec::default(), &Counts::ending(0)).unwrap();
    assert!(!world.bin().join("releases").exists(), "what the host has");
    let suite = DistributionSpec { suite: Some("oldstable".into()), ..DistributionSpec::default() };
    world.make(&suite, &Counts::ending(0)).unwrap();
    let releases = fs::read_to_string(world.bin().join("releases")).unwrap();
    assert!(releases.contains(" -t /^bookworm(|-security|-updates)$/ install "), "{releases}");
}

#[test]
fn two_that_make_the_same_make_it_once() {
    let world = World::new();
    fs::write(world.bin().join("hashes"), "").unwrap();
    let machine = Counts::ending(0);
    let make = || world.make(&DistributionSpec::default(), &machine).unwrap().digest;
    let digests: Vec<Digest> = std::thread::scope(|scope| {
        let making: Vec<_> = (0..2).map(|_| scope.spawn(make)).collect();
        making.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!((digests[0] == digests[1], machine.count()), (true, 1));
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let world = World::new();
    let asks = |spec: DistributionSpec, status| {
        let error = world.make(&spec, &Looks::ending(status)).unwrap_err().to_string();
        assert!(world.is_empty(), "{error}");
        error
    };
    let plain = DistributionSpec::default;
    let suite = |name: &str| DistributionSpec { suite: Some(name.into()), ..plain() };
    let include = |name: &str| DistributionSpec { include: vec![name.into()], ..plain() };
    let said = asks(suite("stable"), Ok(0));
    assert!(said.contains("have no stable; they have bookworm (oldstable), bookworm-updates"), "{said}");
    let ubuntu = DistributionSpec { origin: Some("ubuntu".into()), ..plain() };
    assert!(asks(ubuntu, Ok(0)).contains("have no ubuntu"));
    for name in ["--purge", "", "A", "dash-", "a b", "x=", "x/y z", "-o"] {
        assert!(asks(include(name), Ok(0)).contains("is no package's name"), "{name}");
    }
    assert!(asks(include("nosuch"), Ok(0)).contains("Unable to locate package nosuch"));
    let said = asks(plain(), Ok(100));
    assert!(said.contains("it ended with status 100") && said.contains("line 29"), "{said}");
    assert!(!said.contains("line 9\n"), "only the last ones");
    assert!(asks(plain(), Err("no machine could be started")).contains("in a machine: no machine could be started"));
}

#[test]
fn a_damaged_package_is_named() {
    let world = World::new();
    fs::write(
        world.root.path().join("dash/data.tar"),
        b"no archive at all, but long enough to be looked at".repeat(20),
    )
    .unwrap();
    let error = world.make(&DistributionSpec::default(), &Looks::ending(Ok(0))).unwrap_err().to_string();
    assert!(error.contains("the layer dash is no whole tar archive"), "{error}");
    assert!(world.is_empty());
}

#[test]
fn it_stops_when_it_is_not_wanted() {
    let world = World::new();
    let stop = AtomicBool::new(true);
    let watch = Watch { progress: &Silent, cancel: &stop };
    let made = world.store().make_distribution(&DistributionSpec::default(), None, &Looks::ending(Ok(0)), watch);
    assert!(matches!(made, Err(StoreError::Cancelled)));
    assert!(world.is_empty());
}

#[test]
fn names_of_packages_are_taken() {
    for name in ["curl", "g++", "libstdc++6", "0ad", "curl=7.88.1-10+deb12u8", "linux-image-amd64/bookworm", "x=1:2~a"]
    {
        assert!(check_package_name(name).is_ok(), "{name}");
    }
}
