//! Guests that make new code for ever: what is kept of it stays within its bounds, and results stay right.

use super::frame::JUMPS;
use super::{CODE_SIZE, MAX_EXITS};
use crate::decode::MAX_OPS;
use crate::harness::{BUS, KickingBus, UserHarness, UserPage};
use crate::options::{Options, Translate};
use iced_x86::code_asm::*;
use motu_hv::{Exit, TranslatorStats, Vcpu};

const PAGE: u64 = 4096;
const PROGRAM: u64 = 0x40_0000;
const STACK: u64 = 0x50_0000;
const CODE: u64 = 0x1000_0000;
/// Bytes from one routine to the next.
const STRIDE: u64 = 64;
/// Routines between two looks at what is kept.
const CHUNK: u64 = 4096;

/// A program that calls routines in pages of their own, which all are the same one if they are aliases.
struct Endless {
    harness: UserHarness,
    bus: KickingBus,
}

impl Endless {
    fn new(translate: Translate, pages: u64, aliases: bool, program: &[u8]) -> Self {
        let code = (0..pages).map(|n| UserPage {
            linear: CODE + n * PAGE,
            frame: 2 + if aliases { 0 } else { n },
            writable: !aliases,
        });
        let own = [
            UserPage { linear: PROGRAM, frame: 0, writable: false },
            UserPage { linear: STACK, frame: 1, writable: true },
        ];
        let all: Vec<UserPage> = own.into_iter().chain(code).collect();
        let options = Options { translate, stress: Some(1), ..Options::default() };
        let mut harness = UserHarness::with_options("v2-2026", &all, &options).unwrap();
        harness.write(0, program);
        let cpu = harness.cpu();
        cpu.rip = PROGRAM;
        cpu.set_gpr(4, STACK + PAGE);
        let bus = KickingBus(harness.vcpu().kicker());
        Self { harness, bus }
    }

    /// Runs chunks, with a look at what is kept behind each.
    fn run(&mut self, chunks: u64) -> TranslatorStats {
        for chunk in 1..=chunks {
            // Shut down by a fault without handler: a result was wrong.
            assert_eq!(self.harness.vcpu().run(&self.bus), Exit::Kicked, "in chunk {chunk}");
            let vcpu = self.harness.vcpu();
            assert_eq!(vcpu.cpu.gpr(12), chunk * CHUNK, "routines called");
            let [blocks, ops, known] = vcpu.cache.sizes();
            assert!(ops <= MAX_OPS && blocks <= MAX_OPS, "{blocks} blocks of {ops} operations");
            let translator = vcpu.translator.as_ref().unwrap();
            let translations = translator.translations.len();
            assert!(translator.code.used() <= CODE_SIZE);
            assert!(translator.exits.len() <= MAX_EXITS && translator.exits.capacity() <= 2 * MAX_EXITS);
            // Each has a way out at least.
            assert!(translations <= MAX_EXITS && translator.described.len() <= translations);
            assert!(known <= translations, "blocks know {known} of {translations} translations");
            assert!(translator.jumps.listed() <= 4 * JUMPS);
        }
        let vcpu = self.harness.vcpu();
        vcpu.translator.as_ref().unwrap().stats()
    }
}

/// The part of every program behind a call: RAX must be R15, R12 counts, and a chunk's end is told.
fn account(a: &mut CodeAssembler, next: CodeLabel) -> Result<(), IcedError> {
    let (mut wrong, mut on) = (a.create_label(), a.create_label());
    a.cmp(rax, r15)?;
    a.jne(wrong)?;
    a.inc(r12)?;
    a.test(r12, (CHUNK - 1) as i32)?;
    a.jne(on)?;
    a.mov(rbp, BUS)?;
    a.mov(dword_ptr(rbp), r12d)?;
    a.set_label(&mut on)?;
    a.jmp(next)?;
    a.set_label(&mut wrong)?;
    a.hlt()
}

/// PUSH RBX; ADD RAX, imm32; MOV [RSP-16], RAX; POP RBX; RET
const HEAD: [u8; 3] = [0x53, 0x48, 0x05];
const TAIL: [u8; 8] = [0x48, 0x89, 0x44, 0x24, 0xf0, 0x5b, 0xc3, 0x90];

/// Writes a routine with another constant each time, into `routines` places in turn, and calls it.
fn writer(routines: u64) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).unwrap();
    let mut next = a.create_label();
    let mut emit = || {
        a.set_label(&mut next)?;
        // Knuth's MMIX constants.
        a.mov(rcx, 6_364_136_223_846_793_005u64)?;
        a.imul_2(r14, rcx)?;
        a.add(r14, 0x1234_5677)?;
        a.mov(r8, r14)?;
        a.shr(r8, 33)?;
        a.mov(rdi, r12)?;
        a.and(rdi, (routines - 1) as i32)?;
        a.imul_3(rdi, rdi, STRIDE as i32)?;
        a.add(rdi, CODE as i32)?;
        a.mov(word_ptr(rdi), i32::from(u16::from_le_bytes([HEAD[0], HEAD[1]])))?;
        a.mov(byte_ptr(rdi + 2), i32::from(HEAD[2]))?;
        a.mov(dword_ptr(rdi + 3), r8d)?;
        a.mov(rcx, u64::from_le_bytes(TAIL))?;
        a.mov(qword_ptr(rdi + 7), rcx)?;
        a.call(rdi)?;
        a.add(r15, r8)?;
        account(&mut a, next)
    };
    emit().unwrap();
    a.assemble(PROGRAM).unwrap()
}

#[test]
fn code_that_is_written_again_and_again_is_kept_within_bounds() {
    let pages = 2048;
    let routines = pages * PAGE / STRIDE;
    let stats = Endless::new(Translate::On, pages, false, &writer(routines)).run(40);
    assert!(stats.blocks > 40 * CHUNK && stats.evictions > 0, "{stats:?}");
}

#[test]
fn one_routine_that_changes_for_ever_is_kept_within_bounds() {
    let stats = Endless::new(Translate::On, 1, false, &writer(1)).run(20);
    assert!(stats.blocks > 20 * CHUNK && stats.invalidated > 10 * CHUNK, "{stats:?}");
}

#[test]
fn lock_step_keeps_what_it_knows_of_translations_within_bounds() {
    let pages = 2048;
    let stats = Endless::new(Translate::Lockstep, pages, false, &writer(pages * PAGE / STRIDE)).run(24);
    assert!(stats.blocks > 24 * CHUNK && stats.evictions > 0, "{stats:?}");
}

#[test]
fn one_page_of_code_at_many_addresses_is_kept_within_bounds() {
    let pages = 2048;
    let mut a = CodeAssembler::new(64).unwrap();
    let mut next = a.create_label();
    let mut emit = || {
        a.set_label(&mut next)?;
        a.mov(rdi, r12)?;
        a.and(rdi, (pages * PAGE / STRIDE - 1) as i32)?;
        a.imul_3(rdi, rdi, STRIDE as i32)?;
        a.add(rdi, CODE as i32)?;
        a.call(rdi)?;
        // The constant is the routine's number in its page.
        a.mov(ecx, r12d)?;
        a.and(ecx, (PAGE / STRIDE - 1) as i32)?;
        a.add(r15, rcx)?;
        account(&mut a, next)
    };
    emit().unwrap();
    let program = a.assemble(PROGRAM).unwrap();
    let mut endless = Endless::new(Translate::On, pages, true, &program);
    for n in 0..PAGE / STRIDE {
        let routine = [&HEAD[..], &(n as u32).to_le_bytes(), &TAIL].concat();
        endless.harness.write(2 * PAGE + n * STRIDE, &routine);
    }
    let stats = endless.run(40);
    assert!(stats.blocks > 30 * CHUNK && stats.evictions > 0, "{stats:?}");
}
