//! Two CPUs of one machine, and what the second takes of the first.

use super::super::asm::{Asm, frame};
use super::super::frame::at;
use super::super::{CODE_SIZE, Translator};
use crate::decode::Op;
use crate::options::Options;
use crate::smp::Processors;
use crate::vcpu::SoftVcpu;
use motu_hv::{Debugging, Vcpu};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::contract::Contract;
use motu_x86::flags::cr0;
use motu_x86::{CpuState, Gpa, Nanos, Segment};
use std::sync::Arc;

const CODE: u64 = 0x3100;
/// mov eax, [ebx]; add eax, ecx; jne 0x3120
const BLOCK: [u8; 6] = [0x8b, 0x03, 0x01, 0xc8, 0x75, 0x1a];
/// adc eax, eax: the carry matters. xor eax, eax: no flag does.
const CARRY: [u8; 2] = [0x11, 0xc0];
const NO_FLAGS: [u8; 2] = [0x31, 0xc0];

struct Machine {
    ram: GuestRam,
    cpus: [SoftVcpu; 2],
}

impl Machine {
    /// Two CPUs in flat 32-bit mode before [`BLOCK`], which goes on with other code.
    fn new() -> Self {
        let ram = GuestRam::new(16 * PAGE_SIZE).unwrap();
        let contract = Contract::by_name("v2-2026").unwrap();
        let processors = Arc::new(Processors::new(2));
        // Translated before the first run.
        let options = Options { stress: Some(1), ..Options::default() };
        let cpu = |id| {
            let mut vcpu = SoftVcpu::new(id, contract, ram.clone(), Arc::clone(&processors), &options).unwrap();
            let lapic = vcpu.save(Nanos(0)).lapic;
            let cr0 = cr0::PE | cr0::ET | cr0::NE;
            let mut state = CpuState { cr0, rip: CODE, lapic, ..CpuState::default() };
            let flat = |selector, attributes| Segment { selector, base: 0, limit: u32::MAX, attributes };
            state.segments.cs = flat(8, 0xc09b);
            let data = flat(16, 0xc093);
            (state.segments.ss, state.segments.ds, state.segments.es) = (data, data, data);
            vcpu.restore(&state, Nanos(0)).unwrap();
            vcpu
        };
        let mut machine = Self { cpus: [cpu(0), cpu(1)], ram };
        machine.write(CODE, &BLOCK);
        machine.write(CODE + 0x20, &CARRY);
        machine.write(CODE + BLOCK.len() as u64, &CARRY);
        machine
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.ram.write(Gpa(at), bytes).unwrap();
        for cpu in &mut self.cpus {
            cpu.take_post();
        }
    }

    /// Translates what is at a CPU's RIP; gives blocks decoded, those of them that were taken, blocks translated, taken ones.
    fn translate(&mut self, n: usize) -> [u64; 4] {
        let SoftVcpu { cpu, cache, translator, .. } = &mut self.cpus[n];
        let translator = translator.as_mut().unwrap();
        cpu.stats = Default::default();
        translator.stats = Default::default();
        translator.keep_up(cpu, cache);
        assert!(translator.find(cpu, cache).unwrap().is_some());
        [cpu.stats.blocks_decoded, cpu.stats.blocks_shared, translator.stats.blocks, translator.stats.shared]
    }

    fn ops(&mut self, n: usize) -> Arc<[Op]> {
        let SoftVcpu { cpu, cache, .. } = &mut self.cpus[n];
        let index = cache.find(cpu).unwrap();
        Arc::clone(&cache.get(index).ops)
    }

    /// The host code that a CPU has made.
    fn code(&mut self, n: usize) -> Vec<u8> {
        let translator = self.cpus[n].translator.as_ref().unwrap();
        [0, CODE_SIZE as u32 - 0x1000].map(|from| words(translator, from)).concat()
    }
}

/// So much host code from an offset on.
fn words(translator: &Translator, from: u32) -> Vec<u8> {
    (0..0x400).flat_map(|n| translator.code.word(from + 4 * n)).collect()
}

#[test]
fn the_second_takes_what_the_first_has_made() {
    let mut machine = Machine::new();
    // As it is, and extended behind the jump.
    assert_eq!(machine.translate(0), [1, 0, 1, 0]);
    assert_eq!(machine.translate(1), [1, 2, 1, 1]);
    assert!(Arc::ptr_eq(&machine.ops(0), &machine.ops(1)));
    assert!(machine.code(0).iter().any(|&byte| byte != 0) && machine.code(0) == machine.code(1));
}

#[test]
fn exits_are_numbered_by_whoever_has_them() {
    let mut machine = Machine::new();
    let other = CODE + 0x1000;
    machine.write(other, &BLOCK);
    machine.translate(0);
    for cpu in &mut machine.cpus {
        cpu.cpu.rip = other;
    }
    machine.translate(1);
    machine.translate(0);
    machine.cpus[1].cpu.rip = CODE;
    assert_eq!(machine.translate(1), [1, 2, 1, 1]);
    for n in 0..2 {
        let translator = machine.cpus[n].translator.as_mut().unwrap();
        // Behind the first, which none has.
        for (number, translation) in (0u32..).zip(&translator.translations) {
            let own = translator.exits.iter().skip(1).filter(|exit| exit.translation == number);
            assert!(
                own.clone().count() > 0 && own.into_iter().all(|exit| exit.rip & !0xfff == translation.rip & !0xfff)
            );
        }
        let last = translator.exits.len() as u32 - 1;
        let mut asm = Asm::default();
        asm.store_imm32(frame(at::EXIT), 0);
        let store = asm.code.strip_suffix(&[0; 4]).unwrap();
        let code = words(translator, CODE_SIZE as u32 - 0x1000);
        let stored = code.windows(store.len() + 4).filter(|window| window.starts_with(store));
        let numbers: Vec<u32> =
            stored.map(|window| u32::from_le_bytes(*window.last_chunk().unwrap())).filter(|&n| n != 0).collect();
        assert!(numbers.contains(&last) && numbers.iter().all(|&number| number <= last), "{numbers:?} of {last}");
        let mut once = numbers.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), numbers.len(), "one number for two exits: {numbers:?}");
    }
}

#[test]
fn other_code_at_the_place_is_made_anew() {
    let mut machine = Machine::new();
    machine.translate(0);
    // sub eax, ecx
    machine.write(CODE + 2, &[0x29]);
    assert_eq!(machine.translate(1), [1, 0, 1, 0]);
    assert_eq!(machine.translate(0), [1, 2, 1, 1], "now the first takes it");
}

#[test]
fn what_decided_which_flags_matter_is_compared_too() {
    let mut machine = Machine::new();
    machine.translate(0);
    machine.write(CODE + 0x20, &NO_FLAGS);
    assert_eq!(machine.translate(1), [1, 1, 1, 0], "the target of the jump");
}

#[test]
fn breakpoints_are_one_cpus_own() {
    let mut machine = Machine::new();
    machine.translate(0);
    let debugging = Debugging { breakpoints: vec![CODE], ..Debugging::default() };
    machine.cpus[1].set_debugging(Some(&debugging)).unwrap();
    assert_eq!(machine.translate(1), [1, 0, 1, 0]);
    assert!(machine.ops(1)[0].is_held() && !machine.ops(0)[0].is_held());
    machine.cpus[1].set_debugging(None).unwrap();
    assert_eq!(machine.translate(1), [1, 2, 1, 1]);
}

#[test]
fn stubs_are_one_cpus_own() {
    let mut machine = Machine::new();
    // paddd xmm0, xmm1; hlt
    machine.write(CODE, &[0x66, 0x0f, 0xfe, 0xc1, 0xf4]);
    let stub = |op: &Op| format!("{:?}", op.extra.as_ref().and_then(|extra| extra.thunk));
    let [first, second] = [0, 1].map(|n| machine.ops(n));
    assert_eq!(machine.cpus[1].cpu.stats.blocks_shared, 1);
    assert!(stub(&first[0]) != "None" && stub(&first[0]) != stub(&second[0]), "its code is the other's");
}
