//! Packages' files: those that were fetched before are in the store, under the digest that the release's signed lists have.

use crate::apt::{Apt, Candidate, Planned};
use crate::blobs::{Found, digest_of};
use crate::progress::{Silent, Watch};
use crate::record::PackagesRecord;
use crate::work::Work;
use crate::{Digest, Package, StoreError};
use std::fs::File;
use std::path::PathBuf;

/// A package's `.deb`.
#[derive(Debug)]
pub(super) struct PackageFile {
    pub(super) path: PathBuf,
    /// Of its bytes.
    pub(super) digest: Digest,
}

/// Finds the file of each package in the store, or has apt fetch it. In the same order. They are kept as what `name` is made from, for
/// the next image.
pub(super) fn fetch(
    work: &Work,
    apt: &Apt<'_>,
    (name, planned): (&str, &[Planned]),
    watch: Watch<'_>,
) -> Result<Vec<PackageFile>, StoreError> {
    let mut files = planned.iter().map(|package| there(work, package, watch)).collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<Candidate> = planned.iter().zip(&files).filter(|(_, file)| file.is_none()).map(wanted).collect();
    if !missing.is_empty() {
        let mut fetched = apt.download(&missing, watch)?.into_iter();
        for file in files.iter_mut().filter(|file| file.is_none()) {
            let Some(path) = fetched.next() else { break };
            let digest = work.add_file(&path, Watch { progress: &Silent, ..watch })?.digest;
            *file = Some(PackageFile { path: work.path_of(digest), digest });
        }
    }
    let mut files: Vec<PackageFile> = files.into_iter().flatten().collect();
    debug_assert_eq!(files.len(), planned.len());
    // Those that are found again by what the lists say.
    let found_again = planned.iter().zip(&files).filter(|(package, file)| package.digest == Some(file.digest));
    let packages = found_again.filter(|(package, _)| package.local.is_none()).map(|(package, file)| Package {
        name: package.name.clone(),
        version: package.version.clone(),
        digest: file.digest,
    });
    let record = PackagesRecord { packages: packages.collect() };
    if !record.packages.is_empty() {
        work.keep_packages(name, &record, watch)?;
    }
    for (_, file) in planned.iter().zip(&mut files).filter(|(package, _)| package.local.is_none()) {
        // It may have gone to its place.
        file.path = work.path_of(file.digest);
    }
    Ok(files)
}

fn wanted((package, _): (&Planned, &Option<PackageFile>)) -> Candidate {
    let Planned { name, version, size, .. } = package;
    Candidate { name: name.clone(), version: version.clone(), depends: Vec::new(), size: *size }
}

/// A package's file that is there: in a folder of the host's, or in the store, where it stays as long as the work.
fn there(work: &Work, package: &Planned, watch: Watch<'_>) -> Result<Option<PackageFile>, StoreError> {
    if let Some(local) = &package.local {
        let mut file = File::open(local).map_err(StoreError::io("read", local))?;
        let (digest, _) = digest_of(&mut file, local, Watch { progress: &Silent, ..watch })?;
        return Ok(Some(PackageFile { path: local.clone(), digest }));
    }
    let Some(digest) = package.digest else { return Ok(None) };
    if !work.pin(digest, watch)? {
        return Ok(None);
    }
    if work.store().blobs().check(digest, Watch { progress: &Silent, ..watch })? != Found::Whole {
        tracing::warn!("the kept package {} is damaged: it is fetched again", package.name);
        return Ok(None);
    }
    Ok(Some(PackageFile { path: work.path_of(digest), digest }))
}
