//! A debugger's single steps, while the machine goes to and fro.

use crate::{KvmSoft, exact};
use motu_engine::SoftHypervisor;
use motu_hv::{DebugStop, Debugging, Exit, GuestBus, Hypervisor, Vcpu, Vm, VmConfig};
use motu_memory::GuestRam;
use motu_switch::{Pace, Switching, Trigger};
use motu_x86::flags::cr0;
use motu_x86::{CpuState, Gpa, Nanos, Segment};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const LOAD: u64 = 0x1000;
/// INC EAX; INC EBX; XCHG EAX, EBX; NOP; JMP to the first; and how long each is.
const CODE: [u8; 6] = [0x40, 0x43, 0x93, 0x90, 0xeb, 0xfa];
const SWITCHES: u64 = 200;

/// A board that nobody is on.
#[derive(Default)]
struct Board(AtomicU64);

impl GuestBus for Board {
    fn io_read(&self, _: u16, _: &mut [u8]) {}
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, _: &mut [u8]) {}
    fn mmio_write(&self, _: Gpa, _: &[u8]) {}
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> Nanos {
        Nanos(self.0.fetch_add(1000, Ordering::Relaxed))
    }
}

/// A processor in flat protected mode, before the first of [`CODE`].
fn start(engine: &dyn Hypervisor) -> (Arc<dyn Vm>, Box<dyn Vcpu>) {
    let ram = GuestRam::new(1 << 20).expect("a MiB");
    ram.write(Gpa(LOAD), &CODE).expect("the code is in RAM");
    let vm = engine.create_vm(VmConfig { ram, contract: crate::CONTRACT, vcpus: 1 }).expect("a machine");
    let mut vcpu = vm.create_vcpu(0).expect("a processor");
    let mut state = CpuState { rip: LOAD, cr0: cr0::PE | cr0::ET | cr0::NE, ..CpuState::default() };
    let data = Segment::flat_data(0x10);
    state.segments.cs = Segment::flat_code(8, false);
    (state.segments.ds, state.segments.es, state.segments.ss) = (data, data, data);
    (state.segments.fs, state.segments.gs) = (data, data);
    state.segments.ldtr = Segment::null();
    state.segments.tr = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0xb | Segment::PRESENT };
    vcpu.restore(&state, Nanos(0)).expect("a state as any other");
    (vm, vcpu)
}

/// What the next of the instructions makes of RIP, EAX and EBX.
fn next([rip, eax, ebx]: [u64; 3]) -> [u64; 3] {
    match rip - LOAD {
        0 => [rip + 1, eax + 1, ebx],
        1 => [rip + 1, eax, ebx + 1],
        2 => [rip + 1, ebx, eax],
        3 => [rip + 1, eax, ebx],
        _ => [LOAD, eax, ebx],
    }
}

/// Steps until there were [`SWITCHES`], whatever else pulls.
fn step_on(engine: &Switching) {
    let (_vm, mut vcpu) = start(engine);
    let (board, step) = (Board::default(), Debugging { step: true, ..Debugging::default() });
    let mut expected = [LOAD, 0, 0];
    while vcpu.stats().switches.is_some_and(|switches| switches.done < SWITCHES) {
        vcpu.set_debugging(Some(&step)).expect("both engines step");
        assert_eq!(vcpu.run(&board), Exit::Debug(DebugStop::Step), "from {expected:x?}");
        expected = next(expected);
        let state = vcpu.save(board.now());
        assert_eq!([state.rip, state.gpr[0], state.gpr[3]], expected);
    }
}

#[test]
fn each_step_is_one_instruction_whichever_engine_makes_it() {
    let trigger = Trigger::default();
    let engine = || Box::new(SoftHypervisor::new(exact())) as Box<dyn Hypervisor>;
    let both = Switching::new("soft,soft", [engine(), engine()], Pace::On(trigger.clone()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                trigger.pull();
            }
        });
        let _done = crate::Done(&done);
        step_on(&both);
    });
}

#[test]
fn each_step_is_one_instruction_on_kvm_and_soft_by_turns() {
    let both = match KvmSoft::new() {
        Ok(both) => both,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    both.while_switching(step_on);
}
