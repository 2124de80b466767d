//! Ports, device memory, kicks, and the board's interrupts.

use super::*;

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
