//! The machine with CPUs that the tests play.

mod debug;

use crate::{Access, AccessTracer, Direction, Space, Tracing};
use crate::{BootSource, Image, Machine, MachineConfig, MachineError, OnReset, Outcome, Role};
use motu_hv::{Capabilities, CrashReport, Exit, GuestBus, HvError, Hypervisor, Kick, Msi, Stats, Vcpu, Vm, VmConfig};
use motu_memory::DirtyPages;
use motu_x86::{CpuState, Gpa, Nanos};
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const SLEEP_CONTROL: u16 = 0x604;
const SOFT_OFF: [u8; 2] = (1u16 << 13 | 5 << 10).to_le_bytes();
const COM1: u16 = 0x3f8;
const MIB: u64 = 1 << 20;

/// What the CPU does in its n-th run: n counts from 0.
type Script = dyn Fn(&Guest<'_>, usize) -> Exit + Send + Sync;

/// What a script sees.
struct Guest<'a> {
    bus: &'a dyn GuestBus,
    kicked: &'a AtomicBool,
    wires: &'a Wires,
}

/// What the board did to the CPUs.
#[derive(Default)]
struct Wires {
    ext_int: AtomicBool,
    messages: Mutex<Vec<Msi>>,
}

impl Guest<'_> {
    fn out8(&self, port: u16, value: u8) {
        self.bus.io_write(port, &[value]);
    }

    fn in8(&self, port: u16) -> u8 {
        let mut data = [0];
        self.bus.io_read(port, &mut data);
        data[0]
    }

    fn power_off(&self) -> Exit {
        self.bus.io_write(SLEEP_CONTROL, &SOFT_OFF);
        self.until_kicked()
    }

    fn until_kicked(&self) -> Exit {
        while !self.kicked.swap(false, Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Exit::Kicked
    }
}

struct Played {
    script: Arc<Script>,
    wires: Arc<Wires>,
}

impl Hypervisor for Played {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "played", max_vcpus: 2, contracts: vec!["v2-2026"] }
    }

    fn create_vm(&self, _: VmConfig) -> Result<Arc<dyn Vm>, HvError> {
        Ok(Arc::new(Played { script: Arc::clone(&self.script), wires: Arc::clone(&self.wires) }))
    }
}

impl Vm for Played {
    fn create_vcpu(&self, _: u32) -> Result<Box<dyn Vcpu>, HvError> {
        Ok(Box::new(PlayedCpu {
            script: Arc::clone(&self.script),
            wires: Arc::clone(&self.wires),
            kicked: Arc::default(),
            runs: AtomicUsize::new(0),
            state: CpuState::default(),
            standing: None,
        }))
    }

    fn signal_msi(&self, msi: Msi) {
        self.wires.messages.lock().unwrap().push(msi);
    }

    fn set_ext_int(&self, level: bool) {
        self.wires.ext_int.store(level, Ordering::SeqCst);
    }

    fn log_writes(&self, _: bool) -> Result<(), HvError> {
        Ok(())
    }

    fn take_dirty(&self) -> Result<DirtyPages, HvError> {
        Ok(DirtyPages::default())
    }
}

struct PlayedCpu {
    script: Arc<Script>,
    wires: Arc<Wires>,
    kicked: Arc<AtomicBool>,
    runs: AtomicUsize,
    state: CpuState,
    /// The machine stands still, since this time of its.
    standing: Option<Nanos>,
}

struct Kicker(Arc<AtomicBool>);

impl Kick for Kicker {
    fn kick(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Vcpu for PlayedCpu {
    fn run(&mut self, bus: &dyn GuestBus) -> Exit {
        assert_eq!(self.standing, None, "it was not told that the machine goes on");
        let guest = Guest { bus, kicked: &self.kicked, wires: &self.wires };
        (self.script)(&guest, self.runs.fetch_add(1, Ordering::SeqCst))
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::new(Kicker(Arc::clone(&self.kicked)))
    }

    fn save(&self, _: Nanos) -> CpuState {
        self.state.clone()
    }

    fn restore(&mut self, state: &CpuState, _: Nanos) -> Result<(), HvError> {
        self.state = state.clone();
        self.kicked.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats { instructions: self.runs.load(Ordering::SeqCst) as u64, ..Stats::default() }
    }

    fn crash_report(&self, _: Nanos) -> CrashReport {
        CrashReport { state: self.state.clone(), recent: Vec::new() }
    }

    fn set_tracer(&mut self, _: Option<Box<dyn motu_hv::Tracer>>) {}

    fn set_debugging(&mut self, _: Option<&motu_hv::Debugging>) -> Result<(), HvError> {
        Ok(())
    }

    fn stand_still(&mut self, now: Nanos) {
        assert_eq!(self.standing.replace(now), None);
    }

    fn go_on(&mut self, now: Nanos) {
        assert_eq!(self.standing.take(), Some(now));
    }

    fn set_profiler(&mut self, _: Option<Box<dyn motu_hv::Profiler>>) -> Result<(), HvError> {
        Ok(())
    }
}

/// A PVH kernel of a few bytes: one segment at 1 MiB, and the note with its entry point
/// (XEN_ELFNOTE_PHYS32_ENTRY, 18).
fn kernel() -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |v: u16| v.to_le_bytes().to_vec();
    let word = |v: u32| v.to_le_bytes().to_vec();
    let long = |v: u64| v.to_le_bytes().to_vec();
    elf.extend([half(2), half(62), word(1), long(MIB), long(64), long(0), word(0)].concat());
    elf.extend([half(64), half(56), half(2), half(64), half(0), half(0)].concat());
    let header = |kind: u32, at: u64, address: u64, len: u64| {
        [word(kind), word(7), long(at), long(address), long(address), long(len), long(len), long(4)].concat()
    };
    elf.extend(header(1, HEADERS, MIB, 32));
    elf.extend(header(4, HEADERS, 0, 20));
    elf.extend([word(4), word(4), word(18), b"Xen\0".to_vec(), word(MIB as u32), vec![0xf4; 12]].concat());
    elf
}

#[derive(Clone, Default)]
struct Sheet(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sheet {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn config(serial: Sheet) -> MachineConfig {
    MachineConfig {
        memory: 16 * MIB,
        cpus: 1,
        contract: "v2-2026",
        boot: BootSource {
            kernel: Image::from_bytes(Role::Kernel, "test kernel", kernel()).unwrap(),
            modules: Vec::new(),
            cmdline: "test".into(),
            flat: None,
        },
        serial: Box::new(serial),
        ports: vec!["org.test.0".into()],
        disks: Vec::new(),
        shares: Vec::new(),
        entropy: Box::new(|bytes| bytes.fill(7)),
        on_reset: OnReset::Restart,
        debug_exit: false,
        tracing: Tracing::default(),
        waits_for_debugger: false,
    }
}

fn machine(config: MachineConfig, script: impl Fn(&Guest<'_>, usize) -> Exit + Send + Sync + 'static) -> Machine {
    let played = Played { script: Arc::new(script), wires: Arc::default() };
    Machine::new(config, &played).unwrap()
}

fn run(script: impl Fn(&Guest<'_>, usize) -> Exit + Send + Sync + 'static) -> Outcome {
    machine(config(Sheet::default()), script).run().unwrap().outcome
}

#[test]
fn a_disk_is_the_machines_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    motu_disk::create(&path, None, MIB).unwrap();
    let open = || motu_disk::open(&path, &motu_disk::OpenOptions::default());
    let disk = crate::DiskConfig { disk: open().unwrap(), serial: "1".into(), failures: Arc::default() };
    let config = MachineConfig { disks: vec![disk], on_reset: OnReset::End, ..config(Sheet::default()) };
    let machine = machine(config, |guest, _| {
        // Its function is in slot 3: virtio's vendor and device number.
        guest.bus.io_write(0xcf8, &0x8000_1800u32.to_le_bytes());
        let mut id = [0; 4];
        guest.bus.io_read(0xcfc, &mut id);
        assert_eq!(id, 0x1042_1af4u32.to_le_bytes());
        guest.out8(0xcf9, 6);
        guest.until_kicked()
    });
    assert!(open().is_err(), "it is in use");
    machine.run().unwrap();
    open().unwrap();
}

#[test]
fn the_guest_switches_it_off() {
    let finished = machine(config(Sheet::default()), |guest, _| guest.power_off()).run().unwrap();
    assert!(matches!(finished.outcome, Outcome::PoweredOff));
    assert_eq!(finished.cpus.len(), 1);
    assert_eq!(finished.bus.port_writes, 1);
}

#[test]
fn a_reset_restarts_in_place_with_devices_and_kernel_as_new() {
    let outcome = run(|guest, run| match run {
        0 => {
            guest.out8(COM1 + 7, 0x5a);
            assert_eq!(guest.in8(COM1 + 7), 0x5a, "the scratch register");
            guest.out8(0x64, 0xfe);
            guest.until_kicked()
        }
        _ => {
            assert_eq!(guest.in8(COM1 + 7), 0);
            guest.power_off()
        }
    });
    assert!(matches!(outcome, Outcome::PoweredOff));
}

#[test]
fn every_way_to_reset_is_one() {
    let ways: [fn(&Guest<'_>); 3] =
        [|guest| guest.out8(0x64, 0xfe), |guest| guest.out8(0xcf9, 0x06), |guest| guest.out8(0xcf9, 0x0e)];
    for way in ways {
        let config = MachineConfig { on_reset: OnReset::End, ..config(Sheet::default()) };
        let machine = machine(config, move |guest, _| {
            way(guest);
            guest.until_kicked()
        });
        assert!(matches!(machine.run().unwrap().outcome, Outcome::Reset));
    }
}

#[test]
fn the_debug_exit_port_is_there_only_when_asked_for() {
    let machine = |debug_exit| {
        let config = MachineConfig { debug_exit, ..config(Sheet::default()) };
        machine(config, move |guest, _| {
            assert_eq!(guest.in8(0xf4), if debug_exit { 0 } else { 0xff });
            guest.bus.io_write(0xf4, &0x1234u16.to_le_bytes());
            if debug_exit { guest.until_kicked() } else { guest.power_off() }
        })
    };
    assert!(matches!(machine(true).run().unwrap().outcome, Outcome::DebugExit(0x1234)));
    assert!(matches!(machine(false).run().unwrap().outcome, Outcome::PoweredOff));
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Notebook(Arc<Mutex<Vec<(u32, Access)>>>);

struct Scribe(Notebook, u32);

impl AccessTracer for Scribe {
    fn access(&self, access: &Access) {
        self.0.0.lock().unwrap().push((self.1, *access));
    }
}

#[test]
fn every_access_to_the_board_is_told_with_its_value() {
    let notebook = Notebook::default();
    let told = notebook.clone();
    let access = Box::new(move |id| Box::new(Scribe(told.clone(), id)) as Box<dyn AccessTracer>);
    let tracing = Tracing { access: Some(access), ..Tracing::default() };
    let machine = machine(MachineConfig { tracing, ..config(Sheet::default()) }, |guest, _| {
        guest.out8(COM1 + 7, 0x5a);
        guest.in8(COM1 + 7);
        guest.bus.mmio_write(Gpa(0xfec0_0000), &[1]);
        guest.bus.mmio_read(Gpa(0xfec0_0010), &mut [0; 4]);
        guest.bus.mmio_read(Gpa(0xc000_0000_0000), &mut [0; 8]);
        guest.power_off()
    });
    assert_eq!(machine.run().unwrap().bus.port_reads, 1, "counted once");
    let access = |space, direction, address, size, value| (0, Access { space, direction, address, size, value });
    let expected = [
        access(Space::Port, Direction::Write, 0x3ff, 1, 0x5a),
        access(Space::Port, Direction::Read, 0x3ff, 1, 0x5a),
        access(Space::Memory, Direction::Write, 0xfec0_0000, 1, 1),
        access(Space::Memory, Direction::Read, 0xfec0_0010, 4, 0x0017_0020),
        access(Space::Memory, Direction::Read, 0xc000_0000_0000, 8, u64::MAX),
        access(Space::Port, Direction::Write, SLEEP_CONTROL.into(), 2, u16::from_le_bytes(SOFT_OFF).into()),
    ];
    assert_eq!(*notebook.0.lock().unwrap(), expected);
}

#[test]
fn a_shutdown_is_a_crash_with_a_report() {
    let Outcome::Crashed(report) = run(|_, _| Exit::Shutdown) else { panic!("no crash") };
    assert_eq!(report.state.rip, MIB, "the kernel's entry");
}

#[test]
fn the_host_stops_it_before_and_while_it_runs() {
    let early = machine(config(Sheet::default()), |guest, _| guest.until_kicked());
    early.handle().stop();
    assert!(matches!(early.run().unwrap().outcome, Outcome::Stopped));

    let (tell, running) = std::sync::mpsc::channel();
    let late = machine(config(Sheet::default()), move |guest, _| {
        let _ = tell.send(());
        guest.until_kicked()
    });
    let handle = late.handle();
    let stopper = std::thread::spawn(move || {
        running.recv().unwrap();
        handle.stop();
        handle.stop();
    });
    assert!(matches!(late.run().unwrap().outcome, Outcome::Stopped));
    stopper.join().unwrap();
}

#[test]
fn a_cpu_thread_that_panics_ends_the_machine() {
    let machine = machine(config(Sheet::default()), |_, _| panic!("on purpose"));
    assert!(matches!(machine.run(), Err(MachineError::CpuLost { id: 0 })));
}

#[test]
fn bytes_go_both_ways_on_the_serial_port() {
    let sheet = Sheet::default();
    let machine = machine(config(sheet.clone()), |guest, _| {
        guest.out8(COM1 + 4, 0x03);
        while guest.in8(COM1 + 5) & 1 == 0 {}
        let typed = guest.in8(COM1);
        guest.out8(COM1, typed.to_ascii_uppercase());
        guest.power_off()
    });
    machine.serial().send(b"x");
    machine.run().unwrap();
    assert_eq!(*sheet.0.lock().unwrap(), b"X");
}

#[test]
fn the_timer_reaches_the_cpu_through_the_pic() {
    let outcome = run(|guest, _| {
        for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
            guest.out8(port, value);
        }
        // Counter 0, low and high byte, rate generator, 1193 ticks: a millisecond.
        for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
            guest.out8(port, value);
        }
        for _ in 0..3 {
            while !guest.wires.ext_int.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert_eq!(guest.bus.acknowledge_interrupt(), 0x30);
            guest.out8(0x20, 0x20);
        }
        guest.power_off()
    });
    assert!(matches!(outcome, Outcome::PoweredOff));
}

#[test]
fn the_io_apic_sends_messages_and_the_cpu_ends_them() {
    let outcome = run(|guest, _| {
        let write = |register: u8, value: u32| {
            guest.bus.mmio_write(Gpa(0xfec0_0000), &[register]);
            guest.bus.mmio_write(Gpa(0xfec0_0010), &value.to_le_bytes());
        };
        // Pin 4 (COM1), vector 0x44, edge.
        write(0x10 + 2 * 4, 0x44);
        guest.out8(COM1 + 4, 0x0b);
        guest.out8(COM1 + 1, 0x02);
        assert_eq!(guest.wires.messages.lock().unwrap().first().map(|m| m.data & 0xff), Some(0x44));
        guest.bus.end_of_interrupt(0x44);
        guest.power_off()
    });
    assert!(matches!(outcome, Outcome::PoweredOff));
}

#[test]
fn virtio_functions_have_their_slots_and_addresses() {
    let outcome = run(|guest, _| {
        let config = |slot: u32, register: u32| {
            guest.bus.io_write(0xcf8, &(1 << 31 | slot << 11 | register).to_le_bytes());
            let mut data = [0; 4];
            guest.bus.io_read(0xcfc, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!(config(1, 0), 0x1044_1af4, "virtio-rng");
        assert_eq!(config(2, 0), 0x1043_1af4, "virtio-console");
        assert_eq!(config(3, 0), u32::MAX);
        let registers = u64::from(config(2, 0x10) & !0xf);
        assert!((0xc000_0000..0xfec0_0000).contains(&registers));
        let mut queues = [0; 2];
        guest.bus.mmio_read(Gpa(registers + 0x12), &mut queues);
        assert_eq!(u16::from_le_bytes(queues), 4, "num_queues");
        guest.power_off()
    });
    assert!(matches!(outcome, Outcome::PoweredOff));
}

#[test]
fn the_tables_describe_the_devices_that_are_there() {
    use motu_devices::{acpi_pm::ports, ioapic::IoApic, pci};
    let tables = motu_boot::BoardTables::default();
    let power = tables.power;
    assert_eq!([power.event, power.control, power.timer], [ports::PM1A_EVT, ports::PM1A_CNT, ports::PM_TMR]);
    assert_eq!((power.reset, power.reset_value), (ports::RESET, ports::RESET_VALUE));
    assert_eq!((power.sci, power.sleep_type_off), (ports::SCI_IRQ, ports::SLP_TYP_S5));
    assert_eq!(u64::from(tables.io_apic), IoApic::ADDRESS);
    let window = u64::from(tables.pci_memory.start)..=u64::from(tables.pci_memory.end) - 1;
    assert_eq!(window, pci::layout::MEMORY_START..=pci::layout::MEMORY_LAST);
    for (slot, pin) in (0..32).flat_map(|slot| (0..4).map(move |pin| (slot, pin))) {
        assert_eq!((tables.intx_gsi)(slot, pin), pci::intx_gsi(slot, pin));
    }
}

#[test]
fn a_port_is_taken_once() {
    let mut machine = machine(config(Sheet::default()), |guest, _| guest.power_off());
    assert!(machine.take_port("org.other.0").is_none());
    assert!(machine.take_port("org.test.0").is_some());
    assert!(machine.take_port("org.test.0").is_none());
}

#[test]
fn what_cannot_be_booted_is_refused_before_anything_runs() {
    let played = Played { script: Arc::new(|_, _| unreachable!()), wires: Arc::default() };
    let kernel = Image::from_bytes(Role::Kernel, "notes.txt", b"no kernel".to_vec()).unwrap();
    let mut config = config(Sheet::default());
    config.boot.kernel = kernel;
    let refused = Machine::new(config, &played);
    assert!(matches!(refused, Err(MachineError::Boot(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_access_of_a_guest_panics(
        ports in proptest::collection::vec((any::<u16>(), 0usize..3, any::<u32>()), 0..200),
        memory in proptest::collection::vec((0xc000_0000u64..0xff00_0000, 0usize..4, any::<u64>()), 0..200),
    ) {
        let outcome = run(move |guest, _| {
            let mut data = [0; 8];
            for &(port, size, value) in &ports {
                let len = 1 << size;
                guest.bus.io_write(port, &value.to_le_bytes()[..len]);
                guest.bus.io_read(port, &mut data[..len]);
            }
            for &(address, size, value) in &memory {
                let len = 1 << size;
                guest.bus.mmio_write(Gpa(address), &value.to_le_bytes()[..len]);
                guest.bus.mmio_read(Gpa(address), &mut data[..len]);
            }
            guest.power_off()
        });
        prop_assert!(matches!(outcome, Outcome::PoweredOff | Outcome::Stopped));
    }
}
