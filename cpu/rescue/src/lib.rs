//! One engine that finishes what another one cannot.
//!
//! Where the first engine stops at an instruction that it does not know ([`Trouble::Instruction`]), the second one runs that one
//! instruction on the CPU's state, and the first goes on:
//!
//! ```text
//!   first.run --Stuck(Instruction)--> first.save -> second.restore -> one instruction -> second.save -> first.restore
//!       ^                                                                                                    |
//!       +----------------------------------------------------------------------------------------------------+
//! ```
//!
//! It knows neither of the two: they are told to it as [`Hypervisor`]s. Both work on the same RAM and the same board. What is sent
//! to the CPU meanwhile, by the board or by another CPU, stays ([`Vcpu::restore`]). What such an instruction itself sends to other
//! CPUs is lost with the second engine's machine: no instruction that is usual for that has to be rescued.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use motu_hv::{
    Capabilities, CrashReport, DebugStop, Debugging, Exit, GuestBus, HardwareStats, HvError, Hypervisor, Kick, Msi,
    Profiler, RecentInstruction, Stats, TracedEvent, Tracer, Trouble, Vcpu, Vm, VmConfig,
};
use motu_memory::DirtyPages;
use motu_x86::{CpuState, Gpa, Nanos};
use std::sync::Arc;

/// An engine with another one behind it.
pub struct Rescuing {
    first: Box<dyn Hypervisor>,
    second: Arc<dyn Hypervisor>,
}

impl Rescuing {
    /// `first` runs guests, and `second` what it cannot.
    pub fn new(first: Box<dyn Hypervisor>, second: Box<dyn Hypervisor>) -> Self {
        Self { first, second: second.into() }
    }
}

impl std::fmt::Debug for Rescuing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rescuing").field("first", &self.first.capabilities()).finish_non_exhaustive()
    }
}

impl Hypervisor for Rescuing {
    fn capabilities(&self) -> Capabilities {
        self.first.capabilities()
    }

    fn create_vm(&self, config: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        let first = self.first.create_vm(config.clone())?;
        Ok(Arc::new(RescuingVm { first, second: Arc::clone(&self.second), config }))
    }
}

struct RescuingVm {
    first: Arc<dyn Vm>,
    second: Arc<dyn Hypervisor>,
    config: VmConfig,
}

impl Vm for RescuingVm {
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, HvError> {
        let first = self.first.create_vcpu(id)?;
        let rescuer = Rescuer { hypervisor: Arc::clone(&self.second), config: self.config.clone(), vcpu: None };
        Ok(Box::new(RescuingVcpu { id, first, rescuer, rescues: 0, steps: false }))
    }

    fn signal_msi(&self, msi: Msi) {
        self.first.signal_msi(msi);
    }

    fn set_ext_int(&self, level: bool) {
        self.first.set_ext_int(level);
    }

    fn log_writes(&self, on: bool) -> Result<(), HvError> {
        self.first.log_writes(on)
    }

    /// What the second engine writes is in the log of the RAM, too: it takes nothing along from one instruction to the next.
    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        self.first.take_dirty()
    }
}

struct RescuingVcpu {
    id: u32,
    first: Box<dyn Vcpu>,
    rescuer: Rescuer,
    rescues: u64,
    /// The debugger has asked for one instruction.
    steps: bool,
}

impl RescuingVcpu {
    /// Has the second engine run the instruction at RIP, and those behind it that the first engine cannot go on from. `Some`
    /// ends `run`.
    fn rescue(&mut self, bus: &dyn GuestBus) -> Result<Option<Exit>, HvError> {
        let now = bus.now();
        let mut state = self.first.save(now);
        loop {
            let exit;
            (state, exit) = self.rescuer.run_one(self.id, &state, bus)?;
            self.rescues += 1;
            // As of when it was saved, so that the TSC has not stood still.
            match self.first.restore(&state, now) {
                Ok(()) => return Ok(exit),
                Err(HvError::NotYet(_)) if exit.is_none() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Vcpu for RescuingVcpu {
    fn run(&mut self, bus: &dyn GuestBus) -> Exit {
        loop {
            match self.first.run(bus) {
                Exit::Stuck(Trouble::Instruction) => {}
                exit => {
                    self.steps &= !matches!(exit, Exit::Debug(_));
                    return exit;
                }
            }
            match self.rescue(bus) {
                // That was it. The first engine stops behind the next one, too, unless it is told otherwise before.
                Ok(None) if self.steps => return Exit::Debug(DebugStop::Step),
                Ok(None) => {}
                Ok(Some(exit)) => return exit,
                // What it had to say does not fit into an exit; that the guest cannot go on does.
                Err(_) => return Exit::Stuck(Trouble::Instruction),
            }
        }
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.first.kicker()
    }

    fn save(&self, now: Nanos) -> CpuState {
        self.first.save(now)
    }

    fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        self.first.restore(state, now)
    }

    fn stats(&self) -> Stats {
        let stats = self.first.stats();
        let hardware = stats.hardware.map(|hardware| HardwareStats { rescues: self.rescues, ..hardware });
        Stats { hardware, ..stats }
    }

    fn crash_report(&self, now: Nanos) -> CrashReport {
        self.first.crash_report(now)
    }

    fn set_tracer(&mut self, tracer: Option<Box<dyn Tracer>>) {
        self.first.set_tracer(tracer);
    }

    fn set_profiler(&mut self, profiler: Option<Box<dyn Profiler>>) -> Result<(), HvError> {
        self.first.set_profiler(profiler)
    }

    fn set_debugging(&mut self, debugging: Option<&Debugging>) -> Result<(), HvError> {
        self.first.set_debugging(debugging)?;
        self.steps = debugging.is_some_and(|debugging| debugging.step);
        Ok(())
    }

    fn stand_still(&mut self, now: Nanos) {
        self.first.stand_still(now);
    }

    fn go_on(&mut self, now: Nanos) {
        self.first.go_on(now);
    }
}

/// The second engine's CPU, made when it is first needed.
struct Rescuer {
    hypervisor: Arc<dyn Hypervisor>,
    config: VmConfig,
    vcpu: Option<Box<dyn Vcpu>>,
}

impl Rescuer {
    /// The state behind one instruction, and why the first engine is not to go on.
    fn run_one(&mut self, id: u32, before: &CpuState, bus: &dyn GuestBus) -> Result<(CpuState, Option<Exit>), HvError> {
        let vcpu = match &mut self.vcpu {
            Some(vcpu) => vcpu,
            None => {
                let mut vcpu = self.hypervisor.create_vm(self.config.clone())?.create_vcpu(id)?;
                let kick = vcpu.kicker();
                vcpu.set_tracer(Some(Box::new(OneInstruction(kick))));
                self.vcpu.insert(vcpu)
            }
        };
        vcpu.restore(before, STILL)?;
        let exit = match vcpu.run(&Still(bus)) {
            Exit::Kicked => None,
            exit => Some(exit),
        };
        Ok((vcpu.save(STILL), exit))
    }
}

/// Ends the run behind the instruction that is about to begin: the kick is seen between two instructions.
struct OneInstruction(Arc<dyn Kick>);

impl Tracer for OneInstruction {
    fn wants_instructions(&self) -> bool {
        true
    }

    fn instruction(&mut self, _: &RecentInstruction) {
        self.0.kick();
    }

    fn event(&mut self, _: &TracedEvent) {}
}

/// What the time is while an instruction is rescued.
const STILL: Nanos = Nanos(0);

/// The board for the time of one instruction, in which no time passes: what the guest's clocks are, the first engine knows.
struct Still<'a>(&'a dyn GuestBus);

impl GuestBus for Still<'_> {
    fn io_read(&self, port: u16, data: &mut [u8]) {
        self.0.io_read(port, data);
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        self.0.io_write(port, data);
    }

    fn mmio_read(&self, address: Gpa, data: &mut [u8]) {
        self.0.mmio_read(address, data);
    }

    fn mmio_write(&self, address: Gpa, data: &[u8]) {
        self.0.mmio_write(address, data);
    }

    fn acknowledge_interrupt(&self) -> u8 {
        self.0.acknowledge_interrupt()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.0.end_of_interrupt(vector);
    }

    fn now(&self) -> Nanos {
        STILL
    }
}
