//! Code, decoded and lowered but not run.

use super::Machine;
use super::start::{CODE, Mode};
use motu_x86::DescriptorTable;

/// `div ecx`, with ECX zero. A block is decoded whole before its first instruction runs, so what follows
/// is decoded, and this keeps it from running: without an IDT the fault is a shutdown.
const STOP: [u8; 2] = [0xf7, 0xf1];
/// How many of the code's tails are decoded as well.
const TAILS: usize = 8;
/// Bytes of a page.
const PAGE: u16 = 0x1000;

/// The first byte picks the mode and the contract, the second how far from the end of its page the code
/// begins; the rest is code.
pub fn run(bytes: &[u8]) {
    let Some(([choice, place], code)) = bytes.split_first_chunk() else { return };
    let mode = Mode::pick(*choice);
    Machine::with(choice / Mode::ALL.len() as u8, mode, &[], |machine| {
        let offset = if *place == 0 { 0 } else { PAGE - u16::from(*place) };
        let mut state = mode.state();
        state.gpr[1] = 0;
        state.idtr = DescriptorTable::default();
        // Each tail of the code, as a block of its own behind the stop.
        for skipped in 0..code.len().min(TAILS) {
            state.rip = mode.rip(offset);
            let tail = code.get(skipped..).unwrap_or_default();
            machine.write(CODE + u64::from(offset), &[&STOP, tail].concat());
            if machine.restore(&state).is_err() {
                return;
            }
            // It may take a second round until the shutdown is reported.
            _ = machine.run() && machine.run();
        }
        machine.end(bytes);
    });
}
