//! One user-mode instruction at a time, for comparison with a real CPU.

use crate::cpu::Flow;
use crate::exec::segment::Descriptor;
use crate::options::{Options, Translate};
use crate::smp::Processors;
use crate::translate::{Left, Step, Translator, in_rflags};
use crate::vcpu::SoftVcpu;
use motu_hv::{HvError, Vcpu};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::contract::Contract;
use motu_x86::flags::{cr0, cr4, efer, rflags};
use motu_x86::{CpuState, DescriptorTable, Exception, Gpa, Segment, XsaveArea};
use std::rc::Rc;

/// What a user-mode program sees of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserState {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub xsave: XsaveArea,
    /// ES, CS, SS, DS, FS, GS: the order of their encoding. They are those of [`SELECTORS`] or null.
    pub selectors: [u16; 6],
}

/// Selectors of the descriptors that a program may use, at the places that Linux gives them: 32-bit code, data,
/// 64-bit code.
pub const SELECTORS: [u16; 3] = [0x23, 0x2b, 0x33];
/// What an interrupt would not change: the global descriptor table as Linux has it, of which user mode sees these.
const GDT: [u64; 16] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    // Read-only, its limit the processor's number.
    0x0040_f500_0000_0000,
];
/// Where it lies, in the supervisor's half.
const GDT_ADDRESS: u64 = 0xffff_8000_0000_0000;

/// A page that the program has.
#[derive(Clone, Copy, Debug)]
pub struct UserPage {
    /// Linear address, a multiple of 4096.
    pub linear: u64,
    /// Which of the program's frames is seen here, counted from 0; pages may share one.
    pub frame: u64,
    pub writable: bool,
}

/// A CPU in 64-bit user mode with a few pages and no operating system.
pub struct UserHarness {
    vcpu: SoftVcpu,
    ram: GuestRam,
    /// Where the host sees the frames.
    host: *mut u8,
    frames: u64,
}

/// A page of guest-physical space without RAM, and where programs have it.
pub(crate) const BUS: u64 = 0x7f00_0000_0000;
const BUS_GPA: u64 = 0xf000_0000;

/// Paging-entry bits: present, writable, user, accessed, dirty.
const TABLE: u64 = 0x67;
const READ_ONLY: u64 = 0x65;
const SUPERVISOR: u64 = 0x63;

impl UserPage {
    fn protection(&self) -> u64 {
        if self.writable { TABLE } else { READ_ONLY }
    }
}

/// The register that loading `selector` gives.
fn segment(selector: u16) -> Segment {
    match GDT.get(usize::from(selector >> 3)) {
        Some(&descriptor) if selector & !3 != 0 => Descriptor(descriptor).segment(selector),
        _ => Segment { selector, ..Segment::null() },
    }
}

impl UserHarness {
    /// # Errors
    /// The host lacks a resource.
    ///
    /// # Panics
    /// The contract does not exist, or memory for the pages cannot be had: this is for tests.
    pub fn new(contract: &str, pages: &[UserPage]) -> Result<Self, HvError> {
        // Translated at once, and never linked.
        let options = Options { translate: Translate::Lockstep, stress: Some(0), no_paths: true, ..Options::default() };
        Self::with_options(contract, pages, &options)
    }

    /// The same with options, for programs that run by themselves. They have the bus's page at [`BUS`].
    pub(crate) fn with_options(contract: &str, pages: &[UserPage], options: &Options) -> Result<Self, HvError> {
        let contract = Contract::by_name(contract).expect("a contract of that name");
        let frames = pages.iter().map(|page| page.frame + 1).max().unwrap_or(0);
        let root = frames * PAGE_SIZE;
        let ram = GuestRam::new(root + (8 + 3 * pages.len() as u64) * PAGE_SIZE).expect("a few pages of memory");
        let mut tables = Tables { ram: &ram, root, next: root + PAGE_SIZE };
        pages.iter().for_each(|page| tables.map(page.linear, (page.frame * PAGE_SIZE) | page.protection()));
        let gdt = tables.take();
        tables.map(GDT_ADDRESS, gdt | SUPERVISOR);
        let table: Vec<u8> = GDT.iter().flat_map(|descriptor| descriptor.to_le_bytes()).collect();
        ram.write(Gpa(gdt), &table).expect("the table is RAM");
        tables.map(BUS, BUS_GPA | TABLE);
        let mut vcpu = SoftVcpu::new(0, contract, ram.clone(), Processors::new(1).into(), options)?;
        vcpu.restore(&user_mode(contract, root), motu_x86::Nanos(0))?;
        let host = ram.regions().next().expect("RAM has a region").host;
        Ok(Self { vcpu, ram, host, frames })
    }

    /// Writes `data` from `offset` of the frames on, which lie one after another, whatever their
    /// protection. Code may be changed this way.
    ///
    /// # Panics
    /// The range leaves the frames.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= self.frames * PAGE_SIZE);
        self.ram.write(Gpa(offset), data).expect("frames are RAM");
    }

    #[cfg(test)]
    pub(crate) fn cpu(&mut self) -> &mut crate::cpu::Cpu {
        &mut self.vcpu.cpu
    }

    #[cfg(test)]
    pub(crate) fn vcpu(&mut self) -> &mut SoftVcpu {
        &mut self.vcpu
    }

    /// All frames, for data: a change of code is not seen by the CPU when it is made here.
    pub fn frames(&mut self) -> &mut [u8] {
        let host = self.host;
        // SAFETY: the frames are the start of the first region, which lives as long as `self.ram`, and the
        // CPU, which runs in `step` only, needs `&mut self` as well.
        unsafe { std::slice::from_raw_parts_mut(host, (self.frames * PAGE_SIZE) as usize) }
    }

    /// Runs one instruction to its end (a repeated one to its last repetition).
    ///
    /// # Errors
    /// The exception that it raised; `state` is then as the handler would find it, with RIP at the
    /// instruction.
    pub fn step(&mut self, state: &mut UserState) -> Result<(), Exception> {
        self.put(state);
        let outcome = self.interpret();
        self.take(state);
        outcome
    }

    /// The same, translated if the translator takes the instruction, which ends its block where what follows is not the
    /// translator's. Says whether it was; what it leaves to the interpreter (a fault, two pages) is interpreted from
    /// the state that translated code has left. Flags that are dead there (ADR 13) are as they were.
    ///
    /// # Errors
    /// As of [`UserHarness::step`].
    pub fn step_translated(&mut self, state: &mut UserState) -> (Result<(), Exception>, bool) {
        self.put(state);
        let (start, before) = (self.vcpu.cpu.rip, self.vcpu.cpu.rflags());
        let Some((left, steps)) = self.run_translated() else {
            let outcome = self.interpret();
            self.take(state);
            return (outcome, false);
        };
        let left = self.vcpu.cpu.rip == start && matches!(left, Left::Before(_) | Left::Nowhere);
        let outcome = if left { self.interpret() } else { Ok(()) };
        self.take(state);
        // Flags that matter in the end: all, but for what a fault shows and for where a branch leads.
        let matter = match (steps.first(), outcome) {
            (Some(first), Err(_)) => first.live,
            // The last, or a conditional jump that was taken.
            (Some(only), Ok(())) if steps.get(1).is_none_or(|next| next.instruction.ip() != state.rip) => {
                only.ways.iter().find(|&&(rip, _)| rip == state.rip).map_or(u32::MAX, |&(_, flags)| flags)
            }
            _ => u32::MAX,
        };
        let dead = rflags::ARITHMETIC & !in_rflags(matter);
        state.rflags = (state.rflags & !dead) | (before & dead);
        (outcome, true)
    }

    /// Runs the translation at RIP, if the instruction there has one, up to where it leaves.
    fn run_translated(&mut self) -> Option<(Left, Rc<[Step]>)> {
        let SoftVcpu { cpu, cache, translator, mailbox, .. } = &mut self.vcpu;
        let translator = translator.as_mut().filter(|_| Translator::may_run(cpu))?;
        let block = translator.comparable(cpu, cache)?;
        if !block.steps.first()?.translated {
            return None;
        }
        let mut code = block.code;
        loop {
            translator.set_budget(i32::MAX as u32);
            let left = translator.run_piece(cpu, code);
            match left {
                Left::Again | Left::Single(_) => code = translator.after(cpu, cache, mailbox).ok()?,
                Left::Nowhere => {
                    let _ = translator.after(cpu, cache, mailbox);
                    return Some((left, block.steps));
                }
                _ => return Some((left, block.steps)),
            }
        }
    }

    fn put(&mut self, state: &UserState) {
        // What was written to code.
        self.vcpu.take_post();
        let SoftVcpu { cpu, .. } = &mut self.vcpu;
        if cpu.segments.map(|segment| segment.selector) != state.selectors {
            cpu.segments = state.selectors.map(segment);
            cpu.mode_changed();
        }
        *cpu.gprs_mut() = state.gpr;
        cpu.rip = state.rip;
        cpu.set_rflags(state.rflags);
        cpu.fpu.0.copy_from_slice(&state.xsave.0);
    }

    fn interpret(&mut self) -> Result<(), Exception> {
        let SoftVcpu { cpu, cache, .. } = &mut self.vcpu;
        loop {
            let Ok(index) = cache.find(cpu) else { break Err(cpu.fault) };
            let Some(op) = cache.get(index).ops.first() else { break Err(cpu.fault) };
            cpu.set_gpr(crate::cpu::slot::BLOCK, cpu.rip);
            match (op.run)(cpu, op) {
                Ok(Flow::Next | Flow::Stop) => {
                    cpu.rip = op.next_rip(cpu);
                    break Ok(());
                }
                Ok(Flow::Jump) => break Ok(()),
                Ok(Flow::Again) => {}
                Err(_) => break Err(cpu.fault),
            }
        }
    }

    fn take(&mut self, state: &mut UserState) {
        let SoftVcpu { cpu, cache, .. } = &mut self.vcpu;
        cache.forget_own_writes(cpu);
        state.gpr = *cpu.gprs();
        state.rip = cpu.rip;
        state.rflags = cpu.rflags();
        state.selectors = cpu.segments.map(|segment| segment.selector);
        state.xsave.0.copy_from_slice(&cpu.fpu.0);
    }
}

/// The bus of a program that runs by itself: a store to the page at [`BUS`] ends the run.
#[cfg(test)]
pub(crate) struct KickingBus(pub std::sync::Arc<dyn motu_hv::Kick>);

#[cfg(test)]
impl motu_hv::GuestBus for KickingBus {
    fn io_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: Gpa, _: &[u8]) {
        self.0.kick();
    }
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> motu_x86::Nanos {
        motu_x86::Nanos(0)
    }
}

impl std::fmt::Debug for UserHarness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserHarness").field("frames", &self.frames).finish_non_exhaustive()
    }
}

/// Page tables under construction; tables are handed out in order.
struct Tables<'a> {
    ram: &'a GuestRam,
    root: u64,
    next: u64,
}

impl Tables<'_> {
    /// The next free frame.
    fn take(&mut self) -> u64 {
        let frame = self.next;
        self.next += PAGE_SIZE;
        frame
    }

    /// Maps the page at `linear` by the entry `leaf`.
    fn map(&mut self, linear: u64, leaf: u64) {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            let at = Gpa(table + ((linear >> shift) & 0x1ff) * 8);
            let mut entry = [0; 8];
            self.ram.read(at, &mut entry).expect("tables are RAM");
            if entry == [0; 8] {
                entry = (self.take() | TABLE).to_le_bytes();
                self.ram.write(at, &entry).expect("tables are RAM");
            }
            table = u64::from_le_bytes(entry) & !0xfff;
        }
        let at = Gpa(table + ((linear >> 12) & 0x1ff) * 8);
        self.ram.write(at, &leaf.to_le_bytes()).expect("tables are RAM");
    }
}

/// 64-bit mode at CPL 3 with everything on that a modern kernel turns on.
fn user_mode(contract: &Contract, root: u64) -> CpuState {
    let mut state = CpuState {
        cr0: cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG,
        cr4: cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE,
        cr3: root,
        xcr0: contract.xcr0_mask(),
        ..CpuState::default()
    };
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    let [_, data, code] = SELECTORS.map(segment);
    state.segments.cs = code;
    (state.segments.ss, state.segments.ds, state.segments.es) = (data, data, data);
    (state.segments.fs, state.segments.gs) = (Segment::null(), Segment::null());
    state.segments.ldtr = Segment::null();
    state.gdtr = DescriptorTable { base: GDT_ADDRESS, limit: (GDT.len() * 8 - 1) as u16 };
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(code: &[u8], change: impl FnOnce(&mut UserState)) -> (UserState, Result<(), Exception>) {
        let pages = [
            UserPage { linear: 0x40_0000, frame: 0, writable: false },
            UserPage { linear: 0x50_0000, frame: 1, writable: true },
        ];
        let mut harness = UserHarness::new("v2-2026", &pages).unwrap();
        harness.write(0, code);
        let selectors = [0x2b, 0x33, 0x2b, 0x2b, 0, 0];
        let mut state = UserState { gpr: [0; 16], rip: 0x40_0000, rflags: 2, xsave: XsaveArea::at_reset(), selectors };
        change(&mut state);
        let end = harness.step(&mut state);
        (state, end)
    }

    #[test]
    fn an_instruction_runs() {
        let (state, end) = run(&[0x48, 0x01, 0xd8], |s| (s.gpr[0], s.gpr[3]) = (u64::MAX, 1));
        assert_eq!((end, state.gpr[0], state.rip), (Ok(()), 0, 0x40_0003));
        assert_eq!(state.rflags & 0x41, 0x41, "ZF and CF");
    }

    #[test]
    fn an_instruction_runs_translated_and_leaves_what_faults_to_the_interpreter() {
        let pages = [
            UserPage { linear: 0x40_0000, frame: 0, writable: false },
            UserPage { linear: 0x50_0000, frame: 1, writable: true },
        ];
        let mut harness = UserHarness::new("v2-2026", &pages).unwrap();
        // add [rbx], eax; hlt
        harness.write(0, &[0x01, 0x03, 0xf4]);
        let selectors = [0x2b, 0x33, 0x2b, 0x2b, 0, 0];
        let mut state = UserState { gpr: [7; 16], rip: 0x40_0000, rflags: 2, xsave: XsaveArea::at_reset(), selectors };
        for rounds in 1..4 {
            (state.rip, state.gpr[3]) = (0x40_0000, 0x50_0000);
            assert_eq!(harness.step_translated(&mut state), (Ok(()), true));
            assert_eq!((state.rip, harness.frames()[4096]), (0x40_0002, 7 * rounds));
        }
        (state.rip, state.gpr[3]) = (0x40_0000, 0x60_0000);
        assert_eq!(harness.step_translated(&mut state), (Err(Exception::page_fault(6, 0x60_0000)), true));
        assert_eq!(state.rip, 0x40_0000);
        // 32-bit code, of registers that have 32 bits, in a flat segment and in FS.
        state.selectors[1] = 0x23;
        (state.rip, state.gpr[3]) = (0x40_0000, 0x50_0000);
        let mut wide = state.clone();
        wide.gpr[3] |= 1 << 32;
        for _ in 0..2 {
            assert_eq!(harness.step_translated(&mut state), (Ok(()), true));
            state.rip = 0x40_0000;
        }
        assert_eq!(harness.step_translated(&mut wide), (Ok(()), false));
        assert_eq!((wide.rip, harness.frames()[4096]), (0x40_0002, 7 * 6));
        harness.write(0, &[0x64, 0x01, 0x03, 0xf4]);
        assert_eq!(harness.step_translated(&mut state), (Err(Exception::with_code(Exception::GP, 0)), true), "null");
        state.selectors[4] = 0x2b;
        assert_eq!(harness.step_translated(&mut state), (Ok(()), true));
        assert_eq!(harness.frames()[4096], 7 * 7);
    }

    #[test]
    fn a_fault_shows_all_flags_if_they_are_exact() {
        let pages = [UserPage { linear: 0x40_0000, frame: 0, writable: false }];
        let options =
            Options { translate: Translate::Lockstep, stress: Some(0), exact_flags: true, ..Options::default() };
        let mut harness = UserHarness::with_options("v2-2026", &pages, &options).unwrap();
        // add [rbx], eax; div ecx, with nothing at RBX and ECX zero
        harness.write(0, &[0x01, 0x03, 0xf4]);
        harness.write(64, &[0xf7, 0xf1, 0xf4]);
        let selectors = [0x2b, 0x33, 0x2b, 0x2b, 0, 0];
        for (rip, vector) in [(0x40_0000, 14), (0x40_0040, 0)] {
            for flags in [0, rflags::ARITHMETIC, rflags::CF | rflags::SF] {
                let rflags = rflags::FIXED_1 | flags;
                let mut state = UserState { gpr: [0; 16], rip, rflags, xsave: XsaveArea::at_reset(), selectors };
                let end = harness.step_translated(&mut state).0;
                assert_eq!((end.map_err(|fault| fault.vector), state.rflags), (Err(vector), rflags));
            }
        }
    }

    #[test]
    fn instructions_on_the_cpus_own_state_run_translated_too() {
        let pages = [
            UserPage { linear: 0x40_0000, frame: 0, writable: false },
            UserPage { linear: 0x50_0000, frame: 1, writable: true },
        ];
        let mut harness = UserHarness::new("v2-2026", &pages).unwrap();
        let selectors = [0x2b, 0x33, 0x2b, 0x2b, 0, 0];
        let mut state = UserState { gpr: [7; 16], rip: 0, rflags: 2, xsave: XsaveArea::at_reset(), selectors };
        // std; pushfq; cld; rep stosd
        for (n, code) in [&[0xfd, 0xf4][..], &[0x9c, 0xf4], &[0xfc, 0xf4], &[0xf3, 0xab, 0xf4]].iter().enumerate() {
            let offset = 64 * n as u64;
            harness.write(offset, code);
            (state.rip, state.gpr[1], state.gpr[4], state.gpr[7]) = (0x40_0000 + offset, 3, 0x50_0100, 0x50_0000);
            assert_eq!(harness.step_translated(&mut state), (Ok(()), true), "{code:x?}");
        }
        assert_eq!((state.rflags & rflags::DF, state.gpr[1], state.gpr[7]), (0, 0, 0x50_000c));
        assert_eq!(harness.frames()[4096..4096 + 13], [7, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0, 0]);
        assert_eq!(harness.frames()[4096 + 0xf8..4096 + 0x100], (rflags::DF | rflags::FIXED_1).to_le_bytes());
    }

    #[test]
    fn the_code_segment_says_the_mode() {
        // inc eax; 64-bit mode takes it for a prefix of what follows
        let (state, end) = run(&[0x40, 0x90], |s| s.selectors[1] = 0x23);
        assert_eq!((end, state.gpr[0], state.rip), (Ok(()), 1, 0x40_0001));
        let (state, end) = run(&[0x40, 0x90], |_| ());
        assert_eq!((end, state.gpr[0], state.rip), (Ok(()), 0, 0x40_0002));
    }

    #[test]
    fn segments_are_loaded_from_the_table() {
        // mov ds, eax
        let (state, end) = run(&[0x8e, 0xd8], |s| s.gpr[0] = 0x23);
        assert_eq!((end, state.selectors[3]), (Ok(()), 0x23));
        let (_, end) = run(&[0x8e, 0xd8], |s| s.gpr[0] = 0x10);
        assert_eq!(end, Err(Exception::with_code(Exception::GP, 0x10)), "a segment of the kernel's");
    }

    #[test]
    fn a_fault_leaves_the_instruction_pointer() {
        let (state, end) = run(&[0x8b, 0x03], |s| s.gpr[3] = 0x60_0000);
        assert_eq!(end, Err(Exception::page_fault(4, 0x60_0000)));
        assert_eq!(state.rip, 0x40_0000);
    }

    #[test]
    fn host_executed_instructions_reach_memory() {
        // paddd xmm0, [rbx]
        let (_, end) = run(&[0x66, 0x0f, 0xfe, 0x03], |s| s.gpr[3] = 0x50_0008);
        assert_eq!(end, Err(Exception::with_code(Exception::GP, 0)), "misaligned");
        let (_, end) = run(&[0x66, 0x0f, 0xfe, 0x03], |s| s.gpr[3] = 0x50_0010);
        assert_eq!(end, Ok(()));
    }
}
