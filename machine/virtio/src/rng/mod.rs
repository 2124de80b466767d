//! The entropy device, virtio-rng (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.

#[cfg(test)]
mod tests;

use crate::device::{Activation, DeviceType, Interrupt, Progress, VirtioDevice};
use crate::queue::{Malformed, Next, VirtQueue};
use std::fmt;

const QUEUE_SIZE: u16 = 64;
/// Bytes given for one chain at most; a driver takes fewer than it asked for (virtio 1.2, 5.4.6.2).
pub const MAX_FILL: usize = 64 * 1024;
/// Bytes asked of the source at once.
const STEP: usize = 4096;

/// Fills a slice with random bytes.
pub type EntropySource = Box<dyn FnMut(&mut [u8]) + Send>;

/// The device.
pub struct Rng {
    source: EntropySource,
    active: Option<(VirtQueue, Interrupt)>,
}

impl Rng {
    pub fn new(source: EntropySource) -> Self {
        Self { source, active: None }
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rng").field("active", &self.active.is_some()).finish()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Entropy
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config_len(&self) -> u64 {
        0
    }

    fn read_config(&self, _: u64, _: &mut [u8]) {}

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn config_generation(&self) -> u8 {
        0
    }

    fn activate(&mut self, activation: Activation) {
        let Activation { queues, interrupt, .. } = activation;
        self.active = queues.into_iter().next().flatten().map(|queue| (queue, interrupt));
    }

    fn notify(&mut self, _: u16) -> Result<Progress, Malformed> {
        let Some((queue, interrupt)) = &mut self.active else { return Ok(Progress::Idle) };
        let mut budget = queue.budget();
        let mut used = false;
        let progress = loop {
            let chain = match queue.next(&mut budget)? {
                Next::Chain(chain) => chain,
                Next::Idle => break Progress::Idle,
                Next::Spent => break Progress::More,
            };
            let wanted = chain.writable.len().min(MAX_FILL);
            if wanted == 0 {
                return Err(Malformed::TooShort { queue: queue.index(), head: chain.head });
            }
            let mut done = 0;
            let mut bytes = [0; STEP];
            while let Some(part) = bytes.get_mut(..STEP.min(wanted - done)).filter(|p| !p.is_empty()) {
                (self.source)(part);
                if chain.writable.write(queue.memory(), done, part) < part.len() {
                    break;
                }
                done += part.len();
            }
            queue.push_used(chain.head, done)?;
            used = true;
        };
        if used && queue.needs_interrupt()? {
            interrupt.queue_used(queue.index());
        }
        Ok(progress)
    }

    fn reset(&mut self) {
        self.active = None;
    }
}
