//! The code cache as it is when a program has run: placed, linked, and in part dropped again.

use super::super::CODE_SIZE;
use super::super::exit::ExitKind;
use super::super::mode::Mode;
use super::super::slots::Site;
use super::cases::Random;
use super::walk::{Made, prove};
use crate::harness::{UserHarness, UserPage};
use crate::options::{Options, Translate};
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions};
use motu_hv::{Exit, Vcpu};

const PROGRAM: u64 = 0x40_0000;
const DATA: u64 = 0x50_0000;
const PAGE: u64 = 4096;

/// Loops, calls, a structure that crosses pages now and then, an interpreted instruction amid, and code that changes.
fn program() -> Vec<u8> {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut outer, mut inner, mut function) = (a.create_label(), a.create_label(), a.create_label());
    let (mut over, mut odd) = (a.create_label(), a.create_label());
    let mut emit = || {
        a.mov(ebp, 300)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.push(rbx)?;
        a.push(r9)?;
        a.mov(qword_ptr(rsp - 16), rax)?;
        a.add(rax, qword_ptr(rsp - 16))?;
        a.cpuid()?;
        a.pop(r9)?;
        a.pop(rbx)?;
        a.ret()?;
        a.set_label(&mut over)?;
        a.nop()?;
        a.set_label(&mut outer)?;
        a.mov(ebx, DATA as u32 + 0xf80)?;
        a.mov(esi, 20)?;
        a.set_label(&mut inner)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.add(qword_ptr(rbx + 8), rax)?;
        a.mov(r10d, dword_ptr(rbx + 20))?;
        a.movups(xmm1, xmmword_ptr(rbx + 32))?;
        a.add(rbx, 8)?;
        a.test(esi, 1)?;
        a.jnz(odd)?;
        a.add(dword_ptr(rbx + rsi * 4), r10d)?;
        a.set_label(&mut odd)?;
        a.dec(esi)?;
        a.jnz(inner)?;
        a.call(function)?;
        a.dec(ebp)?;
        a.jnz(outer)?;
        a.hlt()
    };
    emit().unwrap();
    a.assemble(PROGRAM).unwrap()
}

#[test]
fn the_code_cache_accesses_only_what_was_checked_wherever_it_is_linked() {
    let program = program();
    let data = (0..3).map(|n| UserPage { linear: DATA + n * PAGE, frame: 1 + n, writable: true });
    let code = UserPage { linear: PROGRAM, frame: 0, writable: false };
    let pages: Vec<UserPage> = [code].into_iter().chain(data).collect();
    for stress in [None, Some(1)] {
        let options = Options { translate: Translate::On, stress, ..Options::default() };
        let mut harness = UserHarness::with_options("v3-2026", &pages, &options).unwrap();
        let mut random = Random(7);
        for change in 0..3u8 {
            // Other constants each time, so that translations are dropped and made anew.
            let mut bytes = program.clone();
            bytes[1] = bytes[1].wrapping_add(change);
            harness.write(0, &bytes);
            let cpu = harness.cpu();
            cpu.rip = PROGRAM;
            cpu.set_gpr(4, DATA + 2 * PAGE + 8 * (1 + random.below(64)));
            // HLT of ring 3, and no handlers: it ends by a shutdown.
            let bus = crate::harness::KickingBus(harness.vcpu().kicker());
            assert_eq!(harness.vcpu().run(&bus), Exit::Shutdown);
            harness.vcpu().cpu.set_alert(crate::cpu::alert::SHUTDOWN, false);
        }
        let vcpu = harness.vcpu();
        let translator = vcpu.translator.as_ref().unwrap();
        let entrances: Vec<u32> =
            translator.translations.iter().flat_map(|t| [t.indirect, t.direct, t.inner, t.stale]).collect();
        let resumes = translator.exits.iter().enumerate().filter_map(|(number, exit)| match exit.kind {
            ExitKind::Interpret(at) | ExitKind::Access(at)
                if at.resume != 0 && !translator.translations[exit.translation as usize].dropped =>
            {
                let guest = program.get((exit.rip - PROGRAM) as usize..)?;
                let instruction = Decoder::with_ip(64, guest, exit.rip, DecoderOptions::NONE).decode();
                Some((number as u32, (at.resume, instruction)))
            }
            _ => None,
        });
        let resumes = resumes.collect();
        // SAFETY: the code cache is mapped and readable; nothing writes it while the slice lives.
        let cache = unsafe { std::slice::from_raw_parts(translator.code.executable(0), CODE_SIZE) };
        let sites: Vec<Site> = translator.slots.sites().copied().collect();
        let mode = Mode { user: true, narrow: false };
        let made = Made { code: cache, entrances: &entrances, mode, resumes, sites: &sites };
        // SAFETY: the frame lives as long as the CPU, and no translated code runs.
        let accesses =
            prove(made, unsafe { vcpu.cpu.mmu.tlb.frame().as_ref() }).unwrap_or_else(|problem| panic!("{problem}"));
        assert!(translator.translations.iter().any(|t| t.dropped) && translator.translations.len() > 8);
        assert!(accesses > 20, "only {accesses} accesses");
    }
}
