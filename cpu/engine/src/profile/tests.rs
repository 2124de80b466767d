use super::look::physical_page;
use super::*;
use crate::mmu::{Access, Control, Mmu, PAGE, Privilege, RamMap};
use crate::options::Options;
use crate::smp::Processors;
use crate::vcpu::SoftVcpu;
use motu_hv::{Exit, Kick, Vcpu};
use motu_memory::GuestRam;
use motu_x86::contract::Contract;
use motu_x86::{CpuState, Gpa, Nanos, Segment};
use proptest::prelude::*;
use std::sync::Mutex;
use std::time::Instant;

/// Of random tables, all of them in 16 pages of RAM.
fn mmu(bytes: &[u8], control: &Control) -> (Mmu, GuestRam) {
    let ram = GuestRam::new(16 * PAGE).unwrap();
    let entries = bytes.chunks(8).cycle().take((16 * PAGE / 8) as usize);
    // Present, writable, for users, and mostly inside RAM; now and then large.
    let memory: Vec<u8> = entries
        .flat_map(|chunk| {
            let mut entry = [0; 8];
            entry[..chunk.len()].copy_from_slice(chunk);
            (u64::from_le_bytes(entry) & 0xf080 | 7).to_le_bytes()
        })
        .collect();
    ram.write(Gpa(0), &memory).unwrap();
    let mut mmu = Mmu::new(RamMap::new(ram.clone())).unwrap();
    mmu.control = *control;
    (mmu, ram)
}

fn contents(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; (16 * PAGE) as usize];
    ram.read(Gpa(0), &mut bytes).unwrap();
    bytes
}

proptest! {
    #[test]
    fn a_look_finds_what_an_access_finds_and_leaves_no_trace(
        bytes in prop::collection::vec(any::<u8>(), 8..512),
        address: u64,
        mode in 0..4,
    ) {
        let directories = [0x1001, 0x2001, 0x3001, 0x4001];
        let (paging, pae, long) = (mode > 0, mode > 1, mode > 2);
        let control = Control { paging, pae, long, pse: true, directories, ..Control::default() };
        let (mmu, ram) = mmu(&bytes, &control);
        let address = if long { ((address << 16) as i64 >> 16) as u64 } else { address & 0xffff_ffff };
        let before = contents(&ram);
        let looked = physical_page(&mmu.control, &mmu.ram, address);
        prop_assert!(contents(&ram) == before);
        if let Ok(page) = mmu.walk(address, Access::Read, Privilege::Supervisor) {
            prop_assert_eq!(looked, Some(page.physical));
        }
    }
}

/// Linear address, CPL, whether it was halted, time.
type Seen = (u64, u8, bool, Nanos);

/// Remembers samples, and ends the run at the third.
struct Three {
    samples: Arc<Mutex<Vec<Seen>>>,
    kick: Arc<dyn Kick>,
}

impl Profiler for Three {
    fn sample(&mut self, sample: &GuestSample<'_>) {
        let mut samples = self.samples.lock().unwrap();
        samples.push((sample.linear, sample.cpl, sample.halted, sample.time));
        if samples.len() == 3 {
            self.kick.kick();
        }
    }
}

/// A board that nobody asks.
struct Empty(Instant);

impl motu_hv::GuestBus for Empty {
    fn io_read(&self, _: u16, _: &mut [u8]) {}
    fn io_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: Gpa, _: &mut [u8]) {}
    fn mmio_write(&self, _: Gpa, _: &[u8]) {}
    fn acknowledge_interrupt(&self) -> u8 {
        0
    }
    fn end_of_interrupt(&self, _: u8) {}
    fn now(&self) -> Nanos {
        Nanos(self.0.elapsed().as_nanos() as u64)
    }
}

#[test]
fn a_running_cpu_is_told_of_where_it_is() {
    let ram = GuestRam::new(16 * PAGE).unwrap();
    // jmp $
    ram.write(Gpa(0x7c00), &[0xeb, 0xfe]).unwrap();
    let contract = Contract::by_name("v2-2026").unwrap();
    let mut vcpu = SoftVcpu::new(0, contract, ram, Processors::new(1).into(), &Options::default()).unwrap();
    let mut state = CpuState { rip: 0xc00, ..CpuState::default() };
    state.segments.cs = Segment { selector: 0x700, base: 0x7000, limit: 0xffff, attributes: 0x9b };
    vcpu.restore(&state, Nanos(0)).unwrap();
    let samples = Arc::new(Mutex::new(Vec::new()));
    let profiler = Three { samples: Arc::clone(&samples), kick: vcpu.kicker() };
    vcpu.set_profiler(Some(Box::new(profiler))).unwrap();
    assert_eq!(vcpu.run(&Empty(Instant::now())), Exit::Kicked);
    let samples = samples.lock().unwrap();
    assert!(samples.len() >= 3);
    for &(linear, cpl, halted, time) in samples.iter() {
        assert_eq!((linear, cpl, halted), (0x7c00, 0, false));
        assert!(time >= Nanos(1_000_000));
    }
}
