//! One machine, from its parts to its end.

use crate::board::{Board, HostSide};
use crate::control::{Control, Event};
use crate::debug::{DebugPort, Orders};
use crate::driver::{Driver, OnReset, Startup};
use crate::timers::Timers;
use crate::trace::{AccessTracer, TracedBus};
use crate::vcpu::VcpuThread;
use crate::{BusCounters, MachineConfig, MachineError, PortStream, SerialInput};
use motu_boot::{BoardTables, BootSource};
use motu_hv::{CrashReport, GuestBus, Hypervisor, Stats, Vcpu, VmConfig};
use motu_memory::GuestRam;
use motu_virtio::block::DiskHandle;
use motu_x86::CpuState;
use motu_x86::contract::Contract;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

/// How a machine ended.
#[derive(Debug)]
pub enum Outcome {
    /// The guest switched it off.
    PoweredOff,
    /// The guest reset it, and [`OnReset::End`] was asked for.
    Reset,
    /// A processor shut down (triple fault; SDM vol. 3, 6.15, "Double fault").
    Crashed(Box<CrashReport>),
    /// The guest wrote this value to the debug-exit port, see [`MachineConfig::debug_exit`].
    DebugExit(u32),
    /// [`MachineHandle::stop`] was called.
    Stopped,
}

/// A machine that has ended, and what it did.
#[derive(Debug)]
pub struct Finished {
    pub outcome: Outcome,
    /// By vCPU.
    pub cpus: Vec<Stats>,
    pub bus: BusCounters,
    /// The guest's memory as the machine left it.
    pub ram: GuestRam,
}

/// A machine that is made and does not run yet.
pub struct Machine {
    board: Board,
    boot: BootSource,
    /// Where the CPUs start.
    first: Vec<CpuState>,
    vcpus: Vec<Box<dyn Vcpu>>,
    /// By vCPU; empty if nobody wants to know.
    accesses: Vec<Box<dyn AccessTracer>>,
    control: Arc<Control>,
    events: Receiver<Event>,
    on_reset: OnReset,
    waits: bool,
}

/// Reaches a machine from any thread.
#[derive(Clone, Debug)]
pub struct MachineHandle {
    control: Arc<Control>,
}

impl MachineHandle {
    /// Ends the machine as soon as its CPUs stand between two instructions; from before it runs
    /// until after it has ended.
    pub fn stop(&self) {
        self.control.send(Event::Stop);
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("board", &self.board)
            .field("boot", &self.boot)
            .field("vcpus", &self.vcpus.len())
            .field("on_reset", &self.on_reset)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Puts a machine together and loads its kernel, so that every error that a person's input can
    /// cause comes from here.
    ///
    /// # Errors
    /// The kernel or initrd cannot be booted, or the host lacks a resource.
    pub fn new(config: MachineConfig, hypervisor: &dyn Hypervisor) -> Result<Self, MachineError> {
        let MachineConfig { contract, cpus, on_reset, tracing, waits_for_debugger: waits, .. } = config;
        let ram = GuestRam::new(config.memory)?;
        let vm = hypervisor.create_vm(VmConfig { ram: ram.clone(), contract, vcpus: cpus })?;
        let (sender, events) = mpsc::channel();
        let control = Arc::new(Control::new(sender));
        let mut vcpus = (0..cpus).map(|id| vm.create_vcpu(id)).collect::<Result<Vec<_>, _>>()?;
        for (id, vcpu) in (0..).zip(&mut vcpus) {
            control.add_vcpu(vcpu.kicker());
            vcpu.set_tracer(tracing.cpu.as_ref().map(|tracer| tracer(id)));
            vcpu.set_profiler(tracing.profile.as_ref().map(|profiler| profiler(id)))?;
        }
        let accesses = tracing.access.map(|tracer| (0..cpus).map(tracer).collect()).unwrap_or_default();
        let host = HostSide {
            serial: config.serial,
            ports: config.ports,
            disks: config.disks,
            shares: config.shares,
            entropy: config.entropy,
            debug_exit: config.debug_exit,
        };
        let mut board = Board::new(ram, vm, tables(cpus, contract), Arc::clone(&control), host)?;
        let boot = config.boot;
        let first = Loader { board: &mut board, boot: &boot }.start_states()?;
        Ok(Self { board, boot, first, vcpus, accesses, control, events, on_reset, waits })
    }

    pub fn handle(&self) -> MachineHandle {
        MachineHandle { control: Arc::clone(&self.control) }
    }

    /// The way of the debugger, of which there is one at a time.
    pub fn debug_port(&self) -> DebugPort {
        let cpus = self.board.tables().cpus;
        DebugPort { control: Arc::clone(&self.control), ram: self.board.ram().clone(), cpus }
    }

    /// The first serial port's receiver.
    pub fn serial(&self) -> SerialInput {
        self.board.serial()
    }

    /// The host's end of the virtio-console port `name`; `None` if it is taken already, or was not
    /// asked for.
    pub fn take_port(&mut self, name: &str) -> Option<PortStream> {
        self.board.take_port(name)
    }

    /// The machine's disks, in the order in which it was given them.
    pub fn disks(&self) -> Vec<DiskHandle> {
        self.board.disks()
    }

    /// Runs the machine until it ends.
    ///
    /// # Errors
    /// The host's trouble; the machine has ended then.
    pub fn run(mut self) -> Result<Finished, MachineError> {
        let _timers = Timers::start(self.board.schedule(), self.board.clock(), self.board.timed())
            .map_err(|source| MachineError::Thread { what: "timer", source })?;
        let bus = self.board.guest_bus();
        let mut vcpus = Vec::new();
        let mut accesses = self.accesses.into_iter();
        for (id, vcpu) in (0..).zip(self.vcpus) {
            let bus: Arc<dyn GuestBus + Send + Sync> = match accesses.next() {
                Some(tracer) => Arc::new(TracedBus::new(bus.clone(), tracer)),
                None => bus.clone(),
            };
            let thread = VcpuThread::start(id, vcpu, bus, Arc::clone(&self.control))
                .map_err(|source| MachineError::Thread { what: "virtual CPU", source })?;
            vcpus.push(thread);
        }
        let mut driver = Driver {
            control: &self.control,
            events: self.events,
            vcpus,
            clock: self.board.clock(),
            on_reset: self.on_reset,
            waits: self.waits,
            debugger: None,
            orders: Orders::default(),
            owes_pause: false,
        };
        let outcome = driver.drive(self.first, &mut Loader { board: &mut self.board, boot: &self.boot })?;
        let cpus = driver.vcpus.into_iter().filter_map(VcpuThread::finish).collect();
        Ok(Finished { outcome, cpus, bus: bus.counters(), ram: self.board.ram().clone() })
    }
}

/// What the board's firmware tables say.
fn tables(cpus: u32, contract: &str) -> BoardTables {
    let tables = BoardTables { cpus, ..BoardTables::default() };
    let bits = Contract::by_name(contract).and_then(|contract| u8::try_from(contract.physical_address_bits()).ok());
    BoardTables { physical_bits: bits.unwrap_or(tables.physical_bits), ..tables }
}

/// Loads the kernel into a board that is as after power-up.
struct Loader<'a> {
    board: &'a mut Board,
    boot: &'a BootSource,
}

impl Startup for Loader<'_> {
    fn start_states(&mut self) -> Result<Vec<CpuState>, MachineError> {
        self.board.reset()?;
        let tables = self.board.tables();
        let boot = motu_boot::load(self.board.ram(), self.boot, tables)?;
        let others = (1..tables.cpus).map(|id| motu_boot::application_processor(id, tables));
        Ok(std::iter::once(boot).chain(others).collect())
    }
}
