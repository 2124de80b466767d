//! motu is killed at random moments of everything that it does to its store. Afterwards the store is whole, what it serves is what
//! was put in, what a guest had flushed is there, and nothing is left for ever.
//!
//! `MOTU_KILLS` is how often (20 by default; `cargo xtask kills` says it), `MOTU_KILLS_SEED` the same moments again, as far as the
//! host's own are.
#![forbid(unsafe_code)]

mod ext4;
mod keeper;
mod moments;
mod processes;
mod programs;
mod world;

use keeper::Keeper;
use moments::{Changes, Length, Moment, Random};
use processes::Victim;
use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};
use world::World;

/// Kills that CI has time for.
const KILLS: u64 = 20;

/// No operation takes so long, however busy the host is.
const HANGS: Duration = Duration::from_secs(300);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Of the moments; it is said, so that they can be had again.
fn seed() -> u64 {
    let seed = number("MOTU_KILLS_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("MOTU_KILLS_SEED={seed}");
    seed
}

/// Something that motu does.
struct Operation {
    name: &'static str,
    /// Makes sure that there is something to be done.
    before: &'static str,
    script: &'static str,
    victims: &'static [Victim],
}

const CLIENT: &[Victim] = &[Victim::Client];
const ANY: &[Victim] = &[Victim::Client, Victim::Machines, Victim::All];

const OPERATIONS: [Operation; 10] = [
    Operation {
        name: "pull of a disk",
        before: "",
        script: "$MOTU image pull disk:disk.raw --tag disk",
        victims: CLIENT,
    },
    Operation {
        name: "a machine that writes",
        before: "",
        script: "$MOTU run dir:tree -- sh -c 'for i in 1 2 3 4 5 6 7 8; do dd if=/dev/vda of=/data/$i bs=64k count=64 conv=fsync; done'",
        victims: CLIENT,
    },
    Operation {
        name: "build",
        before: "",
        script: "$MOTU image build --no-cache --tag built context",
        victims: CLIENT,
    },
    Operation {
        name: "removal",
        before: "$MOTU image pull disk:disk.raw --tag disk",
        script: "$MOTU image tag disk disk2; $MOTU image rm disk; $MOTU image rm disk2",
        victims: CLIENT,
    },
    Operation { name: "the keeper", before: "", script: "", victims: ANY },
    Operation { name: "pull of a tree", before: "", script: "$MOTU image pull dir:tree --tag tree", victims: CLIENT },
    Operation {
        name: "a machine's records",
        before: "$MOTU rm -f m n 2> /dev/null || true",
        script: "$MOTU create --name m dir:tree -- true; $MOTU rename m n; $MOTU rm n",
        victims: CLIENT,
    },
    Operation {
        name: "making tiny",
        before: "$MOTU image rm tiny 2> /dev/null || true",
        script: "$MOTU run -- true",
        victims: CLIENT,
    },
    Operation {
        name: "a machine that stays",
        before: "$MOTU rm -f m n 2> /dev/null || true",
        script: "$MOTU run -d --name m dir:tree; $MOTU cp disk.raw m:/data/; $MOTU cp m:/data/disk.raw copy; \
                 cmp copy disk.raw; $MOTU rm -f m",
        victims: ANY,
    },
    Operation { name: "prune", before: "", script: "$MOTU system prune --all", victims: CLIENT },
];

/// Does it until the moment has come, and kills then. How long it took and how many changes it made, if it had come to its end.
fn kill_at(world: &World, script: &str, victim: Victim, moment: Moment) -> Option<(Duration, u64)> {
    let log = File::create(world.at("log")).unwrap();
    let mut changes = Changes::below(&world.store(), &world.at(keeper::SAID));
    let begun = Instant::now();
    let output = || Stdio::from(log.try_clone().unwrap());
    let mut child = world.shell(script).stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().unwrap();
    let ended = loop {
        let is_over = child.try_wait().unwrap();
        let now = begun.elapsed();
        let due = match moment {
            Moment::Time(time) => now >= time,
            Moment::Change(count) => changes.count >= count,
        };
        match is_over {
            Some(status) => break Some(status),
            // There may be no such process yet, or no more.
            None if due && victim.kill(&world.store()) => break None,
            None => {}
        }
        assert!(now < HANGS, "{script} does not end: {}", fs::read_to_string(world.at("log")).unwrap());
        let until = if let Moment::Time(time) = moment { begun + time } else { begun + HANGS };
        changes.wait(until.clamp(begun + now, begun + now + Duration::from_millis(1)));
    };
    let time = begun.elapsed();
    if ended.is_none() && victim == Victim::Machines {
        // Who speaks with a machine hears of its end.
        while child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < HANGS, "{script} waits for a machine that was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    processes::end_all(&world.store());
    child.wait().unwrap();
    let said = fs::read_to_string(world.at("log")).unwrap();
    assert!(!said.contains("panicked"), "{script}: {said}");
    ended.map(|status| {
        assert!(status.success(), "{script}: {said}");
        (time, changes.count)
    })
}

#[test]
fn a_kill_at_any_moment_leaves_everything_whole() {
    let wanted = number("MOTU_KILLS").unwrap_or(KILLS);
    let mut random = Random::new(seed());
    let mut world = World::new(&mut random);
    let mut keeper = Keeper::new(&world);
    let mut lengths = OPERATIONS.map(|operation| match operation.script {
        // Its first kill is to come when it has said something.
        "" => Length::unknown(Duration::from_secs(12), 2 * keeper::ROUND),
        _ => Length::unknown(Duration::from_secs(2), 12),
    });
    let mut killed = [(0, 0); OPERATIONS.len()];
    let mut kills = 0;
    for round in 0.. {
        if kills == wanted {
            break;
        }
        let which = round as usize % OPERATIONS.len();
        let operation = &OPERATIONS[which];
        let is_keeper = operation.script.is_empty();
        world.home.bring_packages();
        let before = world.shell(operation.before).output().unwrap();
        assert!(before.status.success(), "{}: {}", operation.before, String::from_utf8_lossy(&before.stderr));
        let script = if is_keeper { keeper.life() } else { operation.script.to_owned() };
        let victim = operation.victims[random.below(operation.victims.len() as u64) as usize];
        let moment = lengths[which].moment(&mut random);
        match kill_at(&world, &script, victim, moment) {
            Some((time, changes)) => lengths[which].is(time, changes),
            None => {
                println!("{}: {victim:?} killed at {moment:?}", operation.name);
                kills += 1;
                let (by_time, by_change) = &mut killed[which];
                *if let Moment::Time(_) = moment { by_time } else { by_change } += 1;
                lengths[which].was_not_reached();
            }
        }
        if is_keeper {
            keeper.has_all(&world);
        }
        world.is_whole();
        if round % 4 == 3 {
            world.is_tidy();
        }
    }
    world.is_tidy();
    for ((operation, length), (by_time, by_change)) in OPERATIONS.iter().zip(lengths).zip(killed) {
        println!(
            "{:>4} by the clock and {:>4} by what had changed of {:?} and {} changes: {}",
            by_time, by_change, length.time, length.changes, operation.name
        );
    }
    println!("{kills} kills, {} times a number that the keeper had said was looked for", keeper.looked_at);
    // All of it still works.
    world.home.succeeds(["image", "pull", "disk:disk.raw", "--tag", "disk"]);
    world.home.bring_packages();
    world.home.succeeds(["run", "--", "true"]);
    world.home.succeeds(["rm", keeper::NAME]);
    world.is_whole();
}
