//! Code in any mode, with tables, registers and interrupts to its disadvantage.

use super::Machine;
use super::start::{CODE, Mode, STRUCTURES};
use arbitrary::{Arbitrary, Result, Unstructured};
use motu_x86::{CpuState, Nanos, Segment};

/// How often a CPU runs for a moment.
const ROUNDS: u32 = 200;
/// Changes to the start, and events, of one input at most.
const MAX_CHANGES: usize = 64;

/// What happens to a running CPU from outside.
#[derive(Clone, Copy, Debug, Arbitrary)]
enum Event {
    Message {
        address: u32,
        data: u16,
    },
    Vector(u8),
    ExtInt(bool),
    Time(u32),
    /// Something on the board writes to RAM.
    Write {
        at: u16,
        value: u32,
    },
}

/// A round and what happens then.
type Scheduled = (u8, Event);

/// Registers, modes and tables first, each change introduced by its kind; then the code.
struct Plan<'a> {
    mode: Mode,
    choice: u8,
    offset: u16,
    state: CpuState,
    pokes: Vec<(u64, u64)>,
    events: Vec<Scheduled>,
    code: &'a [u8],
}

impl<'a> Plan<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut input = Unstructured::new(bytes);
        let choice = u8::arbitrary(&mut input)?;
        let mode = Mode::pick(choice);
        let mut plan = Self {
            mode,
            choice: choice / Mode::ALL.len() as u8,
            offset: 0,
            state: mode.state(),
            pokes: Vec::new(),
            events: Vec::new(),
            code: &[],
        };
        for _ in 0..MAX_CHANGES {
            match u8::arbitrary(&mut input)? {
                0 => break,
                kind => plan.change(kind, &mut input)?,
            }
        }
        plan.code = input.take_rest();
        Ok(plan)
    }

    fn change(&mut self, kind: u8, input: &mut Unstructured<'_>) -> Result<()> {
        let state = &mut self.state;
        match kind % 16 {
            0..4 => {
                let (structure, offset) = (u8::arbitrary(input)?, u16::arbitrary(input)?);
                let (start, len) = STRUCTURES.get(usize::from(structure & 15)).copied().unwrap_or_default();
                self.pokes.push((start + u64::from(offset) % len, u64::arbitrary(input)?));
            }
            4 | 5 => {
                let register = usize::from(u8::arbitrary(input)? & 15);
                if let Some(register) = state.gpr.get_mut(register) {
                    *register = u64::arbitrary(input)?;
                }
            }
            6 => state.rflags ^= u64::from(u32::arbitrary(input)? & 0x3f_7fd5),
            7 => {
                let (register, bits) = (u8::arbitrary(input)?, u64::from(u32::arbitrary(input)?));
                match register % 8 {
                    0 => state.cr0 ^= bits & 0xe005_003f,
                    1 => state.cr4 ^= bits & 0x77_1fff,
                    2 => state.msrs.efer ^= bits & 0xd01,
                    3 => state.cr3 = bits,
                    4 => state.idtr.limit = bits as u16,
                    5 => state.gdtr.limit = bits as u16,
                    6 => state.xcr0 ^= bits & 0x206,
                    _ => state.idtr.base = bits & 0xf_ffff,
                }
            }
            8 => {
                let (which, attributes) = (u8::arbitrary(input)?, u32::arbitrary(input)?);
                let segment = segment(state, which);
                segment.attributes = attributes & 0x1_f0ff;
                (segment.base, segment.limit) = (u32::arbitrary(input)?.into(), u32::arbitrary(input)?);
            }
            9 => {
                // Debug registers: breakpoints on code and data (SDM vol. 3, 18.2).
                let (number, value) = (u8::arbitrary(input)? & 3, u32::arbitrary(input)?);
                if let Some(register) = state.dr.get_mut(usize::from(number)) {
                    *register = CODE + u64::from(value & 0x1_ffff);
                }
                state.dr[7] ^= u64::from(u32::arbitrary(input)? & 0xffff_23ff);
            }
            10 => {
                let place = usize::from(u16::arbitrary(input)?) % state.xsave.0.len();
                let value = u64::arbitrary(input)?.to_le_bytes();
                // The header of an image is the host's business, not the guest's.
                let header = motu_x86::XsaveArea::XSTATE_BV;
                let bytes = state.xsave.0.iter_mut().enumerate().skip(place).zip(value);
                bytes.filter(|((at, _), _)| !(header..header + 64).contains(at)).for_each(|((_, to), from)| *to = from);
            }
            11 => self.offset = u16::arbitrary(input)?,
            _ => self.events.push(Scheduled::arbitrary(input)?),
        }
        Ok(())
    }
}

fn segment(state: &mut CpuState, which: u8) -> &mut Segment {
    let segments = &mut state.segments;
    match which % 8 {
        0 => &mut segments.es,
        1 => &mut segments.cs,
        2 => &mut segments.ss,
        3 => &mut segments.ds,
        4 => &mut segments.fs,
        5 => &mut segments.gs,
        6 => &mut segments.ldtr,
        _ => &mut segments.tr,
    }
}

pub fn run(bytes: &[u8]) {
    let Ok(plan) = Plan::read(bytes) else { return };
    Machine::with(plan.choice, plan.mode, plan.code, |machine| go(machine, &plan));
}

fn go(machine: &mut Machine, plan: &Plan<'_>) {
    for &(at, value) in &plan.pokes {
        machine.write(at, &value.to_le_bytes());
    }
    let state = CpuState { rip: plan.mode.rip(plan.offset), ..plan.state.clone() };
    machine.write(CODE + u64::from(plan.offset), plan.code);
    if machine.restore(&state).is_err() {
        return;
    }
    for round in 0..ROUNDS {
        for &(_, event) in plan.events.iter().filter(|&&(when, _)| u32::from(when) == round) {
            happen(machine, event);
        }
        if !machine.run() {
            break;
        }
    }
    machine.end(plan.code);
}

fn happen(machine: &Machine, event: Event) {
    let board = &machine.board;
    match event {
        Event::Message { address, data } => board.signal(0xfee0_0000 | address & 0xf_ffff, data.into()),
        Event::Vector(vector) => board.signal(0xfee0_0000, vector.into()),
        Event::ExtInt(level) => board.set_ext_int(level),
        Event::Time(nanos) => board.pass(Nanos(u64::from(nanos) << 8)),
        Event::Write { at, value } => machine.write(CODE + u64::from(at), &value.to_le_bytes()),
    }
}
