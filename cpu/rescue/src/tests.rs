//! Two engines that are a few lines each: the first knows no instruction at an odd address.

use super::*;
use motu_memory::{DirtyPages, GuestRam};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const CONTRACT: &str = "v2-2026";

/// What both engines' machines and CPUs write down.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Kick for Flag {
    fn kick(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Engine {
    name: &'static str,
    log: Log,
    /// How the second engine's instruction ends.
    ends: Exit,
    /// Where the first engine cannot go on from.
    too_early: u64,
}

impl Hypervisor for Engine {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: self.name, max_vcpus: 1, contracts: vec![CONTRACT] }
    }

    fn create_vm(&self, _: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        self.log.note(format!("{} makes a machine", self.name));
        Ok(Arc::new(self.clone()))
    }
}

impl Vm for Engine {
    fn create_vcpu(&self, _: u32) -> Result<Box<dyn Vcpu>, HvError> {
        Ok(Box::new(Cpu { engine: self.clone(), state: CpuState::default(), kicked: Arc::default(), tracer: None }))
    }

    fn signal_msi(&self, msi: Msi) {
        self.log.note(format!("{} gets message {:#x}", self.name, msi.data));
    }

    fn set_ext_int(&self, _: bool) {}

    fn log_writes(&self, _: bool) -> Result<(), HvError> {
        Ok(())
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        Ok(DirtyPages::default())
    }
}

struct Cpu {
    engine: Engine,
    state: CpuState,
    kicked: Arc<Flag>,
    tracer: Option<Box<dyn Tracer>>,
}

impl Vcpu for Cpu {
    fn run(&mut self, bus: &dyn GuestBus) -> Exit {
        let Some(tracer) = &mut self.tracer else {
            // The first engine: to the next odd address, or to its end.
            if self.state.rip % 2 == 1 {
                return Exit::Stuck(Trouble::Instruction);
            }
            self.state.rip += 1;
            return if self.state.rip > 4 { Exit::Kicked } else { self.run(bus) };
        };
        let text = String::new();
        tracer.instruction(&RecentInstruction { cs: 0, rip: self.state.rip, linear: self.state.rip, text });
        assert!(self.kicked.0.swap(false, Ordering::SeqCst), "it is to end behind this instruction");
        assert_eq!(bus.now(), Nanos(0));
        bus.io_write(0x80, &[self.state.rip as u8]);
        self.state.rip += 1;
        self.engine.ends
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicked) as Arc<dyn Kick>
    }

    fn save(&self, _: Nanos) -> CpuState {
        self.state.clone()
    }

    fn restore(&mut self, state: &CpuState, _: Nanos) -> Result<(), HvError> {
        if self.tracer.is_none() && state.rip == self.engine.too_early {
            return Err(HvError::NotYet("in the middle of something".into()));
        }
        self.engine.log.note(format!("{} from {}", self.engine.name, state.rip));
        self.state = state.clone();
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { hardware: Some(HardwareStats::default()), ..Stats::default() }
    }

    fn crash_report(&self, now: Nanos) -> CrashReport {
        CrashReport { state: self.save(now), recent: Vec::new() }
    }

    fn set_debugging(&mut self, _: Option<&Debugging>) -> Result<(), HvError> {
        Ok(())
    }

    fn set_tracer(&mut self, tracer: Option<Box<dyn Tracer>>) {
        self.tracer = tracer;
    }

    fn set_profiler(&mut self, _: Option<Box<dyn Profiler>>) -> Result<(), HvError> {
        Ok(())
    }
}

/// Sends a message for each access.
struct Board(Arc<dyn Vm>);

impl GuestBus for Board {
    fn io_read(&self, _: u16, _: &mut [u8]) {}

    fn io_write(&self, _: u16, data: &[u8]) {
        self.0.signal_msi(Msi { address: 0xfee0_0000, data: data.iter().map(|&byte| u32::from(byte)).sum() });
    }

    fn mmio_read(&self, _: Gpa, _: &mut [u8]) {}

    fn mmio_write(&self, _: Gpa, _: &[u8]) {}

    fn acknowledge_interrupt(&self) -> u8 {
        0
    }

    fn end_of_interrupt(&self, _: u8) {}

    fn now(&self) -> Nanos {
        Nanos(77)
    }
}

fn pair(ends: Exit) -> (Log, Board, Box<dyn Vcpu>) {
    pair_that_waits_at(u64::MAX, ends)
}

fn pair_that_waits_at(too_early: u64, ends: Exit) -> (Log, Board, Box<dyn Vcpu>) {
    let log = Log::default();
    let engine = |name| Box::new(Engine { name, log: log.clone(), ends, too_early });
    let both = Rescuing::new(engine("first"), engine("second"));
    assert_eq!(both.capabilities().name, "first");
    let ram = GuestRam::new(4096).unwrap();
    let vm = both.create_vm(VmConfig { ram, contract: CONTRACT, vcpus: 1 }).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    (log, Board(vm), vcpu)
}

#[test]
fn the_second_engine_runs_what_the_first_cannot() {
    let (log, board, mut vcpu) = pair(Exit::Kicked);
    assert_eq!(vcpu.run(&board), Exit::Kicked);
    assert_eq!(
        log.take(),
        [
            "first makes a machine",
            "second makes a machine",
            "second from 1",
            "first gets message 0x1",
            "first from 2",
            "second from 3",
            "first gets message 0x3",
            "first from 4",
        ]
    );
    assert_eq!(vcpu.save(STILL).rip, 5);
    assert_eq!(vcpu.stats().hardware.map(|hardware| hardware.rescues), Some(2));
}

#[test]
fn a_shutdown_of_the_second_engine_is_the_guests() {
    let (_, board, mut vcpu) = pair(Exit::Shutdown);
    assert_eq!(vcpu.run(&board), Exit::Shutdown);
    assert_eq!(vcpu.save(STILL).rip, 2);
}

#[test]
fn what_neither_can_run_ends_it() {
    let (_, board, mut vcpu) = pair(Exit::Stuck(Trouble::Instruction));
    assert_eq!(vcpu.run(&board), Exit::Stuck(Trouble::Instruction));
}

#[test]
fn the_second_engine_goes_on_where_the_first_cannot_yet() {
    let (log, board, mut vcpu) = pair_that_waits_at(2, Exit::Kicked);
    assert_eq!(vcpu.run(&board), Exit::Kicked);
    let restores: Vec<_> = log.take().into_iter().filter(|line| line.contains("from")).collect();
    assert_eq!(restores, ["second from 1", "second from 2", "first from 3", "second from 3", "first from 4"]);
    assert_eq!(vcpu.stats().hardware.map(|hardware| hardware.rescues), Some(3));
}
