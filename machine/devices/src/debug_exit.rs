//! The port by which test kernels end the machine with a status: QEMU's `isa-debug-exit`.

use motu_bus::{Device, Effect};

/// QEMU's `isa-debug-exit` with `iobase=0xf4,iosize=4`: a write of 1, 2 or 4 bytes to its ports ends
/// the machine, reads give zero.
///
/// As with QEMU, an access that is not aligned to its size does nothing: the 4 ports are no registers of
/// a byte each, and any of them will do.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugExit;

impl DebugExit {
    /// The first port, where test kernels look for it.
    pub const PORT: u64 = 0xf4;
    pub const PORTS: u64 = 4;

    pub fn new() -> Self {
        Self
    }
}

impl Device for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) -> Effect {
        data.fill(0);
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let value = match *data {
            [byte] => u32::from(byte),
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return Effect::None,
        };
        if !offset.is_multiple_of(data.len() as u64) {
            return Effect::None;
        }
        Effect::DebugExit(value)
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{accesses, perform};
    use proptest::prelude::*;

    #[test]
    fn a_write_of_any_size_to_any_port_that_is_aligned_ends_the_machine() {
        let value = 0x8765_4321u32.to_le_bytes();
        let answers = [
            (0, 1, Effect::DebugExit(0x21)),
            (1, 1, Effect::DebugExit(0x21)),
            (3, 1, Effect::DebugExit(0x21)),
            (0, 2, Effect::DebugExit(0x4321)),
            (2, 2, Effect::DebugExit(0x4321)),
            (0, 4, Effect::DebugExit(0x8765_4321)),
            (1, 2, Effect::None),
            (3, 2, Effect::None),
            (2, 4, Effect::None),
        ];
        for (offset, size, effect) in answers {
            assert_eq!(DebugExit::new().write(offset, &value[..size]), effect, "{size} bytes at {offset}");
        }
    }

    #[test]
    fn reads_give_zero() {
        let mut data = [0xff; 4];
        assert_eq!(DebugExit::new().read(0, &mut data), Effect::None);
        assert_eq!(data, [0; 4]);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in accesses(DebugExit::PORTS)) {
            for access in &accesses {
                perform(&mut DebugExit::new(), access);
            }
        }
    }
}
