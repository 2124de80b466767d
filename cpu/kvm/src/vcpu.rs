//! The run loop of one vCPU.

use crate::debug::Debugger;
use crate::kick::Door;
use crate::msr::OwnMsrs;
use crate::profile::Sampler;
use crate::stand::Standing;
use crate::tell::PendingSignal;
use crate::vm::{Setup, Shared};
use kvm_bindings::{
    KVM_EXIT_DIRTY_RING_FULL, KVM_INTERNAL_ERROR_EMULATION, KVM_MP_STATE_RUNNABLE, kvm_debug_exit_arch, kvm_mp_state,
    kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use motu_hv::{CrashReport, Debugging, Exit, GuestBus, HardwareStats, HvError, Kick, Profiler, Stats, Trouble, Vcpu};
use motu_x86::{CpuState, Gpa, Nanos};
use std::cell::RefCell;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// Shadow of an instruction that holds interrupts off, as KVM_SET_VCPU_EVENTS may set it.
const KVM_VCPUEVENT_VALID_SHADOW: u32 = 4;

/// IA32_APIC_BASE (SDM vol. 3, 11.4.4), and the number of the ID register in xAPIC mode.
const BOOT_PROCESSOR: u64 = 1 << 8;
const APIC_ID: usize = 2;

pub struct KvmVcpu {
    pub(crate) id: u32,
    pub(crate) fd: VcpuFd,
    /// Behind `fd`, so that it is dropped later: guest RAM is mapped for as long as the vCPU may touch it.
    pub(crate) shared: Arc<Shared>,
    pub(crate) setup: Setup,
    pub(crate) msrs: OwnMsrs,
    door: Arc<Door>,
    pub(crate) debugger: Debugger,
    /// The guest has shut the CPU down; the kernel forgets.
    pub(crate) shut_down: bool,
    /// What a state has of the local APIC that the kernel's has not.
    pub(crate) apic_extra: u32,
    /// The count of the local APIC's timer when the CPU stopped and the kernel had taken in its interrupts.
    pub(crate) count: u32,
    /// The initial count of the local APIC's timer, which the kernel has not.
    pub(crate) spent_count: Option<u32>,
    /// The machine stands still, and the CPU's clocks with it.
    pub(crate) standing: Option<Standing>,
    /// The last state that was read, and when, while the CPU has not run since.
    pub(crate) last: RefCell<Option<(Box<CpuState>, Nanos)>>,
    pub(crate) sampler: Option<Sampler>,
    stats: Stats,
    exits: u64,
}

/// What the kernel wants, without what it borrows.
enum Wanted {
    /// An instruction is half done; KVM_RUN finishes it.
    Half,
    Nothing,
    PortAccess,
    /// In the kernel's log of written pages.
    Room,
    Shutdown,
    Debug(kvm_debug_exit_arch),
    InternalError,
    Stuck(Trouble),
}

/// How far a vCPU is on its way out.
enum Leaving {
    No,
    /// It finishes the instruction of the last exit.
    Finishing,
    /// It has the kernel tell of ends of interrupts, and take in the timer's.
    Telling {
        _signal: PendingSignal,
    },
}

impl KvmVcpu {
    pub fn new(id: u32, mut fd: VcpuFd, shared: Arc<Shared>, setup: Setup) -> Result<Self, HvError> {
        let byte = NonNull::from(&mut fd.get_kvm_run().immediate_exit);
        // SAFETY: the byte is `immediate_exit` in a mapping that lives as long as `fd`; `drop` closes the door first.
        let door = unsafe { Door::new(byte) };
        let msrs = OwnMsrs::new(setup.contract, setup.spec_ctrl);
        let (debugger, stats) = (Debugger::default(), Stats::default());
        let mut vcpu = Self {
            id,
            fd,
            shared,
            setup,
            msrs,
            door,
            debugger,
            shut_down: false,
            apic_extra: 0,
            count: 0,
            spent_count: None,
            standing: None,
            sampler: None,
            last: RefCell::default(),
            stats,
            exits: 0,
        };
        let mut state = CpuState::default();
        if id != 0 {
            state.lapic.base_msr &= !BOOT_PROCESSOR;
        }
        state.lapic.registers[APIC_ID] = id << 24;
        vcpu.restore(&state, Nanos(0))?;
        Ok(vcpu)
    }

    pub fn door(&self) -> Arc<Door> {
        Arc::clone(&self.door)
    }

    fn run_guest(&mut self, bus: &dyn GuestBus, leaving: &mut Leaving) -> Exit {
        if self.shut_down {
            return Exit::Shutdown;
        }
        // The guest may have ended an interrupt.
        let mut ran = false;
        // An instruction of the last exit has yet to be finished.
        let mut half_done = false;
        loop {
            let is_sampled = self.sampler.as_ref().is_some_and(Sampler::is_due);
            self.door.set_immediate_exit(matches!(leaving, Leaving::Finishing) || (is_sampled && half_done));
            if matches!(leaving, Leaving::No) {
                // Looked at behind the line above, so that no kick is lost.
                if self.door.take_kick() {
                    *leaving = Leaving::Finishing;
                    // The kernel would come back for it before it looks at a signal.
                    self.fd.get_kvm_run().request_interrupt_window = 0;
                    continue;
                }
                if is_sampled
                    && !half_done
                    && let Some(sampler) = &mut self.sampler
                    && let Err(error) = sampler.take(&self.fd)
                {
                    return self.host_failed(error);
                }
                if let Err(error) = self.offer_ext_int(bus, half_done) {
                    return self.host_failed(error);
                }
                ran = true;
                self.shared.slots.note_use();
            }
            self.exits += 1;
            let wanted = match self.fd.run() {
                Ok(exit) => answer(exit, bus, &mut self.msrs, &mut self.stats),
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                    match leaving {
                        Leaving::No => {}
                        Leaving::Finishing if ran => match self.begin_telling() {
                            Ok(telling) => *leaving = telling,
                            Err(error) => return self.host_failed(error),
                        },
                        Leaving::Finishing | Leaving::Telling { .. } => return Exit::Kicked,
                    }
                    Wanted::Nothing
                }
                Err(error) => return self.host_failed(error),
            };
            half_done = matches!(wanted, Wanted::Half | Wanted::PortAccess);
            match wanted {
                Wanted::Half | Wanted::Nothing => {}
                Wanted::PortAccess => self.port_access(bus),
                Wanted::Room => {
                    if let Err(error) = self.shared.slots.make_room(&self.shared.fd) {
                        tracing::error!("{error}");
                        return Exit::Stuck(Trouble::Host { code: u64::from(KVM_EXIT_DIRTY_RING_FULL) });
                    }
                }
                Wanted::Shutdown => {
                    self.shut_down = true;
                    return Exit::Shutdown;
                }
                Wanted::Debug(exit) => match self.debug_stop(&exit) {
                    Ok(stop) => return Exit::Debug(stop),
                    Err(error) => return self.host_failed(error),
                },
                Wanted::InternalError => return Exit::Stuck(internal_error(self.fd.get_kvm_run())),
                Wanted::Stuck(trouble) => return Exit::Stuck(trouble),
            }
        }
    }

    /// The timer is noted first: whether its interrupt was taken in shows afterwards.
    fn begin_telling(&mut self) -> io::Result<Leaving> {
        self.note_timer()?;
        Ok(Leaving::Telling { _signal: PendingSignal::new(&self.fd)? })
    }

    fn host_failed(&self, error: impl Into<io::Error>) -> Exit {
        let error = error.into();
        tracing::error!("running virtual CPU {}: {error}", self.id);
        Exit::Stuck(Trouble::Host { code: error.raw_os_error().unwrap_or(0).unsigned_abs().into() })
    }

    /// Gives the guest the 8259 pair's interrupt if it can take one now, and else asks the kernel to tell when.
    fn offer_ext_int(&mut self, bus: &dyn GuestBus, half_done: bool) -> Result<(), kvm_ioctls::Error> {
        // None comes before the instruction that is stepped.
        if self.id != 0 || self.debugger.step {
            return Ok(());
        }
        let pending = self.shared.ext_int.is_pending();
        let run = self.fd.get_kvm_run();
        let ready = run.ready_for_interrupt_injection != 0 && !half_done;
        run.request_interrupt_window = u8::from(pending && !ready);
        if !pending || !ready {
            return Ok(());
        }
        run.ready_for_interrupt_injection = 0;
        self.shared.ext_int.acknowledge();
        let vector = bus.acknowledge_interrupt();
        self.stats.interrupts += 1;
        let mut events = self.fd.get_vcpu_events()?;
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
        events.interrupt.soft = 0;
        events.flags &= KVM_VCPUEVENT_VALID_SHADOW;
        self.fd.set_vcpu_events(&events)?;
        // It ends HLT.
        self.fd.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
    }

    /// Ports that the kernel read from or wrote to for the guest: several of them for a string instruction.
    fn port_access(&mut self, bus: &dyn GuestBus) {
        let Some((port, size, is_read, data)) = io_data(self.fd.get_kvm_run(), self.shared.fd.run_size()) else {
            return;
        };
        for item in data.chunks_exact_mut(size) {
            self.stats.port_accesses += 1;
            if is_read {
                bus.io_read(port, item);
            } else {
                bus.io_write(port, item);
            }
        }
    }
}

/// What is behind a KVM_EXIT_INTERNAL_ERROR.
fn internal_error(run: &mut kvm_run) -> Trouble {
    // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, so this is the field of the union that was written.
    match unsafe { run.__bindgen_anon_1.internal.suberror } {
        KVM_INTERNAL_ERROR_EMULATION => Trouble::Instruction,
        other => Trouble::Host { code: other.into() },
    }
}

/// The data of a KVM_EXIT_IO: port, bytes of an item, whether the guest reads, all items.
fn io_data(run: &mut kvm_run, mapped: usize) -> Option<(u16, usize, bool, &mut [u8])> {
    // SAFETY: the exit was KVM_EXIT_IO, so this is the field of the union that was written.
    let io = unsafe { run.__bindgen_anon_1.io };
    let (size, count) = (usize::from(io.size), usize::try_from(io.count).ok()?);
    let offset = usize::try_from(io.data_offset).ok()?;
    let bytes = size.checked_mul(count)?;
    if size == 0 || offset.checked_add(bytes)? > mapped {
        return None;
    }
    // SAFETY: the range was just checked to lie in the mapping that begins with `run`, and the kernel does not touch it
    // until the next KVM_RUN, which needs the vCPU that the slice borrows.
    let data = unsafe { std::slice::from_raw_parts_mut(std::ptr::from_mut(run).cast::<u8>().add(offset), bytes) };
    Some((io.port, size, u32::from(io.direction) == kvm_bindings::KVM_EXIT_IO_IN, data))
}

/// Does what needs nothing but the exit itself.
fn answer(exit: VcpuExit<'_>, bus: &dyn GuestBus, msrs: &mut OwnMsrs, stats: &mut Stats) -> Wanted {
    match exit {
        // What the items' size is, only `kvm_run` knows.
        VcpuExit::IoIn(..) | VcpuExit::IoOut(..) => return Wanted::PortAccess,
        VcpuExit::MmioRead(address, data) => {
            stats.mmio_accesses += 1;
            bus.mmio_read(Gpa(address), data);
        }
        VcpuExit::MmioWrite(address, data) => {
            stats.mmio_accesses += 1;
            bus.mmio_write(Gpa(address), data);
        }
        VcpuExit::X86Rdmsr(access) => match msrs.read(access.index) {
            Some(value) => (*access.data, *access.error) = (value, 0),
            None => *access.error = 1,
        },
        VcpuExit::X86Wrmsr(access) => *access.error = u8::from(!msrs.write(access.index, access.data)),
        VcpuExit::IoapicEoi(vector) => {
            bus.end_of_interrupt(vector);
            return Wanted::Nothing;
        }
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt => return Wanted::Nothing,
        VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL) => return Wanted::Room,
        VcpuExit::Debug(exit) => return Wanted::Debug(exit),
        VcpuExit::Shutdown => return Wanted::Shutdown,
        VcpuExit::InternalError => return Wanted::InternalError,
        VcpuExit::FailEntry(reason, _) => return Wanted::Stuck(Trouble::Host { code: reason }),
        other => {
            tracing::error!("KVM left the guest for a reason that motu does not know: {other:?}");
            return Wanted::Stuck(Trouble::Host { code: 0 });
        }
    }
    Wanted::Half
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, bus: &dyn GuestBus) -> Exit {
        let _inside = self.door.enter();
        *self.last.get_mut() = None;
        self.standing = None;
        let mut leaving = Leaving::No;
        let exit = self.run_guest(bus, &mut leaving);
        if exit != Exit::Kicked && !matches!(leaving, Leaving::No) {
            self.door.put_back_kick();
        }
        exit
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.door) as Arc<dyn Kick>
    }

    fn save(&self, now: Nanos) -> CpuState {
        match self.read_state(now) {
            Ok(state) => {
                *self.last.borrow_mut() = Some((Box::new(state.clone()), now));
                state
            }
            // The kernel refuses no reading of a vCPU that is not running; there would be nothing to go on with.
            Err(error) => panic!("reading the state of virtual CPU {}: {error}", self.id),
        }
    }

    fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        self.write_state(state, now)?;
        // Of before.
        let run = self.fd.get_kvm_run();
        (run.ready_for_interrupt_injection, run.request_interrupt_window) = (0, 0);
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { hardware: Some(HardwareStats { exits: self.exits, rescues: 0 }), ..self.stats }
    }

    fn crash_report(&self, now: Nanos) -> CrashReport {
        CrashReport { state: self.save(now), recent: Vec::new() }
    }

    /// A guest on its own CPU is not watched: nobody is told.
    fn set_tracer(&mut self, _: Option<Box<dyn motu_hv::Tracer>>) {}

    fn set_profiler(&mut self, profiler: Option<Box<dyn Profiler>>) -> Result<(), HvError> {
        let start = |profiler| Sampler::start(profiler, self.door(), self.shared.slots.ram().clone());
        self.sampler = profiler.map(start).transpose()?;
        Ok(())
    }

    fn set_debugging(&mut self, debugging: Option<&Debugging>) -> Result<(), HvError> {
        self.debug(debugging)
    }

    fn stand_still(&mut self, now: Nanos) {
        match self.note_clocks(now) {
            Ok(standing) => self.standing = Some(standing),
            Err(error) => tracing::warn!("the clocks of virtual CPU {} go on: {error}", self.id),
        }
    }

    fn go_on(&mut self, now: Nanos) {
        self.sampler.iter().for_each(Sampler::forget);
        if let Some(standing) = self.standing.take()
            && let Err(error) = self.start_clocks(standing, now)
        {
            tracing::warn!("the clocks of virtual CPU {} went on while it was stopped: {error}", self.id);
        }
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.door.close();
    }
}

impl std::fmt::Debug for KvmVcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvmVcpu").field("id", &self.id).field("setup", &self.setup).finish_non_exhaustive()
    }
}
