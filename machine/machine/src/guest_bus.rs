//! The board as its CPUs see it.

use crate::control::Control;
use crate::timers::Schedule;
use motu_bus::{AddressSpace, Clock, Effect};
use motu_hv::GuestBus;
use motu_x86::{Gpa, Nanos};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The interrupt controllers' sides that face the CPUs.
pub(crate) trait InterruptControllers: Send + Sync {
    /// The interrupt-acknowledge cycle of the 8259 pair.
    fn acknowledge(&self) -> u8;
    /// A local APIC ended the level-triggered interrupt `vector`.
    fn end_of_interrupt(&self, vector: u8);
}

/// Accesses that reached the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusCounters {
    pub port_reads: u64,
    pub port_writes: u64,
    pub mmio_reads: u64,
    pub mmio_writes: u64,
}

#[derive(Debug, Default)]
struct AtomicCounters {
    port_reads: AtomicU64,
    port_writes: AtomicU64,
    mmio_reads: AtomicU64,
    mmio_writes: AtomicU64,
}

/// Dispatches accesses to devices, and acts on what they ask for.
pub(crate) struct Bus {
    pub ports: Arc<AddressSpace>,
    pub mmio: Arc<AddressSpace>,
    pub interrupts: Box<dyn InterruptControllers>,
    pub clock: Arc<dyn Clock>,
    pub schedule: Arc<Schedule>,
    pub control: Arc<Control>,
    counters: AtomicCounters,
}

impl Bus {
    pub fn new(
        (ports, mmio): (Arc<AddressSpace>, Arc<AddressSpace>),
        interrupts: Box<dyn InterruptControllers>,
        clock: Arc<dyn Clock>,
        schedule: Arc<Schedule>,
        control: Arc<Control>,
    ) -> Self {
        Self { ports, mmio, interrupts, clock, schedule, control, counters: AtomicCounters::default() }
    }

    pub fn counters(&self) -> BusCounters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BusCounters {
            port_reads: load(&self.counters.port_reads),
            port_writes: load(&self.counters.port_writes),
            mmio_reads: load(&self.counters.mmio_reads),
            mmio_writes: load(&self.counters.mmio_writes),
        }
    }

    fn act(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Reschedule => self.schedule.reschedule(),
            Effect::Reset | Effect::PowerOff | Effect::DebugExit(_) => self.control.request(effect),
        }
    }
}

impl GuestBus for Bus {
    fn io_read(&self, port: u16, data: &mut [u8]) {
        self.counters.port_reads.fetch_add(1, Ordering::Relaxed);
        self.act(self.ports.read(port.into(), data));
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        self.counters.port_writes.fetch_add(1, Ordering::Relaxed);
        self.act(self.ports.write(port.into(), data));
    }

    fn mmio_read(&self, address: Gpa, data: &mut [u8]) {
        self.counters.mmio_reads.fetch_add(1, Ordering::Relaxed);
        self.act(self.mmio.read(address.0, data));
    }

    fn mmio_write(&self, address: Gpa, data: &[u8]) {
        self.counters.mmio_writes.fetch_add(1, Ordering::Relaxed);
        self.act(self.mmio.write(address.0, data));
    }

    fn acknowledge_interrupt(&self) -> u8 {
        self.interrupts.acknowledge()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.interrupts.end_of_interrupt(vector);
    }

    fn now(&self) -> Nanos {
        self.clock.now()
    }
}
