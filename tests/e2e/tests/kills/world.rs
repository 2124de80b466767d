//! A store of the test's own, what is put into it, and what has to be true of it at any time.

use crate::ext4::{content_of, is_whole};
use crate::moments::Random;
use motu_disk::{Disk, Format, OpenOptions};
use motu_e2e::Home;
use motu_store::{Store, Watch};
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Bytes of the disk that is pulled.
const DISK: usize = 24 << 20;
/// Files in the tree that is pulled, and words of 8 bytes in each.
const FILES: (u32, u32) = (40, 1 << 15);
/// Where in a root file system those are.
const DATA: &str = "data/tree";

/// A store, and what is put into it.
pub struct World {
    pub home: Home,
    /// What images whose content was looked at are made of. Whether it still is so, is the store's own check.
    seen: HashSet<String>,
}

impl World {
    /// A store with nothing in it but what `tiny` is made from.
    pub fn empty() -> Self {
        let home = Home::new();
        for folder in ["exported", crate::keeper::SAID] {
            fs::create_dir_all(home.at(folder)).unwrap();
        }
        Self { home, seen: HashSet::new() }
    }

    pub fn new(random: &mut Random) -> Self {
        let world = Self::empty();
        let disk: Vec<u8> = (0..DISK / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        fs::write(world.at("disk.raw"), disk).unwrap();
        motu_e2e::root_tree(&world.at("tree"));
        fs::create_dir_all(world.at("tree").join(DATA)).unwrap();
        for applet in ["yes", "head", "dd", "rm"] {
            let link = world.at("tree/bin").join(applet);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink("busybox", link).unwrap();
        }
        for number in 0..FILES.0 {
            let content: Vec<u8> = (0..FILES.1).flat_map(|_| random.next().to_le_bytes()).collect();
            fs::write(world.at("tree").join(DATA).join(number.to_string()), content).unwrap();
        }
        fs::create_dir(world.at("context")).unwrap();
        let motufile = "FROM dir:tree\nCOPY Motufile /srv/\nRUN cat /data/tree/* > /data/built\n";
        fs::write(world.at("context/Motufile"), motufile).unwrap();
        world
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.home.at(name)
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.home.at("home")
    }

    /// A shell that calls motu `$MOTU`, and stops where something fails.
    pub fn shell(&self, script: &str) -> Command {
        let motu = self.home.command::<&str>([]);
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", script]).env("MOTU", motu.get_program()).current_dir(self.home.place());
        for (name, value) in motu.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    #[track_caller]
    fn json(&self, line: &[&str]) -> Vec<Value> {
        serde_json::from_str(&self.home.succeeds(line)).unwrap()
    }

    /// What there is, is whole and what it should be.
    pub fn is_whole(&mut self) {
        self.home.succeeds(["system", "check"]);
        for image in self.json(&["image", "ls", "--json"]) {
            assert!(image["error"].is_null(), "{image}");
            let names: Vec<&str> = image["names"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let disk = &image["record"]["disk"];
            let made_of = if disk.is_null() { &image["id"] } else { &disk["layers"] };
            if let Some(name) = names.first()
                && self.seen.insert(format!("{name} {made_of}"))
            {
                self.image_is_right(name);
            }
        }
        for machine in self.json(&["ls", "--all", "--json"]) {
            self.home.succeeds(["inspect", machine["id"].as_str().unwrap()]);
        }
    }

    /// The content of an image by its name.
    fn image_is_right(&self, name: &str) {
        if name.starts_with("tiny") {
            self.home.succeeds(["run", "--", "true"]);
            return;
        }
        let out = self.at("exported/image.raw");
        self.home.succeeds(["image", "export", name, "--output", out.to_str().unwrap()]);
        if name.starts_with("disk") {
            assert!(fs::read(&out).unwrap() == fs::read(self.at("disk.raw")).unwrap(), "{name} is another disk");
        } else if is_whole(&out) {
            let (tree, read) = (self.at("tree").join(DATA), content_of(&out, "/data", &self.at("exported")));
            for file in 0..FILES.0 {
                let file = file.to_string();
                let same = fs::read(tree.join(&file)).unwrap() == read.read(&format!("tree/{file}")).unwrap();
                assert!(same, "{name}: /{DATA}/{file} is another file");
            }
            let mut files: Vec<String> = (0..FILES.0).map(|file| file.to_string()).collect();
            files.sort();
            let all: Vec<u8> = files.iter().flat_map(|file| fs::read(tree.join(file)).unwrap()).collect();
            let built = read.read("built").map(|built| built == all);
            assert_eq!(built, name.starts_with("built").then_some(true), "{name}: what was built of all");
        }
        fs::remove_file(out).unwrap();
    }

    /// Has other programs look at the root disk of a machine that does not run, as its next start finds it. Its file, with the journal
    /// replayed, if they are there; it stays until the next time.
    pub fn root_disk_is_whole(&self, machine: &str) -> Option<PathBuf> {
        let path = self.at("exported/root.raw");
        let _ = fs::remove_file(&path);
        let store = Store::open(self.store()).unwrap();
        let folder = store.open_machine(&store.find_machine(machine).unwrap().id).unwrap();
        let image = store.find(&folder.record().image.unwrap().to_string()).unwrap();
        let disk = folder.open_disk(machine, &image.record.disk.unwrap(), Watch::silent()).unwrap();
        motu_disk::create(&path, Some(Format::Raw), disk.size()).unwrap();
        let copy = motu_disk::open(&path, &OpenOptions { format: Some(Format::Raw), read_only: false }).unwrap();
        motu_disk::copy(&disk, &*copy, |_| Ok(())).unwrap();
        is_whole(&path).then_some(path)
    }

    /// What nobody needs any more is gone once somebody looks.
    pub fn is_tidy(&self) {
        self.home.succeeds(["image", "prune"]);
        for part in ["tmp", "machines"] {
            let left: Vec<_> = self.home.left(part);
            let kept = self.json(&["ls", "--all", "--json"]).len();
            assert!(left.len() == if part == "machines" { kept } else { 0 }, "{part}: {left:?}");
        }
        for part in ["images", "names", "seals", "blobs/sha256", "packages", "cache", "steps"] {
            let left: Vec<_> = self.home.left(part).into_iter().filter(|name| name.starts_with('.')).collect();
            assert!(left.is_empty(), "{part}: {left:?}");
        }
    }
}
