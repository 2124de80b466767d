//! When to kill: at any time of an operation, or right after any change that it makes to the store.
//!
//! An operation of seconds puts what it made into its place in milliseconds, so kills by the clock alone would hardly ever hit that.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::HashMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Xorshift (Marsaglia 2003), which is random enough for moments.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed | 1);
        // Seeds that are near give numbers that are near, at first.
        for _ in 0..16 {
            random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// How long an operation takes, and how many changes it makes, when nobody kills it.
#[derive(Clone, Debug)]
pub struct Length {
    pub time: Duration,
    pub changes: u64,
    /// It came to its end once.
    is_known: bool,
    /// Changes behind which it is to be killed before any of them has its turn again.
    next: Vec<u64>,
}

impl Length {
    /// Of one that has not come to its end yet: a guess.
    pub fn unknown(time: Duration, changes: u64) -> Self {
        Self { time, changes, is_known: false, next: Vec::new() }
    }

    /// It came to its end.
    pub fn is(&mut self, time: Duration, changes: u64) {
        if !self.is_known {
            self.next.clear();
        }
        (self.time, self.changes, self.is_known) = (time, changes.max(1), true);
    }

    /// It was killed: if nobody knows how long it takes, it may take much longer.
    pub fn was_not_reached(&mut self) {
        if !self.is_known {
            (self.time, self.changes) = (self.time * 2, self.changes * 2);
            self.next.clear();
        }
    }

    /// When to kill: after each of its changes in turn, in any order, and now and then at any time.
    pub fn moment(&mut self, random: &mut Random) -> Moment {
        if random.below(4) == 0 {
            return Moment::Time(Duration::from_micros(random.below(self.time.as_micros() as u64)));
        }
        if self.next.is_empty() {
            self.next = (1..=self.changes).collect();
        }
        Moment::Change(self.next.swap_remove(random.below(self.next.len() as u64) as usize))
    }
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after the beginning.
    Time(Duration),
    /// As soon as so many changes were made.
    Change(u64),
}

/// Counts what happens to the names in a folder and all folders below, and what is written to files in another.
pub struct Changes {
    queue: OwnedFd,
    /// By watch.
    folders: HashMap<i32, PathBuf>,
    pub count: u64,
}

impl Changes {
    pub fn below(folder: &Path, written: &Path) -> Self {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("the host has inotify");
        let mut changes = Self { queue, folders: HashMap::new(), count: 0 };
        inotify::add_watch(&changes.queue, written, WatchFlags::MODIFY).expect("a folder");
        changes.watch(folder);
        changes
    }

    /// Folders may be gone before they are looked at.
    fn watch(&mut self, folder: &Path) {
        let what = WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::CLOSE_WRITE;
        let Ok(watch) = inotify::add_watch(&self.queue, folder, what | WatchFlags::ONLYDIR) else { return };
        self.folders.insert(watch, folder.to_owned());
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.watch(&entry.path());
            }
        }
    }

    /// Waits for a change until then at most, and counts all that have come.
    pub fn wait(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&self.queue, PollFlags::IN)], Some(&left));
        let mut new = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.queue, &mut buffer);
        while let Ok(event) = reader.next() {
            self.count += 1;
            let is_new = event.events().intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            if is_new && event.events().contains(ReadFlags::ISDIR) {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                new.extend(self.folders.get(&event.wd()).zip(name).map(|(folder, name)| folder.join(name)));
            }
        }
        new.iter().for_each(|folder| self.watch(folder));
    }
}
