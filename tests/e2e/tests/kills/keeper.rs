//! A machine that lives as long as the test, and is killed again and again. It writes a number to its root disk, a qcow2 image and a raw
//! disk, flushes each, and says the number. What it has said is there afterwards.

use crate::ext4::{content_of, qcow2_is_whole};
use crate::world::World;
use motu_disk::{Format, OpenOptions};
use std::collections::BTreeMap;
use std::fs;

/// What it is called.
pub const NAME: &str = "keeper";
/// The folder of what it says.
pub const SAID: &str = "said";
/// Numbers of one life of it, and places for them: what it writes over is what it said four lives before.
pub const ROUND: u64 = 40;
const PLACES: u64 = 4 * ROUND;
/// Bytes that each number is written as.
const BYTES: usize = 16 << 10;
const DISKS: [(&str, Format); 2] = [("kept.qcow2", Format::Qcow2), ("kept.raw", Format::Raw)];

/// What it has said.
#[derive(Default)]
pub struct Keeper {
    next: u64,
    /// By place: the number that is there.
    said: BTreeMap<u64, u64>,
    /// Numbers that were looked for.
    pub looked_at: u64,
}

impl Keeper {
    /// Makes the machine.
    pub fn new(world: &World) -> Self {
        let disks = DISKS.map(|(name, format)| {
            motu_disk::create(&world.at(name), Some(format), 16 << 20).unwrap();
            world.at(name).display().to_string()
        });
        let [qcow2, raw] = &disks;
        let line = ["create", "--name", NAME, "--disk", qcow2, "--disk", raw, "dir:tree", "--", "sleep", "100000"];
        world.home.succeeds(line);
        Self::default()
    }

    /// A script that has it live once.
    pub fn life(&mut self) -> String {
        let (first, end) = (self.next, self.next + ROUND);
        // Each may be half written from now on.
        self.said.retain(|_, number| *number + PLACES >= end);
        let writes = format!(
            "mkdir -p /data/kept; n={first}; \
             while [ $n -lt {end} ]; do p=$((n % {PLACES})); \
             yes $n | head -c {BYTES} > /run/n; \
             dd if=/run/n of=/data/kept/$p bs={BYTES} conv=fsync; \
             for d in vdb vdc; do dd if=/run/n of=/dev/$d bs={BYTES} seek=$p conv=notrunc,fsync; done; \
             echo $n; \
             [ $((n % 8)) = 3 ] && {{ rm -f /data/noise; dd if=/data/tree/0 of=/data/noise bs=64k & }}; \
             n=$((n + 1)); done 2> /dev/null; wait"
        );
        format!("$MOTU start {NAME}; $MOTU exec {NAME} -- sh -c '{writes}' > {SAID}/numbers; $MOTU stop {NAME}")
    }

    /// Takes note of what the machine has said in its life, which is over, and looks for all that it has said.
    pub fn has_all(&mut self, world: &World) {
        let said = fs::read_to_string(world.at(SAID).join("numbers")).unwrap_or_default();
        // A line may have come in part.
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let numbers: Vec<u64> = whole.lines().map(|line| line.parse().expect("a number")).collect();
        assert!(numbers.iter().copied().eq(self.next..self.next + numbers.len() as u64), "{said}");
        self.said.extend(numbers.iter().map(|number| (number % PLACES, *number)));
        self.next += ROUND;
        let _ = fs::remove_file(world.at(SAID).join("numbers"));

        let files = world.root_disk_is_whole(NAME).map(|disk| content_of(&disk, "/data", &world.at("exported")));
        qcow2_is_whole(&world.at(DISKS[0].0));
        let disks = DISKS.map(|(name, format)| {
            let options = OpenOptions { format: Some(format), read_only: true };
            (name, motu_disk::open(&world.at(name), &options).unwrap())
        });
        for (place, number) in &self.said {
            let expected: Vec<u8> = format!("{number}\n").bytes().cycle().take(BYTES).collect();
            for (name, disk) in &disks {
                let mut found = vec![0; BYTES];
                disk.read(place * BYTES as u64, &mut found).unwrap();
                assert!(
                    found == expected,
                    "{name}: {number} is lost; there is {:?}",
                    String::from_utf8_lossy(&found[..20])
                );
            }
            if let Some(files) = &files {
                let found = files.read(&format!("kept/{place}")).unwrap_or_default();
                assert!(found == expected, "root disk: {number} is lost, of {} bytes", found.len());
            }
            self.looked_at += 1;
        }
    }
}
