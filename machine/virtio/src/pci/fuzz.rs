//! Whatever a driver writes to registers and rings: an answer, and no panic.

use crate::block::{Block, BlockSpec};
use crate::console::{Console, PortHandle, PortSpec, ResizeOrder};
use crate::pci::status;
use crate::rng::Rng;
use crate::testing::{Driver, Part, RAM};
use motu_bus::Device;
use proptest::prelude::*;
use std::time::Duration;

/// One thing that a guest or the host does.
#[derive(Clone, Debug)]
enum Step {
    WriteRegister {
        offset: u64,
        data: Vec<u8>,
    },
    ReadRegister {
        offset: u64,
        len: usize,
    },
    WriteConfig {
        at: u16,
        data: Vec<u8>,
    },
    ReadConfig {
        at: u16,
    },
    Notify(u16),
    Ring {
        queue: u16,
        part: u8,
        offset: u64,
        value: u16,
    },
    Descriptor {
        queue: u16,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    },
    /// A chain of parts that are well linked, made available and notified.
    Chain {
        queue: u16,
        parts: Vec<Part>,
        indirect: bool,
    },
    Publish {
        queue: u16,
        head: u16,
    },
    Restart,
    Send(usize),
    Resume,
    Close,
    Open,
    Resize(u16),
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![0..RAM, RAM - 64..RAM + 64, any::<u64>()]
}

fn access() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(1), Just(2), Just(4), Just(8)].prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..7u16;
    let offset = prop_oneof![0..0x40u64, 0x1000..0x1004u64, 0x2000..0x2010u64, 0x3000..0x3020u64, 0..0x4000u64];
    prop_oneof![
        3 => (offset.clone(), access()).prop_map(|(offset, data)| Step::WriteRegister { offset, data }),
        2 => (offset, prop_oneof![Just(1), Just(2), Just(4), Just(8)])
            .prop_map(|(offset, len)| Step::ReadRegister { offset, len }),
        1 => (0..256u16, access()).prop_map(|(at, data)| Step::WriteConfig { at, data }),
        1 => (0..256u16).prop_map(|at| Step::ReadConfig { at }),
        6 => queue.clone().prop_map(Step::Notify),
        1 => (queue.clone(), 0..3u8, 0..0x240u64, any::<u16>())
            .prop_map(|(queue, part, offset, value)| Step::Ring { queue, part, offset, value }),
        3 => (queue.clone(), 0..65u16, address(), prop_oneof![0..10_000u32, any::<u32>()], 0..8u16, 0..65u16)
            .prop_map(|(queue, index, address, len, flags, next)| {
                Step::Descriptor { queue, index, address, len, flags, next }
            }),
        20 => (queue.clone(), prop::collection::vec(part(), 1..4), any::<bool>())
            .prop_map(|(queue, parts, indirect)| Step::Chain { queue, parts, indirect }),
        3 => (queue, 0..65u16).prop_map(|(queue, head)| Step::Publish { queue, head }),
        4 => Just(Step::Restart),
        2 => (0..20_000usize).prop_map(Step::Send),
        2 => Just(Step::Resume),
        1 => Just(Step::Close),
        1 => Just(Step::Open),
        1 => any::<u16>().prop_map(Step::Resize),
    ]
}

/// Mostly buffers that a driver could give, as every bad one ends what there is to test.
fn part() -> impl Strategy<Value = Part> {
    let good = (0x8_0000..0xf_0000u64, 0..10_000u32);
    let range = prop_oneof![20 => good, 1 => (address(), 0..10_000u32), 1 => (0..RAM, any::<u32>())];
    (range, any::<bool>()).prop_map(|((address, len), write)| (address, len, write))
}

/// A driver at work; unlike [`Driver::negotiate`] it may find the device in any state.
fn bring_up(driver: &mut Driver) {
    driver.bus.reset();
    driver.bus.assign_resources().unwrap();
    driver.negotiate(u64::MAX);
    driver.setup_all_queues();
    driver.driver_ok();
}

/// The same with buffers in each queue.
fn restart(driver: &mut Driver) {
    bring_up(driver);
    for queue in 0..driver.rings.len() as u16 {
        for n in 0..4 {
            let write = queue % 2 == 0;
            driver.add(queue, &[(0x8_0000 + n * 4096, 4096, write)]);
        }
        driver.notify(queue);
    }
}

fn run(driver: &mut Driver, ports: &[PortHandle], steps: Vec<Step>) {
    let registers = driver.bar(0);
    restart(driver);
    for step in steps {
        match step {
            Step::WriteRegister { offset, data } => _ = driver.memory.write(registers + offset, &data),
            Step::ReadRegister { offset, len } => _ = driver.memory.read(registers + offset, &mut vec![0; len]),
            Step::WriteConfig { at, data } => driver.config_write(at, &data),
            Step::ReadConfig { at } => _ = driver.config32(at),
            Step::Notify(queue) => _ = driver.memory.write(registers + 0x3000 + 4 * u64::from(queue), &[0, 0]),
            Step::Ring { queue, part, offset, value } => {
                if let Some(ring) = driver.rings.get(&queue).cloned() {
                    let base = [ring.available, ring.available, ring.used][usize::from(part)];
                    // Half of all writes hit the flags and the index.
                    let at = if part == 0 { base + offset % 4 } else { base + offset };
                    driver.write16(at, if offset % 3 == 0 { value % 80 } else { value });
                }
            }
            Step::Descriptor { queue, index, address, len, flags, next } => {
                if let Some(ring) = driver.rings.get(&queue).cloned() {
                    driver.write_descriptor(ring.descriptors, index, (address, len), flags, next);
                }
            }
            Step::Chain { queue, mut parts, indirect } => {
                if driver.rings.contains_key(&queue) {
                    // Readable parts come first.
                    parts.sort_by_key(|&(_, _, write)| write);
                    _ = if indirect { driver.add_indirect(queue, &parts) } else { driver.add(queue, &parts) };
                    driver.memory.write(registers + 0x3000 + 4 * u64::from(queue), &[0, 0]);
                }
            }
            Step::Publish { queue, head } => {
                if driver.rings.contains_key(&queue) {
                    driver.publish(queue, head);
                }
            }
            Step::Restart => restart(driver),
            Step::Send(len) => ports.iter().for_each(|p| _ = p.send(&vec![1; len])),
            Step::Resume => ports.iter().for_each(PortHandle::resume),
            Step::Close => ports.iter().for_each(PortHandle::close),
            Step::Open => ports.iter().for_each(PortHandle::open),
            Step::Resize(cols) => ports.iter().for_each(|p| p.set_size(cols, 1)),
        }
    }
    // Whatever it was, a reset brings the device back.
    bring_up(driver);
    assert_eq!(driver.status() & (status::NEEDS_RESET | status::DRIVER_OK), status::DRIVER_OK);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_that_is_done_to_a_console_panics(steps in prop::collection::vec(step(), 0..80), room in 0..9000usize) {
        let backend = move || Box::new(move |data: &[u8]| data.len().min(room));
        let ports = vec![PortSpec::console(backend()), PortSpec::named("port", backend()).input_capacity(5000)];
        let (device, handles) = Console::new(ports, ResizeOrder::default()).unwrap();
        run(&mut Driver::new(Box::new(device)), &handles, steps);
    }

    #[test]
    fn nothing_that_is_done_to_a_disk_panics(steps in prop::collection::vec(step(), 0..80)) {
        let disk = Box::new(crate::block::tests::Memory::new(false).0);
        let (serial, name, quiet_after) = ("serial".into(), "disk".into(), Duration::from_millis(1));
        let spec = BlockSpec { disk, serial, queues: 3, workers: 2, name, failures: Default::default(), quiet_after };
        run(&mut Driver::new(Box::new(Block::new(spec).unwrap())), &[], steps);
    }

    #[test]
    fn nothing_that_is_done_to_the_entropy_device_panics(steps in prop::collection::vec(step(), 0..80)) {
        let device = Rng::new(Box::new(|bytes| bytes.fill(1)));
        run(&mut Driver::new(Box::new(device)), &[], steps);
    }
}
