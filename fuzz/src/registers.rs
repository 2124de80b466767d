//! What the targets of devices stand on: a clock, lines that end nowhere, and accesses out of bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use motu_bus::{Clock, Device, IrqLine, IrqSink, MsiSink, Nanos, Timed};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two thousand years: no machine lives longer, and sums of a few such times are still times.
const END_OF_TIME: u64 = 1 << 62;

/// A clock that only the input moves.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves on by a mantissa and an exponent, so that all magnitudes are as likely.
    pub fn pass(&self, input: &mut Unstructured<'_>) -> Result<Nanos> {
        let (step, shift) = (u64::from(u16::arbitrary(input)?), u8::arbitrary(input)? % 44);
        let now = self.now().saturating_add(Nanos(step << shift)).min(Nanos(END_OF_TIME));
        self.0.store(now.0, Ordering::Relaxed);
        Ok(now)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }
}

/// The end of all lines and messages.
#[derive(Debug, Default)]
pub struct Nowhere;

impl Nowhere {
    pub fn line() -> IrqLine {
        IrqLine::new(Arc::new(Nowhere), 0)
    }
}

impl IrqSink for Nowhere {
    fn set(&self, _: u32, _: bool) {}
}

impl MsiSink for Nowhere {
    fn signal(&self, _: u64, _: u32) {}
}

/// Performs the access of 1, 2, 4 or 8 bytes that comes next in `input`, at an offset up to `last`.
pub fn access(device: &mut dyn Device, last: u16, input: &mut Unstructured<'_>) -> Result<()> {
    let kind = u8::arbitrary(input)?;
    let offset = if last <= 0xff { u16::from(u8::arbitrary(input)?) } else { u16::arbitrary(input)? };
    let offset = u64::from(offset) % (u64::from(last) + 1);
    let len = 1 << (kind >> 1 & 3);
    let mut data = [0; 8];
    let Some(data) = data.get_mut(..len) else { return Ok(()) };
    if kind & 1 == 0 {
        device.read(offset, data);
    } else {
        input.fill_buffer(data)?;
        device.write(offset, data);
    }
    Ok(())
}

/// Lets time pass, and the device notice as the board's timers have it notice.
///
/// # Panics
/// The device asks to be woken again at once, which would keep the board's timers busy for ever.
pub fn pass_time(device: &mut dyn Timed, clock: &ManualClock, input: &mut Unstructured<'_>) -> Result<()> {
    let now = clock.pass(input)?;
    if device.next_deadline().is_some_and(|deadline| deadline <= now) {
        device.expire(now);
        let next = device.next_deadline();
        assert!(next.is_none_or(|next| next > now), "woken at {now:?}, it wants to be woken at {next:?}");
    }
    Ok(())
}

/// Runs `step` until the input is used up, with an operation and what follows it.
pub fn steps(bytes: &[u8], mut step: impl FnMut(u8, &mut Unstructured<'_>) -> Result<()>) {
    let mut input = Unstructured::new(bytes);
    while !input.is_empty() {
        // At the end of the input integers are filled up with zeros, slices are refused: both are the end.
        if u8::arbitrary(&mut input).and_then(|operation| step(operation, &mut input)).is_err() {
            return;
        }
    }
}
