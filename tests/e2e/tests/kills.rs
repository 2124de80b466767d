//! motu is killed at random moments of everything that it does to its store. Afterwards the store is whole, what it serves is what
//! was put in, and nothing is left for ever.
//!
//! `MOTU_KILLS` is how often (20 by default; `cargo xtask kills` says it), `MOTU_KILLS_SEED` the same moments again, as far as the
//! host's own are.

use motu_e2e::{Ended, command, home, motu};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Kills that CI has time for.
const KILLS: u64 = 20;
const DISK: usize = 24 << 20;

/// Xorshift (Marsaglia 2003), which is random enough for moments.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// A store of its own, and what is put into it.
struct World {
    place: TempDir,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let world = Self { place: tempfile::tempdir().unwrap() };
        // Once for all tests; its packages are enough to make `tiny` here without a network.
        assert_eq!(motu(["run", "--", "true"]).status, 0);
        for part in ["packages", "blobs/sha256"] {
            fs::create_dir_all(world.home().join(part)).unwrap();
            for entry in fs::read_dir(home().join(part)).unwrap().flatten() {
                fs::copy(entry.path(), world.home().join(part).join(entry.file_name())).unwrap();
            }
        }
        let disk: Vec<u8> = (0..DISK / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        fs::write(world.at("disk.raw"), disk).unwrap();
        motu_e2e::root_tree(&world.at("tree"));
        fs::create_dir(world.at("tree/data")).unwrap();
        fs::create_dir(world.at("context")).unwrap();
        let motufile = "FROM dir:tree\nCOPY Motufile /srv/\nRUN dd if=/dev/urandom of=/data/built bs=64k count=64\n";
        fs::write(world.at("context/Motufile"), motufile).unwrap();
        for number in 0..40 {
            let content: Vec<u8> = (0..1 << 15).flat_map(|_| random.next().to_le_bytes()).collect();
            fs::write(world.at(&format!("tree/data/{number}")), content).unwrap();
        }
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.at("home")
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = command(line);
        command.env("MOTU_HOME", self.home()).current_dir(self.place.path());
        command
    }

    #[track_caller]
    fn run(&self, line: &[&str]) -> Ended {
        let ended: Ended = self.command(line).output().unwrap().into();
        assert!(!ended.stderr.contains("panicked"), "{line:?}: {}", ended.stderr);
        ended
    }

    #[track_caller]
    fn succeeds(&self, line: &[&str]) -> Ended {
        let ended = self.run(line);
        assert_eq!(ended.status, 0, "{line:?}: {}{}", ended.stdout, ended.stderr);
        ended
    }

    /// What there is, is whole and what it should be.
    fn is_whole(&self) {
        self.succeeds(&["system", "check"]);
        let listed = self.succeeds(&["image", "ls", "--json"]).stdout;
        let images: serde_json::Value = serde_json::from_str(&listed).unwrap();
        for image in images.as_array().unwrap() {
            assert!(image["error"].is_null(), "{image}");
            let names: Vec<&str> = image["names"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
            if names.iter().any(|name| name.starts_with("disk")) {
                let out = self.at("out.raw");
                self.succeeds(&["image", "export", names[0], "--output", out.to_str().unwrap()]);
                assert!(fs::read(&out).unwrap() == fs::read(self.at("disk.raw")).unwrap(), "{names:?} is another disk");
                fs::remove_file(out).unwrap();
            }
        }
    }

    /// What nobody needs any more is gone once somebody looks.
    fn is_tidy(&self) {
        self.succeeds(&["image", "prune"]);
        let left: Vec<_> = names(&self.home().join("tmp"));
        assert!(left.is_empty(), "{left:?}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What is killed. The first words of each make sure that there is something to be done.
const WRITES: &str =
    "i=0; while :; do i=$((i + 1)); dd if=/dev/urandom of=/dev/vda bs=64k count=8 seek=$i conv=fsync 2>/dev/null; done";
const LINES: [&[&str]; 8] = [
    &["image", "pull", "disk:disk.raw", "--tag", "disk"],
    &["image", "pull", "dir:tree", "--tag", "tree"],
    &["run", "tiny", "--", "true"],
    &["run", "--timeout", "20s", "dir:tree", "--", "sh", "-c", WRITES],
    &["image", "build", "--no-cache", "--tag", "built", "context"],
    &["image", "rm", "disk"],
    &["image", "tag", "disk", "disk2"],
    &["system", "prune", "--all"],
];

/// How long a line takes when nobody kills it, at most.
const LONGEST: Duration = Duration::from_secs(4);

#[test]
fn a_kill_at_any_moment_leaves_the_store_whole() {
    let seed = number("MOTU_KILLS_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("MOTU_KILLS_SEED={seed}");
    let mut random = Random(seed | 1);
    let world = World::new(&mut random);
    let mut took = [Duration::ZERO; LINES.len()];
    let mut killed = 0;
    for round in 0..number("MOTU_KILLS").unwrap_or(KILLS) {
        let which = (random.below(2 * LINES.len() as u64) as usize) % LINES.len();
        let line = LINES[which];
        if line[1] == "rm" || line[1] == "tag" || line[1] == "prune" {
            world.succeeds(LINES[0]);
        }
        let begun = Instant::now();
        let mut child: Child = world.command(line).spawn().unwrap();
        // At first nobody knows how long it takes.
        let most = if took[which].is_zero() { LONGEST } else { took[which] };
        let until = begun + Duration::from_micros(random.below(most.as_micros() as u64));
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if Instant::now() >= until => break None,
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        };
        match ended {
            Some(_) => took[which] = begun.elapsed() * 11 / 10,
            None => {
                killed += 1;
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        world.is_whole();
        if round % 4 == 3 {
            world.is_tidy();
        }
    }
    world.is_tidy();
    println!("{killed} kills");
    // All of it still works.
    world.succeeds(LINES[0]);
    world.succeeds(&["run", "--", "true"]);
    world.is_whole();
}
