//! A port as the host holds it.

use super::ConsoleShared;
use super::control::{Pending, WindowSize};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Bytes from the host that wait for the guest, unless [`PortSpec`] says otherwise.
pub const DEFAULT_INPUT_CAPACITY: usize = 64 * 1024;

/// What happens to a port, as the host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEvent {
    /// A program in the guest opened the port, or its kernel took it as a console.
    Opened,
    /// The guest closed it, or was reset. All it wrote before was given to [`PortBackend::output`].
    Closed,
    /// After [`PortHandle::send`] took less than all: at least half of the buffer is free again.
    InputRoom,
}

/// The host's end of a port.
///
/// Both are called with the console locked, from a vCPU's thread or from the thread that uses the
/// [`PortHandle`]: they return soon and never call the handle.
pub trait PortBackend: Send {
    /// Takes bytes from the guest; returns how many. After taking fewer than all, nothing more
    /// comes (the guest's writers wait) until [`PortHandle::resume`].
    ///
    /// Linux spins with interrupts off until a console's output is taken: for a console port,
    /// prefer taking all and dropping what is too much over making the guest wait for long.
    fn output(&mut self, data: &[u8]) -> usize;

    fn event(&mut self, event: PortEvent);
}

impl<F: FnMut(&[u8]) -> usize + Send> PortBackend for F {
    fn output(&mut self, data: &[u8]) -> usize {
        self(data)
    }

    fn event(&mut self, _: PortEvent) {}
}

/// A port to be made.
pub struct PortSpec {
    pub(super) name: Option<String>,
    pub(super) console: bool,
    pub(super) backend: Box<dyn PortBackend>,
    pub(super) input_capacity: usize,
}

impl PortSpec {
    /// A console: `/dev/hvc0`, `hvc1` and so on in Linux.
    pub fn console(backend: Box<dyn PortBackend>) -> Self {
        Self { name: None, console: true, backend, input_capacity: DEFAULT_INPUT_CAPACITY }
    }

    /// A byte stream with a name: `/dev/vport0pN` in Linux, and `/dev/virtio-ports/NAME` where udev runs.
    pub fn named(name: &str, backend: Box<dyn PortBackend>) -> Self {
        Self { name: Some(name.to_owned()), console: false, backend, input_capacity: DEFAULT_INPUT_CAPACITY }
    }

    /// How many bytes from the host may wait for the guest; at least 1.
    #[must_use]
    pub fn input_capacity(mut self, bytes: usize) -> Self {
        self.input_capacity = bytes.max(1);
        self
    }
}

impl fmt::Debug for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSpec")
            .field("name", &self.name)
            .field("console", &self.console)
            .field("input_capacity", &self.input_capacity)
            .finish_non_exhaustive()
    }
}

/// Bytes that went through a port since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// From the guest, taken by the backend.
    pub output: u64,
    /// From the guest, thrown away while the host's end was closed.
    pub discarded: u64,
    /// To the guest.
    pub input: u64,
}

/// A port as the device keeps it.
pub(super) struct Port {
    pub name: Option<String>,
    pub console: bool,
    pub backend: Box<dyn PortBackend>,
    pub input: VecDeque<u8>,
    pub input_capacity: usize,
    /// [`PortHandle::send`] took less than all since the last [`PortEvent::InputRoom`].
    pub wants_room: bool,
    pub host_open: bool,
    pub guest_open: bool,
    /// The last of Opened and Closed that the backend was told.
    pub reported_open: bool,
    /// The driver said PORT_READY.
    pub ready: bool,
    pub pending: Pending,
    /// The backend took less than all: the transmit queue stands still.
    pub throttled: bool,
    /// Bytes of the transmit queue's next chain that the backend has already taken.
    pub taken: usize,
    pub counters: PortCounters,
}

impl Port {
    pub fn new(spec: PortSpec) -> Self {
        Self {
            name: spec.name,
            console: spec.console,
            backend: spec.backend,
            input: VecDeque::new(),
            input_capacity: spec.input_capacity,
            wants_room: false,
            host_open: true,
            guest_open: false,
            reported_open: false,
            ready: false,
            pending: Pending::default(),
            throttled: false,
            taken: 0,
            counters: PortCounters::default(),
        }
    }

    /// The guest opened or closed its end.
    pub fn set_guest_open(&mut self, open: bool) {
        if open && !self.guest_open && self.reported_open {
            // The close before this open waited for output that is still on its way.
            self.report_open(false);
        }
        if !open && self.guest_open {
            // As with a pipe: what the reader left unread is nobody else's.
            self.input.clear();
        }
        self.guest_open = open;
        self.settle();
    }

    /// Tells the backend that the guest opened the port; that it closed, only after its last output.
    pub fn settle(&mut self) {
        if self.guest_open != self.reported_open && (self.guest_open || !self.throttled) {
            self.report_open(self.guest_open);
        }
    }

    fn report_open(&mut self, open: bool) {
        self.reported_open = open;
        self.backend.event(if open { PortEvent::Opened } else { PortEvent::Closed });
    }

    /// As if the guest had never seen the port. Input that no guest has opened the port for is kept.
    pub fn reset(&mut self) {
        self.throttled = false;
        self.taken = 0;
        self.ready = false;
        self.pending = Pending::default();
        self.set_guest_open(false);
    }

    /// Whether the host is now to hear of room for input; it is then as good as told.
    pub fn take_room_event(&mut self) -> bool {
        let due = self.wants_room && self.input.len() <= self.input_capacity / 2;
        if due {
            self.wants_room = false;
            self.backend.event(PortEvent::InputRoom);
        }
        due
    }

    /// Whether the guest must still be told of a close by the host: after all input before it.
    pub fn close_waits_for_input(&self) -> bool {
        self.pending.open == Some(false) && self.guest_open && !self.input.is_empty()
    }
}

/// The host's handle to a port; any thread. Clones are the same port.
#[derive(Clone)]
pub struct PortHandle {
    pub(super) console: Arc<ConsoleShared>,
    pub(super) id: usize,
}

impl PortHandle {
    /// Queues input for the guest and returns how many bytes of it there was room for.
    ///
    /// Input waits for the guest to open the port; what waits when it closes it is dropped. After
    /// less than all was taken, [`PortEvent::InputRoom`] and [`PortHandle::wait_room`] say when to
    /// go on. Nothing is taken after [`PortHandle::close`].
    pub fn send(&self, data: &[u8]) -> usize {
        self.console.send(self.id, data)
    }

    /// Waits until there is room for input; false if there is still none after `timeout`, or the
    /// host's end is closed.
    pub fn wait_room(&self, timeout: Duration) -> bool {
        self.console.wait_room(self.id, timeout)
    }

    /// The backend has room again: goes on with the guest's output.
    pub fn resume(&self) {
        self.console.resume(self.id);
    }

    /// Opens the host's end, as it is at first.
    pub fn open(&self) {
        self.console.set_host_open(self.id, true);
    }

    /// Closes the host's end: the guest reads what was sent, then end of file. What it writes is dropped.
    pub fn close(&self) {
        self.console.set_host_open(self.id, false);
    }

    /// Whether the guest has the port open.
    pub fn guest_open(&self) -> bool {
        self.console.with_port(self.id, |port| port.guest_open).unwrap_or(false)
    }

    /// Whether the host's end is open.
    pub fn host_open(&self) -> bool {
        self.console.with_port(self.id, |port| port.host_open).unwrap_or(false)
    }

    pub fn counters(&self) -> PortCounters {
        self.console.with_port(self.id, |port| port.counters).unwrap_or_default()
    }

    /// The size of the terminal behind every console port; the guest is told if it changed.
    pub fn set_size(&self, cols: u16, rows: u16) {
        self.console.set_size(WindowSize { cols, rows });
    }
}

impl fmt::Debug for PortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortHandle({})", self.id)
    }
}
