//! The machine as gdbstub's target: each CPU is a thread.

use crate::description::TABLE;
use crate::memory::View;
use crate::monitor;
use crate::registers::{Bytes, Number, X86, get, put};
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use motu_hv::{DebugStop, Debugging, Watchpoint};
use motu_machine::{CpuStop, DebugPort, Orders, Resume, StopCause};
use motu_x86::{Activity, CpuState};
use std::convert::Infallible;

/// Breakpoints of each kind, and watchpoints, at most.
const MAX_POINTS: usize = 1024;
/// What an `E` packet says; gdb shows the number, and knows none of them.
const ERROR: u8 = 14;

/// A paused machine, and how it is to go on.
pub struct Debuggee {
    pub port: DebugPort,
    software: Vec<u64>,
    hardware: Vec<u64>,
    watched: Vec<Watchpoint>,
    /// By CPU, where gdb has said so.
    resume: Vec<Option<Resume>>,
    /// CPUs of which it has not stand still.
    locked: bool,
    /// CPUs' states as far as they have been looked at since the machine was paused.
    states: Vec<Option<Box<CpuState>>>,
    /// The CPU that stopped last.
    pub current: u32,
}

fn refuse<E>() -> TargetError<E> {
    TargetError::Errno(ERROR)
}

fn cpu_of(tid: Tid) -> u32 {
    u32::try_from(tid.get() - 1).unwrap_or(u32::MAX)
}

pub fn thread_of(cpu: u32) -> Tid {
    Tid::MIN.saturating_add(cpu as usize)
}

impl Debuggee {
    pub fn new(port: DebugPort) -> Self {
        let cpus = port.cpus() as usize;
        Self {
            port,
            software: Vec::new(),
            hardware: Vec::new(),
            watched: Vec::new(),
            resume: vec![None; cpus],
            locked: false,
            states: vec![None; cpus],
            current: 0,
        }
    }

    /// What is known of the CPUs does not hold any more.
    pub fn forget(&mut self) {
        self.states.fill(None);
    }

    /// The state of a CPU of a machine that is paused.
    pub fn state(&mut self, cpu: u32) -> Option<&mut CpuState> {
        let slot = self.states.get_mut(cpu as usize)?;
        if slot.is_none() {
            *slot = Some(Box::new(self.port.look(cpu, |vcpu, now| vcpu.save(now))?));
        }
        slot.as_deref_mut()
    }

    /// Has `change` change a CPU's state. False if the CPU cannot have it.
    fn change(&mut self, cpu: u32, change: impl FnOnce(&mut CpuState) -> bool) -> bool {
        let Some(state) = self.state(cpu) else { return false };
        let mut changed = state.clone();
        if !change(&mut changed) {
            return false;
        }
        self.forget();
        self.port.look(cpu, move |vcpu, now| vcpu.restore(&changed, now)).is_some_and(|restored| restored.is_ok())
    }

    fn debugging(&self) -> Debugging {
        let breakpoints = [self.software.as_slice(), &self.hardware].concat();
        Debugging { breakpoints, watchpoints: self.watched.clone(), step: false }
    }

    /// Whether the engine can do what is asked of it now.
    fn is_possible(&self) -> bool {
        let debugging = self.debugging();
        let answer = self.port.look(0, move |vcpu, _| vcpu.set_debugging(Some(&debugging)));
        match answer {
            Some(Err(error)) => {
                tracing::warn!("{error}");
                false
            }
            Some(Ok(())) => true,
            None => false,
        }
    }

    /// What gdb is told of a pause.
    pub fn reason(&mut self, stop: Option<CpuStop>) -> MultiThreadStopReason<u64> {
        let Some(CpuStop { cpu, cause }) = stop else {
            return MultiThreadStopReason::SignalWithThread { tid: thread_of(self.current), signal: Signal::SIGINT };
        };
        self.current = cpu;
        let tid = thread_of(cpu);
        match cause {
            StopCause::Shutdown => MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGSEGV },
            StopCause::Debug(DebugStop::Step) => {
                MultiThreadStopReason::SignalWithThread { tid, signal: Signal::SIGTRAP }
            }
            StopCause::Debug(DebugStop::Breakpoint) => {
                let at = self.state(cpu).map(|state| linear_rip(state));
                match at.is_some_and(|at| self.hardware.contains(&at) && !self.software.contains(&at)) {
                    true => MultiThreadStopReason::HwBreak(tid),
                    false => MultiThreadStopReason::SwBreak(tid),
                }
            }
            StopCause::Debug(DebugStop::Watchpoint(watched)) => {
                let kind = match watched.kind {
                    motu_hv::WatchKind::Read => WatchKind::Read,
                    motu_hv::WatchKind::Write => WatchKind::Write,
                    motu_hv::WatchKind::Access => WatchKind::ReadWrite,
                };
                MultiThreadStopReason::Watch { tid, kind, addr: watched.linear }
            }
        }
    }
}

/// Linear address of the next instruction.
pub fn linear_rip(state: &CpuState) -> u64 {
    use motu_x86::Segment;
    use motu_x86::flags::efer;
    let long = state.segments.cs.attributes & Segment::L != 0 && state.msrs.efer & efer::LMA != 0;
    if long { state.rip } else { state.rip.wrapping_add(state.segments.cs.base) & 0xffff_ffff }
}

impl Target for Debuggee {
    type Arch = X86;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Debuggee {
    fn read_registers(&mut self, regs: &mut Bytes, tid: Tid) -> TargetResult<(), Self> {
        *regs = Bytes::of(self.state(cpu_of(tid)).ok_or_else(refuse)?);
        Ok(())
    }

    fn write_registers(&mut self, regs: &Bytes, tid: Tid) -> TargetResult<(), Self> {
        let done = self.change(cpu_of(tid), |state| regs.put(state).is_ok());
        if done { Ok(()) } else { Err(refuse()) }
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start_addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let ram = self.port.ram().clone();
        let state = self.state(cpu_of(tid)).ok_or_else(refuse)?;
        match View::of(state, &ram).read(start_addr, data) {
            0 if !data.is_empty() => Err(refuse()),
            read => Ok(read),
        }
    }

    fn write_addrs(&mut self, start_addr: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let ram = self.port.ram().clone();
        let state = self.state(cpu_of(tid)).ok_or_else(refuse)?;
        if View::of(state, &ram).write(start_addr, data) { Ok(()) } else { Err(refuse()) }
    }

    #[inline(always)]
    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Self::Error> {
        (0..self.port.cpus()).for_each(|cpu| thread_is_active(thread_of(cpu)));
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Debuggee {
    fn read_register(&mut self, tid: Tid, Number(number): Number, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let register = TABLE.registers.get(number).ok_or_else(refuse)?;
        let state = self.state(cpu_of(tid)).ok_or_else(refuse)?;
        let value = get(state, register.place).to_le_bytes();
        let bytes = value.get(..register.bytes()).ok_or_else(refuse)?;
        buf.get_mut(..bytes.len()).ok_or_else(refuse)?.copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_register(&mut self, tid: Tid, Number(number): Number, val: &[u8]) -> TargetResult<(), Self> {
        let register = TABLE.registers.get(number).ok_or_else(refuse)?;
        // gdb may send more than a register has.
        let bytes = val.get(..register.bytes()).ok_or_else(refuse)?;
        let done = self.change(cpu_of(tid), |state| put(state, register.place, bytes).is_ok());
        if done { Ok(()) } else { Err(refuse()) }
    }
}

impl ThreadExtraInfo for Debuggee {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let cpu = cpu_of(tid);
        let state = self.port.look(cpu, |vcpu, now| vcpu.save(now).activity);
        let does = match state {
            Some(Activity::Active) => "running",
            Some(Activity::Halted) => "halted",
            Some(Activity::WaitForSipi) => "not started",
            Some(Activity::Shutdown) => "shut down",
            None => "unknown",
        };
        let text = format!("CPU#{cpu} [{does}]");
        let shown = text.len().min(buf.len());
        buf.iter_mut().zip(text.as_bytes()).for_each(|(to, from)| *to = *from);
        Ok(shown)
    }
}

impl MultiThreadResume for Debuggee {
    fn resume(&mut self) -> Result<(), Self::Error> {
        self.forget();
        let Debugging { breakpoints, watchpoints, .. } = self.debugging();
        let unnamed = if self.locked { Resume::Stay } else { Resume::Run };
        let cpus = self.resume.iter().map(|named| named.unwrap_or(unnamed)).collect();
        self.port.resume(Orders { breakpoints, watchpoints, cpus });
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Self::Error> {
        self.locked = false;
        self.resume.fill(None);
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Self::Error> {
        self.set_action(tid, Resume::Run);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Debuggee {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Self::Error> {
        self.set_action(tid, Resume::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Debuggee {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Self::Error> {
        self.locked = true;
        Ok(())
    }
}

impl Breakpoints for Debuggee {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

/// One more point of a list, if the engine can do that too.
fn add<T: Copy>(debuggee: &mut Debuggee, list: fn(&mut Debuggee) -> &mut Vec<T>, point: T) -> bool {
    if list(debuggee).len() >= MAX_POINTS {
        return false;
    }
    list(debuggee).push(point);
    let possible = debuggee.is_possible();
    if !possible {
        list(debuggee).pop();
    }
    possible
}

fn remove<T: PartialEq>(points: &mut Vec<T>, point: &T) -> bool {
    let found = points.iter().position(|known| known == point);
    found.map(|index| points.swap_remove(index)).is_some()
}

impl SwBreakpoint for Debuggee {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(add(self, |all| &mut all.software, addr))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.software, &addr))
    }
}

impl HwBreakpoint for Debuggee {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(add(self, |all| &mut all.hardware, addr))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.hardware, &addr))
    }
}

fn watchpoint(linear: u64, bytes: u64, kind: WatchKind) -> Watchpoint {
    let kind = match kind {
        WatchKind::Read => motu_hv::WatchKind::Read,
        WatchKind::Write => motu_hv::WatchKind::Write,
        WatchKind::ReadWrite => motu_hv::WatchKind::Access,
    };
    Watchpoint { linear, bytes, kind }
}

impl HwWatchpoint for Debuggee {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(len > 0 && add(self, |all| &mut all.watched, watchpoint(addr, len, kind)))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(remove(&mut self.watched, &watchpoint(addr, len, kind)))
    }
}

impl MonitorCmd for Debuggee {
    fn handle_monitor_cmd(&mut self, cmd: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Self::Error> {
        out.write_raw(monitor::answer(self, cmd).as_bytes());
        Ok(())
    }
}

impl Debuggee {
    fn set_action(&mut self, tid: Tid, action: Resume) {
        if let Some(resume) = self.resume.get_mut(cpu_of(tid) as usize) {
            *resume = Some(action);
        }
    }
}
