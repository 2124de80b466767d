//! Helpers for port devices: a second window onto a device, and ports that nothing depends on.

use motu_bus::{Device, Effect};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Makes a device that was made for a run of ports answer at a part of it that lies elsewhere in
/// the address space: offset 0 here is offset `base` there.
///
/// The keyboard controller needs it: its ports 0x60 and 0x64 have another device's 0x61 between.
pub struct Window {
    device: Arc<Mutex<dyn Device>>,
    base: u64,
}

impl Window {
    pub fn new(device: Arc<Mutex<dyn Device>>, base: u64) -> Self {
        Self { device, base }
    }
}

impl Device for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        motu_bus::lock(&self.device).read(self.base.wrapping_add(offset), data)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        motu_bus::lock(&self.device).write(self.base.wrapping_add(offset), data)
    }

    /// Nothing: the device is reset by whoever owns it.
    fn reset(&mut self) {}
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Ports whose writes do nothing and whose reads give what was written last: the POST code port
/// 0x80, which kernels write to for a delay, and the DMA page registers beside it.
#[derive(Debug, Default)]
pub struct DebugPort {
    latch: [u8; 16],
}

impl DebugPort {
    /// How many ports there are; accesses beyond read as all ones.
    pub const PORTS: u64 = 16;

    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for DebugPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at).ok().and_then(|at| self.latch.get(at).copied()).unwrap_or(0xff);
        }
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        for (&byte, at) in data.iter().zip(offset..) {
            if let Some(latch) = usize::try_from(at).ok().and_then(|at| self.latch.get_mut(at)) {
                *latch = byte;
            }
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.latch = [0; 16];
    }
}

/// Ports that are there but do nothing: all ones, writes ignored.
#[derive(Debug, Default)]
pub struct Ignored;

impl Device for Ignored {
    fn read(&mut self, _offset: u64, data: &mut [u8]) -> Effect {
        data.fill(0xff);
        Effect::None
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_bus::shared;

    #[test]
    fn a_window_shows_the_device_further_on() {
        let mut window = Window::new(shared(DebugPort::new()), 4);
        window.write(1, &[7, 8]);
        let mut data = [0; 3];
        window.read(0, &mut data);
        assert_eq!(data, [0, 7, 8]);
        window.read(u64::MAX, &mut data);
        assert_eq!(data, [0, 0, 7], "the sum wraps to offset 3");
    }

    #[test]
    fn past_the_last_port_nothing_answers() {
        let mut port = DebugPort::new();
        let mut data = [0; 2];
        port.write(15, &[1, 2]);
        port.read(15, &mut data);
        assert_eq!(data, [1, 0xff]);
    }
}
