//! The CPU through its seam: hostile code, tables, state and interrupts on a board that answers anything.

mod board;
mod decode;
mod guard;
mod interpret;
mod lapic;
mod start;
#[cfg(test)]
mod tests;

pub use decode::run as decode;
pub use interpret::run as interpret;
pub use lapic::run as lapic;

use board::Board;
use guard::Guard;
use motu_engine::SoftHypervisor;
use motu_hv::{Exit, HvError, Hypervisor, Vcpu, VmConfig};
use motu_memory::GuestRam;
use motu_x86::{CpuState, Gpa, Nanos};
use start::{CODE, Mode, RAM};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Where the board's clock begins.
const START: Nanos = Nanos(0);

/// A machine of one CPU, a little RAM and a board.
struct Machine {
    vcpu: Box<dyn Vcpu>,
    board: Board,
    ram: GuestRam,
    _guard: Guard,
}

thread_local! {
    /// By contract. Kept, as most of an input's time would be spent on making it; restoring a state and
    /// clearing RAM leaves nothing of the last input.
    static MACHINES: RefCell<BTreeMap<&'static str, Machine>> = const { RefCell::new(BTreeMap::new()) };
}

/// The contracts that this host can keep, highest first.
fn contracts() -> Vec<&'static str> {
    SoftHypervisor::default().capabilities().contracts
}

impl Machine {
    /// # Panics
    /// The host has no resources.
    fn new(contract: &'static str) -> Self {
        let guard = Guard::before();
        let ram = GuestRam::new(RAM).expect("a little memory");
        let guard = guard.after(&ram);
        let config = VmConfig { ram: ram.clone(), contract, vcpus: 1 };
        let vm = SoftHypervisor::default().create_vm(config).expect("a machine");
        let vcpu = vm.create_vcpu(0).expect("a CPU");
        let board = Board::new(vm, vcpu.kicker());
        Self { vcpu, board, ram, _guard: guard }
    }

    /// Calls `act` with the machine whose contract `choice` picks, in the state of `mode`; `answers` are
    /// what its board answers.
    fn with(choice: u8, mode: Mode, answers: &[u8], act: impl FnOnce(&mut Self)) {
        thread_local! {
            static CONTRACTS: Vec<&'static str> = contracts();
        }
        let contract = CONTRACTS.with(|all| all.get(usize::from(choice) % all.len().max(1)).copied());
        let Some(contract) = contract else { return };
        MACHINES.with_borrow_mut(|machines| {
            let machine = machines.entry(contract).or_insert_with(|| Self::new(contract));
            machine.clear(mode, answers);
            act(machine);
        });
    }

    fn clear(&mut self, mode: Mode, answers: &[u8]) {
        static ZEROS: [u8; (RAM - CODE) as usize] = [0; (RAM - CODE) as usize];
        self.board.reset(answers);
        // Takes what was sent to the CPU after its last moment; what it does with it is forgotten.
        self.run();
        self.write(0, start::image(mode));
        self.write(CODE, &ZEROS);
        self.board.reset(answers);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        // What does not fit into RAM is not written.
        _ = self.ram.write(Gpa(at), bytes);
    }

    /// Reading the board's clock would move it.
    fn restore(&mut self, state: &CpuState) -> Result<(), HvError> {
        self.vcpu.restore(state, START)
    }

    /// Runs for a moment: the board kicks the CPU whenever that asks for the time, which it does every few
    /// blocks and before it sleeps. False when it has shut down.
    fn run(&mut self) -> bool {
        self.board.begin();
        self.vcpu.run(&self.board) != Exit::Shutdown
    }

    /// What is done with a CPU that has stopped, wherever that was: a snapshot that can be gone on from, and
    /// for one input in 64, as it takes longer than most guests, a report for a person.
    ///
    /// # Panics
    /// The state that was saved is not one that can be restored.
    fn end(&mut self, input: &[u8]) {
        let state = if input.len() % 64 == 1 { self.vcpu.crash_report(START).state } else { self.vcpu.save(START) };
        let restored = self.restore(&state);
        assert!(restored.is_ok(), "{restored:?}: {state:x?}");
        _ = self.vcpu.stats();
    }
}
