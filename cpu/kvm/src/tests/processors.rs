//! Several CPUs.

use super::*;

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
    second.restore(&waiting(), NOW).unwrap();
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
fn a_start_that_came_when_the_cpu_had_stopped_is_in_its_state() {
    let Some(kvm) = kvm() else { return };
    let ram = GuestRam::new(1 << 20).unwrap();
    // mov dword [0xfee00300], 0xc4500 (INIT to all others); ... 0xc4609 (start-up at 0x9000)
    let code = program(&[
        &[0xc7, 0x05, 0, 0x03, 0xe0, 0xfe, 0, 0x45, 0x0c, 0],
        &[0xc7, 0x05, 0, 0x03, 0xe0, 0xfe, 0x09, 0x46, 0x0c, 0],
        &OUT_END,
    ]);
    ram.write(Gpa(CODE), &code).unwrap();
    let vm = kvm.create_vm(VmConfig { ram, contract: CONTRACT, vcpus: 2 }).unwrap();
    let mut first = vm.create_vcpu(0).unwrap();
    let mut second = vm.create_vcpu(1).unwrap();
    first.restore(&start(), NOW).unwrap();
    second.restore(&CpuState { activity: Activity::Active, ..waiting() }, NOW).unwrap();
    let board = Board { vm, kick: first.kicker(), events: Mutex::default() };
    assert_eq!(first.run(&board), Exit::Kicked);
    let state = second.save(NOW);
    assert_eq!((state.activity, state.segments.cs.base, state.rip), (Activity::Active, 0x9000, 0));
}
