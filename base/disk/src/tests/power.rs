//! Power cuts: of what was written since the last sync, any part may be there and any part lost.

use super::model::{self, Cut, Step};
use super::{Kind, Place};
use crate::SECTOR;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
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
