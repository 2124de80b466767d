//! Which pages an engine says were written: by the guest, by the board, and by the processor in page tables.

use motu_engine::{Options, SoftHypervisor, Translate};
use motu_hv::{Exit, GuestBus, Hypervisor, Kick, Vcpu, Vm, VmConfig};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_rescue::Rescuing;
use motu_switch::{Pace, Switching};
use motu_x86::flags::{cr0, cr4, efer};
use motu_x86::{CpuState, Gpa, Nanos, Segment};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CONTRACT: &str = "v2-2026";
/// Page numbers. The tables map the first 2 MiB as they are, but for the last page, which leads to the board.
const CODE: u64 = 1;
const LIST: u64 = 2;
const TABLES: [u64; 4] = [0x10, 0x11, 0x12, 0x13];
const BOARD: u64 = 0x1ff;
const BOARD_GPA: u64 = 0xe000_0000;
/// Pages that guests write to.
const TARGETS: std::ops::Range<u64> = 0x20..0x1f0;

/// Two bytes that write to [RDI]: MOV, INC, XCHG, STOSB.
const WRITES: [[u8; 2]; 4] = [[0x88, 0x07], [0xfe, 0x07], [0x86, 0x07], [0xaa, 0x90]];

/// Reads addresses from RSI on, writes to each, and tells the board behind the last, which is 0.
fn code(write: [u8; 2]) -> Vec<u8> {
    let [first, second] = write;
    let mut code = vec![0x48, 0x8b, 0x3e, 0x48, 0x83, 0xc6, 0x08, 0x48, 0x85, 0xff, 0x74, 0x04, first, second];
    code.extend([0xeb, 0xf0, 0x88, 0x45, 0x00, 0xeb, 0xfb]);
    code
}

/// Kicks when the guest tells it.
struct Board {
    kick: Arc<dyn Kick>,
    /// It is told this often before it kicks.
    patience: AtomicU64,
}

impl GuestBus for Board {
    fn io_read(&self, _: u16, _: &mut [u8]) {}
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, data: &mut [u8]) {
        data.fill(0);
    }
    fn mmio_write(&self, _: Gpa, _: &[u8]) {
        if self.patience.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.kick.kick();
        }
    }
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> Nanos {
        Nanos(0)
    }
}

/// A machine of one processor, and what of its page tables is marked.
struct Machine {
    ram: GuestRam,
    vm: Arc<dyn Vm>,
    vcpu: Box<dyn Vcpu>,
    accessed: BTreeSet<u64>,
    dirty: BTreeSet<u64>,
}

impl Machine {
    fn new(engine: &dyn Hypervisor) -> Self {
        let ram = GuestRam::new(1024 * PAGE_SIZE).unwrap();
        let entry = |page: u64, number: u64, value: u64| {
            ram.write(Gpa(page * PAGE_SIZE + 8 * number), &(value | 3).to_le_bytes()).unwrap();
        };
        TABLES.windows(2).for_each(|pair| entry(pair[0], 0, pair[1] * PAGE_SIZE));
        (0..BOARD).for_each(|page| entry(TABLES[3], page, page * PAGE_SIZE));
        entry(TABLES[3], BOARD, BOARD_GPA);
        let vm = engine.create_vm(VmConfig { ram: ram.clone(), contract: CONTRACT, vcpus: 1 }).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        Self { ram, vm, vcpu, accessed: BTreeSet::new(), dirty: BTreeSet::new() }
    }

    fn start(&mut self) {
        let mut state = CpuState {
            rip: CODE * PAGE_SIZE,
            cr0: cr0::PE | cr0::ET | cr0::NE | cr0::WP | cr0::PG,
            cr3: TABLES[0] * PAGE_SIZE,
            cr4: cr4::PAE,
            ..CpuState::default()
        };
        state.gpr[5..7].copy_from_slice(&[BOARD * PAGE_SIZE, LIST * PAGE_SIZE]);
        state.msrs.efer = efer::LME | efer::LMA;
        state.segments.cs = Segment::flat_code(8, true);
        let data = Segment::flat_data(0x10);
        (state.segments.ds, state.segments.es, state.segments.ss) = (data, data, data);
        (state.segments.fs, state.segments.gs) = (data, data);
        state.segments.ldtr = Segment::null();
        state.segments.tr = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0xb | Segment::PRESENT };
        self.vcpu.restore(&state, Nanos(0)).unwrap();
    }

    /// The board writes code and list.
    fn load(&mut self, write: [u8; 2], pages: &[u64]) -> BTreeSet<u64> {
        self.ram.write(Gpa(CODE * PAGE_SIZE), &code(write)).unwrap();
        let list = pages.iter().map(|page| page * PAGE_SIZE + page % 4096).chain([0]);
        let list: Vec<u8> = list.flat_map(u64::to_le_bytes).collect();
        self.ram.write(Gpa(LIST * PAGE_SIZE), &list).unwrap();
        [CODE, LIST].into()
    }

    fn board(&self, patience: u64) -> Board {
        Board { kick: self.vcpu.kicker(), patience: AtomicU64::new(patience) }
    }

    /// The guest writes to pages: the pages that were written by that, and those of tables.
    fn run(&mut self, pages: &[u64]) -> BTreeSet<u64> {
        self.start();
        let board = self.board(1);
        while self.vcpu.run(&board) != Exit::Kicked || board.patience.load(Ordering::SeqCst) == 1 {}
        let mut written: BTreeSet<_> = pages.iter().copied().collect();
        if self.accessed.is_empty() {
            written.extend(TABLES);
        }
        let touched: BTreeSet<_> = pages.iter().copied().chain([CODE, LIST, BOARD]).collect();
        let changed: BTreeSet<_> = pages.iter().copied().chain([BOARD]).collect();
        if !touched.is_subset(&self.accessed) || !changed.is_subset(&self.dirty) {
            written.insert(TABLES[3]);
        }
        self.accessed.extend(touched);
        self.dirty.extend(changed);
        written
    }

    fn take(&self) -> BTreeSet<u64> {
        self.vm.take_dirty().unwrap().addresses().map(|page| page.0 / PAGE_SIZE).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Guest(usize, Vec<u64>),
    Board(Vec<u64>),
    Take,
    /// It is switched off and on again, and the guest writes between.
    Restart(Vec<u64>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = || proptest::collection::vec(TARGETS, 1..40);
    let step = prop_oneof![
        4 => (0..WRITES.len(), pages()).prop_map(|(write, pages)| Step::Guest(write, pages)),
        2 => pages().prop_map(Step::Board),
        2 => Just(Step::Take),
        1 => pages().prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..10)
}

/// Whether `found` is what was written. Where hardware walks page tables, it may count each walk as a write to them (SDM vol. 3, 29.3.5).
fn agree(found: &BTreeSet<u64>, expected: &BTreeSet<u64>, exact: bool) -> Result<(), TestCaseError> {
    let found: BTreeSet<_> =
        found.iter().copied().filter(|page| exact || expected.contains(page) || !TABLES.contains(page)).collect();
    prop_assert_eq!(&found, expected);
    Ok(())
}

fn check(engine: &dyn Hypervisor, exact: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut machine = Machine::new(engine);
    machine.load(WRITES[0], &[0x20]);
    machine.run(&[0x20]);
    prop_assert!(machine.take().is_empty(), "it is off");
    machine.vm.log_writes(true).unwrap();
    let mut expected = BTreeSet::new();
    for step in steps {
        match step {
            Step::Guest(write, pages) => {
                expected.extend(machine.load(WRITES[*write], pages));
                expected.extend(machine.run(pages));
            }
            Step::Board(pages) => {
                for &page in pages {
                    machine.ram.write(Gpa(page * PAGE_SIZE + 100), &[1, 2, 3]).unwrap();
                    expected.insert(page);
                }
            }
            Step::Take => agree(&machine.take(), &std::mem::take(&mut expected), exact)?,
            Step::Restart(pages) => {
                machine.vm.log_writes(false).unwrap();
                machine.load(WRITES[0], pages);
                machine.run(pages);
                machine.vm.log_writes(true).unwrap();
                expected.clear();
            }
        }
    }
    agree(&machine.take(), &expected, exact)?;
    prop_assert!(machine.take().is_empty(), "each is told of once");
    Ok(())
}

/// The guest writes to a few pages again and again, and meanwhile its memory is copied as it changes.
fn check_running(engine: &dyn Hypervisor) {
    const ROUNDS: u64 = 4;
    // MOV ESI, LIST; and what `code` does, but that it begins anew behind the last: JMP to the first.
    let mut endless = vec![0xbe, 0x00, 0x20, 0x00, 0x00];
    endless.extend(code(WRITES[1]));
    endless.splice(endless.len() - 1.., [0xe6]);
    let mut machine = Machine::new(engine);
    let pages = || TARGETS.step_by(100);
    let list: Vec<_> = pages().cycle().take(500).collect();
    machine.load(WRITES[1], &list);
    machine.ram.write(Gpa(CODE * PAGE_SIZE), &endless).unwrap();
    let whole = |ram: &GuestRam, page: u64| {
        let mut bytes = vec![0; PAGE_SIZE as usize];
        ram.read(Gpa(page * PAGE_SIZE), &mut bytes).unwrap();
        bytes
    };
    let mut copy: Vec<_> = pages().map(|page| whole(&machine.ram, page)).collect();
    machine.vm.log_writes(true).unwrap();
    for round in 0..ROUNDS {
        machine.start();
        let (board, vm, ram) = (machine.board(100), Arc::clone(&machine.vm), machine.ram.clone());
        let vcpu = &mut machine.vcpu;
        let mut follow = || {
            let dirty: BTreeSet<_> = vm.take_dirty().unwrap().addresses().map(|page| page.0 / PAGE_SIZE).collect();
            assert!(!dirty.contains(&CODE) && !dirty.contains(&LIST), "nobody has written there");
            let changed = copy.iter_mut().zip(pages()).filter(|(_, page)| dirty.contains(page));
            changed.for_each(|(copy, page)| *copy = whole(&ram, page));
        };
        std::thread::scope(|scope| {
            let running = scope.spawn(move || while vcpu.run(&board) != Exit::Kicked {});
            while !running.is_finished() {
                follow();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        follow();
        for (copy, page) in copy.iter().zip(pages()) {
            assert!(*copy == whole(&ram, page), "page {page:x}, round {round}");
        }
    }
}

fn examine(engine: &dyn Hypervisor, exact: bool, cases: u32) {
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    runner.run(&steps(), |steps| check(engine, exact, &steps)).unwrap_or_else(|error| panic!("{error}"));
    check_running(engine);
}

fn soft(options: Options) -> Box<dyn Hypervisor> {
    Box::new(SoftHypervisor::new(options))
}

#[test]
fn on_the_software_engine_interpreted() {
    examine(soft(Options { translate: Translate::Off, ..Options::default() }).as_ref(), true, 64);
}

#[test]
fn on_the_software_engine_translated() {
    examine(soft(Options::default()).as_ref(), true, 64);
    examine(soft(Options { stress: Some(1), ..Options::default() }).as_ref(), true, 64);
}

#[test]
fn on_two_engines_by_turns() {
    let engines = [soft(Options::default()), soft(Options::default())];
    let both = Switching::new("soft,soft", engines, Pace::Every(Duration::from_micros(200)));
    examine(&both, true, 16);
}

#[test]
fn on_kvm_by_rings_and_by_bitmaps() {
    for rings in [true, false] {
        let kvm = match motu_kvm::open() {
            Ok(kvm) if rings => kvm,
            Ok(kvm) => kvm.without_dirty_rings(),
            Err(error) => return println!("SKIPPED: {error}"),
        };
        if !kvm.capabilities().contracts.contains(&CONTRACT) {
            return println!("SKIPPED: the host's KVM cannot keep {CONTRACT}");
        }
        let interpreter = soft(Options { translate: Translate::Off, ..Options::default() });
        examine(&Rescuing::new(Box::new(kvm), interpreter), false, 16);
    }
}
