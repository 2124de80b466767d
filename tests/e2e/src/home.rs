//! A store of one test's own.

use crate::{Ended, command, home, motu};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A store that no other test sees, and a folder for the test's files, where motu is run. `tiny` is made in it without a network.
/// Its machines are removed with it.
#[derive(Debug)]
pub struct Home {
    place: TempDir,
}

impl Home {
    /// # Panics
    /// `tiny` cannot be made, or files not be written.
    #[expect(clippy::new_without_default, reason = "it makes folders")]
    pub fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        // Its packages are fetched once for all tests.
        let made = motu(["run", "--", "true"]);
        assert_eq!(made.status, 0, "tiny can be made: {}", made.stderr);
        let new = Self { place };
        new.bring_packages();
        new
    }

    /// Copies what `tiny` is made from into the store, unless it is there: so that no network is needed.
    ///
    /// # Panics
    /// Files cannot be read or written.
    pub fn bring_packages(&self) {
        let record = Path::new("packages/tiny.json");
        if self.at("home").join(record).exists() {
            return;
        }
        let text = fs::read(home().join(record)).expect("tiny was made");
        let packages: serde_json::Value = serde_json::from_slice(&text).expect("a record");
        let digests = packages["packages"].as_array().expect("packages").iter().map(|package| &package["digest"]);
        let blobs = digests.map(|digest| Path::new("blobs/sha256").join(digest.as_str().expect("a digest")));
        // The record is the last: it says that they are there.
        for file in blobs.chain([record.to_owned()]) {
            let to = self.at("home").join(&file);
            fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
            fs::copy(home().join(&file), to).expect("a file of the store");
        }
    }

    /// Removes all machines.
    pub fn remove_machines(&self) {
        let ids = self.command(["ls", "-aq"]).output().map(|output| Ended::from(output).stdout).unwrap_or_default();
        if !ids.is_empty() {
            // Machines that go on without their folder are no reason to fail a test that has passed.
            let _ = self.command(["rm", "-f"].into_iter().chain(ids.lines())).output();
        }
    }

    /// The test's folder.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// What is called so in the test's folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// What is called so in the store.
    pub fn store(&self, name: &str) -> PathBuf {
        self.place.path().join("home").join(name)
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = command(args);
        command.env("MOTU_HOME", self.at("home")).current_dir(self.place());
        command
    }

    /// # Panics
    /// motu does not start, or panics.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        let ended: Ended = self.command(args).output().expect("motu starts").into();
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        ended
    }

    /// What motu prints.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn succeeds<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(args);
        assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// Runs what must be refused with all of these words, print nothing, and leave nothing half done.
    ///
    /// # Panics
    /// It is not so.
    #[track_caller]
    pub fn refused(&self, args: &[&str], words: &[&str]) {
        let images = || self.run(["image", "ls", "--json"]).stdout;
        let before = images();
        let ended = self.run(args);
        assert_eq!((ended.status, ended.stdout.as_str()), (125, ""), "{args:?}: {}", ended.stderr);
        for word in words {
            assert!(ended.stderr.contains(word), "{args:?}: no {word:?} in\n{}", ended.stderr);
        }
        assert_eq!(images(), before, "{args:?}");
        assert_eq!(self.left("tmp"), Vec::<String>::new(), "{args:?}");
    }

    /// What lies in a folder of the store, if there is one.
    pub fn left(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store(folder)).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.remove_machines();
    }
}
