//! Unmasked SIMD exceptions against the host's own: what is raised, what MXCSR says then, and that no
//! destination changed.

use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use iced_x86::{Code, InstructionInfoFactory, Mnemonic, Register};

use super::oracle::{Oracle, Random, address_register, build, compare, encodes};
use super::*;

/// Length of the instruction under test: the handler steps over it.
static LENGTH: AtomicU64 = AtomicU64::new(0);
/// MXCSR at the exception with bit 32 set, or zero.
static RAISED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_sigfpe(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext with FPU state to an SA_SIGINFO handler.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let fpu = &mut *context.uc_mcontext.fpregs;
        RAISED.store(1 << 32 | u64::from(fpu.mxcsr), Ordering::SeqCst);
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += LENGTH.load(Ordering::SeqCst) as i64;
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is async-signal-safe, and only this module raises SIGFPE.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigfpe as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()), 0);
        }
    });
}

#[test]
fn unmasked_exceptions_agree_with_the_host() {
    install();
    let (mut cache, mut oracle) = (cache(), Oracle::new());
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut info = InstructionInfoFactory::new();
    let mut raised = 0;
    for code in Code::values() {
        let mut probe = Instruction::default();
        probe.set_code(code);
        if !simd::depends_on_mxcsr(code.mnemonic()) || classify::admit(&probe).is_err() {
            continue;
        }
        // Its products and sums raise one after the other: the flags of later steps may be missing.
        let stages = matches!(code.mnemonic(), Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd);
        for round in 0..4 {
            let Some(mut instruction) = build(code, round % 2 == 1, &mut random) else { continue };
            let pointer = address_register(&instruction, &mut info);
            if instruction.memory_base() != Register::None {
                instruction.set_memory_base(pointer);
            }
            let Some(direct) = encodes(&instruction) else { continue };
            let thunk = cache.compile(&direct).expect("admitted");
            let offset = oracle.compile(direct, pointer);
            let size = thunk.memory().map_or(0, |m| usize::from(m.size));
            LENGTH.store(direct.len() as u64, Ordering::SeqCst);
            for _ in 0..12 {
                let mut before = random.guest();
                let control = mxcsr(&before.fpu) & 0xffc0;
                let unmasked = 1u32 << (7 + random.below(6)) | (random.next() as u32 & 0x1f80);
                set_mxcsr(&mut before.fpu, control & !unmasked);
                let (mut ours, mut theirs) = (before.clone(), before.clone());
                let outcome = cache.run(&thunk, &mut ours.gpr, &mut ours.flags, &mut ours.fpu, &mut ours.memory);
                let mut memory = before.memory.0;
                RAISED.store(0, Ordering::SeqCst);
                oracle.run(offset, &mut memory[..size], 0, &mut theirs);
                let host = RAISED.load(Ordering::SeqCst);
                let what = format!("{direct} with MXCSR {:#x}", mxcsr(&before.fpu));
                assert_eq!(outcome == Outcome::SimdException, host != 0, "{what}: host {host:#x}");
                raised += u32::from(host != 0);
                if stages && host != 0 {
                    let flags = mxcsr(&ours.fpu);
                    set_mxcsr(&mut theirs.fpu, flags);
                }
                if mxcsr(&ours.fpu) & !(mxcsr(&before.fpu) >> 7) & 0x18 != 0 {
                    // With an unmasked overflow or underflow PE is of the result with an unbounded exponent,
                    // which a masked run does not show.
                    let inexact = mxcsr(&theirs.fpu) | (mxcsr(&ours.fpu) & 0x20);
                    set_mxcsr(&mut theirs.fpu, inexact);
                }
                compare(&what, &before, &ours, &theirs, 0);
            }
        }
    }
    assert!(raised > 1000, "only {raised} exceptions");
}
