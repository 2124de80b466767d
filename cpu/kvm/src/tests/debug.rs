//! Steps, breakpoints and watched data.

use super::*;

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
