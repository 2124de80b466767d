//! Two engines that are a few lines each: their CPUs do nothing but count what is sent to them.

use super::*;
use motu_hv::{CrashReport, Debugging, Exit, GuestBus, Kick, Profiler, Stats, Tracer};
use motu_memory::{DirtyPages, GuestRam};
use motu_x86::{CpuState, Gpa, Nanos};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const CONTRACT: &str = "v2-2026";

/// What reaches a CPU of one engine.
#[derive(Default)]
struct Inbox {
    kicked: AtomicBool,
    messages: AtomicU64,
}

impl Kick for Inbox {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
    }
}

/// An engine of two CPUs, and its machine.
#[derive(Clone)]
struct Engine {
    inboxes: [Arc<Inbox>; 2],
    /// It takes no state.
    refuses: Arc<AtomicBool>,
    /// It takes none now.
    delays: Arc<AtomicU64>,
    pins: Arc<AtomicU64>,
    /// A CPU of it has shut down.
    shut: Arc<AtomicBool>,
    contracts: Vec<&'static str>,
}

impl Engine {
    fn new(contracts: &[&'static str]) -> Self {
        let contracts = contracts.to_vec();
        Self {
            inboxes: Default::default(),
            refuses: Arc::default(),
            delays: Arc::default(),
            pins: Arc::default(),
            shut: Arc::default(),
            contracts,
        }
    }
}

impl Hypervisor for Engine {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "toy", max_vcpus: 2, contracts: self.contracts.clone() }
    }

    fn create_vm(&self, _: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        Ok(Arc::new(self.clone()))
    }
}

impl Vm for Engine {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        let inbox = Arc::clone(&self.inboxes[id as usize]);
        Ok(Box::new(Cpu { engine: self.clone(), inbox, state: CpuState::default() }))
    }

    /// The data is the CPU's number.
    fn signal_msi(&self, msi: Msi) {
        self.inboxes[msi.data as usize].messages.fetch_add(1, Ordering::SeqCst);
    }

    fn set_ext_int(&self, _: bool) {
        self.pins.fetch_add(1, Ordering::SeqCst);
    }

    fn log_writes(&self, _: bool) -> Result<(), HvError> {
        Ok(())
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        Ok(DirtyPages::default())
    }
}

/// Counts messages in RAX, and is sent home by a kick.
struct Cpu {
    engine: Engine,
    inbox: Arc<Inbox>,
    state: CpuState,
}

impl Vcpu for Cpu {
    fn run(&mut self, _: &dyn GuestBus) -> Exit {
        loop {
            let kicked = self.inbox.kicked.swap(false, Ordering::SeqCst);
            self.state.gpr[0] += self.inbox.messages.swap(0, Ordering::SeqCst);
            if kicked {
                return Exit::Kicked;
            }
            // The guest shuts down when it is told to.
            if self.state.gpr[0] >= SHUTDOWN {
                self.engine.shut.store(true, Ordering::SeqCst);
                return Exit::Shutdown;
            }
            std::thread::yield_now();
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.inbox) as Arc<dyn Kick>
    }

    fn save(&self, now: Nanos) -> CpuState {
        CpuState { tsc: now.0, ..self.state.clone() }
    }

    fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        if self.engine.refuses.load(Ordering::SeqCst) {
            return Err(HvError::State("it takes none".into()));
        }
        if self.engine.delays.load(Ordering::SeqCst) != 0 {
            self.engine.delays.fetch_sub(1, Ordering::SeqCst);
            return Err(HvError::NotYet("in the middle of something".into()));
        }
        assert!(state.tsc == now.0 || state.tsc == 0, "a state is as of the moment of the switch");
        self.state = state.clone();
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { instructions: 1, ..Stats::default() }
    }

    fn crash_report(&self, now: Nanos) -> CrashReport {
        CrashReport { state: self.save(now), recent: Vec::new() }
    }

    fn set_tracer(&mut self, _: Option<Box<dyn Tracer>>) {}

    fn set_profiler(&mut self, _: Option<Box<dyn Profiler>>) -> Result<(), HvError> {
        Ok(())
    }

    fn set_debugging(&mut self, _: Option<&Debugging>) -> Result<(), HvError> {
        Ok(())
    }
}

/// Messages that a CPU shuts down at.
const SHUTDOWN: u64 = 1 << 32;

/// A board whose clock goes on whenever it is looked at.
#[derive(Default)]
struct Board(AtomicU64);

impl GuestBus for Board {
    fn io_read(&self, _: u16, _: &mut [u8]) {}
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, _: &mut [u8]) {}
    fn mmio_write(&self, _: Gpa, _: &[u8]) {}
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> Nanos {
        Nanos(self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

struct Machine {
    engines: [Engine; 2],
    trigger: Trigger,
    vm: Arc<dyn Vm>,
}

impl Machine {
    fn new() -> Self {
        let engines = [Engine::new(&[CONTRACT]), Engine::new(&[CONTRACT])];
        let trigger = Trigger::default();
        let boxed = engines.clone().map(|engine| Box::new(engine) as Box<dyn Hypervisor>);
        let both = Switching::new("toy,toy", boxed, Pace::On(trigger.clone()));
        let ram = GuestRam::new(4096).unwrap();
        let vm = both.create_vm(VmConfig { ram, contract: CONTRACT, vcpus: 2 }).unwrap();
        Self { engines, trigger, vm }
    }

    /// Runs both CPUs, and `act` meanwhile, which is given both kickers; then how the CPUs came back.
    fn run(&self, act: impl FnOnce(&[Arc<dyn Kick>])) -> Vec<(Exit, Box<dyn Vcpu>)> {
        let board = Board::default();
        let vcpus: Vec<_> = (0..2).map(|id| self.vm.create_vcpu(id).unwrap()).collect();
        let kickers: Vec<_> = vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
        std::thread::scope(|scope| {
            let board = &board;
            let threads: Vec<_> =
                vcpus.into_iter().map(|mut vcpu| scope.spawn(move || (vcpu.run(board), vcpu))).collect();
            act(&kickers);
            kickers.iter().for_each(|kicker| kicker.kick());
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

/// Pulls until `count` switches are done, or refused.
fn pull(machine: &Machine, meeting: impl Fn() -> (u64, u64), count: u64) {
    while meeting().0 + meeting().1 < count {
        machine.trigger.pull();
        std::thread::yield_now();
    }
}

/// The switches of a machine, which a CPU that is not run tells of.
fn counts(probe: &dyn Vcpu) -> (u64, u64) {
    probe.stats().switches.map_or((0, 0), |switches| (switches.done, switches.refused))
}

#[test]
fn all_cpus_move_together_and_nothing_that_is_sent_is_lost() {
    let machine = Machine::new();
    let probe = machine.vm.create_vcpu(0).unwrap();
    let ended = machine.run(|_| {
        for round in 1..=100 {
            for cpu in [0, 1, 1] {
                machine.vm.signal_msi(Msi { address: 0, data: cpu });
            }
            // What CPUs send each other goes by the engine that has them.
            machine.engines.iter().for_each(|engine| engine.set_ext_int(true));
            pull(&machine, || counts(probe.as_ref()), round);
        }
    });
    assert!(counts(probe.as_ref()).0 >= 100);
    let took = probe.stats().switches.unwrap();
    assert!(took.longest <= took.time && took.longest > Nanos(0));
    for ((exit, vcpu), messages) in ended.iter().zip([100, 200]) {
        assert_eq!(*exit, Exit::Kicked);
        assert_eq!(vcpu.save(Nanos(1)).gpr[0], messages);
        assert_eq!(vcpu.stats().instructions, 2, "of both engines");
    }
}

#[test]
fn a_state_that_is_refused_stays_where_it_is() {
    let machine = Machine::new();
    let probe = machine.vm.create_vcpu(0).unwrap();
    machine.engines[1].refuses.store(true, Ordering::SeqCst);
    let ended = machine.run(|_| {
        machine.vm.signal_msi(Msi { address: 0, data: 0 });
        pull(&machine, || counts(probe.as_ref()), 4);
    });
    assert_eq!(counts(probe.as_ref()).0, 0);
    assert_eq!(ended[0].1.save(Nanos(1)).gpr[0], 1);
}

#[test]
fn a_state_that_comes_too_early_is_taken_at_the_next_switch() {
    let machine = Machine::new();
    let probe = machine.vm.create_vcpu(0).unwrap();
    machine.engines[1].delays.store(3, Ordering::SeqCst);
    machine.run(|_| pull(&machine, || counts(probe.as_ref()), 1));
    assert_eq!(machine.engines[1].delays.load(Ordering::SeqCst), 0);
    assert_eq!(counts(probe.as_ref()).1, 0, "it was not refused");
}

#[test]
fn a_cpu_that_leaves_calls_the_switch_off() {
    let machine = Machine::new();
    let probe = machine.vm.create_vcpu(0).unwrap();
    // Nobody runs.
    machine.trigger.pull();
    assert_eq!(counts(probe.as_ref()), (0, 0));
    let ended = machine.run(|_| {
        let has_shut = |engine: &Engine| engine.shut.load(Ordering::SeqCst);
        while !machine.engines.iter().any(has_shut) {
            machine.trigger.pull();
            for engine in &machine.engines {
                engine.inboxes[1].messages.store(SHUTDOWN, Ordering::SeqCst);
            }
        }
    });
    assert_eq!(ended[1].0, Exit::Shutdown);
    assert_eq!(ended[0].0, Exit::Kicked);
}

#[test]
fn only_what_both_engines_can_is_promised() {
    let engines = [Engine::new(&["v3-2026", CONTRACT]), Engine::new(&[CONTRACT])];
    let both = Switching::new("a,b", engines.map(|e| Box::new(e) as Box<dyn Hypervisor>), Pace::On(Trigger::default()));
    let capabilities = both.capabilities();
    assert_eq!((capabilities.name, capabilities.max_vcpus, capabilities.contracts), ("a,b", 2, vec![CONTRACT]));
}

#[test]
fn the_clock_switches_and_ends_with_the_machine() {
    let engines = [Engine::new(&[CONTRACT]), Engine::new(&[CONTRACT])];
    let pins = Arc::clone(&engines[1].pins);
    let period = Pace::Every(Duration::from_millis(1));
    let both = Switching::new("toy,toy", engines.map(|e| Box::new(e) as Box<dyn Hypervisor>), period);
    let ram = GuestRam::new(4096).unwrap();
    let vm = both.create_vm(VmConfig { ram, contract: CONTRACT, vcpus: 1 }).unwrap();
    let (mut vcpu, probe) = (vm.create_vcpu(0).unwrap(), vm.create_vcpu(0).unwrap());
    let kicker = vcpu.kicker();
    std::thread::scope(|scope| {
        scope.spawn(move || vcpu.run(&Board::default()));
        while counts(probe.as_ref()).0 < 3 {
            std::thread::yield_now();
        }
        kicker.kick();
    });
    vm.set_ext_int(true);
    assert_eq!(pins.load(Ordering::SeqCst), 1, "both engines know the pin");
}
