//! One virtqueue, its rings written by the input while it is in use.

use crate::registers::steps;
use arbitrary::{Arbitrary, Result, Unstructured};
use motu_memory::GuestRam;
use motu_virtio::queue::{Chain, Next, QueueSetup, VirtQueue};
use motu_x86::Gpa;

/// Bytes of RAM: rings in the first page, buffers anywhere.
const RAM: u64 = 64 << 10;
const DESCRIPTORS: u64 = 0x100;
const AVAILABLE: u64 = 0x800;
const USED: u64 = 0xa00;
const INDIRECT: u64 = 0x1000;
const MAX_SIZE: u16 = 64;

/// An address in RAM, or one of all 64 bits.
fn address(input: &mut Unstructured<'_>) -> Result<u64> {
    let low = u32::arbitrary(input)?;
    if low & 0x8000_0000 == 0 { Ok(u64::from(low) % (RAM + 64)) } else { Ok(u64::arbitrary(input)?) }
}

fn setup(input: &mut Unstructured<'_>) -> Result<QueueSetup> {
    let usual =
        QueueSetup { index: 0, size: 8, max_size: MAX_SIZE, descriptors: DESCRIPTORS, driver: AVAILABLE, device: USED };
    let choice = u8::arbitrary(input)?;
    Ok(match choice {
        0..=0x7f => QueueSetup { size: 1 << (choice & 7), ..usual },
        0x80..=0xbf => QueueSetup { size: u16::arbitrary(input)?, ..usual },
        _ => QueueSetup { descriptors: address(input)?, driver: address(input)?, device: address(input)?, ..usual },
    })
}

fn write(ram: &GuestRam, at: u64, bytes: &[u8]) {
    // Outside RAM there is nothing to write to.
    _ = ram.write(Gpa(at), bytes);
}

fn descriptor(ram: &GuestRam, table: u64, input: &mut Unstructured<'_>) -> Result<()> {
    let at = table + 16 * u64::from(u8::arbitrary(input)? & 63);
    write(ram, at, &address(input)?.to_le_bytes());
    let len = u32::arbitrary(input)?;
    let len = if len & 0x8000_0000 == 0 { len % 0x1100 } else { len };
    write(ram, at + 8, &len.to_le_bytes());
    let [flags, next] = <[u8; 2]>::arbitrary(input)?;
    write(ram, at + 12, &[flags & 7, 0, next & 63, 0]);
    Ok(())
}

/// What a device does with a chain.
fn use_chain(queue: &mut VirtQueue, chain: &Chain, input: &mut Unstructured<'_>) -> Result<()> {
    let offset = usize::from(u16::arbitrary(input)?);
    let mut data = [0x5a; 0x200];
    let read = chain.readable.read(queue.memory(), offset, &mut data);
    assert!(read <= chain.readable.len().saturating_sub(offset));
    let written = chain.writable.write(queue.memory(), offset, &data);
    assert!(written <= chain.writable.len().saturating_sub(offset));
    _ = queue.push_used(chain.head, written);
    Ok(())
}

pub fn run(bytes: &[u8]) {
    let Ok(ram) = GuestRam::new(RAM) else { return };
    let mut queue = None;
    let mut available = 0u16;
    steps(bytes, |operation, input| {
        match operation % 8 {
            0 => descriptor(&ram, DESCRIPTORS, input)?,
            1 => descriptor(&ram, INDIRECT, input)?,
            2 => {
                // One more head, as a driver does it.
                let head = u8::arbitrary(input)?;
                write(&ram, AVAILABLE + 4 + 2 * u64::from(available % 8), &[head & 63, 0]);
                available = available.wrapping_add(1);
                write(&ram, AVAILABLE + 2, &available.to_le_bytes());
            }
            3 => {
                let (at, value) = (u16::arbitrary(input)?, u16::arbitrary(input)?);
                write(&ram, DESCRIPTORS + u64::from(at) % (INDIRECT - DESCRIPTORS), &value.to_le_bytes());
            }
            4 if operation & 0x18 == 0 || queue.is_none() => {
                let setup = setup(input)?;
                _ = setup.check(ram.mmap());
                queue = VirtQueue::new(&setup, operation & 0x80 != 0, ram.mmap()).ok();
            }
            _ => return operate(queue.as_mut(), operation >> 3, input),
        }
        Ok(())
    });
}

fn operate(queue: Option<&mut VirtQueue>, operation: u8, input: &mut Unstructured<'_>) -> Result<()> {
    let Some(queue) = queue else { return Ok(()) };
    match operation % 6 {
        0 => {
            if let Ok(Some(chain)) = queue.pop() {
                use_chain(queue, &chain, input)?;
            }
        }
        1 => {
            let mut budget = queue.budget();
            while let Ok(Next::Chain(chain)) = queue.next(&mut budget) {
                use_chain(queue, &chain, input)?;
            }
        }
        2 => _ = queue.rearm(),
        3 => _ = queue.needs_interrupt(),
        4 => _ = queue.push_used(u16::arbitrary(input)?, usize::from(operation)),
        _ => {
            if let Ok(Some(_)) = queue.pop() {
                queue.undo_pop();
            }
        }
    }
    Ok(())
}
