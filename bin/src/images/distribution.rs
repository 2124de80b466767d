//! Images of the host's own distribution: their packages are configured in a machine that is another motu's.

use crate::agent;
use anyhow::Result;
use motu_spec::DEFAULT_IMAGE;
use motu_store::{Configure, DEFAULT_TAG, DistributionSpec, Image, ImageName, Source, Store, StoreError, Watch};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// The machine's memory: perl and ldconfig are the largest programs.
const MEMORY: &str = "512M";

/// The root disk is the only one.
const ROOT: &str = "motu.root=/dev/vda motu.rootfstype=ext4";

/// How often it is looked whether the work is still wanted.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest line that is taken from the guest, in bytes.
const LONGEST_LINE: u64 = 64 << 10;

/// Names of images that are made of the host's own packages when they are first used, if these are that distribution's.
const NAMES: [&str; 2] = ["debian", "ubuntu"];

/// What an image of such a name is made of: `debian`, or `debian:bookworm` for a suite.
pub fn named(name: &str) -> Option<(ImageName, DistributionSpec)> {
    let name: ImageName = name.parse().ok().filter(|name: &ImageName| NAMES.contains(&name.repository()))?;
    let suite = (name.tag() != DEFAULT_TAG).then(|| name.tag().to_owned());
    let origin = Some(name.repository().to_owned());
    Some((name, DistributionSpec { suite, origin, ..DistributionSpec::default() }))
}

/// What an image of packages is made of that begins as another one does: what a source or a name stands for, or the packages of an
/// image that is there and was made of packages. `None` if it is no such thing.
///
/// # Errors
/// The store cannot be read.
pub fn beginning_as(store: &Store, from: &str) -> Result<Option<DistributionSpec>> {
    let of_source = |source: &str| match source.parse() {
        Ok(Source::Deb(suite)) => Some(DistributionSpec { suite: Some(suite), ..DistributionSpec::default() }),
        _ => None,
    };
    if let Some(spec) = of_source(from) {
        return Ok(Some(spec));
    }
    match store.find(from) {
        Ok(image) => {
            let include = image.record.packages.iter().map(|package| package.name.clone()).collect();
            Ok(of_source(&image.record.source).map(|spec| DistributionSpec { include, ..spec }))
        }
        Err(StoreError::NoImage { .. }) => Ok(named(from).map(|(_, spec)| spec)),
        Err(error) => Err(error.into()),
    }
}

/// Makes an image of the packages that this host's package client is configured for; its name is one of its own if none are given.
///
/// # Errors
/// It cannot be made; the store is as before then.
pub fn make(store: &Store, spec: &DistributionSpec, names: Option<&[ImageName]>, watch: Watch<'_>) -> Result<Image> {
    // Its kernel is what packages are configured with; without one there is no need to begin.
    store.tiny(agent::BINARY, watch.progress, watch.cancel)?;
    Ok(store.make_distribution(spec, names, &InMachine { store: store.root().to_owned() }, watch)?)
}

/// Configures packages in a machine that a process of its own runs, with the kernel of `tiny`.
#[derive(Debug)]
struct InMachine {
    /// The store's folder.
    store: PathBuf,
}

impl InMachine {
    fn start(&self, disk: &Path, command: &[&str]) -> std::io::Result<Child> {
        // A comma in a file's name is written twice.
        let disk = format!("path={},format=qcow2", disk.to_string_lossy().replace(',', ",,"));
        let mut motu = Command::new(std::env::current_exe()?);
        motu.args(["run", "--memory", MEMORY, "--append", ROOT, "--disk", &disk, DEFAULT_IMAGE, "--"]).args(command);
        motu.env("MOTU_HOME", &self.store);
        motu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is this process's, which then ends the machine.
        motu.process_group(0).spawn()
    }
}

impl Configure for InMachine {
    fn run(&self, disk: &Path, command: &[&str], line: &mut dyn FnMut(&str), watch: Watch<'_>) -> Result<u8, String> {
        let mut machine = self.start(disk, command).map_err(|error| format!("no machine could be started: {error}"))?;
        let lines = lines(&mut machine);
        loop {
            match lines.recv_timeout(PAUSE) {
                Ok(text) => line(&text),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if watch.check().is_err() {
                let _ = machine.kill();
                break;
            }
        }
        let status = machine.wait().map_err(|error| format!("the machine's process cannot be waited for: {error}"))?;
        match (status.code(), status.signal()) {
            (Some(code), _) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
            (None, signal) => Err(format!("the machine's process was killed by signal {}", signal.unwrap_or(0))),
        }
    }
}

/// What the machine's process writes, both streams together.
fn lines(machine: &mut Child) -> Receiver<String> {
    let (sender, receiver) = sync_channel(64);
    if let Some(stdout) = machine.stdout.take() {
        forward(stdout, sender.clone());
    }
    if let Some(stderr) = machine.stderr.take() {
        forward(stderr, sender);
    }
    receiver
}

fn forward(stream: impl Read + Send + 'static, sender: SyncSender<String>) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = stream.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            // It is a guest's: no control characters for the terminal.
            let text: String = String::from_utf8_lossy(&line).trim_end().chars().filter(|c| !c.is_control()).collect();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_known_by_their_names() {
        let suite = |name: &str| named(name).map(|(_, spec)| (spec.origin.unwrap(), spec.suite));
        assert_eq!(suite("debian"), Some(("debian".to_owned(), None)));
        assert_eq!(suite("ubuntu:noble"), Some(("ubuntu".to_owned(), Some("noble".to_owned()))));
        assert_eq!((suite("alpine"), suite("me/debian"), suite("deb:stable")), (None, None, None));
    }

    #[test]
    fn an_image_of_packages_begins_as_another() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let suite = |from: &str| beginning_as(&store, from).unwrap().map(|spec| spec.suite);
        assert_eq!(suite("deb:stable"), Some(Some("stable".to_owned())));
        assert_eq!(suite("debian"), Some(None));
        assert_eq!(suite("debian:bookworm"), Some(Some("bookworm".to_owned())));
        assert_eq!((suite("oci:debian"), suite("tools")), (None, None));
        // One that is there and is something else.
        let tree = tempfile::tempdir().unwrap();
        store.import_folder(tree.path(), &["debian".parse().unwrap()], Watch::silent()).unwrap();
        assert_eq!(suite("debian"), None);
    }
}
