//! Whether there is hardware behind /dev/kvm.
//!
//! There are KVMs without VT-x or AMD-V: they emulate a guest's kernel instruction by instruction, at a millionth of a
//! second each. The CPU's flags give most of them away; the rest a guest that counts, which hardware runs in microseconds.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::{Gpa, flags};
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// What runs a guest's instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    Hardware,
    /// The kernel itself, one by one; why that is known.
    Emulated(String),
}

/// Whether the text of /proc/cpuinfo tells of VT-x (`vmx`) or AMD-V (`svm`).
pub fn cpu_has_virtualization(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.is_some_and(|(_, flags)| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// The beginning of /proc/cpuinfo, with all of the first CPU: the kernel takes long to write it for hundreds.
fn first_cpu() -> String {
    const ENOUGH: u64 = 16 << 10;
    let mut text = Vec::new();
    let read = File::open("/proc/cpuinfo").and_then(|file| file.take(ENOUGH).read_to_end(&mut text));
    if let Err(error) = read {
        tracing::debug!("reading /proc/cpuinfo: {error}");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Rounds of the probe's loop, of two instructions each.
const ROUNDS: u64 = 1000;
/// Hardware needs some microseconds, and tens where the host itself is a guest; an emulator two milliseconds.
const LIMIT: Duration = Duration::from_micros(500);
/// A host that is busy with other things may be slow once.
const ATTEMPTS: u32 = 3;

impl Backing {
    pub fn find(kvm: &Kvm) -> Self {
        if !cpu_has_virtualization(&first_cpu()) {
            return Self::Emulated("the CPU has neither VT-x nor AMD-V".into());
        }
        Self::of_probe(|| time(kvm))
    }

    /// By how long the probe's guest takes whenever it is run, or why it does not.
    fn of_probe(mut time: impl FnMut() -> Result<Duration, String>) -> Self {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            match time() {
                Ok(time) if time < LIMIT => return Self::Hardware,
                Ok(time) => why = format!("a test guest of {} instructions took {time:?}", 2 * ROUNDS),
                Err(error) => return Self::Emulated(format!("a test guest failed: {error}")),
            }
        }
        Self::Emulated(why)
    }
}

/// How long the probe's guest runs.
fn time(kvm: &Kvm) -> Result<Duration, String> {
    // 1: dec ecx; jnz 1b; hlt
    const CODE: [u8; 4] = [0x49, 0x75, 0xfd, 0xf4];
    let text = |e: kvm_ioctls::Error| e.to_string();
    let ram = GuestRam::new(PAGE_SIZE).map_err(|e| e.to_string())?;
    ram.write(Gpa(0), &CODE).map_err(|e| e.to_string())?;
    let host = ram.regions().next().map_or(0, |region| region.host as u64);
    let vm = kvm.create_vm().map_err(text)?;
    let slot = kvm_userspace_memory_region { memory_size: PAGE_SIZE, userspace_addr: host, ..Default::default() };
    // SAFETY: the page is mapped until `ram` is dropped, which is after `vm` and `vcpu`, and nobody else uses it.
    unsafe { vm.set_user_memory_region(slot) }.map_err(text)?;
    let mut vcpu = vm.create_vcpu(0).map_err(text)?;
    let mut system = vcpu.get_sregs().map_err(text)?;
    let flat = kvm_segment { limit: u32::MAX, selector: 8, present: 1, s: 1, db: 1, g: 1, ..Default::default() };
    system.cs = kvm_segment { type_: 0xb, ..flat };
    let data = kvm_segment { type_: 3, selector: 16, ..flat };
    (system.ds, system.es, system.fs, system.gs, system.ss) = (data, data, data, data, data);
    system.cr0 |= flags::cr0::PE;
    vcpu.set_sregs(&system).map_err(text)?;
    let registers = kvm_regs { rcx: ROUNDS, rflags: flags::rflags::FIXED_1, ..Default::default() };
    vcpu.set_regs(&registers).map_err(text)?;
    let start = Instant::now();
    match vcpu.run().map_err(text)? {
        VcpuExit::Hlt => Ok(start.elapsed()),
        other => Err(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words_of_their_line() {
        assert!(cpu_has_virtualization("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(cpu_has_virtualization("flags : svm\n"));
        assert!(!cpu_has_virtualization("flags\t: fpu vmxnet sse\nvmx flags : vnmi\n"));
        assert!(!cpu_has_virtualization(""));
    }

    #[test]
    fn one_fast_run_of_the_probe_is_enough() {
        let mut times = [2000, 2000, 20].map(Duration::from_micros).into_iter();
        assert_eq!(Backing::of_probe(|| Ok(times.next().unwrap())), Backing::Hardware);
        let slow = Backing::of_probe(|| Ok(Duration::from_millis(2)));
        assert_eq!(slow, Backing::Emulated("a test guest of 2000 instructions took 2ms".into()));
        let failed = Backing::of_probe(|| Err("no".into()));
        assert_eq!(failed, Backing::Emulated("a test guest failed: no".into()));
    }

    #[test]
    fn the_probe_runs_wherever_there_is_kvm() {
        match Kvm::new() {
            Ok(kvm) => {
                time(&kvm).unwrap();
            }
            Err(error) => println!("SKIPPED: no KVM: {error}"),
        }
    }
}
