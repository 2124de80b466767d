//! The local APIC, as a guest reaches it: a program of register accesses is made from the input and run in
//! 32-bit protected mode.

use super::board::port;
use super::start::{CODE, Mode};
use super::{Machine, START};
use crate::registers::steps;
use arbitrary::{Arbitrary, Result, Unstructured};
use motu_x86::flags::rflags;

const ROUNDS: u32 = 400;
/// Where the registers are after reset (SDM vol. 3, 11.4.1).
const BASE: u32 = 0xfee0_0000;
/// IA32_APIC_BASE, and where x2APIC's registers begin (SDM vol. 3, 11.12.1).
const APIC_BASE: u32 = 0x1b;
const X2APIC: u32 = 0x800;
const TSC_DEADLINE: u32 = 0x6e0;
/// The registers worth writing: ID, TPR, EOI, LDR, DFR, SVR, ESR, ICR, LVTs, timer counts (table 11-1).
const REGISTERS: [u8; 16] =
    [0x02, 0x08, 0x0b, 0x0d, 0x0e, 0x0f, 0x28, 0x30, 0x31, 0x32, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e];

/// Machine code that does one thing; a fault skips it byte by byte, which harms nothing.
fn assemble(operation: u8, input: &mut Unstructured<'_>, code: &mut Vec<u8>) -> Result<()> {
    let mut put = |parts: &[&[u8]]| code.extend(parts.concat());
    let load = |register: u8, value: u32| [&[0xb8 + register][..], &value.to_le_bytes()].concat();
    let (eax, ecx, edx) = (|value| load(0, value), |value| load(1, value), |value| load(2, value));
    let out = |port: u16| [0xe7, port as u8];
    match operation % 16 {
        0 => {
            let at = BASE + u32::from(u16::arbitrary(input)? & 0xfff);
            // mov eax, ax or al from memory.
            let opcode: &[u8] = [&[0xa1][..], &[0x66, 0xa1], &[0xa0]][usize::from(operation >> 4) % 3];
            put(&[opcode, &at.to_le_bytes()]);
        }
        1 => {
            let at = BASE + u32::from(u16::arbitrary(input)? & 0xfff);
            put(&[
                &eax(u32::arbitrary(input)?),
                [&[0xa3][..], &[0x66, 0xa3], &[0xa2]][usize::from(operation >> 4) % 3],
                &at.to_le_bytes(),
            ]);
        }
        2..7 => {
            let register = REGISTERS[usize::from(operation >> 4)];
            let at = BASE + 16 * u32::from(register);
            put(&[&eax(u32::arbitrary(input)?), &[0xa3], &at.to_le_bytes()]);
        }
        7 => put(&[&ecx(X2APIC + u32::from(u8::arbitrary(input)?)), &[0x0f, 0x32]]),
        8 => {
            let register = X2APIC + u32::from(REGISTERS[usize::from(operation >> 4)]);
            let high = u32::from(u8::arbitrary(input)?);
            put(&[&ecx(register), &eax(u32::arbitrary(input)?), &edx(high & 1), &[0x0f, 0x30]]);
        }
        9 => {
            // Global enable, x2APIC and the address.
            let bits = u32::arbitrary(input)?;
            let base = if bits & 1 == 0 { BASE | bits & 0xd00 } else { bits };
            put(&[&ecx(APIC_BASE), &eax(base), &edx(bits >> 28 & u32::from(operation >> 7)), &[0x0f, 0x30]]);
        }
        10 => {
            put(&[&ecx(TSC_DEADLINE), &eax(u32::arbitrary(input)?), &edx(u32::from(operation >> 4) & 1), &[0x0f, 0x30]])
        }
        11 => {
            let (address, data) = (u32::arbitrary(input)?, u32::arbitrary(input)?);
            put(&[&eax(BASE | address & 0xf_ffff), &out(port::MSI_ADDRESS), &eax(data), &out(port::MSI_DATA)]);
        }
        12 => put(&[&eax(u32::from(operation >> 4)), &out(port::EXT_INT)]),
        13 => put(&[&eax(u32::arbitrary(input)?), &out(port::TIME)]),
        // sti; hlt, cli, and a read of CR8's other face, the TPR.
        14 => put(&[&[0xfb, 0xf4]]),
        _ => put(&[if operation & 0x10 == 0 { &[0xfa] } else { &[0xfb] }]),
    }
    Ok(())
}

fn program(bytes: &[u8]) -> Vec<u8> {
    let mut code = Vec::new();
    steps(bytes, |operation, input| assemble(operation, input, &mut code));
    // Stays here when all is done, interrupts going on.
    code.extend([0xfb, 0xeb, 0xfe]);
    code
}

pub fn run(bytes: &[u8]) {
    let mode = Mode::Protected32;
    let code = program(bytes);
    Machine::with(0, mode, bytes, |machine| {
        let mut state = mode.state();
        state.rflags |= rflags::IF;
        machine.write(CODE, &code);
        if machine.restore(&state).is_err() {
            return;
        }
        for round in 0..ROUNDS {
            if !machine.run() {
                break;
            }
            if round % 64 == 63 {
                // The registers as a snapshot has them, and back.
                let state = machine.vcpu.save(START);
                let restored = machine.restore(&state);
                assert!(restored.is_ok(), "{restored:?}: {:x?}", state.lapic);
            }
        }
        machine.end(bytes);
    });
}
