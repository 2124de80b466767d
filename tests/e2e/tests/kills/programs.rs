//! Programs that look after their own data: fio, which can tell each block that it has written, and SQLite. Their machine is killed
//! while they write; after its next start they find all that they were told is on the disk.
//!
//! `cargo xtask kills --guest fio|sqlite` says which (`MOTU_KILLS_GUEST`). The packages come by the host's `apt-get`, which CI cannot do.

use crate::moments::Random;
use crate::processes::{self, Victim};
use crate::world::World;
use crate::{ext4, number};
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the machine is called.
const NAME: &str = "programs";

/// Times from a beginning within which a kill comes: of a start, and of writing.
const START: Duration = Duration::from_secs(3);
const WRITING: Duration = Duration::from_secs(8);

/// A program in the guest.
struct Program {
    packages: &'static str,
    /// Done once.
    prepare: &'static str,
    /// Writes what belongs to numbers from `$1` on, for ever, and says each number when it was told that it is on the disk.
    writes: &'static str,
    /// Fails unless all from `$1` to `$2` are as they were written, and what came after is right or not there.
    looks: &'static str,
    /// As many of the last numbers are looked for.
    keeps: u64,
}

/// Blocks of 4 KiB at random places in 1 MiB, in a file and on a disk in turn. fio would take a block that it wrote to the same place
/// before for the right one, so no place is taken twice.
const FIO: Program = Program {
    packages: "fio",
    prepare: "mkdir /data; cat > /data/job <<'.'\n\
              f=/data/$1; o=0\n\
              [ $(($1 % 2)) = 0 ] || { f=/dev/vdb; o=$1m; }\n\
              echo \"[n$1]\nfilename=$f\noffset=$o\nrandseed=$1\"\n\
              .\n\
              cat > /data/all <<'.'\n\
              [global]\nsize=1m\nio_size=256k\nbs=4k\nrw=randwrite\nverify=crc32c\nverify_fatal=1\nstonewall\n\
              .\n\
              sync",
    writes: "n=$1; while :; do { cat /data/all; sh /data/job $n; } > /run/job; \
             fio --do_verify=0 --fsync=16 --end_fsync=1 /run/job > /run/log 2>&1 || { cat /run/log >&2; exit 1; }; \
             echo $n; n=$((n + 1)); done",
    // What is random depends on a job's place in its file, too.
    looks: "n=$1; while [ $n -le $2 ]; do { cat /data/all; sh /data/job $n; } > /run/job; \
            fio --verify_only=1 /run/job > /run/log 2>&1 || { cat /run/log >&2; exit 1; }; n=$((n + 1)); done",
    keeps: 24,
};

/// A row for each number, in a database with a rollback journal and in one with a write-ahead log.
const SQLITE: Program = Program {
    packages: "sqlite3",
    prepare: "mkdir /data; for mode in delete wal; do \
              sqlite3 /data/$mode.db \"PRAGMA journal_mode=$mode; CREATE TABLE t(n INTEGER PRIMARY KEY, body TEXT);\"; done; sync",
    writes: "n=$1; { echo \"ATTACH '/data/wal.db' AS wal; PRAGMA main.synchronous=FULL; PRAGMA wal.synchronous=FULL;\"; \
             while :; do row=\"VALUES($n, replace(hex(zeroblob(700)), '00', $n));\"; \
             echo \"INSERT OR REPLACE INTO main.t $row INSERT OR REPLACE INTO wal.t $row SELECT $n;\"; n=$((n + 1)); done; \
             } | sqlite3 -bail /data/delete.db",
    looks: "for mode in delete wal; do found=$(sqlite3 /data/$mode.db \"PRAGMA integrity_check; \
            SELECT count(*) FROM t WHERE n <= $2; SELECT count(*) FROM t WHERE body <> replace(hex(zeroblob(700)), '00', n);\"); \
            [ \"$(echo $found)\" = \"ok $2 0\" ] || { echo \"$mode.db: $found, and not ok, $2, 0\" >&2; exit 1; }; done",
    keeps: u64::MAX,
};

#[test]
fn what_a_program_was_told_is_on_the_disk() {
    let program = match std::env::var("MOTU_KILLS_GUEST").as_deref() {
        Ok("fio") => &FIO,
        Ok("sqlite") => &SQLITE,
        Ok(other) => panic!("MOTU_KILLS_GUEST is fio or sqlite, not {other:?}"),
        Err(_) => {
            return println!("SKIPPED: fio and SQLite in a guest that is killed: cargo xtask kills --guest fio|sqlite");
        }
    };
    let (seed, wanted) = (crate::seed(), number("MOTU_KILLS").unwrap_or(crate::KILLS));
    let mut guest = Guest::new(program, Random::new(seed));
    for round in 0..wanted {
        if round % 4 == 3 {
            guest.is_killed_while_it_starts();
        } else {
            guest.is_killed_while_it_writes();
        }
        guest.has_all();
        println!("kill {} of {wanted}: {} numbers were said, and are there", round + 1, guest.last);
    }
    guest.world.home.succeeds(["stop", NAME]);
    guest.world.root_disk_is_whole(NAME);
}

/// The machine and what it has said.
struct Guest {
    world: World,
    program: &'static Program,
    random: Random,
    /// The last number that was said: all from 1 on were.
    last: u64,
}

impl Guest {
    fn new(program: &'static Program, random: Random) -> Self {
        let world = World::empty();
        let suite = codename();
        world.home.succeeds(["image", "pull", &format!("deb:{suite}"), "--include", program.packages, "--tag", NAME]);
        let disk = format!("{},size=4G", world.at("disk.qcow2").display());
        world.home.succeeds(["create", "--name", NAME, "--disk", &disk, NAME, "--", "sleep", "infinity"]);
        world.home.succeeds(["start", NAME]);
        world.home.succeeds(["exec", NAME, "--", "sh", "-e", "-c", program.prepare]);
        Self { world, program, random, last: 0 }
    }

    fn exec(&self, script: &str, from: u64, to: u64) -> Command {
        let mut command = self.world.home.command(["exec", NAME, "--", "sh", "-c", script, "sh"]);
        command.args([from.to_string(), to.to_string()]);
        command
    }

    fn is_killed_while_it_writes(&mut self) {
        let (said, complaints) = (self.world.at("numbers"), self.world.at("log"));
        let mut writing = self.exec(self.program.writes, self.last + 1, 0);
        writing.stdout(File::create(&said).unwrap()).stderr(File::create(&complaints).unwrap());
        let mut writing = writing.spawn().unwrap();
        std::thread::sleep(self.moment(WRITING));
        let ended = writing.try_wait().unwrap();
        assert!(ended.is_none(), "{}", fs::read_to_string(&complaints).unwrap());
        self.kill();
        writing.wait().unwrap();
        let said = fs::read_to_string(said).unwrap();
        // A line may have come in part.
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            assert_eq!(line, (self.last + 1).to_string());
            self.last += 1;
        }
    }

    fn is_killed_while_it_starts(&mut self) {
        self.kill();
        let begun = Instant::now();
        let mut starting =
            self.world.home.command(["start", NAME]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = self.moment(START);
        std::thread::sleep(moment.saturating_sub(begun.elapsed()));
        self.kill();
        starting.wait().unwrap();
    }

    fn moment(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.random.below(most.as_micros() as u64))
    }

    fn kill(&self) {
        Victim::Machines.kill(&self.world.store());
        processes::end_all(&self.world.store());
    }

    /// Looks at the disk as the kill has left it, and for all that was said, in the guest.
    fn has_all(&self) {
        self.world.root_disk_is_whole(NAME);
        ext4::qcow2_is_whole(&self.world.at("disk.qcow2"));
        self.world.home.succeeds(["start", NAME]);
        if self.last == 0 {
            return;
        }
        let first = self.last.saturating_sub(self.program.keeps) + 1;
        let looked = self.exec(self.program.looks, first, self.last).output().unwrap();
        let found = String::from_utf8_lossy(&looked.stderr);
        assert!(looked.status.success(), "of {first} to {}: {found}", self.last);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        processes::end_all(&self.world.store());
    }
}

/// What the host's distribution calls itself (os-release(5)).
fn codename() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.expect("a distribution with a codename").trim_matches('"').to_owned()
}
