//! Telling what a machine does while it runs: `--trace` and `--profile`.

use motu_hv::{GuestBus, Profiler, Tracer};
use motu_x86::{Gpa, Nanos};
use std::fmt;
use std::sync::Arc;

/// Makes the tracer of a virtual CPU from its number.
pub type PerCpu<T> = Box<dyn Fn(u32) -> Box<T>>;

/// Who is told what the machine does. Nobody by default, and then it costs nothing.
#[derive(Default)]
pub struct Tracing {
    /// Is told of events and instructions.
    pub cpu: Option<PerCpu<dyn Tracer>>,
    /// Is told of accesses to the board.
    pub access: Option<PerCpu<dyn AccessTracer>>,
    /// Is told where the CPU's time goes.
    pub profile: Option<PerCpu<dyn Profiler>>,
}

/// Is told of accesses to the board, on the vCPU's thread and with no lock held: the guest waits
/// until it returns.
pub trait AccessTracer: Send + Sync {
    fn access(&self, access: &Access);
}

/// One access of a CPU to something that is no RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub space: Space,
    pub direction: Direction,
    /// A port, or a guest-physical address.
    pub address: u64,
    /// In bytes: 1, 2 or 4 for ports, 1 to 8 for memory.
    pub size: usize,
    /// What was read or is about to be written, zero-extended.
    pub value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Port,
    Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Told after it: with what the guest gets.
    Read,
    /// Told before it, so that what it leads to comes after.
    Write,
}

/// A bus that tells of every access what it was.
pub(crate) struct TracedBus<B> {
    bus: Arc<B>,
    tracer: Box<dyn AccessTracer>,
}

impl<B: GuestBus> TracedBus<B> {
    pub fn new(bus: Arc<B>, tracer: Box<dyn AccessTracer>) -> Self {
        Self { bus, tracer }
    }

    fn tell(&self, space: Space, direction: Direction, address: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        self.tracer.access(&Access { space, direction, address, size: data.len(), value });
    }
}

impl<B: GuestBus + Send + Sync> GuestBus for TracedBus<B> {
    fn io_read(&self, port: u16, data: &mut [u8]) {
        self.bus.io_read(port, data);
        self.tell(Space::Port, Direction::Read, port.into(), data);
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        self.tell(Space::Port, Direction::Write, port.into(), data);
        self.bus.io_write(port, data);
    }

    fn mmio_read(&self, address: Gpa, data: &mut [u8]) {
        self.bus.mmio_read(address, data);
        self.tell(Space::Memory, Direction::Read, address.0, data);
    }

    fn mmio_write(&self, address: Gpa, data: &[u8]) {
        self.tell(Space::Memory, Direction::Write, address.0, data);
        self.bus.mmio_write(address, data);
    }

    fn acknowledge_interrupt(&self) -> u8 {
        self.bus.acknowledge_interrupt()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.bus.end_of_interrupt(vector);
    }

    fn now(&self) -> Nanos {
        self.bus.now()
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing")
            .field("cpu", &self.cpu.is_some())
            .field("access", &self.access.is_some())
            .finish_non_exhaustive()
    }
}
