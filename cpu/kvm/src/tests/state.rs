//! A state that is saved, restored and refused.

use super::*;

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
