//! What a disk holds, sector by sector.

use super::{KINDS, Kind, Place, SIZE};
use crate::{Disk, SECTOR};
use proptest::prelude::*;
use std::io;

const SECTORS: usize = (SIZE / SECTOR) as usize;

/// What is done to a disk. Ranges are in sectors.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Write {
        at: usize,
        len: usize,
    },
    Read {
        at: usize,
        len: usize,
    },
    Discard {
        at: usize,
        len: usize,
    },
    WriteZeroes {
        at: usize,
        len: usize,
        unmap: bool,
    },
    Flush,
    /// Makes the disk so many sectors larger.
    Grow {
        by: usize,
    },
    /// Closed and opened again.
    Reopen,
    /// The disk as it is when something ends it at this moment.
    Kill,
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    // Where clusters and blocks begin and end, or anywhere.
    let at = prop_oneof![0..SECTORS, (0..SECTORS / 8).prop_map(|block| block * 8), SECTORS - 16..SECTORS];
    let len = prop_oneof![1..20usize, Just(8), Just(128), 1..400usize];
    (at, len).prop_map(|(at, len)| (at, len.min(SECTORS - at)))
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => range().prop_map(|(at, len)| Step::Write { at, len }),
        4 => range().prop_map(|(at, len)| Step::Read { at, len }),
        3 => range().prop_map(|(at, len)| Step::Discard { at, len }),
        3 => (range(), any::<bool>()).prop_map(|((at, len), unmap)| Step::WriteZeroes { at, len, unmap }),
        3 => Just(Step::Flush),
        1 => prop_oneof![0..20usize, 1..3000usize].prop_map(|by| Step::Grow { by }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// A sector's content is a number, and 0 is zeros.
fn bytes(sectors: &[u32]) -> Vec<u8> {
    sectors.iter().flat_map(|value| value.to_le_bytes().repeat(SECTOR as usize / 4)).collect()
}

fn sectors(bytes: &[u8]) -> Vec<u32> {
    let value = |sector: &[u8]| {
        let value = u32::from_le_bytes(sector[..4].try_into().unwrap());
        assert!(sector.chunks(4).all(|word| word == value.to_le_bytes()), "a sector that is half one, half another");
        value
    };
    bytes.chunks(SECTOR as usize).map(value).collect()
}

/// What there is at the beginning: a base's, or nothing.
fn base(kind: Kind) -> Vec<u32> {
    let value = |at: usize| if (at / 8).is_multiple_of(2) { 1_000_000 + at as u32 } else { 0 };
    let has_base = matches!(kind, Kind::Backed | Kind::Overlay);
    (0..SECTORS).map(|at| if has_base { value(at) } else { 0 }).collect()
}

struct Model {
    /// What each sector holds.
    now: Vec<u32>,
    /// What each sector may hold after a crash: since the last flush.
    possible: Vec<Vec<u32>>,
    next: u32,
}

impl Model {
    fn new(now: Vec<u32>) -> Self {
        Self { possible: now.iter().map(|value| vec![*value]).collect(), now, next: 0 }
    }

    fn set(&mut self, at: usize, value: u32) {
        self.now[at] = value;
        self.possible[at].push(value);
    }

    /// Where a step is that is to be at `at` of the disk as it was made: some are as far from the end as they were then.
    fn at(&self, at: usize) -> usize {
        if at.is_multiple_of(3) { at + self.now.len() - SECTORS } else { at }
    }

    fn flushed(&mut self) {
        *self = Self { next: self.next, ..Self::new(std::mem::take(&mut self.now)) };
    }
}

fn read(disk: &dyn Disk, at: usize, len: usize) -> Vec<u32> {
    let mut data = vec![0xee; len * SECTOR as usize];
    disk.read(at as u64 * SECTOR, &mut data).unwrap();
    sectors(&data)
}

/// What ends a disk in the middle of its work.
pub trait Cut {
    /// The disk at `place` was opened.
    fn opened(&mut self, place: &Place);

    /// The disk as it is when everything ends now.
    fn cut(&mut self, place: &Place, luck: u64) -> Place;
}

/// The process is killed: what it has written is the host's already.
struct Killed;

impl Cut for Killed {
    fn opened(&mut self, _: &Place) {}

    fn cut(&mut self, place: &Place, _: u64) -> Place {
        let after = Place { folder: tempfile::tempdir().unwrap(), kind: place.kind };
        for name in ["base", "disk"] {
            std::fs::copy(place.path(name), after.path(name)).unwrap();
        }
        after
    }
}

pub fn run(kind: Kind, steps: &[Step], cut: &mut dyn Cut, luck: u64) -> Place {
    let mut place = Place::new(kind, &bytes(&base(kind)));
    cut.opened(&place);
    let mut disk = place.open();
    let mut model = Model::new(base(kind));
    assert_eq!((disk.size(), disk.is_read_only()), (SIZE, false));
    for step in steps {
        match *step {
            Step::Write { at, len } => {
                let at = model.at(at);
                let new: Vec<u32> = (0..len as u32).map(|n| model.next + 1 + n).collect();
                model.next += len as u32;
                disk.write(at as u64 * SECTOR, &bytes(&new)).unwrap();
                new.iter().enumerate().for_each(|(n, value)| model.set(at + n, *value));
            }
            Step::Read { at, len } => {
                let at = model.at(at);
                assert_eq!(read(&*disk, at, len), model.now[at..at + len]);
            }
            Step::Discard { at, len } => {
                let at = model.at(at);
                disk.discard(at as u64 * SECTOR, len as u64 * SECTOR).unwrap();
                for (n, value) in read(&*disk, at, len).into_iter().enumerate() {
                    assert!(value == 0 || value == model.now[at + n], "a discarded sector is as before or zeros");
                    model.set(at + n, value);
                }
            }
            Step::WriteZeroes { at, len, unmap } => {
                let at = model.at(at);
                disk.write_zeroes(at as u64 * SECTOR, len as u64 * SECTOR, unmap).unwrap();
                (at..at + len).for_each(|at| model.set(at, 0));
            }
            Step::Flush => {
                disk.flush().unwrap();
                model.flushed();
            }
            Step::Grow { by } => {
                let size = disk.size() + by as u64 * SECTOR;
                disk.grow(size).unwrap();
                assert_eq!(disk.size(), size);
                model.now.resize(model.now.len() + by, 0);
                model.possible.resize(model.now.len(), vec![0]);
            }
            Step::Reopen => {
                drop(disk);
                cut.opened(&place);
                disk = place.open();
            }
            Step::Kill => {
                let after = cut.cut(&place, luck);
                drop(disk);
                place = after;
                cut.opened(&place);
                disk = place.open();
                assert_eq!(disk.size(), model.now.len() as u64 * SECTOR, "{kind:?}: it is as large as it was made");
                let after = read(&*disk, 0, model.now.len());
                for (at, (value, possible)) in after.iter().zip(&model.possible).enumerate() {
                    assert!(possible.contains(value), "{kind:?} sector {at} is {value}, not one of {possible:?}");
                }
                model = Model { next: model.next, ..Model::new(after) };
            }
        }
        // Closed, a disk is flushed; opened, it is as it was.
        if matches!(step, Step::Reopen) {
            assert_eq!(read(&*disk, 0, model.now.len()), model.now, "{kind:?}");
            model.flushed();
        }
    }
    assert_eq!(read(&*disk, 0, model.now.len()), model.now, "{kind:?}");
    drop(disk);
    assert_eq!(std::fs::read(place.path("base")).unwrap(), bytes(&base(kind)), "the base is never written");
    place
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_disk_holds_what_was_written(steps in prop::collection::vec(step(), 1..40)) {
        for kind in KINDS {
            let place = run(kind, &steps, &mut Killed, 0);
            if matches!(kind, Kind::Qcow2 | Kind::Backed) {
                // What a kill leaves may be clusters that nobody refers to, no more.
                let killed = steps.iter().any(|step| matches!(step, Step::Kill));
                super::qemu::check(&place.disk(), killed);
            }
        }
    }
}

#[test]
fn what_is_no_whole_sectors_of_the_disk_is_refused_and_nothing_done() {
    for kind in KINDS {
        let place = Place::new(kind, &bytes(&base(kind)));
        let disk = place.open();
        let beyond = [(SIZE, SECTOR), (SIZE - SECTOR, 2 * SECTOR), (u64::MAX - 511, SECTOR), (1, SECTOR), (0, 100)];
        for (offset, len) in beyond {
            let mut data = vec![9; len as usize];
            let kinds = [
                disk.read(offset, &mut data).unwrap_err().kind(),
                disk.write(offset, &data).unwrap_err().kind(),
                disk.discard(offset, len).unwrap_err().kind(),
                disk.write_zeroes(offset, len, true).unwrap_err().kind(),
            ];
            assert_eq!(kinds, [io::ErrorKind::InvalidInput; 4], "{kind:?} {offset} {len}");
        }
        assert_eq!(read(&*disk, 0, SECTORS), base(kind));
    }
}

#[test]
fn space_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    for kind in KINDS {
        let place = Place::new(kind, &bytes(&base(kind)));
        let disk = place.open();
        let used = || std::fs::metadata(place.disk()).unwrap().blocks() * 512;
        disk.write(0, &vec![1; SIZE as usize]).unwrap();
        disk.flush().unwrap();
        let full = used();
        assert!(full >= SIZE);
        disk.discard(0, SIZE).unwrap();
        disk.flush().unwrap();
        assert!(used() < full - SIZE * 9 / 10, "{kind:?}: {} of {full} bytes are left", used());
        assert_eq!(read(&*disk, 0, SECTORS), vec![0; SECTORS]);
    }
}

#[test]
fn many_threads_may_use_a_disk() {
    for kind in KINDS {
        let place = Place::new(kind, &bytes(&base(kind)));
        let disk = place.open();
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let disk = &*disk;
                scope.spawn(move || {
                    for round in 1..30u32 {
                        for at in (thread * 3..SECTORS - 3).step_by(12) {
                            disk.write(at as u64 * SECTOR, &bytes(&[round; 3])).unwrap();
                            assert_eq!(read(disk, at, 3), [round; 3]);
                        }
                        disk.flush().unwrap();
                        let mine = (thread * 3) as u64 * SECTOR;
                        disk.write_zeroes(mine, SECTOR, true).unwrap();
                        assert_eq!(read(disk, thread * 3, 3), [0, round, round]);
                    }
                });
            }
        });
    }
}
