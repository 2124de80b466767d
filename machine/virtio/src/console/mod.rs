//! The console device, virtio-console (virtio 1.2, 5.3): terminals and named byte streams.
//!
//! Port 0 is at queues 0 and 1, so that a driver without MULTIPORT has it; every other port and the
//! control queues need MULTIPORT. Host and guest each open and close their end of a port:
//!
//! ```text
//!   host                          device                            guest
//!   PortHandle::send ──► bounded input buffer ──► receive queue ──► read()
//!   PortBackend::output ◄───────────────────────── transmit queue ◄── write()
//! ```
//!
//! Neither direction buffers without bound. Input that has no room is not taken from the host;
//! output that the backend does not take stays in the guest's ring, and its writers wait.
//!
//! One lock guards all ports. It is taken by the vCPU thread that notifies a queue and by the host's
//! threads through [`PortHandle`]; under it, backends are called and interrupts raised.

mod control;
mod pipe;
mod port;
mod state;
#[cfg(test)]
mod tests;

pub use control::{ResizeOrder, WindowSize};
pub use pipe::{PipeBackend, PipeReader, PortStream, pipe};
pub use port::{DEFAULT_INPUT_CAPACITY, PortBackend, PortCounters, PortEvent, PortHandle, PortSpec};

use crate::device::{Activation, DeviceType, Progress, VirtioDevice, read_space};
use crate::queue::Malformed;
use port::Port;
use state::{F_MULTIPORT, State};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ports that one device has at most: their queues and MSI-X vectors are a fixed cost.
pub const MAX_PORTS: usize = 31;
/// Bytes of a port's name: Linux gives a page to each control message.
pub const MAX_NAME: usize = 255;
/// VIRTIO_CONSOLE_F_SIZE.
const F_SIZE: u64 = 1 << 0;
/// Bytes of `struct virtio_console_config`: cols, rows, max_nr_ports, emerg_wr.
const CONFIG_LEN: usize = 12;
const DATA_QUEUE_SIZE: u16 = 64;
const CONTROL_QUEUE_SIZE: u16 = 32;

/// Why a console cannot be made as asked.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsoleError {
    #[error("a console has 1 to {MAX_PORTS} ports, not {0}")]
    Ports(usize),
    #[error("the port name {0:?} must have 1 to {MAX_NAME} bytes, none of them '/' or NUL")]
    Name(String),
}

/// The device, for a transport. The host holds its [`PortHandle`]s.
pub struct Console {
    shared: Arc<ConsoleShared>,
    queue_sizes: Vec<u16>,
}

impl Console {
    /// Makes a console and the handles of its ports, in their order.
    ///
    /// # Errors
    /// The number of ports or a port's name.
    pub fn new(ports: Vec<PortSpec>, resize_order: ResizeOrder) -> Result<(Self, Vec<PortHandle>), ConsoleError> {
        let count = ports.len();
        if count == 0 || count > MAX_PORTS {
            return Err(ConsoleError::Ports(count));
        }
        let bad = |name: &&String| name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0']);
        if let Some(name) = ports.iter().filter_map(|p| p.name.as_ref()).find(bad) {
            return Err(ConsoleError::Name(name.clone()));
        }
        let mut queue_sizes = vec![DATA_QUEUE_SIZE; 2 * count + 2];
        if let Some(control) = queue_sizes.get_mut(2..4) {
            control.fill(CONTROL_QUEUE_SIZE);
        }
        let state = State {
            ports: ports.into_iter().map(Port::new).collect(),
            size: WindowSize::default(),
            resize_order,
            generation: 0,
            active: None,
        };
        let shared = Arc::new(ConsoleShared { state: Mutex::new(state), room: Condvar::new() });
        let handles = (0..count).map(|id| PortHandle { console: Arc::clone(&shared), id }).collect();
        Ok((Self { shared, queue_sizes }, handles))
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("queues", &self.queue_sizes.len()).finish_non_exhaustive()
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn features(&self) -> u64 {
        F_SIZE | F_MULTIPORT
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config_len(&self) -> u64 {
        CONFIG_LEN as u64
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let state = self.shared.lock();
        let ports = u32::try_from(state.ports.len()).unwrap_or(0);
        let mut config = [0; CONFIG_LEN];
        let fields = state.size.cols.to_le_bytes().into_iter().chain(state.size.rows.to_le_bytes());
        for (byte, value) in config.iter_mut().zip(fields.chain(ports.to_le_bytes())) {
            *byte = value;
        }
        read_space(&config, offset, data);
    }

    fn write_config(&mut self, _: u64, _: &[u8]) {}

    fn config_generation(&self) -> u8 {
        self.shared.lock().generation
    }

    fn activate(&mut self, activation: Activation) {
        self.shared.lock().activate(activation);
    }

    fn notify(&mut self, queue: u16) -> Result<Progress, Malformed> {
        self.shared.lock().notify(queue, &self.shared.room)
    }

    fn reset(&mut self) {
        let mut state = self.shared.lock();
        state.reset();
        self.shared.room.notify_all();
    }
}

/// What the device and the handles share.
pub(crate) struct ConsoleShared {
    state: Mutex<State>,
    /// A port's input buffer has room again, or never will.
    room: Condvar,
}

impl ConsoleShared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does host-side work on the queues; a driver that broke them is told so.
    fn work<T: Default>(&self, work: impl FnOnce(&mut State) -> Result<T, Malformed>) -> T {
        let mut state = self.lock();
        work(&mut state).unwrap_or_else(|why| {
            state.fail(why);
            T::default()
        })
    }

    fn with_port<T>(&self, id: usize, read: impl FnOnce(&Port) -> T) -> Option<T> {
        self.lock().ports.get(id).map(read)
    }

    fn send(&self, id: usize, data: &[u8]) -> usize {
        let mut state = self.lock();
        let mut left = data;
        while let Some(port) = state.ports.get_mut(id).filter(|p| p.host_open) {
            let room = port.input_capacity.saturating_sub(port.input.len());
            let (part, rest) = left.split_at(room.min(left.len()));
            if part.is_empty() {
                port.wants_room = !rest.is_empty();
                break;
            }
            port.input.extend(part);
            left = rest;
            if let Err(why) = state.deliver_input(id, &self.room) {
                state.fail(why);
            }
        }
        data.len() - left.len()
    }

    fn wait_room(&self, id: usize, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            let Some(port) = state.ports.get_mut(id).filter(|p| p.host_open) else { return false };
            if port.input.len() < port.input_capacity {
                return true;
            }
            port.wants_room = true;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.room.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn resume(&self, id: usize) {
        // The lock is given back between the rounds, for a guest that keeps writing.
        while self.work(|state| {
            if let Some(port) = state.ports.get_mut(id) {
                port.throttled = false;
            }
            state.take_output(id).map(|progress| progress == Progress::More)
        }) {}
    }

    fn set_host_open(&self, id: usize, open: bool) {
        self.work(|state| state.set_host_open(id, open));
        self.room.notify_all();
    }

    fn set_size(&self, size: WindowSize) {
        self.work(|state| state.set_size(size));
    }
}
