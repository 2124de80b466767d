//! The run loop of one vCPU.
//!
//! ```text
//!   +-> post, timer -> events -> find block -> run its operations --+
//!   |                    |                                          |
//!   |                  HLT: sleep until post or the timer           |
//!   +---------------------------------------------------------------+
//! ```

use crate::alarm::Alarm;
use crate::cpu::{Cpu, Faulting, alert, key, seg};
use crate::decode::{BlockCache, Op};
use crate::history::History;
use crate::lockstep::Lockstep;
use crate::mmu::{Mmu, RamMap};
use crate::native::NativeCache;
use crate::options::{Options, Translate};
use crate::profile::Sampler;
use crate::smp::{Idle, Mailbox, Post, Processors, Written};
use crate::translate::{Next, Translator, host_suffices};
use motu_hv::{CrashReport, Debugging, Exit, GuestBus, HvError, Kick, Stats, Vcpu};
use motu_memory::{CodeWrite, GuestRam, Listener};
use motu_x86::contract::Contract;
use motu_x86::{CpuState, Nanos};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// The alerts of a CPU that does not run instructions.
const SLEEPING: u8 = alert::HALTED | alert::WAIT_FOR_SIPI;

/// Blocks between two looks at the clock: some tens of microseconds.
const BLOCKS_PER_TICK: u32 = 1024;

/// How often a CPU is watched for what it is running, and how long it has to be awake before that is worth while.
const WATCH_INTERVAL: Nanos = Nanos(3_000_000);
const AWAKE: Nanos = Nanos(6_000_000);

pub struct SoftVcpu {
    pub(crate) cpu: Cpu,
    pub(crate) cache: BlockCache,
    pub(crate) translator: Option<Translator>,
    /// In lock-step mode; taken while a block runs.
    pub(crate) lockstep: Option<Lockstep>,
    pub(crate) mailbox: Arc<Mailbox>,
    history: History,
    sampler: Option<Sampler>,
    /// Translated code does not look at the clock.
    alarm: Option<Alarm>,
    /// Blocks until the next look at the clock.
    countdown: u32,
    /// Of the board's writes to code.
    _listeners: Vec<Listener>,
    idle: Idle,
    /// Since when the CPU has not slept, and when it was last watched.
    awake_since: Nanos,
    watched_at: Nanos,
}

impl SoftVcpu {
    pub fn new(
        id: u32,
        contract: &'static Contract,
        ram: GuestRam,
        processors: Arc<Processors>,
        options: &Options,
    ) -> Result<Self, HvError> {
        let failed = |doing: &str| {
            let doing = doing.to_owned();
            move |source| HvError::Host { doing, source }
        };
        let native = NativeCache::new().map_err(failed("mapping memory for generated code"))?;
        let ram = RamMap::of_cpu(ram, id, processors.count());
        let told = Arc::clone(&processors);
        let tell = move |page, write: CodeWrite| {
            told.code_written(write.holders, Written { page, first: write.first, last: write.last });
        };
        // One for all of a machine's.
        let listeners = if id == 0 { ram.on_code_write(tell) } else { Vec::new() };
        let mailbox = Arc::clone(processors.mailbox(id));
        let mmu = Mmu::new(ram).map_err(failed("mapping memory for the TLB"))?;
        mailbox.belongs_to(mmu.tlb.workspace());
        let cpu = Cpu::new(id, processors, contract, mmu, native);
        let translates = options.translate != Translate::Off && host_suffices();
        let make = if cpu.processors.is_alone() { Translator::new } else { Translator::of_several };
        let translator = translates
            .then(|| make(cpu.mmu.tlb.frame(), options))
            .transpose()
            .map_err(failed("mapping memory for translated code"))?;
        let alarm = translates.then(|| Alarm::start(Arc::clone(&mailbox))).transpose()?;
        let lockstep = (options.translate == Translate::Lockstep).then(Lockstep::default);
        let (cache, history) = (BlockCache::new(), History::default());
        let mut vcpu = Self {
            cpu,
            cache,
            translator,
            lockstep,
            mailbox,
            history,
            sampler: None,
            alarm,
            countdown: 0,
            _listeners: listeners,
            idle: Idle::default(),
            awake_since: Nanos(0),
            watched_at: Nanos(0),
        };
        let lapic = vcpu.cpu.lapic.save(vcpu.cpu.moment());
        vcpu.restore(&CpuState { lapic, ..CpuState::default() }, Nanos(0))?;
        Ok(vcpu)
    }

    /// Takes in what other threads sent and what time brought. `Some` ends `run`.
    #[cold]
    #[inline(never)]
    fn attend(&mut self) -> Option<Exit> {
        self.countdown = BLOCKS_PER_TICK;
        self.mailbox.settle();
        self.sample(false);
        self.cpu.set_alert(alert::TIMER, false);
        let kicked = self.take_post();
        self.cpu.processors.exclusive().make_way(self.cpu.id);
        let cpu = &mut self.cpu;
        if cpu.init_pending {
            cpu.initialize();
        }
        let at = cpu.moment();
        let mut deadline = cpu.timer_deadline(at);
        if deadline.is_some_and(|deadline| deadline <= at.now) {
            cpu.lapic.expire(at);
            deadline = cpu.timer_deadline(at);
        }
        cpu.note_events();
        let watch = self.watch(at.now);
        if let Some(alarm) = &mut self.alarm {
            alarm.set(at.now, watch.into_iter().chain(deadline).min());
        }
        self.cpu.debug_exit().or(kicked.then_some(Exit::Kicked))
    }

    /// Takes in what other threads sent. Says whether one of them wants [`Vcpu::run`] to return.
    pub(crate) fn take_post(&mut self) -> bool {
        if !self.mailbox.has_post() {
            return false;
        }
        let Post { kicked, messages, ext_int, protect, written, forget_all, withdraw } = self.mailbox.take();
        let cpu = &mut self.cpu;
        if let Some(withdraw) = withdraw {
            cpu.withdraw_writes(withdraw);
        }
        cpu.forgo_writes(&protect);
        if forget_all {
            self.cache.clear(cpu);
        }
        self.cache.forget_written(&written, cpu);
        for message in messages {
            // What came before a start-up message has happened.
            if cpu.init_pending {
                cpu.initialize();
            }
            cpu.receive(message);
        }
        if let Some(level) = ext_int {
            let signal = cpu.lapic.set_lint0(level);
            cpu.signal(signal);
        }
        kicked
    }

    /// Watches what code is running, now and then, while no interrupt comes between. Gives when to do so again.
    fn watch(&mut self, now: Nanos) -> Option<Nanos> {
        let translator = self.translator.as_mut()?;
        if self.cpu.alerts & SLEEPING != 0 {
            self.awake_since = now;
            return None;
        }
        if now.saturating_sub(self.awake_since) < AWAKE {
            return None;
        }
        if now.saturating_sub(self.watched_at) >= WATCH_INTERVAL {
            self.watched_at = now;
            if self.cpu.cpl == 3 && !self.cpu.has_event() {
                translator.watch();
            }
        }
        if translator.watches() {
            self.cpu.mmu.tlb.workspace().disturb();
        }
        self.watched_at.0.checked_add(WATCH_INTERVAL.0).map(Nanos)
    }

    /// Sleeps in HLT until there is something to do. `Some` ends `run`.
    fn sleep(&mut self) -> Option<Exit> {
        self.cpu.stats.halts += 1;
        loop {
            if let Some(exit) = self.attend() {
                return Some(exit);
            }
            // INIT and start-up messages end the sleep without an event.
            if self.cpu.has_event() || self.cpu.alerts & SLEEPING == 0 {
                return None;
            }
            let at = self.cpu.moment();
            let limit = self
                .cpu
                .timer_deadline(at)
                .map(|deadline: Nanos| Duration::from_nanos(deadline.saturating_sub(at.now).0.max(1)));
            self.idle.wait(&self.cpu.processors, &self.mailbox, limit);
            self.sample(true);
        }
    }

    fn sample(&mut self, halted: bool) {
        if let Some(sampler) = &mut self.sampler {
            sampler.take(&self.cpu, halted);
        }
    }

    fn run_guest(&mut self) -> Exit {
        loop {
            let mut limit = usize::MAX;
            if self.countdown == 0 || self.mailbox.has_post() || self.cpu.alerts != 0 {
                match self.look_up() {
                    Ok(instructions) => limit = instructions,
                    Err(exit) => return exit,
                }
            }
            self.countdown -= 1;
            if limit == usize::MAX {
                match self.run_translated() {
                    Next::Continue => continue,
                    Next::Block => {}
                    Next::Instruction => limit = 1,
                    Next::Attend => {
                        self.countdown = 0;
                        continue;
                    }
                }
            }
            self.run_block(limit);
        }
    }

    /// Runs what is translated from RIP on.
    #[inline(always)]
    fn run_translated(&mut self) -> Next {
        if self.lockstep.is_some() {
            if !Translator::may_run(&self.cpu) {
                return Next::Block;
            }
            self.history.note(self.cpu.rip, &self.cpu);
            return self.run_lockstep();
        }
        match &mut self.translator {
            Some(translator) if Translator::may_run(&self.cpu) => {
                translator.run(&mut self.cpu, &mut self.cache, &mut self.history, &self.mailbox)
            }
            _ => Next::Block,
        }
    }

    /// Everything that happens between two blocks. Gives how many instructions may run before the
    /// next look, or why `run` ends.
    #[cold]
    #[inline(never)]
    fn look_up(&mut self) -> Result<usize, Exit> {
        if self.countdown == 0 || self.mailbox.has_post() || self.cpu.is_alerted(alert::TIMER) {
            self.attend().map_or(Ok(()), Err)?;
        }
        if let Some(exit) = self.cpu.debug_exit() {
            return Err(exit);
        }
        // Behind MOV SS debug exceptions wait as interrupts do; behind STI they do not (SDM vol. 3, 6.8.3).
        let shadow = self.cpu.is_alerted(alert::SHADOW);
        let stack_shadow = shadow && self.cpu.no_step;
        if self.cpu.is_alerted(alert::TRAP) && !stack_shadow {
            self.cpu.deliver_debug_trap();
            self.cpu.end_step().map_or(Ok(()), Err)?;
        }
        if shadow {
            // STI and MOV SS: one more instruction before anything is delivered. HLT may be that one.
            self.cpu.set_alert(alert::SHADOW, false);
            self.cpu.begin_step();
            if stack_shadow {
                self.trace_instruction();
            } else {
                self.before_instruction();
            }
            return Ok(1);
        }
        if !self.cpu.debugger.steps() {
            self.cpu.deliver_events();
        }
        while self.cpu.alerts & SLEEPING != 0 {
            self.sleep().map_or(Ok(()), Err)?;
            self.cpu.deliver_events();
            // What ends the sleep has come before an instruction could.
            self.cpu.end_step().map_or(Ok(()), Err)?;
        }
        if self.cpu.is_alerted(alert::SHUTDOWN) {
            return Err(Exit::Shutdown);
        }
        if self.cpu.is_alerted(alert::BREAKPOINT) {
            self.cpu.begin_step();
            self.before_instruction();
            return Ok(1);
        }
        Ok(usize::MAX)
    }

    /// What instruction breakpoints and a tracer want to know of the instruction at RIP.
    fn before_instruction(&mut self) {
        if self.cpu.is_alerted(alert::BREAKPOINT) {
            self.cpu.hit_instruction_breakpoint();
            self.trace_instruction();
        }
    }

    fn trace_instruction(&mut self) {
        if let Some(instruction) = self.cpu.traced_instruction()
            && let Some(tracer) = &mut self.cpu.tracer
        {
            tracer.instruction(&instruction);
        }
    }

    /// How many of a block's instructions lie inside a code segment of less than 4 GiB.
    #[cold]
    fn within_code_limit(&self, index: u32) -> usize {
        let limit = u64::from(self.cpu.segments[seg::CS].limit);
        let last = |op: &Op| op.end(self.cpu.rip).wrapping_sub(1);
        self.cache.get(index).ops.iter().take_while(|op| last(op) <= limit).count()
    }

    /// The block at RIP, and how many of its instructions may run.
    #[inline(always)]
    fn next_block(&mut self, limit: usize) -> Faulting<(u32, usize)> {
        let limited = self.cpu.key & key::CODE_LIMIT != 0;
        if limited && self.cpu.rip > u64::from(self.cpu.segments[seg::CS].limit) {
            return self.cpu.general_protection(0);
        }
        let index = self.cache.find(&mut self.cpu)?;
        if limited {
            let inside = self.within_code_limit(index);
            if inside == 0 {
                return self.cpu.general_protection(0);
            }
            return Ok((index, limit.min(inside)));
        }
        Ok((index, limit))
    }

    /// Runs the block at RIP, or at most `limit` of its instructions.
    #[inline(always)]
    fn run_block(&mut self, limit: usize) {
        let start = self.cpu.rip;
        let Ok((index, limit)) = self.next_block(limit) else {
            self.cpu.deliver_exception(start);
            return;
        };
        self.history.note(start, &self.cpu);
        let again = self.cpu.run_ops(self.cache.get(index), start, 0, limit);
        if !self.cpu.code_writes.is_empty() {
            self.cache.forget_own_writes(&mut self.cpu);
        }
        if again {
            // A piece of a repeated instruction takes as long as many blocks.
            self.countdown = 0;
        }
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, bus: &dyn GuestBus) -> Exit {
        // SAFETY: only the lifetime is erased; `bus` outlives this call, and the pointer is taken
        // back before it returns.
        let erased = unsafe { std::mem::transmute::<&dyn GuestBus, &'static dyn GuestBus>(bus) };
        self.cpu.bus = Some(NonNull::from(erased));
        // The first thing that it does is to look up.
        self.countdown = 0;
        self.mailbox.set_rests(false);
        self.sampler.iter().for_each(Sampler::forget);
        let exit = self.run_guest();
        self.mailbox.set_rests(true);
        self.cpu.processors.exclusive().rests();
        self.cpu.bus = None;
        exit
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.mailbox) as Arc<dyn Kick>
    }

    fn save(&self, now: Nanos) -> CpuState {
        self.cpu.save(now)
    }

    fn restore(&mut self, state: &CpuState, now: Nanos) -> Result<(), HvError> {
        self.cpu.restore(state, now)?;
        self.cpu.mmu.flush_all();
        self.cache.doubt(&mut self.cpu);
        Ok(())
    }

    fn stats(&self) -> Stats {
        let mmu = &self.cpu.mmu;
        let translator = self.translator.as_ref().map(Translator::stats);
        Stats { tlb_misses: mmu.misses, tlb_flushes: mmu.flushes, translator, ..self.cpu.stats }
    }

    fn crash_report(&self, now: Nanos) -> CrashReport {
        CrashReport { state: self.cpu.save(now), recent: self.history.instructions(&self.cpu) }
    }

    fn set_tracer(&mut self, tracer: Option<Box<dyn motu_hv::Tracer>>) {
        self.cpu.tracer = tracer;
        self.cpu.breakpoints_changed();
    }

    fn set_profiler(&mut self, profiler: Option<Box<dyn motu_hv::Profiler>>) -> Result<(), HvError> {
        let start = |profiler| Sampler::start(profiler, Arc::clone(&self.mailbox));
        self.sampler = profiler.map(start).transpose()?;
        Ok(())
    }

    fn set_debugging(&mut self, debugging: Option<&Debugging>) -> Result<(), HvError> {
        self.debug(debugging);
        Ok(())
    }
}

impl Drop for SoftVcpu {
    /// The memory may live on, with other CPUs.
    fn drop(&mut self) {
        self.cache.clear(&mut self.cpu);
    }
}

impl std::fmt::Debug for SoftVcpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftVcpu").field("cpu", &self.cpu).field("translator", &self.translator).finish_non_exhaustive()
    }
}
