//! Small guests on this host's KVM, if it has one. They are in 32-bit protected mode without paging.

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
use std::time::{Duration, Instant};

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

#[test]
fn string_output_and_input_reach_the_port_item_by_item() {
    let Some(kvm) = kvm() else { return };
    // mov ecx, 3; mov esi, DATA; mov dx, LOG; cld; rep outsw; mov ecx, 2; mov edi, DATA; mov dx, 0x77; rep insd
    let code = program(&[
        &[0xb9, 3, 0, 0, 0, 0xbe, 0, 0x20, 0, 0, 0x66, 0xba, LOG as u8, 0, 0xfc, 0x66, 0xf3, 0x6f],
        &[0xb9, 2, 0, 0, 0, 0xbf, 0, 0x20, 0, 0, 0x66, 0xba, 0x77, 0, 0xf3, 0x6d],
        &OUT_END,
    ]);
    let mut guest = Guest::new(&kvm, &code);
    guest.ram.write(Gpa(DATA), &[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(guest.run(), Exit::Kicked);
    let words = [[1, 2], [3, 4], [5, 6]].map(|word| Event::Out(LOG, word.into()));
    assert_eq!(guest.events(), words);
    let mut read = [0; 10];
    guest.ram.read(Gpa(DATA), &mut read).unwrap();
    assert_eq!(read, [0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0, 0]);
    let state = guest.vcpu.save(NOW);
    assert_eq!(state.rip, CODE + code.len() as u64, "the access that kicked is finished");
    assert_eq!((state.gpr[1], state.gpr[6], state.gpr[7]), (0, DATA + 6, DATA + 8));
}

#[test]
fn device_memory_is_the_boards() {
    let Some(kvm) = kvm() else { return };
    // mov eax, [DEVICE + 0x10]; inc eax; mov [DEVICE + 0x20], ax; mov al, [DEVICE]; mov [DEVICE + 1], al
    let code = program(&[
        &[0xa1, 0x10, 0, 0, 0xe0, 0x40, 0x66, 0xa3, 0x20, 0, 0, 0xe0],
        &[0xa0, 0, 0, 0, 0xe0, 0xa2, 1, 0, 0, 0xe0],
        &OUT_END,
    ]);
    let mut guest = Guest::new(&kvm, &code);
    assert_eq!(guest.run(), Exit::Kicked);
    assert_eq!(guest.events(), [Event::Write(DEVICE + 0x20, vec![0x12, 0x11]), Event::Write(DEVICE + 1, vec![1])]);
    assert_eq!(guest.vcpu.stats().mmio_accesses, 4);
}

#[test]
fn msrs_are_the_contracts() {
    let Some(kvm) = kvm() else { return };
    let out_eax = [0xe7, LOG as u8];
    // mov ecx, MSR_PLATFORM_INFO; rdmsr; out LOG, eax; mov ecx, IA32_MISC_ENABLE; rdmsr; out LOG, eax
    let code = program(&[
        &[0xb9, 0xce, 0, 0, 0, 0x0f, 0x32],
        &out_eax,
        &[0xb9, 0xa0, 1, 0, 0, 0x0f, 0x32],
        &out_eax,
        &OUT_END,
    ]);
    let mut guest = Guest::new(&kvm, &code);
    assert_eq!(guest.run(), Exit::Kicked);
    let value = |value: u32| Event::Out(LOG, value.to_le_bytes().into());
    assert_eq!(guest.events(), [value(10 << 8), value(MISC_ENABLE_RESET as u32)]);
    // KVM's clock, of which the contract knows nothing: mov ecx, MSR_KVM_SYSTEM_TIME_NEW; wrmsr. No gate for #GP.
    let mut guest = Guest::new(&kvm, &program(&[&[0xb9, 1, 0x4d, 0x56, 0x4b, 0x0f, 0x30], &OUT_END]));
    assert_eq!(guest.run(), Exit::Shutdown);
    assert_eq!(guest.run(), Exit::Shutdown, "it stays so");
    assert_eq!(guest.vcpu.save(NOW).activity, Activity::Shutdown);
}

#[test]
fn a_kick_ends_a_run_before_or_while_it_runs() {
    let Some(kvm) = kvm() else { return };
    // 1: jmp 1b
    let mut guest = Guest::new(&kvm, &[0xeb, 0xfe]);
    guest.board.kick.kick();
    assert_eq!(guest.run(), Exit::Kicked);
    for _ in 0..20 {
        let kick = guest.vcpu.kicker();
        let kicker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            kick.kick();
        });
        assert_eq!(guest.run(), Exit::Kicked);
        kicker.join().unwrap();
        assert_eq!(guest.vcpu.save(NOW).rip, CODE);
    }
    let kick = guest.vcpu.kicker();
    drop(guest);
    kick.kick();
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told() {
    let Some(kvm) = kvm() else { return };
    // out 0x80, al; sti; hlt; and an access that leaves the guest, as an emulating KVM tells of the end only then:
    // mov ecx, MSR_PLATFORM_INFO; rdmsr
    let code = [0xe6, LEVEL_MSI as u8, 0xfb, 0xf4, 0xb9, 0xce, 0, 0, 0, 0x0f, 0x32];
    let mut guest = Guest::new(&kvm, &program(&[&code, &OUT_END]));
    assert_eq!(guest.run(), Exit::Kicked);
    assert_eq!(guest.events(), [Event::Out(LOG, vec![0]), Event::Ended(VECTOR)]);
}

#[test]
fn the_8259_pairs_interrupt_wakes_a_halted_cpu() {
    let Some(kvm) = kvm() else { return };
    // sti; hlt
    let mut guest = Guest::new(&kvm, &program(&[&[0xfb, 0xf4], &OUT_END]));
    let vm = Arc::clone(&guest.board.vm);
    let line = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        vm.set_ext_int(true);
    });
    assert_eq!(guest.run(), Exit::Kicked);
    line.join().unwrap();
    assert_eq!(guest.events(), [Event::Acknowledged, Event::Out(LOG, vec![0])]);
}

#[test]
fn the_8259_pairs_interrupt_waits_until_the_guest_takes_it() {
    let Some(kvm) = kvm() else { return };
    // out LOG, al; sti; hlt
    let mut guest = Guest::new(&kvm, &program(&[&[0xb0, 9, 0xe6, LOG as u8, 0xfb, 0xf4], &OUT_END]));
    guest.board.vm.set_ext_int(true);
    assert_eq!(guest.run(), Exit::Kicked);
    let log = Event::Out(LOG, vec![9]);
    assert_eq!(guest.events(), [log.clone(), Event::Acknowledged, log]);
}

#[test]
fn a_state_comes_back_as_it_was_restored() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[]);
    let mut state = start();
    state.gpr = std::array::from_fn(|i| 0x0101_0101 * i as u64);
    state.rflags = rflags::FIXED_1 | rflags::IF | rflags::CF;
    state.cr2 = 0x1234;
    state.dr[0] = 0x5678;
    state.xsave.0[160..176].fill(0xa5);
    state.msrs.star = 0x0023_0010_0000_0000;
    state.msrs.kernel_gs_base = 0x7fff_0000;
    state.msrs.tsc_aux = 7;
    state.msrs.mtrr_def_type = 0xc06;
    state.msrs.mtrr_variable[3] = (0x8000_0006, 0xff_8000_0800);
    state.msrs.pat = 0x0007_0106_0007_0106;
    state.tsc = 1 << 50;
    state.activity = Activity::Halted;
    state.nmi_blocked = true;
    state.lapic.registers[0x08] = 0x20;
    state.lapic.registers[0x22] = 1 << 7;
    state.lapic.registers[0x38] = 0;
    guest.vcpu.restore(&state, NOW).unwrap();
    let mut back = guest.vcpu.save(NOW);
    // What emulates may have no TSC of the guest's own.
    if *kvm.backing() == Backing::Hardware {
        let (from, found) = (state.tsc, back.tsc);
        assert!((from..from + (1 << 40)).contains(&found), "the TSC goes on from {from:#x}: {found:#x}");
    }
    back.tsc = state.tsc;
    // The version, and PPR, which follows the TPR.
    for number in [0x03, 0x0a] {
        state.lapic.registers[number] = back.lapic.registers[number];
    }
    assert_eq!(back, state);
}

#[test]
fn a_state_that_is_none_is_refused() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[]);
    let error = guest.vcpu.restore(&CpuState { cr0: cr0::PG, ..start() }, NOW).unwrap_err().to_string();
    assert!(error.contains("no mode of operation"), "{error}");
    assert!(kvm.create_vm(VmConfig { ram: guest.ram.clone(), contract: "v9", vcpus: 1 }).is_err());
    let error = kvm.create_vm(VmConfig { ram: guest.ram, contract: CONTRACT, vcpus: 65 }).err().unwrap().to_string();
    assert!(error.contains("at most"), "{error}");
}

/// nop; inc eax; mov [DATA], eax; jmp to the nop
const LOOP: [u8; 9] = [0x90, 0x40, 0xa3, 0x00, 0x20, 0x00, 0x00, 0xeb, 0xf7];

fn debug(guest: &mut Guest, breakpoints: &[u64], watchpoints: &[Watchpoint], step: bool) {
    let debugging = Debugging { breakpoints: breakpoints.to_vec(), watchpoints: watchpoints.to_vec(), step };
    guest.vcpu.set_debugging(Some(&debugging)).unwrap();
}

#[test]
fn steps_go_from_instruction_to_instruction() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &LOOP);
    for at in [1, 2, 7, 0, 1] {
        debug(&mut guest, &[], &[], true);
        assert_eq!(guest.run(), Exit::Debug(DebugStop::Step));
        assert_eq!(guest.vcpu.save(NOW).rip, CODE + at);
    }
    guest.vcpu.set_debugging(None).unwrap();
    guest.board.kick.kick();
    assert_eq!(guest.run(), Exit::Kicked);
}

#[test]
fn breakpoints_are_in_no_memory_and_the_guests_registers_are_its_own() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &LOOP);
    for round in 1..4 {
        debug(&mut guest, &[CODE + 2, CODE + 0x500], &[], false);
        assert_eq!(guest.run(), Exit::Debug(DebugStop::Breakpoint));
        let state = guest.vcpu.save(NOW);
        assert_eq!((state.rip, state.gpr[0]), (CODE + 2, round));
        assert_eq!((state.dr[0], state.dr[7]), (0, 0x400));
        debug(&mut guest, &[], &[], true);
        assert_eq!(guest.run(), Exit::Debug(DebugStop::Step));
    }
    let mut code = [0; LOOP.len()];
    guest.ram.read(Gpa(CODE), &mut code).unwrap();
    assert_eq!(code, LOOP);
}

#[test]
fn watched_data_stops_behind_the_access() {
    let Some(kvm) = kvm() else { return };
    if *kvm.backing() != Backing::Hardware {
        println!("SKIPPED: what emulates a KVM here knows no data breakpoints");
        return;
    }
    let mut guest = Guest::new(&kvm, &LOOP);
    let watched = Watchpoint { linear: DATA + 3, bytes: 1, kind: WatchKind::Write };
    for round in 1..4 {
        debug(&mut guest, &[], &[watched], false);
        assert_eq!(guest.run(), Exit::Debug(DebugStop::Watchpoint(watched)));
        let state = guest.vcpu.save(NOW);
        assert_eq!((state.rip, state.gpr[0]), (CODE + 7, round));
    }
}

/// Kicks several CPUs.
struct All(Vec<Arc<dyn Kick>>);

impl Kick for All {
    fn kick(&self) {
        self.0.iter().for_each(|kick| kick.kick());
    }
}

#[test]
fn a_second_cpu_waits_until_the_first_starts_it() {
    const AP_CODE: u64 = 0x9000;
    let Some(kvm) = kvm() else { return };
    let ram = GuestRam::new(1 << 20).unwrap();
    // mov dword [0xfee00300], 0xc4500 (INIT to all others); ... 0xc4609 (start-up at 0x9000); 1: cmp byte [0x7000], 0; je 1b;
    // mov al, 0x55; out LOG, al
    let code = program(&[
        &[0xc7, 0x05, 0, 0x03, 0xe0, 0xfe, 0, 0x45, 0x0c, 0],
        &[0xc7, 0x05, 0, 0x03, 0xe0, 0xfe, 0x09, 0x46, 0x0c, 0],
        &[0x80, 0x3d, 0, 0x70, 0, 0, 0, 0x74, 0xf7, 0xb0, 0x55, 0xe6, LOG as u8],
        &OUT_END,
    ]);
    ram.write(Gpa(CODE), &code).unwrap();
    // mov al, 0x66; out LOG, al; mov byte [0x7000], 1; 1: hlt; jmp 1b
    let ap = [0xb0, 0x66, 0xe6, LOG as u8, 0xc6, 0x06, 0, 0x70, 1, 0xf4, 0xeb, 0xfd];
    ram.write(Gpa(AP_CODE), &ap).unwrap();
    let vm = kvm.create_vm(VmConfig { ram, contract: CONTRACT, vcpus: 2 }).unwrap();
    let mut first = vm.create_vcpu(0).unwrap();
    let mut second = vm.create_vcpu(1).unwrap();
    assert!(vm.create_vcpu(2).is_err());
    first.restore(&start(), NOW).unwrap();
    let mut waiting = CpuState { activity: Activity::WaitForSipi, ..start() };
    waiting.lapic.base_msr &= !0x100;
    waiting.lapic.registers[2] = 1 << 24;
    second.restore(&waiting, NOW).unwrap();
    assert_eq!(second.save(NOW).activity, Activity::WaitForSipi);
    let kick = Arc::new(All(vec![first.kicker(), second.kicker()]));
    let board = Board { vm, kick, events: Mutex::default() };
    std::thread::scope(|scope| {
        let ap = scope.spawn(|| (second.run(&board), second.save(NOW)));
        assert_eq!(first.run(&board), Exit::Kicked);
        let (exit, state) = ap.join().unwrap();
        assert_eq!(exit, Exit::Kicked);
        assert_eq!((state.activity, state.segments.cs.base), (Activity::Halted, AP_CODE));
    });
    let log = |value| Event::Out(LOG, vec![value]);
    assert_eq!(*board.events.lock().unwrap(), [log(0x66), log(0x55)]);
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told_before_the_cpu_is_saved() {
    let Some(kvm) = kvm() else { return };
    // out LEVEL_MSI, al; sti; hlt; and 1: jmp 1b, which a kick ends.
    let mut guest = Guest::new(&kvm, &[0xe6, LEVEL_MSI as u8, 0xfb, 0xf4, 0xeb, 0xfe]);
    let kick = guest.vcpu.kicker();
    let events = || guest.board.events.lock().unwrap().clone();
    let stopper = std::thread::scope(|scope| {
        let vcpu = &mut guest.vcpu;
        let board = &guest.board;
        let running = scope.spawn(move || vcpu.run(board));
        // The handler writes the log before it ends the interrupt.
        while events().is_empty() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(5));
        kick.kick();
        running.join().unwrap()
    });
    assert_eq!(stopper, Exit::Kicked);
    assert_eq!(guest.events(), [Event::Out(LOG, vec![0]), Event::Ended(VECTOR)]);
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

#[test]
fn page_tables_that_another_engine_has_written_count() {
    let Some(kvm) = kvm() else { return };
    let mut guest = UserGuest::new(&kvm);
    guest.0.vcpu.restore(&UserGuest::state(), NOW).unwrap();
    assert_eq!(guest.told(), [1, 1, 1]);
    for page in [1, 0, 1] {
        guest.map(UserGuest::LOOKED_AT, UserGuest::PAGES[page]);
        // As cpu/switch does it.
        guest.0.board.kick.kick();
        assert_eq!(guest.0.run(), Exit::Kicked);
        guest.0.vcpu.restore(&UserGuest::state(), NOW).unwrap();
        assert_eq!(guest.told(), [page as u8 + 1; 3]);
    }
}

#[test]
fn the_pdptes_are_the_states_and_not_memorys() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[0xf4]);
    let mut state = CpuState { cr0: start().cr0 | cr0::PG, cr3: 0x10000, cr4: 0x20, ..start() };
    let directories = [0x11001, 0, 0x13001, 0];
    state.pdptes = Some(directories);
    // What memory holds by now.
    guest.ram.write(Gpa(0x10000), &0x15001u64.to_le_bytes()).unwrap();
    guest.vcpu.restore(&state, NOW).unwrap();
    match guest.vcpu.save(NOW).pdptes {
        Some(found) => assert_eq!(found, directories),
        None => println!("SKIPPED: a KVM that tells no PDPTEs"),
    }
    state.pdptes = None;
    guest.vcpu.restore(&state, NOW).unwrap();
    assert!(guest.vcpu.save(NOW).pdptes.is_none_or(|found| found == [0x15001, 0, 0, 0]));
}

#[test]
fn a_debug_trap_behind_mov_ss_comes_an_instruction_later() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[0xf4]);
    let mut state = start();
    (state.pending_debug, state.interrupt_shadow) = (1 << 14, Shadow::MovSs);
    state.gpr[0] = 77;
    let error = guest.vcpu.restore(&state, NOW).unwrap_err();
    assert!(matches!(error, HvError::NotYet(_)), "{error}");
    assert_eq!(guest.vcpu.save(NOW).gpr[0], 0, "it is as it was");
    state.interrupt_shadow = Shadow::None;
    guest.vcpu.restore(&state, NOW).unwrap();
    assert_eq!(guest.vcpu.save(NOW).gpr[0], 77);
}

/// The APIC timer's LVT entry and divider, and its counts.
const LVT_TIMER: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const CURRENT_COUNT: usize = 0x39;
const DIVIDER: usize = 0x3e;

/// With a timer that has `count` left, in the mode of the LVT entry.
fn timed(mode: u32, count: u32) -> CpuState {
    let mut state = start();
    let registers = &mut state.lapic.registers;
    registers[LVT_TIMER] = mode << 17 | u32::from(VECTOR);
    (registers[DIVIDER], registers[INITIAL_COUNT], registers[CURRENT_COUNT]) = (0xb, count, count);
    state
}

#[test]
fn clocks_stand_still_with_the_machine() {
    const SLEEP: Duration = Duration::from_millis(200);
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[0xf4]);
    guest.vcpu.restore(&timed(0, u32::MAX), NOW).unwrap();
    let vcpu = &mut guest.vcpu;
    let clocks = |state: &CpuState| [state.tsc, u64::from(u32::MAX - state.lapic.registers[CURRENT_COUNT])];
    // How fast they are, at the least time that may have passed.
    let begun = clocks(&vcpu.save(Nanos(1)));
    let asleep = Instant::now();
    std::thread::sleep(SLEEP);
    let asleep = asleep.elapsed();
    let ended = clocks(&vcpu.save(Nanos(2)));
    let all = Instant::now();
    vcpu.stand_still(Nanos(3));
    let stopped = vcpu.save(Nanos(3));
    let stood = Instant::now();
    std::thread::sleep(SLEEP);
    assert_eq!(vcpu.save(Nanos(3)), stopped);
    // A debugger changes a register.
    let changed = CpuState { rip: CODE + 1, ..stopped.clone() };
    vcpu.restore(&changed, Nanos(3)).unwrap();
    assert_eq!(vcpu.save(Nanos(3)), changed);
    let stood = stood.elapsed();
    vcpu.go_on(Nanos(3));
    let after = clocks(&vcpu.save(Nanos(4)));
    let went = all.elapsed() - stood;
    // What emulates may have no TSC of the guest's own.
    let first = usize::from(*kvm.backing() != Backing::Hardware);
    for clock in first..2 {
        let rate = (ended[clock] - begun[clock]) as f64 / asleep.as_secs_f64();
        let most = rate * (went + stood / 10).as_secs_f64();
        let gone = (after[clock] - ended[clock]) as f64;
        assert!(rate > 0.0 && gone < most, "clock {clock}: {gone} of {most} ticks");
    }
}

#[test]
fn a_timer_that_would_have_run_out_meanwhile_interrupts_once_and_later() {
    let Some(kvm) = kvm() else { return };
    for mode in 0..3 {
        // sti; hlt
        let mut guest = Guest::new(&kvm, &program(&[&[0xfb, 0xf4], &OUT_END]));
        let mut state = timed(mode, if mode == 2 { 0 } else { 20_000_000 });
        if mode == 2 {
            state.tsc = guest.vcpu.save(Nanos(1)).tsc;
            state.lapic.tsc_deadline = state.tsc + 20_000_000;
        }
        guest.vcpu.restore(&state, Nanos(1)).unwrap();
        guest.vcpu.stand_still(Nanos(2));
        let stopped = guest.vcpu.save(Nanos(2)).lapic;
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(guest.vcpu.save(Nanos(2)).lapic, stopped, "mode {mode}");
        guest.vcpu.go_on(Nanos(2));
        assert_eq!(guest.run(), Exit::Kicked);
        assert_eq!(guest.events(), [Event::Out(LOG, vec![0])], "mode {mode}");
    }
}

/// What a sample says: address, CPL, whether it slept, callers.
type Seen = (u64, u8, bool, Vec<u64>);

/// Remembers samples, and ends the run at the third.
struct Three {
    samples: Arc<Mutex<Vec<Seen>>>,
    kick: Arc<dyn Kick>,
}

impl Profiler for Three {
    fn sample(&mut self, sample: &GuestSample<'_>) {
        assert!(sample.time >= Nanos(1_000_000));
        let mut samples = self.samples.lock().unwrap();
        samples.push((sample.linear, sample.cpl, sample.halted, sample.callers.to_vec()));
        if samples.len() == 3 {
            self.kick.kick();
        }
    }
}

fn samples(guest: &mut Guest) -> Vec<Seen> {
    let samples = Arc::new(Mutex::new(Vec::new()));
    let profiler = Three { samples: Arc::clone(&samples), kick: guest.vcpu.kicker() };
    guest.vcpu.set_profiler(Some(Box::new(profiler))).unwrap();
    assert_eq!(guest.run(), Exit::Kicked);
    guest.vcpu.set_profiler(None).unwrap();
    let samples = samples.lock().unwrap().clone();
    assert!(samples.len() >= 3);
    samples
}

#[test]
fn a_profiler_is_told_where_the_cpu_is_and_who_called() {
    let Some(kvm) = kvm() else { return };
    // call +0; 5: jmp to itself
    let mut guest = Guest::new(&kvm, &[0xe8, 0, 0, 0, 0, 0xeb, 0xfe]);
    // A frame: no other above it, and an address behind a CALL.
    guest.ram.write(Gpa(0x9000), &0u32.to_le_bytes()).unwrap();
    guest.ram.write(Gpa(0x9004), &(CODE as u32 + 5).to_le_bytes()).unwrap();
    let mut state = CpuState { rip: CODE + 5, ..start() };
    state.gpr[5] = 0x9000;
    guest.vcpu.restore(&state, NOW).unwrap();
    for seen in samples(&mut guest) {
        assert_eq!(seen, (CODE + 5, 0, false, vec![CODE + 5]));
    }
}

#[test]
fn a_profiler_is_told_of_sleep_and_of_user_programs() {
    let Some(kvm) = kvm() else { return };
    let mut guest = Guest::new(&kvm, &[0xf4]);
    for (address, _, halted, callers) in samples(&mut guest) {
        assert_eq!((halted, callers), (address == CODE + 1, vec![]), "{address:#x}");
    }
    let mut guest = UserGuest::new(&kvm);
    guest.0.vcpu.restore(&UserGuest::state(), NOW).unwrap();
    for (address, cpl, halted, _) in samples(&mut guest.0) {
        assert!((CODE..CODE + 16).contains(&address) && cpl == 3 && !halted, "{address:#x}");
    }
}
