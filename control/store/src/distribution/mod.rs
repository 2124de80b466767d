//! `deb:` images: a distribution's own packages, unpacked by us and configured in a machine of ours.
//!
//! ```text
//!   apt-get (the host's) ── packages ─┬─ data.tar ────────── files ─┐
//!                                     └─ control.tar ─ database ────┴── ext4 ── dpkg --configure -a, in a machine ── image
//! ```
//!
//! The host's apt says which packages there are and whether they are genuine, with a folder of its own ([`crate::apt`]). What dpkg
//! would do to unpack them is done here: files as they are, configuration files with the suffix `.dpkg-new`, and a database that
//! says "unpacked" ([`database`]). Their scripts run where they cannot hurt anybody: as root in a machine without a network.

mod control;
mod database;
mod packages;
#[cfg(test)]
mod tests;

use crate::apt::{Apt, Planned, Suite};
use crate::deb::read_files;
use crate::progress::Watch;
use crate::work::Work;
use crate::{
    Boot, Digest, Image, ImageConfig, ImageName, ImageRecord, Package, RECORD_VERSION, ROOT_SIZE, RootDisk, StepResult,
    Store, StoreError, Timestamp, room,
};
use control::Control;
use database::Database;
use motu_rootfs::{Builder, Compression, Options, PackageData};
use packages::PackageFile;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// What is there whether somebody asks for it or not, beside what the distribution calls essential: installing more, file systems, and
/// seeing what runs.
const ALWAYS: [&str; 3] = ["apt", "mount", "procps"];

/// A package that says that `/bin` is a link to `/usr/bin`, which ours are: without it, one that would make the links comes in.
const MERGED: &str = "usr-is-merged";

/// What a shell runs in the machine, and where it finds the names of the packages.
const SCRIPT: &str = include_str!("configure.sh");
const NAMES: &str = "var/lib/motu-packages";

/// Lines of what a failed configuration said that are shown.
const LAST_LINES: usize = 20;

/// An image that is to be made of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributionSpec {
    /// The suite or codename among the host's sources, such as `stable` or `bookworm`; without one, what the host has.
    pub suite: Option<String>,
    /// The distribution that it must be, such as `debian`: the origin of the host's sources in small letters.
    pub origin: Option<String>,
    /// Packages beside the essential ones, apt, mount and procps.
    pub include: Vec<String>,
    /// Bytes of the root disk: a multiple of 4096.
    pub size: u64,
}

impl Default for DistributionSpec {
    fn default() -> Self {
        DistributionSpec { suite: None, origin: None, include: Vec::new(), size: ROOT_SIZE }
    }
}

/// Runs a command in a machine.
pub trait Configure {
    /// Boots a machine whose root disk is the qcow2 image `disk`, which it writes, runs the command as root, tells `line` each
    /// line that it writes, and ends the machine. Returns the command's status.
    ///
    /// # Errors
    /// For a person: no machine could be run.
    fn run(&self, disk: &Path, command: &[&str], line: &mut dyn FnMut(&str), watch: Watch<'_>) -> Result<u8, String>;
}

impl Store {
    /// Makes an image of the packages that the host's apt is configured for, and gives it these names; by default that of the
    /// distribution, with the suite as its tag. One of the very same packages that is there already is not made again.
    ///
    /// # Errors
    /// There is no such suite or package, packages cannot be had or configured, or the host's trouble; the store is as before then.
    pub fn make_distribution(
        &self,
        spec: &DistributionSpec,
        names: Option<&[ImageName]>,
        configure: &dyn Configure,
        watch: Watch<'_>,
    ) -> Result<Image, StoreError> {
        spec.include.iter().try_for_each(|name| check_package_name(name))?;
        let work = self.work(watch)?;
        room::check(work.folder(), room::TO_MAKE_DISTRIBUTION)?;
        let mut apt = Apt::new(work.folder().join("apt"), self.host())?;
        let chosen = choose(&mut apt, spec, watch)?;
        let own = [chosen.name(spec)?];
        let names = names.unwrap_or(&own);
        let key = key(&chosen.planned, spec.size);
        let shown = |digest: Digest| names.first().map_or_else(|| digest.short(), ToString::to_string);
        // Another motu that makes the same has made it then.
        let _turn = self.turn(&format!("{} of packages ({key})", own[0]), watch)?;
        if let Some((StepResult::Image(digest), _)) = work.step(key, watch)? {
            names.iter().try_for_each(|name| self.tag(&digest.to_string(), name, watch).map(drop))?;
            return Ok(Image { name: shown(digest), ..self.find(&digest.to_string())? });
        }
        let files = packages::fetch(&work, &apt, (&chosen.kept_as(), &chosen.planned), watch)?;
        let (disk, packages) = unpack(&work, &chosen.planned, &files, spec.size, watch)?;
        configure_in_machine(configure, &disk, packages.len(), watch)?;
        let layer = work.add_disk(&disk, watch)?;
        let record = ImageRecord {
            version: RECORD_VERSION,
            manifest: None,
            source: format!("deb:{}", spec.suite.as_ref().unwrap_or(&chosen.codename)),
            created: Timestamp::now(),
            boot: Boot::Default,
            disk: Some(RootDisk { size: spec.size, filesystem: Some("ext4".to_owned()), layers: vec![layer] }),
            config: ImageConfig { cmd: vec!["bash".to_owned()], ..ImageConfig::default() },
            packages,
        };
        let digest = work.commit(&record, names, watch)?;
        work.keep_step(key, &format!("packages of {}", own[0]), &StepResult::Image(digest), watch)?;
        Ok(Image { name: shown(digest), digest, record })
    }
}

/// All that an image of packages depends on.
fn key(planned: &[Planned], size: u64) -> Digest {
    let mut text = format!("packages {size}\n{SCRIPT}\n");
    for Planned { name, version, digest, .. } in planned {
        let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
        text.push_str(&format!("{name} {version} {digest}\n"));
    }
    Digest::of(text.as_bytes())
}

/// What apt makes of the spec.
struct Chosen {
    codename: String,
    origin: String,
    /// Packages by name, beside the essential ones.
    asked: Vec<String>,
    planned: Vec<Planned>,
}

impl Chosen {
    /// `debian:bookworm`.
    fn name(&self, spec: &DistributionSpec) -> Result<ImageName, StoreError> {
        let suite = spec.suite.as_ref().unwrap_or(&self.codename);
        Ok(format!("{}:{suite}", self.origin.replace(' ', "-")).parse()?)
    }

    /// What its packages are kept as: newer ones take the place of those of the same names.
    fn kept_as(&self) -> String {
        format!("deb-{}", Digest::of(format!("{} {} {:?}", self.origin, self.codename, self.asked).as_bytes()).short())
    }
}

fn choose(apt: &mut Apt<'_>, spec: &DistributionSpec, watch: Watch<'_>) -> Result<Chosen, StoreError> {
    if apt.use_host_lists() {
        match choose_with(apt, spec, watch) {
            // The host's lists may name what its sources have replaced since.
            Err(error @ StoreError::Tool { .. }) => {
                tracing::debug!("the host's own lists of packages do not do: {error}")
            }
            other => return other,
        }
    }
    apt.update(watch)?;
    choose_with(apt, spec, watch)
}

fn choose_with(apt: &Apt<'_>, spec: &DistributionSpec, watch: Watch<'_>) -> Result<Chosen, StoreError> {
    watch.step("choosing packages", None, || {
        let suites = apt.suites(watch)?;
        let suite = find_suite(&suites, spec)?;
        let release = spec.suite.as_ref().map(|_| suite.release.clone());
        let mut asked: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
        if apt.candidate(MERGED, watch)?.is_some() {
            asked.push(MERGED.to_owned());
        }
        asked.extend(spec.include.iter().cloned());
        let planned = apt.plan(&asked, release.as_deref(), watch)?;
        let (codename, origin) = (suite.codename.clone(), suite.origin.to_lowercase());
        Ok(Chosen { codename, origin, asked, planned })
    })
}

/// The release that is asked for; otherwise that of the distribution itself, not of its updates or of others' packages.
fn find_suite<'s>(suites: &'s [Suite], spec: &DistributionSpec) -> Result<&'s Suite, StoreError> {
    let of_origin = |suite: &&Suite| spec.origin.as_ref().is_none_or(|origin| suite.origin.to_lowercase() == *origin);
    let unknown = |asked: &str| StoreError::NoSuite {
        asked: asked.to_owned(),
        known: suites.iter().map(|suite| format!("{} ({})", suite.codename, suite.suite)).collect(),
    };
    match &spec.suite {
        Some(name) => suites.iter().filter(of_origin).find(|suite| suite.is_called(name)).ok_or_else(|| unknown(name)),
        // `bookworm` comes before `bookworm-updates`.
        None => {
            let distributions = ["Debian", "Ubuntu"];
            let own = suites.iter().filter(of_origin);
            let shortest =
                own.min_by_key(|suite| (!distributions.contains(&suite.origin.as_str()), suite.codename.len()));
            shortest.ok_or_else(|| unknown(spec.origin.as_deref().unwrap_or("any")))
        }
    }
}

/// A name as apt takes it, perhaps with a version or a release (Debian Policy 5.6.1 and 5.6.12), and neither an option nor a name
/// with the minus behind it that says to remove it.
fn check_package_name(name: &str) -> Result<(), StoreError> {
    let (plain, rest) = name.split_at(name.find(['=', '/']).unwrap_or(name.len()));
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let named = plain.bytes().all(|byte| is_first(byte) || b"+-.".contains(&byte));
    let versioned = rest.bytes().skip(1).all(|byte| byte.is_ascii_alphanumeric() || b"+-.~:".contains(&byte));
    let is_good = plain.bytes().next().is_some_and(is_first) && named && !plain.ends_with('-') && versioned;
    if is_good && rest.len() != 1 { Ok(()) } else { Err(StoreError::PackageName(name.to_owned())) }
}

/// Makes the root file system of packages that are not configured yet.
fn unpack(
    work: &Work,
    planned: &[Planned],
    files: &[PackageFile],
    size: u64,
    watch: Watch<'_>,
) -> Result<(PathBuf, Vec<Package>), StoreError> {
    let total = planned.iter().map(|package| package.size).sum();
    watch.step("unpacking packages", Some(total), || {
        let packages = planned.iter().zip(files).map(|(package, file)| {
            let (name, version) = (package.name.clone(), package.version.clone());
            Package { name, version, digest: file.digest }
        });
        let packages: Vec<Package> = packages.collect();
        let (disk, target) = work.new_disk(size)?;
        let mut builder = Builder::new(&*target, &options(&packages))?;
        let plain = |name| motu_rootfs::Layer { name, compression: Compression::None };
        let unwritten = |error| StoreError::io("write in", work.folder())(error);
        let links = database::merged_usr().map_err(unwritten)?;
        builder.apply(&plain("links"), links.as_slice(), &Reading(watch))?;
        let mut database = Database::default();
        for (package, file) in planned.iter().zip(files) {
            let control = Control::read(work.store().host(), &package.name, &file.path)?;
            let names = unpack_one(&mut builder, work, (&package.name, &file.path), &control, watch)?;
            database.add(&control, &names);
            watch.progress.advance(package.size);
        }
        let layer = database.layer(NAMES).map_err(unwritten)?;
        builder.apply(&plain("dpkg's database"), layer.as_slice(), &Reading(watch))?;
        builder.finish()?;
        Ok((disk, packages))
    })
}

/// A file system of its own for these packages.
fn options(packages: &[Package]) -> Options {
    let text: String = packages.iter().map(|package| format!("{}\n", package.digest)).collect();
    let mut uuid = [0; 16];
    for (place, byte) in uuid.iter_mut().zip(Digest::of(text.as_bytes()).bytes()) {
        *place = byte;
    }
    // Of version 8, whose bits are anybody's (RFC 9562, 5.8).
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Options { uuid, ..Options::default() }
}

fn unpack_one(
    builder: &mut Builder<'_>,
    work: &Work,
    (package, file): (&str, &Path),
    control: &Control,
    watch: Watch<'_>,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let conffiles = control.conffiles();
    let data = PackageData { name: package, compression: Compression::None, conffiles: &conffiles };
    let read = |files| builder.apply_package(&data, files, &Reading(watch));
    Ok(read_files(work.store().host(), (package, file), read)?.map_err(|(error, _)| error)?)
}

fn configure_in_machine(
    configure: &dyn Configure,
    disk: &Path,
    packages: usize,
    watch: Watch<'_>,
) -> Result<(), StoreError> {
    watch.step(&format!("configuring {packages} packages in a machine"), None, || {
        let mut last = VecDeque::new();
        let mut line = |text: &str| {
            tracing::info!("{text}");
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(text.to_owned());
        };
        let status = configure.run(disk, &["/bin/sh", "-c", SCRIPT], &mut line, watch);
        watch.check()?;
        let problem = match status {
            Ok(0) => return Ok(()),
            Ok(status) => format!("it ended with status {status}"),
            Err(problem) => problem,
        };
        let output = last.into_iter().collect::<Vec<_>>().join("\n");
        Err(StoreError::Configure { problem, output })
    })
}

/// Who watches the making of a file system.
struct Reading<'a>(Watch<'a>);

impl motu_rootfs::Watch for Reading<'_> {
    /// Told by package.
    fn advance(&self, _: u64) {}

    fn is_cancelled(&self) -> bool {
        self.0.check().is_err()
    }
}
