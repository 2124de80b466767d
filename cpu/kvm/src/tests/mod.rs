//! Small guests on this host's KVM, if it has one. They are in 32-bit protected mode without paging.

mod board;
mod clocks;
mod debug;
mod processors;
mod profile;
mod state;

use crate::{Backing, KvmHypervisor};
use motu_hv::{
    DebugStop, Debugging, Exit, GuestBus, GuestSample, HvError, Hypervisor, Kick, Msi, Profiler, Vcpu, Vm, VmConfig,
    WatchKind, Watchpoint,
};
use motu_memory::GuestRam;
use motu_x86::contract::MISC_ENABLE_RESET;
use motu_x86::flags::{cr0, rflags};
use motu_x86::{Activity, CpuState, DescriptorTable, Gpa, Nanos, Segment, Shadow};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const CODE: u64 = 0x1000;
const DATA: u64 = 0x2000;
const GDT: u64 = 0x3000;
const IDT: u64 = 0x4000;
const HANDLER: u64 = 0x5000;
const STACK: u64 = 0x8000;
const CONTRACT: &str = "v2-2026";
/// A device without RAM.
const DEVICE: u64 = 0xe000_0000;
/// Ports: of the log, of the end, and those that raise an interrupt.
const LOG: u16 = 0xe9;
const END: u16 = 0xf4;
const LEVEL_MSI: u16 = 0x80;
const VECTOR: u8 = 0x41;
const EXT_INT_VECTOR: u8 = 0x28;

/// What the board's clock says, which stands still.
const NOW: Nanos = Nanos(0);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Out(u16, Vec<u8>),
    Write(u64, Vec<u8>),
    Acknowledged,
    Ended(u8),
}

struct Board {
    vm: Arc<dyn Vm>,
    kick: Arc<dyn Kick>,
    events: Mutex<Vec<Event>>,
}

impl Board {
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

impl GuestBus for Board {
    fn io_read(&self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }

    fn io_write(&self, port: u16, data: &[u8]) {
        match port {
            LEVEL_MSI => {
                self.vm.signal_msi(Msi { address: 0xfee0_0000, data: 0xc000 | u32::from(VECTOR) });
            }
            END => self.kick.kick(),
            _ => self.note(Event::Out(port, data.to_vec())),
        }
    }

    fn mmio_read(&self, address: Gpa, data: &mut [u8]) {
        data.fill(address.0 as u8 + 1);
    }

    fn mmio_write(&self, address: Gpa, data: &[u8]) {
        self.note(Event::Write(address.0, data.to_vec()));
    }

    fn acknowledge_interrupt(&self) -> u8 {
        self.note(Event::Acknowledged);
        self.vm.set_ext_int(false);
        EXT_INT_VECTOR
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.note(Event::Ended(vector));
    }

    fn now(&self) -> Nanos {
        NOW
    }
}

/// This host's KVM, if it has one that makes machines of [`CONTRACT`].
fn kvm() -> Option<KvmHypervisor> {
    let why = match crate::open() {
        Ok(kvm) if kvm.capabilities().contracts.contains(&CONTRACT) => return Some(kvm),
        Ok(_) => "the host's KVM does not keep the contract".to_owned(),
        Err(error) => error.to_string(),
    };
    println!("SKIPPED: {why}");
    None
}

fn start() -> CpuState {
    let mut state = CpuState {
        rip: CODE,
        cr0: cr0::PE | cr0::ET | cr0::NE,
        gdtr: DescriptorTable { base: GDT, limit: 0x17 },
        idtr: DescriptorTable { base: IDT, limit: 0x7ff },
        ..CpuState::default()
    };
    state.gpr[4] = STACK;
    state.msrs.misc_enable = MISC_ENABLE_RESET;
    let data = Segment::flat_data(0x10);
    state.segments.cs = Segment::flat_code(8, false);
    (state.segments.ds, state.segments.es, state.segments.ss) = (data, data, data);
    (state.segments.fs, state.segments.gs) = (data, data);
    state.segments.ldtr = Segment::null();
    state.segments.tr = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0xb | Segment::PRESENT };
    let registers = &mut state.lapic.registers;
    registers[0x0e] = u32::MAX;
    registers[0x0f] = 0x1ff;
    registers[0x32..0x38].fill(0x1_0000);
    // LINT0 is the 8259 pair's.
    registers[0x35] = 0x700;
    state
}

/// A second CPU, before it is started.
fn waiting() -> CpuState {
    let mut waiting = CpuState { activity: Activity::WaitForSipi, ..start() };
    waiting.lapic.base_msr &= !0x100;
    waiting.lapic.registers[2] = 1 << 24;
    waiting
}

/// A machine with `code`, and a handler for the two vectors that writes the log and ends the interrupt.
struct Guest {
    vcpu: Box<dyn Vcpu>,
    board: Board,
    ram: GuestRam,
}

impl Guest {
    fn new(kvm: &KvmHypervisor, code: &[u8]) -> Self {
        let ram = GuestRam::new(1 << 20).unwrap();
        ram.write(Gpa(CODE), code).unwrap();
        for (index, descriptor) in [0x00cf_9b00_0000_ffffu64, 0x00cf_9300_0000_ffff].into_iter().enumerate() {
            ram.write(Gpa(GDT + 8 + 8 * index as u64), &descriptor.to_le_bytes()).unwrap();
        }
        for vector in [VECTOR, EXT_INT_VECTOR] {
            let gate = 0x0000_8e00_0008_0000 | HANDLER;
            ram.write(Gpa(IDT + 8 * u64::from(vector)), &gate.to_le_bytes()).unwrap();
        }
        // out 0xe9, al; mov [0xfee000b0], eax; and back without IRET, which KVM does not emulate in this mode: pop edx;
        // add esp, 4; popfd; jmp edx
        let handler = [0xe6, 0xe9, 0xa3, 0xb0, 0x00, 0xe0, 0xfe, 0x5a, 0x83, 0xc4, 0x04, 0x9d, 0xff, 0xe2];
        ram.write(Gpa(HANDLER), &handler).unwrap();
        let vm = kvm.create_vm(VmConfig { ram: ram.clone(), contract: CONTRACT, vcpus: 1 }).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        vcpu.restore(&start(), NOW).unwrap();
        let board = Board { vm, kick: vcpu.kicker(), events: Mutex::default() };
        Self { vcpu, board, ram }
    }

    fn run(&mut self) -> Exit {
        self.vcpu.run(&self.board)
    }

    fn events(&self) -> Vec<Event> {
        self.board.events.lock().unwrap().clone()
    }
}

/// out 0xf4, al
const OUT_END: [u8; 2] = [0xe6, END as u8];

fn program(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A ring 3 of 64-bit mode with a page of data, whose page table the test writes.
struct UserGuest(Guest);

impl UserGuest {
    const TABLES: u64 = 0x10000;
    const PAGES: [u64; 2] = [0x20000, 0x21000];
    /// Where the program has its data, and the device.
    const LOOKED_AT: u64 = 0x6000;
    const TOLD: u64 = 0x7000;

    fn new(kvm: &KvmHypervisor) -> Self {
        // mov al, [0x6000]; mov [0x7000], al; jmp to the first
        let code = [0x8a, 0x04, 0x25, 0, 0x60, 0, 0, 0x88, 0x04, 0x25, 0, 0x70, 0, 0, 0xeb, 0xf0];
        let guest = Self(Guest::new(kvm, &code));
        for level in 0..3 {
            let next = Self::TABLES + (level + 1) * 0x1000;
            guest.0.ram.write(Gpa(next - 0x1000), &(next | 0x67).to_le_bytes()).unwrap();
        }
        guest.map(CODE, CODE);
        guest.map(Self::TOLD, DEVICE);
        guest.map(Self::LOOKED_AT, Self::PAGES[0]);
        for (page, value) in Self::PAGES.into_iter().zip([1u8, 2]) {
            guest.0.ram.write(Gpa(page), &[value]).unwrap();
        }
        guest
    }

    fn map(&self, linear: u64, physical: u64) {
        let entry = Self::TABLES + 0x3000 + linear / 0x1000 * 8;
        self.0.ram.write(Gpa(entry), &(physical | 0x67).to_le_bytes()).unwrap();
    }

    fn state() -> CpuState {
        let mut state =
            CpuState { cr0: start().cr0 | cr0::PG | cr0::WP, cr3: Self::TABLES, cr4: 0x20, rflags: 2, ..start() };
        state.msrs.efer = 0xd01;
        let of_ring_3 = |segment: Segment| Segment { attributes: segment.attributes | 3 << 5, ..segment };
        state.segments.cs = of_ring_3(Segment::flat_code(0x33, true));
        let data = of_ring_3(Segment::flat_data(0x2b));
        (state.segments.ds, state.segments.es, state.segments.ss) = (data, data, data);
        (state.segments.fs, state.segments.gs) = (data, data);
        state
    }

    /// What the program tells next.
    fn told(&mut self) -> Vec<u8> {
        let kick = self.0.vcpu.kicker();
        self.0.board.events.lock().unwrap().clear();
        std::thread::scope(|scope| {
            let events = &self.0.board.events;
            scope.spawn(move || {
                while events.lock().unwrap().len() < 3 {
                    std::thread::sleep(Duration::from_micros(100));
                }
                kick.kick();
            });
            assert_eq!(self.0.vcpu.run(&self.0.board), Exit::Kicked);
        });
        let write = |event: &Event| match event {
            Event::Write(DEVICE, data) => data.first().copied(),
            _ => None,
        };
        self.0.events().iter().take(3).filter_map(write).collect()
    }
}
