//! What a profiler is told.

use super::*;

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
