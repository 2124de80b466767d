use super::chain::Frames;
use super::look::physical_page;
use super::*;
use crate::mmu::{Access, Control, Mmu, PAGE, Privilege, RamMap};
use crate::options::Options;
use crate::smp::Processors;
use crate::vcpu::SoftVcpu;
use motu_hv::{Exit, Kick, Vcpu};
use motu_memory::GuestRam;
use motu_x86::contract::Contract;
use motu_x86::{CpuState, Gpa, Segment};
use proptest::prelude::*;
use std::sync::Mutex;

/// Memory from address `start` on.
fn reader(start: u64, memory: &[u8]) -> impl Fn(u64, &mut [u8]) -> bool {
    move |address, out| {
        let first = address.wrapping_sub(start) as usize;
        let found = memory.get(first..first.saturating_add(out.len()));
        found.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }
}

const STACK: u64 = 0x7fff_0000_0000;

/// A stack at [`STACK`] of these words, and code at 0x1000 below it.
fn chain(words: &[u64], code: &[u8], frame: u64) -> Vec<u64> {
    let mut memory = vec![0x90; 0x1000];
    memory[..code.len()].copy_from_slice(code);
    memory.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let frames = Frames { word: 8, code_base: 0, read: reader(STACK - 0x1000, &memory) };
    let mut callers = [0; 4];
    let count = frames.callers(STACK, frame, &mut callers);
    callers[..count].to_vec()
}

const CODE: u64 = STACK - 0x1000;
/// call +0; call [rax]; call r12; call [rbp+8]; call [rsp+8]; call [rip+0]; call [rax*8+0]
const CALLS: [u8; 29] = [
    0xe8, 0, 0, 0, 0, 0xff, 0x10, 0x41, 0xff, 0xd4, 0xff, 0x55, 8, 0xff, 0x54, 0x24, 8, 0xff, 0x15, 0, 0, 0, 0, 0xff,
    0x14, 0xc5, 0, 0, 0,
];

#[test]
fn frames_are_followed_to_the_outermost() {
    let words = [0, STACK + 32, CODE + 5, 0, STACK + 48, CODE + 7, 0, CODE + 10];
    assert_eq!(chain(&words, &CALLS, STACK + 8), [CODE + 5, CODE + 7, CODE + 10]);
    assert_eq!(chain(&words, &CALLS, STACK + 32), [CODE + 7, CODE + 10]);
    assert_eq!(chain(&words, &CALLS, STACK + 40), [] as [u64; 0], "no frame lies there");
}

#[test]
fn every_form_of_call_is_one_and_other_places_are_none() {
    let code = [&CALLS[..], &[0]].concat();
    let ends = [5, 7, 10, 13, 17, 23, 30];
    for offset in 0..64 {
        let found = chain(&[0, CODE + offset], &code, STACK);
        assert_eq!(!found.is_empty(), ends.contains(&offset), "{offset}");
    }
}

#[test]
fn what_only_looks_like_frames_is_left_out() {
    let back = CODE + 5;
    let none: [u64; 0] = [];
    assert_eq!(chain(&[STACK, back], &CALLS, STACK), [back], "a frame that is its own caller's");
    assert_eq!(chain(&[0, back, 0, back], &CALLS, STACK - 16), none, "below the stack pointer");
    assert_eq!(chain(&[0, 0, back, 0], &CALLS, STACK + 7), none, "not aligned");
    assert_eq!(chain(&[0, back], &CALLS, STACK + (1 << 21)), none, "far away");
    assert_eq!(chain(&[0, back | 1 << 63], &CALLS, STACK), none, "back into the other half");
    assert_eq!(chain(&[0, back | 1 << 50], &CALLS, STACK), none, "not canonical");
    assert_eq!(chain(&[0, STACK + 8], &CALLS, STACK), none, "behind no call");
}

#[test]
fn as_many_callers_as_there_is_room_for() {
    let words: Vec<u64> = (0..8).flat_map(|n| [STACK + 16 * (n + 1), CODE + 5]).collect();
    assert_eq!(chain(&words, &CALLS, STACK), [CODE + 5; 4]);
}

#[test]
fn frames_of_32_bits_have_a_code_segment() {
    let words: [u32; 4] = [0x1008, 0xffff_ff05, 0, 0xffff_ff05];
    let memory = [&[0xe8, 0, 0, 0, 0, 0, 0, 0][..], &words.map(u32::to_le_bytes).concat()].concat();
    // Code at 0xff8, the stack at 0x1000; the segment of code begins at 0x10f8.
    let frames = Frames { word: 4, code_base: 0x10f8, read: reader(0xff8, &memory) };
    let mut callers = [0; 4];
    assert_eq!(frames.callers(0x1000, 0x1000, &mut callers), 2);
    assert_eq!(callers, [0xffd, 0xffd, 0, 0]);
}

/// Of random tables, all of them in 16 pages of RAM.
fn mmu(bytes: &[u8], control: &Control) -> (Mmu, GuestRam) {
    let ram = GuestRam::new(16 * PAGE).unwrap();
    let entries = bytes.chunks(8).cycle().take((16 * PAGE / 8) as usize);
    // Present, writable, for users, and mostly inside RAM; now and then large.
    let memory: Vec<u8> = entries
        .flat_map(|chunk| {
            let mut entry = [0; 8];
            entry[..chunk.len()].copy_from_slice(chunk);
            (u64::from_le_bytes(entry) & 0xf080 | 7).to_le_bytes()
        })
        .collect();
    ram.write(Gpa(0), &memory).unwrap();
    let mut mmu = Mmu::new(RamMap::new(ram.clone())).unwrap();
    mmu.control = *control;
    (mmu, ram)
}

fn contents(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; (16 * PAGE) as usize];
    ram.read(Gpa(0), &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn a_look_finds_what_an_access_finds_and_leaves_no_trace(
        bytes in prop::collection::vec(any::<u8>(), 8..512),
        address: u64,
        mode in 0..4,
    ) {
        let directories = [0x1001, 0x2001, 0x3001, 0x4001];
        let (paging, pae, long) = (mode > 0, mode > 1, mode > 2);
        let control = Control { paging, pae, long, pse: true, directories, ..Control::default() };
        let (mmu, ram) = mmu(&bytes, &control);
        let address = if long { ((address << 16) as i64 >> 16) as u64 } else { address & 0xffff_ffff };
        let before = contents(&ram);
        let looked = physical_page(&mmu.control, &mmu.ram, address);
        prop_assert!(contents(&ram) == before);
        if let Ok(page) = mmu.walk(address, Access::Read, Privilege::Supervisor) {
            prop_assert_eq!(looked, Some(page.physical));
        }
    }

    #[test]
    fn no_stack_panics(words in prop::collection::vec(any::<u64>(), 0..64), frame: u64, stack: u64, word in 0..2) {
        let memory: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let frames = Frames { word: if word == 0 { 4 } else { 8 }, code_base: stack, read: reader(stack, &memory) };
        let mut callers = [0; 8];
        prop_assert!(frames.callers(stack, frame, &mut callers) <= callers.len());
        prop_assert!(frames.callers(stack, stack, &mut callers) <= callers.len());
    }
}

/// Linear address, CPL, whether it was halted, time.
type Seen = (u64, u8, bool, Nanos);

/// Remembers samples, and ends the run at the third.
struct Three {
    samples: Arc<Mutex<Vec<Seen>>>,
    kick: Arc<dyn Kick>,
}

impl Profiler for Three {
    fn sample(&mut self, sample: &GuestSample<'_>) {
        let mut samples = self.samples.lock().unwrap();
        samples.push((sample.linear, sample.cpl, sample.halted, sample.time));
        if samples.len() == 3 {
            self.kick.kick();
        }
    }
}

/// A board that nobody asks.
struct Empty(Instant);

impl motu_hv::GuestBus for Empty {
    fn io_read(&self, _: u16, _: &mut [u8]) {}
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, _: &mut [u8]) {}
    fn mmio_write(&self, _: Gpa, _: &[u8]) {}
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> Nanos {
        Nanos(self.0.elapsed().as_nanos() as u64)
    }
}

#[test]
fn a_running_cpu_is_told_of_where_it_is() {
    let ram = GuestRam::new(16 * PAGE).unwrap();
    // jmp $
    ram.write(Gpa(0x7c00), &[0xeb, 0xfe]).unwrap();
    let contract = Contract::by_name("v2-2026").unwrap();
    let mut vcpu = SoftVcpu::new(0, contract, ram, Processors::new(1).into(), &Options::default()).unwrap();
    let mut state = CpuState { rip: 0xc00, ..CpuState::default() };
    state.segments.cs = Segment { selector: 0x700, base: 0x7000, limit: 0xffff, attributes: 0x9b };
    vcpu.restore(&state, Nanos(0)).unwrap();
    let samples = Arc::new(Mutex::new(Vec::new()));
    let profiler = Three { samples: Arc::clone(&samples), kick: vcpu.kicker() };
    vcpu.set_profiler(Some(Box::new(profiler))).unwrap();
    assert_eq!(vcpu.run(&Empty(Instant::now())), Exit::Kicked);
    let samples = samples.lock().unwrap();
    assert!(samples.len() >= 3);
    for &(linear, cpl, halted, time) in samples.iter() {
        assert_eq!((linear, cpl, halted), (0x7c00, 0, false));
        assert!(time >= Nanos(PERIOD.as_nanos() as u64));
    }
}
