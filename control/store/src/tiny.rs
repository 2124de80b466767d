//! The image `tiny`: a distribution's cloud kernel, a static busybox and our agent.

use crate::apt::{Apt, Candidate};
use crate::blobs::Found;
use crate::cpio::Archive;
use crate::deb::Members;
use crate::modules::{self, Module, NeededBy, Order};
use crate::progress::{Silent, Watch};
use crate::record::{self, PackagesRecord};
use crate::work::Work;
use crate::{
    Agent, Boot, Digest, ImageConfig, ImageName, ImageRecord, Kernel, Package, RECORD_VERSION, Store, StoreError,
    Timestamp, applets, room,
};

/// The image's name.
pub(crate) const NAME: &str = "tiny";

/// To be raised with each change to what goes into the image, so that images made before are made anew.
const RECIPE: u32 = 4;

/// Packages that depend on the newest kernel for virtual machines: Debian's, Ubuntu's, and the ones
/// for every machine.
const KERNELS: [&str; 4] =
    ["linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64", "linux-image-generic"];

const BUSYBOX: &str = "busybox-static";

/// The kernel's command line (Documentation/admin-guide/kernel-parameters.txt): messages on the first
/// serial port, errors only; a panic resets at once, so that it is seen as the machine's end; and no
/// tests of the kernel's own ciphers, which are more than half of all instructions up to init (0.88 of
/// 1.58 thousand million with Debian's 6.1).
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests";

/// Most times that packages are read for modules which need further modules.
const MOST_READINGS: usize = 4;

/// What an image is to be made of.
#[derive(Debug)]
pub(crate) struct Recipe<'a> {
    agent: &'a [u8],
    digest: Digest,
}

impl<'a> Recipe<'a> {
    pub(crate) fn new(agent: &'a [u8]) -> Self {
        Recipe { agent, digest: Digest::of(agent) }
    }

    /// Whether this image was made by the same recipe with the same agent.
    pub(crate) fn made(&self, image: &ImageRecord) -> bool {
        let agent = Agent { digest: self.digest, recipe: RECIPE };
        matches!(&image.boot, Boot::Kernel(kernel) if kernel.agent.as_ref() == Some(&agent))
    }
}

/// The image's name, as one.
pub(crate) fn name() -> Result<ImageName, StoreError> {
    Ok(NAME.parse()?)
}

/// Makes the image; its record is the caller's to commit.
pub(crate) fn make(work: &Work, recipe: &Recipe<'_>, watch: Watch<'_>) -> Result<ImageRecord, StoreError> {
    let store = work.store();
    let packages = match kept_packages(work, watch)? {
        Some(packages) => packages,
        None => fetch_packages(work, watch)?,
    };
    watch.step("making the image tiny", None, || {
        room::check(&store.tmp(), room::TO_MAKE)?;
        let (members, modules) = read_packages(store, &packages, watch)?;
        let lacks = |what: &str| StoreError::Package {
            package: packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>().join(" or "),
            problem: format!("no {what}"),
        };
        let kernel = members.kernel.as_deref().ok_or_else(|| lacks("kernel (boot/vmlinuz-*)"))?;
        let busybox = members.busybox.as_deref().ok_or_else(|| lacks("busybox (bin/busybox)"))?;
        let initrd = initrd(recipe.agent, busybox, &modules)?;
        watch.check()?;
        let kernel = Kernel {
            kernel: work.add(kernel)?.digest,
            initrd: Some(work.add(&initrd)?.digest),
            cmdline: CMDLINE.to_owned(),
            agent: Some(Agent { digest: recipe.digest, recipe: RECIPE }),
        };
        Ok(ImageRecord {
            version: RECORD_VERSION,
            source: NAME.to_owned(),
            manifest: None,
            created: Timestamp::now(),
            boot: Boot::Kernel(kernel),
            disk: None,
            config: ImageConfig::default(),
            packages,
        })
    })
}

/// The packages of an earlier making, if all of them are still whole. They only save a download:
/// damaged ones are fetched again and not complained of.
fn kept_packages(work: &Work, watch: Watch<'_>) -> Result<Option<Vec<Package>>, StoreError> {
    let store = work.store();
    let path = store.packages_record(NAME);
    let record = match record::read::<PackagesRecord>(&path, NAME) {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(None),
        Err(StoreError::Damaged { found, .. }) => {
            tracing::warn!("{} {found}: the packages are fetched again", path.display());
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    for package in &record.packages {
        // A motu that prunes meanwhile leaves what is pinned.
        let there = work.pin(package.digest, watch)?;
        if !there || store.blobs().check(package.digest, Watch::silent())? != Found::Whole {
            tracing::warn!("the kept package {} is damaged: it is fetched again", package.name);
            return Ok(None);
        }
    }
    Ok(Some(record.packages))
}

fn fetch_packages(work: &Work, watch: Watch<'_>) -> Result<Vec<Package>, StoreError> {
    room::check(work.folder(), room::TO_FETCH)?;
    let mut apt = Apt::new(work.folder().join("apt"), work.store().host())?;
    if apt.use_host_lists() {
        match choose(&apt, watch).and_then(|chosen| keep(work, &apt, &chosen, watch)) {
            // The host's lists may name what its sources have replaced since.
            Err(error @ (StoreError::Tool { .. } | StoreError::NoPackage { .. })) => {
                tracing::debug!("the host's own lists of packages do not do: {error}");
            }
            other => return other,
        }
    }
    apt.update(watch)?;
    let chosen = choose(&apt, watch)?;
    keep(work, &apt, &chosen, watch)
}

/// Finds the packages to take: the newest kernel, its modules if those are apart, and busybox.
fn choose(apt: &Apt<'_>, watch: Watch<'_>) -> Result<Vec<Candidate>, StoreError> {
    watch.step("choosing packages", None, || {
        let none = |tried: &[&str]| StoreError::NoPackage {
            tried: tried.iter().map(|name| (*name).to_owned()).collect(),
            output: apt.warnings().to_owned(),
        };
        let mut chosen = Vec::new();
        for meta in KERNELS {
            let Some(meta) = apt.candidate(meta, watch)? else { continue };
            let depends = meta.depends.iter().find(|name| name.starts_with("linux-image-"));
            let Some(kernel) = depends.map(|name| apt.candidate(name, watch)).transpose()?.flatten() else { continue };
            for name in kernel.depends.iter().filter(|name| name.starts_with("linux-modules-")) {
                chosen.extend(apt.candidate(name, watch)?);
            }
            chosen.push(kernel);
            break;
        }
        if chosen.is_empty() {
            return Err(none(&KERNELS));
        }
        chosen.push(apt.candidate(BUSYBOX, watch)?.ok_or_else(|| none(&[BUSYBOX]))?);
        Ok(chosen)
    })
}

/// Fetches packages and stores them, so that they need not be fetched again.
fn keep(work: &Work, apt: &Apt<'_>, chosen: &[Candidate], watch: Watch<'_>) -> Result<Vec<Package>, StoreError> {
    let files = apt.download(chosen, watch)?;
    let mut packages = Vec::new();
    for (candidate, file) in chosen.iter().zip(&files) {
        let digest = work.add_file(file, Watch { progress: &Silent, ..watch })?.digest;
        packages.push(Package { name: candidate.name.clone(), version: candidate.version.clone(), digest });
    }
    let record = PackagesRecord { packages };
    work.keep_packages(NAME, &record, watch)?;
    Ok(record.packages)
}

fn read_packages(store: &Store, packages: &[Package], watch: Watch<'_>) -> Result<(Members, Vec<Module>), StoreError> {
    let kernel = packages.first().map_or(NAME, |package| package.name.as_str());
    let roots =
        modules::ROOTS.iter().chain(&modules::DISK_ROOTS).chain(&modules::SHARE_ROOTS).chain(&modules::SEED_ROOTS);
    let mut searched: Vec<String> = roots.map(|(name, _)| (*name).to_owned()).collect();
    searched.extend(modules::LIKELY.map(str::to_owned));
    for _ in 0..MOST_READINGS {
        let mut members = Members::default();
        for package in packages {
            members.take(store.host(), (&package.name, &store.blobs().path(package.digest)), &searched, watch)?;
        }
        match modules::order(&members, &searched, kernel)? {
            Order::Complete(modules) => return Ok((members, modules)),
            Order::Missing(names) => searched.extend(names),
        }
    }
    let problem = format!("modules that need ever more modules: {}", searched.join(", "));
    Err(StoreError::Package { package: kernel.to_owned(), problem })
}

/// Puts the initial RAM disk together.
fn initrd(agent: &[u8], busybox: &[u8], modules: &[Module]) -> Result<Vec<u8>, StoreError> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, agent)?;
    archive.file("bin/busybox", 0o755, busybox)?;
    for applet in applets::names(busybox).into_iter().filter(|name| *name != "busybox") {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    archive.symlink("sbin", "bin")?;
    archive.symlink("usr/bin", "../bin")?;
    archive.symlink("usr/sbin", "../bin")?;
    for (path, permissions) in
        [("dev", 0o755), ("proc", 0o555), ("sys", 0o555), ("run", 0o755), ("tmp", 0o1777), ("root", 0o700)]
    {
        archive.folder(path, permissions)?;
    }
    // The kernel opens it for the agent before anything is mounted (init/main.c: console_on_rootfs).
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\ntty:x:5:\n")?;
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost motu\n::1 localhost\n")?;
    for module in modules {
        archive.file(&module.path, 0o644, module.data.as_slice())?;
    }
    for (list, needed_by) in [
        ("etc/motu/modules", NeededBy::All),
        ("etc/motu/modules-disk", NeededBy::Disks),
        ("etc/motu/modules-share", NeededBy::Shares),
        ("etc/motu/modules-seed", NeededBy::Seeds),
    ] {
        let listed = modules.iter().filter(|module| module.needed_by == needed_by);
        let lines: String = listed.map(|module| format!("/{}\n", module.path)).collect();
        archive.file(list, 0o644, lines.into_bytes())?;
    }
    Ok(archive.to_bytes())
}
