//! One run of a guest, on as many CPUs as it has.

use super::{Bench, Checked, End, Run, start};
use crate::board::Board;
use crate::layout;
use motu_hv::{Exit, GuestBus, HvError, Vcpu, VmConfig};
use motu_x86::Activity;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, channel};

/// Why a CPU does not go on.
enum Halt {
    /// The guest has ended, by this CPU or another, or takes too long.
    Stopped,
    Shutdown,
}

impl Bench<'_> {
    /// Adds processors that wait for a start-up message, up to `count` in all.
    pub fn add_waiting(&mut self, count: usize) {
        for id in 1..count as u32 {
            let mut state = start::real();
            state.activity = Activity::WaitForSipi;
            state.lapic.registers[ID] = id << 24;
            state.lapic.base_msr &= !BOOT_PROCESSOR;
            // After reset it is disabled by software.
            state.lapic.registers[SPURIOUS] = 0xff;
            self.others.push(state);
        }
    }

    /// Adds processors that run in 64-bit mode from `at` on, up to `count` in all, each with a stack of its own and its number in RDI.
    pub fn add_running(&mut self, count: usize, at: u64) {
        for id in 1..count as u32 {
            let mut state = start::long();
            state.rip = at;
            state.gpr[RSP] = layout::smp::stack(id);
            state.gpr[RDI] = id.into();
            state.lapic.registers[ID] = id << 24;
            state.lapic.base_msr &= !BOOT_PROCESSOR;
            self.others.push(state);
        }
    }

    /// Runs the guest to whatever end.
    ///
    /// # Errors
    /// The engine cannot run it.
    pub fn run_anyhow(&mut self) -> Checked<Run> {
        let states: Vec<_> = std::iter::once(&self.state).chain(&self.others).collect();
        let config = VmConfig { ram: self.ram.clone(), contract: self.contract, vcpus: states.len() as u32 };
        let vm = self.hypervisor.create_vm(config)?;
        let mut vcpus = (0..).zip(&states).map(|(id, _)| vm.create_vcpu(id)).collect::<Result<Vec<_>, _>>()?;
        let kicks = vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
        let board = Board::new(vm, self.ram.clone(), kicks, self.action.clone());
        let now = board.now();
        vcpus.iter_mut().zip(states).try_for_each(|(vcpu, state)| vcpu.restore(state, now))?;
        let (done, waiting) = channel::<()>();
        let halts = std::thread::scope(|scope| {
            let (board, patience) = (&board, self.patience);
            scope.spawn(move || {
                if waiting.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                    board.stop();
                }
            });
            let mut all = vcpus.iter_mut();
            let first = all.next();
            let others: Vec<_> = all.map(|vcpu| scope.spawn(move || run_until_halt(vcpu.as_mut(), board))).collect();
            let first = first.map(|vcpu| run_until_halt(vcpu.as_mut(), board));
            let halts: Vec<_> = others.into_iter().map(|thread| thread.join().expect("it panics nowhere")).collect();
            drop(done);
            first.into_iter().chain(halts).collect::<Result<Vec<_>, _>>()
        })?;
        let (events, value) = board.take();
        let end = match value {
            _ if halts.iter().any(|halt| matches!(halt, Halt::Shutdown)) => End::Shutdown,
            Some(value) => End::Value(value),
            None => End::Endless,
        };
        let Some(first) = vcpus.first() else { return Err(super::Problem::Other("there is no CPU".into())) };
        let run = Run { end, events, report: first.crash_report(board.now()), stats: first.stats(), cpus: vcpus.len() };
        self.runs.push(run.clone());
        Ok(run)
    }
}

/// Runs a CPU until it, or any other, has a reason not to go on.
fn run_until_halt(vcpu: &mut dyn Vcpu, board: &Board) -> Result<Halt, HvError> {
    loop {
        match vcpu.run(board) {
            Exit::Shutdown => {
                board.stop();
                return Ok(Halt::Shutdown);
            }
            Exit::Stuck(trouble) => {
                board.stop();
                return Err(HvError::Stuck { rip: vcpu.save(board.now()).rip, trouble });
            }
            Exit::Kicked if board.ended.load(Ordering::SeqCst) => return Ok(Halt::Stopped),
            // No debugger is attached.
            Exit::Kicked | Exit::Debug(_) => {}
        }
    }
}

const RSP: usize = 4;
const RDI: usize = 7;
/// Local APIC registers, by number.
const ID: usize = 0x02;
const SPURIOUS: usize = 0x0f;
/// IA32_APIC_BASE bit 8.
const BOOT_PROCESSOR: u64 = 1 << 8;
