//! motu is killed at random moments of everything that it does to its store. Afterwards the store is whole, what it serves is what
//! was put in, and nothing is left for ever.
//!
//! `MOTU_KILLS` is how often (20 by default; `cargo xtask kills` says it), `MOTU_KILLS_SEED` the same moments again, as far as the
//! host's own are.

use motu_e2e::Home;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

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

/// A store, and what is put into it.
struct World {
    home: Home,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let home = Home::new();
        let disk: Vec<u8> = (0..DISK / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        fs::write(home.at("disk.raw"), disk).unwrap();
        motu_e2e::root_tree(&home.at("tree"));
        fs::create_dir(home.at("tree/data")).unwrap();
        fs::create_dir(home.at("context")).unwrap();
        let motufile = "FROM dir:tree\nCOPY Motufile /srv/\nRUN dd if=/dev/urandom of=/data/built bs=64k count=64\n";
        fs::write(home.at("context/Motufile"), motufile).unwrap();
        for number in 0..40 {
            let content: Vec<u8> = (0..1 << 15).flat_map(|_| random.next().to_le_bytes()).collect();
            fs::write(home.at(&format!("tree/data/{number}")), content).unwrap();
        }
        Self { home }
    }

    /// What there is, is whole and what it should be.
    fn is_whole(&self) {
        self.home.succeeds(["system", "check"]);
        let listed = self.home.succeeds(["image", "ls", "--json"]);
        let images: serde_json::Value = serde_json::from_str(&listed).unwrap();
        for image in images.as_array().unwrap() {
            assert!(image["error"].is_null(), "{image}");
            let names: Vec<&str> = image["names"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
            if names.iter().any(|name| name.starts_with("disk")) {
                let out = self.home.at("out.raw");
                self.home.succeeds(["image", "export", names[0], "--output", out.to_str().unwrap()]);
                assert!(
                    fs::read(&out).unwrap() == fs::read(self.home.at("disk.raw")).unwrap(),
                    "{names:?} is another disk"
                );
                fs::remove_file(out).unwrap();
            }
        }
    }

    /// What nobody needs any more is gone once somebody looks.
    fn is_tidy(&self) {
        self.home.succeeds(["image", "prune"]);
        assert_eq!(self.home.left("tmp"), Vec::<String>::new());
    }
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
            world.home.succeeds(LINES[0]);
        }
        let begun = Instant::now();
        let mut child: Child = world.home.command(line).spawn().unwrap();
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
    world.home.succeeds(LINES[0]);
    world.home.succeeds(["run", "--", "true"]);
    world.is_whole();
}
