//! Power cuts: of what was written since the last sync, any part may be there and any part lost.

use super::model::{self, Cut, Step};
use super::{Kind, Place, SIZE};
use crate::SECTOR;
use crate::qcow2::create_with;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

/// What reached a file.
#[derive(Clone, Debug)]
pub enum Op {
    Write(u64, Vec<u8>),
    Len(u64),
    Sync,
}

/// What reached the files that a thread opened while it kept a record, in order.
#[derive(Clone, Debug, Default)]
pub struct Record(Option<Arc<Mutex<Vec<Op>>>>);

thread_local! {
    static KEPT: RefCell<Record> = RefCell::default();
}

impl Record {
    pub fn of_this_thread() -> Self {
        KEPT.with_borrow(Self::clone)
    }

    pub fn add(&self, op: Op) {
        if let Some(ops) = &self.0 {
            ops.lock().unwrap().push(op);
        }
    }
}

/// A disk of a file, what it held in the beginning and what reached it.
struct Recorded {
    kind: Kind,
    ops: Arc<Mutex<Vec<Op>>>,
}

impl Cut for Recorded {
    fn opened(&mut self, place: &Place) {
        let whole = std::fs::read(place.disk()).unwrap();
        // A file that was just closed or made was synced.
        *self.ops.lock().unwrap() = vec![Op::Write(0, whole), Op::Sync];
    }

    /// Makes the file of a power cut: all that was synced, and of the rest each page by itself or not.
    fn cut(&mut self, place: &Place, mut luck: u64) -> Place {
        let ops = self.ops.lock().unwrap().clone();
        let synced = ops.iter().rposition(|op| matches!(op, Op::Sync)).unwrap_or(0);
        // Sectors are whole; what is not there is zeros.
        let mut sectors: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut len = 0;
        for (at, op) in ops.iter().enumerate() {
            match op {
                Op::Sync => {}
                Op::Len(new) => len = len.max(*new),
                Op::Write(offset, data) => {
                    let end = offset + data.len() as u64;
                    for sector in offset / SECTOR..end.div_ceil(SECTOR) {
                        luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        // Whole writes are lost, or some of their sectors.
                        if at > synced && (luck >> 33).is_multiple_of(2) {
                            continue;
                        }
                        let place = sectors.entry(sector).or_insert_with(|| vec![0; SECTOR as usize]);
                        let from = offset.max(&(sector * SECTOR)).to_owned();
                        let to = end.min((sector + 1) * SECTOR);
                        let bytes = &data[(from - offset) as usize..(to - offset) as usize];
                        place[(from - sector * SECTOR) as usize..(to - sector * SECTOR) as usize]
                            .copy_from_slice(bytes);
                        len = len.max(to);
                    }
                }
            }
        }
        let mut bytes = vec![0; len as usize];
        for (sector, data) in sectors {
            let at = (sector * SECTOR) as usize;
            let end = (at + SECTOR as usize).min(bytes.len());
            bytes[at..end].copy_from_slice(&data[..end - at]);
        }
        let after = Place { folder: tempfile::tempdir().unwrap(), kind: self.kind };
        std::fs::copy(place.path("base"), after.path("base")).unwrap();
        std::fs::write(after.disk(), bytes).unwrap();
        after
    }
}

fn run(kind: Kind, steps: &[Step], luck: u64) {
    let ops = Arc::<Mutex<Vec<Op>>>::default();
    KEPT.set(Record(Some(Arc::clone(&ops))));
    let place = model::run(kind, steps, &mut Recorded { kind, ops }, luck);
    KEPT.set(Record::default());
    if matches!(kind, Kind::Qcow2 | Kind::Backed) {
        super::qemu::check(&place.disk(), true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_power_cut_takes_nothing_that_was_flushed(steps in prop::collection::vec(model::step(), 1..40), luck: u64) {
        for kind in [Kind::Qcow2, Kind::Backed, Kind::Overlay] {
            run(kind, &steps, luck);
        }
    }
}

/// Wherever a power cut ends a disk that grows, it has its old size or the new one, and all that it had.
#[test]
fn a_power_cut_while_a_disk_grows_takes_nothing() {
    for kind in [Kind::Qcow2, Kind::Backed, Kind::Overlay] {
        let base: Vec<u8> = (0..SIZE).map(|at| (at / SECTOR % 250) as u8).collect();
        let place = Place::new(kind, &base);
        if kind == Kind::Qcow2 {
            // Small clusters, so that the first-level table moves, and an end within one.
            std::fs::remove_file(place.disk()).unwrap();
            create_with(&File::create_new(place.disk()).unwrap(), SIZE, 10, None).unwrap();
        }
        let ops = Arc::<Mutex<Vec<Op>>>::default();
        KEPT.set(Record(Some(Arc::clone(&ops))));
        let mut recorded = Recorded { kind, ops: Arc::clone(&ops) };
        recorded.opened(&place);
        let disk = place.open();
        KEPT.set(Record::default());
        disk.write(SIZE - 3 * SECTOR, &[0xaa; 3 * SECTOR as usize]).unwrap();
        disk.write(9 * SECTOR, &[0xbb; SECTOR as usize]).unwrap();
        let mut expected = vec![0; SIZE as usize];
        disk.read(0, &mut expected).unwrap();
        disk.flush().unwrap();
        let mut sizes = vec![SIZE];
        for size in [SIZE + SECTOR, 6 * SIZE] {
            let before = ops.lock().unwrap().len();
            disk.grow(size).unwrap();
            let all = ops.lock().unwrap().clone();
            let mut found = Vec::new();
            for (end, luck) in (before..=all.len()).flat_map(|end| (0..6).map(move |luck| (end, luck))) {
                let ops = Arc::new(Mutex::new(all[..end].to_vec()));
                let after = Recorded { kind, ops }.cut(&place, luck);
                let opened = after.open();
                found.push(opened.size());
                let mut content = vec![0xee; opened.size() as usize];
                opened.read(0, &mut content).unwrap();
                let (old, new) = content.split_at(SIZE as usize);
                assert!(old == expected && new.iter().all(|byte| *byte == 0), "{kind:?} after {end} of {}", all.len());
                // It can be used, and what ended it grows once more.
                opened.grow(size).unwrap();
                opened.write(size - SECTOR, &[1; SECTOR as usize]).unwrap();
                drop(opened);
                if kind != Kind::Overlay && luck == 0 {
                    super::qemu::check(&after.disk(), true);
                }
            }
            sizes.push(size);
            found.sort_unstable();
            found.dedup();
            assert_eq!(found, sizes[sizes.len() - 2..], "{kind:?}: one or the other");
        }
    }
}
