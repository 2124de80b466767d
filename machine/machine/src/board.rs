//! The standard PC: which device sits where.
//!
//! ```text
//!   port   0x020 0x0a0 0x4d0  8259 pair          memory  0xc000_0000..  PCI BARs
//!          0x040 0x061        8254 timer                 0xfec0_0000    I/O APIC
//!          0x060 0x064        8042                       0xfee0_0000    local APICs (the engine's)
//!          0x070              MC146818 clock
//!          0x080              POST code              PCI slot 1  virtio-rng
//!          0x0f4              debug exit, if asked for    slot 2  virtio-console
//!          0x3f8              16550A, COM1               slots 3.. virtio-blk, a disk each
//!          0x600 0x604 0x608  ACPI power management
//!          0xcf8              PCI configuration, 0xcf9 reset
//! ```

use crate::clock::MachineClock;
use crate::control::Control;
use crate::guest_bus::{Bus, InterruptControllers};
use crate::timers::Schedule;
use crate::{DiskConfig, MachineError, PortStream, SerialInput, ShareConfig};
use motu_boot::BoardTables;
use motu_bus::{AddressSpace, Clock, Device, IrqLine, IrqSink, MsiSink, Shared, Timed, lock, shared};
use motu_devices::acpi_pm::{self, AcpiPm};
use motu_devices::debug_exit::DebugExit;
use motu_devices::i8042::I8042;
use motu_devices::ioapic::{IoApic, IoApicMmio};
use motu_devices::isa::IsaIrqRouter;
use motu_devices::pci::{Intx, IntxRouter, PciBus, Pin};
use motu_devices::pic::Pic;
use motu_devices::pit::Pit;
use motu_devices::ports::{DebugPort, Window};
use motu_devices::rtc::Rtc;
use motu_devices::uart::Uart;
use motu_hv::{Msi, Vm};
use motu_memory::GuestRam;
use motu_virtio::block::{Block, BlockSpec, DiskHandle, MAX_QUEUES};
use motu_virtio::console::{Console, PortSpec, ResizeOrder, pipe};
use motu_virtio::device::VirtioDevice;
use motu_virtio::fs::FileSystem;
use motu_virtio::pci::VirtioPci;
use motu_virtio::rng::{EntropySource, Rng};
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PIC_FIRST: u64 = 0x20;
const PIC_SECOND: u64 = 0xa0;
const ELCR: u64 = 0x4d0;
const POST_CODE: u64 = 0x80;
const TIMER: u64 = 0x40;
const SPEAKER: u64 = 0x61;
const KEYBOARD_DATA: u64 = 0x60;
const KEYBOARD_COMMAND: u64 = 0x64;
/// Offset of the 8042's second port from its first.
const KEYBOARD_STEP: u64 = KEYBOARD_COMMAND - KEYBOARD_DATA;
const TIMER_IRQ: u8 = 0;
const PCI_CONFIG_PORTS: u64 = 8;
const PCI_CONFIG: u64 = 0xcf8;
const RNG_SLOT: u8 = 1;
const CONSOLE_SLOT: u8 = 2;
const FIRST_DISK_SLOT: u8 = 3;
/// Disks at most; one slot is left to spare.
pub const MAX_DISKS: usize = 28;
/// Threads that do a disk's requests: one that works, and others when that waits for the host (ADR 26).
const DISK_WORKERS: u16 = 8;
/// After so long without a request a disk is flushed.
const DISK_QUIET: Duration = Duration::from_millis(200);
const CONSOLE: &str = "virtio console";
/// Bytes from the guest that a port's reader may leave unread.
const PORT_BUFFER: usize = 256 << 10;

/// All devices, and the buses that reach them.
pub(crate) struct Board {
    ram: GuestRam,
    tables: BoardTables,
    clock: Arc<MachineClock>,
    schedule: Arc<Schedule>,
    bus: Arc<Bus>,
    pci: Shared<PciBus>,
    /// Everything but PCI, in the order of its reset: interrupt controllers last, so that the lines
    /// that devices lower reach them.
    devices: Vec<Shared<dyn Device>>,
    timed: Vec<Shared<dyn Timed>>,
    serial: SerialInput,
    ports: Vec<(String, PortStream)>,
    disks: Vec<DiskHandle>,
}

/// What of the host the devices reach; see [`crate::MachineConfig`].
pub(crate) struct HostSide {
    pub serial: Box<dyn Write + Send>,
    pub ports: Vec<String>,
    pub disks: Vec<DiskConfig>,
    pub shares: Vec<ShareConfig>,
    pub entropy: EntropySource,
    pub debug_exit: bool,
}

/// Messages to the local APICs.
struct ApicMessages(Arc<dyn Vm>);

impl MsiSink for ApicMessages {
    fn signal(&self, address: u64, data: u32) {
        self.0.signal_msi(Msi { address, data });
    }
}

struct Controllers {
    pic: Arc<Pic>,
    io_apic: Arc<IoApic>,
}

impl InterruptControllers for Controllers {
    fn acknowledge(&self) -> u8 {
        self.pic.acknowledge()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.io_apic.end_of_interrupt(vector);
    }
}

/// What devices are wired to while the board is put together.
struct Wiring {
    irqs: Arc<dyn IrqSink>,
    clock: Arc<dyn Clock>,
    ports: Arc<AddressSpace>,
    devices: Vec<Shared<dyn Device>>,
    timed: Vec<Shared<dyn Timed>>,
}

impl Wiring {
    fn irq(&self, number: u8) -> IrqLine {
        IrqLine::new(Arc::clone(&self.irqs), number.into())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Lets `device` answer at `len` ports from `port` on.
    fn map(&self, name: &'static str, port: u64, len: u64, device: Shared<dyn Device>) -> Result<(), MachineError> {
        self.ports.map(port, len, device).map_err(|source| MachineError::Map { device: name, source })
    }

    /// The same for a device that is reset with the board.
    fn add<D: Device + 'static>(
        &mut self,
        name: &'static str,
        port: u64,
        len: u64,
        device: D,
    ) -> Result<Shared<D>, MachineError> {
        let device = shared(device);
        self.map(name, port, len, Arc::<Mutex<D>>::clone(&device))?;
        self.devices.push(Arc::<Mutex<D>>::clone(&device));
        Ok(device)
    }

    fn add_timers(&mut self, tables: &BoardTables) -> Result<(), MachineError> {
        let pit = self.add("8254 timer", TIMER, 4, Pit::new(self.clock(), self.irq(TIMER_IRQ)))?;
        self.map("speaker port", SPEAKER, 1, shared(Window::new(Arc::<Mutex<Pit>>::clone(&pit), Pit::SPEAKER)))?;
        let rtc = Rtc::new(self.clock(), self.irq(tables.rtc.irq), unix_now());
        let rtc = self.add("real-time clock", tables.rtc.port.into(), tables.rtc.ports.into(), rtc)?;
        let pm = AcpiPm::new(self.clock(), self.irq(tables.power.sci));
        let pm_len = u64::from(acpi_pm::ports::LEN);
        let pm = self.add("ACPI power management", tables.power.event.into(), pm_len, pm)?;
        self.timed = vec![pit, rtc, pm];
        Ok(())
    }

    fn add_keyboard(&mut self, tables: &BoardTables) -> Result<(), MachineError> {
        let keyboard = self.add("keyboard controller", KEYBOARD_DATA, 1, I8042::new(self.irq(tables.keyboard_irq)))?;
        let command = shared(Window::new(keyboard, KEYBOARD_STEP));
        self.map("keyboard command port", KEYBOARD_COMMAND, 1, command)
    }

    fn add_serial(
        &mut self,
        tables: &BoardTables,
        mut output: Box<dyn Write + Send>,
    ) -> Result<SerialInput, MachineError> {
        // A host that takes no more output is not the guest's trouble.
        let print = move |bytes: &[u8]| drop(output.write_all(bytes));
        let uart = Uart::new(self.irq(tables.serial.irq), Box::new(print));
        let uart = self.add("serial port", tables.serial.port.into(), tables.serial.ports.into(), uart)?;
        Ok(SerialInput::new(uart))
    }

    fn add_interrupt_controllers(&mut self, pic: &Arc<Pic>) -> Result<(), MachineError> {
        self.add("first 8259", PIC_FIRST, 2, pic.first_ports())?;
        self.add("second 8259", PIC_SECOND, 2, pic.second_ports())?;
        self.add("8259 edge/level control", ELCR, 2, pic.elcr_ports())?;
        Ok(())
    }
}

/// What a virtio function needs of the board.
struct Slots<'a> {
    ram: &'a GuestRam,
    msi: Arc<dyn MsiSink>,
    intx: Arc<IntxRouter>,
    pci: Shared<PciBus>,
}

impl Slots<'_> {
    fn add(&self, name: &'static str, slot: u8, device: Box<dyn VirtioDevice>) -> Result<(), MachineError> {
        let intx = Intx::new(&self.intx, slot, Pin::A);
        VirtioPci::new(device, self.ram, Arc::clone(&self.msi), Some(intx))
            .and_then(|function| function.attach(&mut lock(&self.pci), slot))
            .map_err(|error| MachineError::Device { device: name, reason: error.to_string() })?;
        Ok(())
    }

    fn add_storage(
        &self,
        disks: Vec<DiskConfig>,
        shares: Vec<ShareConfig>,
        cpus: u32,
    ) -> Result<Vec<DiskHandle>, MachineError> {
        let together = disks.len() + shares.len();
        if together > MAX_DISKS {
            let reason = format!("{together} disks and shares are more than the {MAX_DISKS} that have a slot");
            return Err(MachineError::Device { device: "disk", reason });
        }
        let (mut slots, mut handles) = (FIRST_DISK_SLOT.., Vec::new());
        let queues = u16::try_from(cpus).unwrap_or(MAX_QUEUES).min(MAX_QUEUES);
        for ((n, DiskConfig { disk, serial, failures }), slot) in disks.into_iter().enumerate().zip(&mut slots) {
            let (name, workers, quiet_after) = (format!("disk{n}"), DISK_WORKERS, DISK_QUIET);
            let spec = BlockSpec { disk, serial, queues, workers, name, failures, quiet_after };
            let block = Block::new(spec).map_err(|source| MachineError::Thread { what: "disk", source })?;
            handles.push(block.handle());
            self.add("disk", slot, Box::new(block))?;
        }
        for ((n, ShareConfig { share, tag }), slot) in shares.into_iter().enumerate().zip(&mut slots) {
            let device = FileSystem::new(&tag, share, &format!("share{n}"))
                .map_err(|source| MachineError::Thread { what: "shared folder", source })?;
            self.add("shared folder", slot, Box::new(device))?;
        }
        Ok(handles)
    }

    fn add_console(&self, names: &[String]) -> Result<Vec<(String, PortStream)>, MachineError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let (specs, readers): (Vec<_>, Vec<_>) = names
            .iter()
            .map(|name| {
                let (backend, reader) = pipe(PORT_BUFFER);
                (PortSpec::named(name, Box::new(backend)), reader)
            })
            .unzip();
        let failed = |error: &dyn fmt::Display| MachineError::Device { device: CONSOLE, reason: error.to_string() };
        let (console, handles) = Console::new(specs, ResizeOrder::default()).map_err(|error| failed(&error))?;
        self.add(CONSOLE, CONSOLE_SLOT, Box::new(console))?;
        let streams = readers.into_iter().zip(handles).map(|(reader, handle)| reader.attach(handle));
        Ok(names.iter().cloned().zip(streams).collect())
    }
}

impl Board {
    /// # Errors
    /// Two devices want the same place, or a port's name is not one: the caller's mistakes.
    pub fn new(
        ram: GuestRam,
        vm: Arc<dyn Vm>,
        tables: BoardTables,
        control: Arc<Control>,
        host: HostSide,
    ) -> Result<Self, MachineError> {
        let clock = Arc::new(MachineClock::new());
        let msi: Arc<dyn MsiSink> = Arc::new(ApicMessages(Arc::clone(&vm)));
        let pic = Arc::new(Pic::new(Box::new(move |level| vm.set_ext_int(level))));
        let io_apic = Arc::new(IoApic::new(Arc::clone(&msi)));
        let (ports, mmio) = (Arc::new(AddressSpace::new()), Arc::new(AddressSpace::new()));
        let mut wiring = Wiring {
            irqs: Arc::new(IsaIrqRouter::new(Arc::clone(&pic), Arc::clone(&io_apic))),
            clock: Arc::<MachineClock>::clone(&clock),
            ports: Arc::clone(&ports),
            devices: Vec::new(),
            timed: Vec::new(),
        };
        wiring.add_timers(&tables)?;
        wiring.add_keyboard(&tables)?;
        wiring.add("POST code port", POST_CODE, DebugPort::PORTS, DebugPort::new())?;
        if host.debug_exit {
            wiring.add("debug-exit port", DebugExit::PORT, DebugExit::PORTS, DebugExit::new())?;
        }
        let serial = wiring.add_serial(&tables, host.serial)?;

        let pci = shared(PciBus::new(Arc::clone(&mmio), Arc::clone(&ports)));
        wiring.map("PCI configuration", PCI_CONFIG, PCI_CONFIG_PORTS, Arc::<Mutex<PciBus>>::clone(&pci))?;
        let intx = Arc::new(IntxRouter::new(Arc::<IoApic>::clone(&io_apic)));
        let slots = Slots { ram: &ram, msi, intx, pci: Arc::clone(&pci) };
        slots.add("entropy device", RNG_SLOT, Box::new(Rng::new(host.entropy)))?;
        let streams = slots.add_console(&host.ports)?;
        let disks = slots.add_storage(host.disks, host.shares, tables.cpus)?;
        wiring.devices.push(Arc::<Mutex<PciBus>>::clone(&pci));

        wiring.add_interrupt_controllers(&pic)?;
        let io_apic_registers = shared(io_apic.mmio());
        wiring.devices.push(Arc::<Mutex<IoApicMmio>>::clone(&io_apic_registers));
        mmio.map(tables.io_apic.into(), IoApic::SIZE, io_apic_registers)
            .map_err(|source| MachineError::Map { device: "I/O APIC", source })?;

        let schedule = Arc::<Schedule>::default();
        let controllers = Box::new(Controllers { pic, io_apic });
        let bus_clock = Arc::<MachineClock>::clone(&clock);
        let bus = Arc::new(Bus::new((ports, mmio), controllers, bus_clock, Arc::clone(&schedule), control));
        let Wiring { devices, timed, .. } = wiring;
        Ok(Self { ram, tables, clock, schedule, bus, pci, devices, timed, serial, ports: streams, disks })
    }

    /// Everything as after power-up, and what firmware does before a kernel starts. No CPU runs.
    pub fn reset(&mut self) -> Result<(), MachineError> {
        for device in &self.devices {
            lock(device).reset();
        }
        self.schedule.reschedule();
        let pci = |reason: &dyn fmt::Display| MachineError::Device { device: "PCI bus", reason: reason.to_string() };
        lock(&self.pci).assign_resources().map_err(|error| pci(&error))
    }

    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    pub fn tables(&self) -> &BoardTables {
        &self.tables
    }

    pub fn guest_bus(&self) -> Arc<Bus> {
        Arc::clone(&self.bus)
    }

    pub fn schedule(&self) -> Arc<Schedule> {
        Arc::clone(&self.schedule)
    }

    pub fn clock(&self) -> Arc<MachineClock> {
        Arc::clone(&self.clock)
    }

    pub fn timed(&self) -> Vec<Shared<dyn Timed>> {
        self.timed.clone()
    }

    pub fn serial(&self) -> SerialInput {
        self.serial.clone()
    }

    pub fn disks(&self) -> Vec<DiskHandle> {
        self.disks.clone()
    }

    pub fn take_port(&mut self, name: &str) -> Option<PortStream> {
        let at = self.ports.iter().position(|(port, _)| port == name)?;
        Some(self.ports.swap_remove(at).1)
    }
}

impl Drop for Board {
    /// The PCI bus is behind a port that it knows itself: nothing on it would ever be dropped, and a disk is closed by that.
    fn drop(&mut self) {
        self.bus.ports.unmap(PCI_CONFIG);
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("ram", &self.ram).field("tables", &self.tables).finish_non_exhaustive()
    }
}

/// Seconds since 1970, UTC; 1970 itself for a host whose clock is set to before that.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
