use super::*;
use crate::pci::{feature as transport, status};
use crate::testing::{Driver, Part};
use motu_disk::{GrowError, SECTOR};
use proptest::prelude::*;
use std::sync::{Condvar, Mutex};

const DISK: usize = 256 << 10;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What a status byte is before the device writes it.
const UNTOUCHED: u8 = 0xee;

/// A disk in memory that tells what was done to it, and can be made to wait or to fail.
#[derive(Debug)]
pub(crate) struct Memory {
    state: Arc<(Mutex<MemoryState>, Condvar)>,
    read_only: bool,
}

#[derive(Debug)]
pub(crate) struct MemoryState {
    data: Vec<u8>,
    calls: Vec<&'static str>,
    fails: bool,
    /// Calls wait while it is set.
    closed: bool,
    /// Calls of this name wait.
    held: Option<&'static str>,
    waiting: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<(Mutex<MemoryState>, Condvar)>);

impl Memory {
    pub(crate) fn new(read_only: bool) -> (Self, Handle) {
        let data = (0..DISK).map(|at| (at / 512) as u8).collect();
        let state = MemoryState { data, calls: Vec::new(), fails: false, closed: false, held: None, waiting: 0 };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        (Self { state: Arc::clone(&state), read_only }, Handle(state))
    }

    fn call<T>(&self, name: &'static str, act: impl FnOnce(&mut [u8]) -> T) -> io::Result<T> {
        let mut state = self.state.0.lock().unwrap();
        state.waiting += 1;
        self.state.1.notify_all();
        while state.closed || state.held == Some(name) {
            state = self.state.1.wait(state).unwrap();
        }
        state.waiting -= 1;
        state.calls.push(name);
        if state.fails { Err(io::Error::other("as asked")) } else { Ok(act(&mut state.data)) }
    }
}

impl Handle {
    fn set(&self, act: impl FnOnce(&mut MemoryState)) {
        act(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn get<T>(&self, look: impl FnOnce(&MemoryState) -> T) -> T {
        look(&self.0.0.lock().unwrap())
    }

    fn wait_for_a_call(&self) {
        let mut state = self.0.0.lock().unwrap();
        while state.waiting == 0 {
            state = self.0.1.wait(state).unwrap();
        }
    }
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.state.0.lock().unwrap().data.len() as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn granularity(&self) -> u32 {
        4096
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        self.call("read", |disk| data.copy_from_slice(&disk[at..at + data.len()]))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let at = offset as usize;
        self.call("write", |disk| disk[at..at + data.len()].copy_from_slice(data))
    }

    fn flush(&self) -> io::Result<()> {
        self.call("flush", |_| ())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.range("discard", offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.range(if unmap { "unmap" } else { "zero" }, offset, len)
    }

    fn grow(&self, size: u64) -> Result<(), GrowError> {
        self.call("grow", |_| ())?;
        self.state.0.lock().unwrap().data.resize(size as usize, 0);
        Ok(())
    }
}

impl Memory {
    fn range(&self, name: &'static str, offset: u64, len: u64) -> io::Result<()> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.size());
        if !inside {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.call(name, |disk| disk[offset as usize..(offset + len) as usize].fill(0))
    }
}

struct Machine {
    driver: Driver,
    disk: Handle,
    failures: Arc<DiskFailures>,
    handle: DiskHandle,
    /// Where requests lie in the guest's memory.
    header: u64,
    data: u64,
    status: u64,
}

const DATA_LEN: u64 = 1 << 20;

impl Machine {
    fn new(read_only: bool, queues: u16, features: u64) -> Self {
        let (memory, disk) = Memory::new(read_only);
        Self { disk, ..Self::of(Box::new(memory), queues, features) }
    }

    fn of(disk: Box<dyn Disk>, queues: u16, features: u64) -> Self {
        // Nothing is flushed that a test has not asked for.
        Self::with(disk, (queues, 2, Duration::from_secs(3600)), features)
    }

    fn with(disk: Box<dyn Disk>, (queues, workers, quiet_after): (u16, u16, Duration), features: u64) -> Self {
        let serial = "motu-0123456789-0123456789".into();
        let failures = Arc::<DiskFailures>::default();
        let (name, noted) = ("disk".into(), Arc::clone(&failures));
        let block =
            Block::new(BlockSpec { disk, serial, queues, workers, name, failures: noted, quiet_after }).unwrap();
        let handle = block.handle();
        let driver = Driver::new(Box::new(block));
        let mut machine = Self { driver, handle, disk: Memory::new(false).1, failures, header: 0, data: 0, status: 0 };
        machine.start(features);
        machine
    }

    fn start(&mut self, features: u64) {
        let d = &mut self.driver;
        d.negotiate(features);
        d.setup_all_queues();
        d.driver_ok();
        (self.header, self.data, self.status) = (d.alloc(16), d.alloc(DATA_LEN), d.alloc(1));
    }

    fn usual() -> Self {
        Self::new(false, 1, !transport::RING_EVENT_IDX)
    }

    /// Makes a request available and notifies.
    fn submit(&mut self, queue: u16, kind: u32, sector: u64, parts: &[Part]) -> u16 {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.driver.write_ram(self.header, &header);
        self.driver.write_ram(self.status, &[UNTOUCHED]);
        let parts = [&[(self.header, 16, false)], parts, &[(self.status, 1, true)]].concat();
        let head = self.driver.add(queue, &parts);
        self.driver.notify(queue);
        head
    }

    /// Waits for a request to be given back: bytes written and status.
    fn finish(&mut self, queue: u16, head: u16) -> (u32, u8) {
        loop {
            let used = self.driver.used(queue);
            if let Some(&(first, len)) = used.first() {
                assert_eq!((used.len(), first), (1, head));
                return (len, self.driver.bytes(self.status, 1)[0]);
            }
            std::thread::yield_now();
        }
    }

    fn request(&mut self, kind: u32, sector: u64, parts: &[Part]) -> (u32, u8) {
        let head = self.submit(0, kind, sector, parts);
        self.finish(0, head)
    }

    /// A request of ranges: sector, sectors, flags.
    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        let mut bytes = Vec::new();
        for (sector, sectors, flags) in ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.driver.write_ram(self.data, &bytes);
        self.request(kind, 0, &[(self.data, bytes.len() as u32, false)]).1
    }
}

#[test]
fn a_disk_says_what_it_is() {
    let mut m = Machine::new(false, 4, u64::MAX);
    assert_eq!(m.driver.config32(0) >> 16, 0x1042);
    let d = &mut m.driver;
    assert_eq!(u64::from_le_bytes(d.device_config(0)), DISK as u64 / SECTOR);
    assert_eq!(u32::from_le_bytes(d.device_config(12)), 254);
    assert_eq!(u32::from_le_bytes(d.device_config(20)), 512);
    assert_eq!(d.device_config(24), [3, 0]);
    assert_eq!(u16::from_le_bytes(d.device_config(34)), 4);
    assert_eq!(u32::from_le_bytes(d.device_config(36)), 2 << 20);
    assert_eq!(u32::from_le_bytes(d.device_config(44)), 8);
    assert_eq!((u32::from_le_bytes(d.device_config(40)), u32::from_le_bytes(d.device_config(52))), (64, 1));
    assert_eq!(d.device_config(56), [1, 0, 0, 0]);
    d.negotiate(0);
    let offered = d.device_features();
    assert_eq!(offered & feature::RO, 0);
    assert_ne!(offered & feature::DISCARD, 0);
    let offered = Machine::new(true, 1, u64::MAX).driver.device_features();
    assert_ne!(offered & feature::RO, 0);
    assert_eq!(offered & (feature::DISCARD | feature::WRITE_ZEROES), 0);
}

#[test]
fn sectors_are_read_and_written() {
    let mut m = Machine::usual();
    let (a, b) = (m.data, m.data + 4096);
    assert_eq!(m.request(0, 3, &[(a, 512, true), (b, 1024, true)]), (1537, OK));
    assert_eq!(m.driver.bytes(a, 512), [3; 512]);
    assert_eq!(m.driver.bytes(b, 1024), [[4; 512], [5; 512]].concat());
    m.driver.write_ram(a, &[0xaa; 1024]);
    assert_eq!(m.request(1, 7, &[(a, 300, false), (a, 724, false)]), (1, OK));
    assert_eq!(m.disk.get(|s| s.data[7 * 512..9 * 512].to_vec()), [0xaa; 1024]);
    // More than is held in memory at once; the whole disk.
    let whole = m.driver.alloc(DISK as u64);
    assert_eq!(m.request(0, 0, &[(whole, DISK as u32, true)]), (DISK as u32 + 1, OK));
    assert_eq!(m.driver.bytes(whole, DISK as u32), m.disk.get(|s| s.data.clone()));
    assert_eq!(m.request(0, 0, &[]), (1, OK), "nothing is read");
}

/// A raw disk's file and the guest's memory meet without a copy between.
#[test]
fn a_raw_disk_is_read_and_written_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    std::fs::write(&path, (0..DISK).map(|at| (at / 512) as u8).collect::<Vec<_>>()).unwrap();
    for read_only in [false, true] {
        let disk = motu_disk::open(&path, &motu_disk::OpenOptions { format: None, read_only }).unwrap();
        let mut m = Machine::of(disk, 1, !transport::RING_EVENT_IDX);
        let (a, b) = (m.data, m.data + 5000);
        assert_eq!(m.request(0, 3, &[(a, 700, true), (b, 836, true)]), (1537, OK));
        assert_eq!([m.driver.bytes(a, 700), m.driver.bytes(b, 836)].concat(), [[3; 512], [4; 512], [5; 512]].concat());
        assert_eq!(m.request(0, DISK as u64 / SECTOR - 1, &[(a, 1024, true)]), (0, IO_ERROR));
        assert_eq!(m.request(0, 0, &[]), (1, OK));
        m.driver.write_ram(a, &[0x55; 1024]);
        let expected = if read_only { IO_ERROR } else { OK };
        assert_eq!(m.request(1, 9, &[(a, 1000, false), (a, 24, false)]), (1, expected));
    }
    assert_eq!(std::fs::read(&path).unwrap()[9 * 512..11 * 512], [0x55; 1024]);
}

#[test]
fn what_is_not_on_the_disk_is_an_error_and_nothing_is_done() {
    let mut m = Machine::usual();
    let last = DISK as u64 / SECTOR - 1;
    let cases = [(last, 1024), (last + 1, 512), (u64::MAX, 512), (u64::MAX / 512, 512), (1 << 55, 512), (0, 100)];
    for (sector, len) in cases {
        assert_eq!(m.request(0, sector, &[(m.data, len, true)]), (0, IO_ERROR), "{sector} {len}");
        assert_eq!(m.request(1, sector, &[(m.data, len, false)]), (1, IO_ERROR), "{sector} {len}");
    }
    assert_eq!(m.disk.get(|s| s.calls.len()), 0);
    assert_eq!(m.request(99, 0, &[]), (1, UNSUPPORTED));
    assert_eq!(m.request(14, 0, &[(m.data, 16, false)]), (1, UNSUPPORTED), "secure erase");
    assert_eq!(m.failures.first(), None, "what the guest asks wrongly is no failure of the host's");
    m.disk.set(|s| s.fails = true);
    assert_eq!(m.request(0, 0, &[(m.data, 512, true)]), (0, IO_ERROR));
    assert_eq!((m.failures.first(), m.failures.first_lost()), (Some("reading disk: as asked"), None));
    assert_eq!(m.request(4, 0, &[]), (1, IO_ERROR));
    assert_eq!(m.request(1, 0, &[(m.data, 512, false)]), (1, IO_ERROR));
    let expected = (Some("reading disk: as asked"), Some("flushing disk: as asked"));
    assert_eq!((m.failures.first(), m.failures.first_lost()), expected);
    assert_eq!(m.driver.malformed(), 0);
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let mut m = Machine::usual();
    assert_eq!(m.ranges(11, &[(8, 8, 0), (100, 1, 0)]), OK);
    assert_eq!(m.disk.get(|s| (s.data[8 * 512], s.data[16 * 512], s.data[100 * 512])), (0, 16, 0));
    assert_eq!(m.ranges(13, &[(20, 1, 1)]), OK);
    assert_eq!(m.ranges(13, &[(21, 1, 0)]), OK);
    assert_eq!(m.disk.get(|s| s.calls.clone()), ["discard", "discard", "unmap", "zero"]);
    assert_eq!(m.ranges(11, &[(0, 1, 1)]), UNSUPPORTED, "a discard has no flags");
    assert_eq!(m.ranges(13, &[(0, 1, 2)]), UNSUPPORTED);
    assert_eq!(m.ranges(13, &[(0, 1, 0); 2]), IO_ERROR, "one at a time");
    assert_eq!(m.ranges(13, &[(DISK as u64 / SECTOR, 1, 0)]), IO_ERROR);
    assert_eq!(m.ranges(13, &[(u64::MAX, 1, 0)]), IO_ERROR);
    assert_eq!(m.ranges(11, &[(0, u32::MAX, 0)]), IO_ERROR);
    assert_eq!(m.ranges(11, &[]), IO_ERROR);
    assert_eq!(m.ranges(11, &[(0, 1, 0); 65]), IO_ERROR);
    assert_eq!(m.request(11, 0, &[(m.data, 17, false)]).1, IO_ERROR);
    assert_eq!(m.disk.get(|s| s.calls.len()), 4, "what was refused did not reach the disk");
}

#[test]
fn the_serial_number_is_told() {
    let mut m = Machine::usual();
    assert_eq!(m.request(8, 0, &[(m.data, 20, true)]), (21, OK));
    assert_eq!(m.driver.bytes(m.data, 20), b"motu-0123456789-0123");
    assert_eq!(m.request(8, 0, &[(m.data, 64, true)]), (20, OK));
    assert_eq!(m.request(8, 0, &[(m.data, 4, true)]), (5, OK));
}

#[test]
fn a_read_only_disk_refuses_all_else() {
    let mut m = Machine::new(true, 1, !transport::RING_EVENT_IDX);
    assert_eq!(m.request(1, 0, &[(m.data, 512, false)]), (1, IO_ERROR));
    assert_eq!(m.ranges(11, &[(0, 1, 0)]), IO_ERROR);
    assert_eq!(m.ranges(13, &[(0, 1, 0)]), IO_ERROR);
    assert_eq!(m.request(0, 0, &[(m.data, 512, true)]), (513, OK));
    assert_eq!(m.disk.get(|s| s.calls.clone()), ["read"]);
}

#[test]
fn without_flushes_writes_are_written_through() {
    let mut m = Machine::new(false, 1, !transport::RING_EVENT_IDX & !feature::FLUSH);
    assert_eq!(m.request(1, 0, &[(m.data, 512, false)]).1, OK);
    assert_eq!(m.request(0, 0, &[(m.data, 512, true)]).1, OK);
    assert_eq!(m.disk.get(|s| s.calls.clone()), ["write", "flush", "read"]);
    let mut m = Machine::usual();
    assert_eq!(m.request(1, 0, &[(m.data, 512, false)]).1, OK);
    assert_eq!(m.request(4, 0, &[]).1, OK);
    assert_eq!(m.disk.get(|s| s.calls.clone()), ["write", "flush"]);
}

#[test]
fn a_chain_without_header_or_status_needs_a_reset() {
    let cases: [&[Part]; 4] = [
        &[(0x1000, 15, false), (0x2000, 1, true)],
        &[(0x1000, 16, false)],
        &[(0x2000, 100, true)],
        &[(0x1000, 0, false), (0x2000, 0, true)],
    ];
    for parts in cases {
        let mut m = Machine::usual();
        m.driver.add(0, parts);
        m.driver.notify(0);
        while m.driver.status() & status::NEEDS_RESET == 0 {
            std::thread::yield_now();
        }
        m.driver.notify(0);
        assert!(m.driver.used(0).is_empty());
        m.driver.assert_needs_reset(&format!("{parts:?}"));
        m.start(!transport::RING_EVENT_IDX);
        assert_eq!(m.request(0, 0, &[(m.data, 512, true)]), (513, OK), "it lives again");
    }
}

#[test]
fn a_reset_waits_for_the_request_under_way_and_forgets_the_rest() {
    let mut m = Machine::new(false, 2, !transport::RING_EVENT_IDX);
    m.disk.set(|s| s.closed = true);
    m.submit(0, 0, 0, &[(m.data, 512, true)]);
    m.submit(0, 0, 1, &[(m.data, 512, true)]);
    m.disk.wait_for_a_call();
    let disk = m.disk.clone();
    std::thread::scope(|scope| {
        let opener = scope.spawn(move || {
            // The reset may come before or after: either way it ends when this is done.
            std::thread::yield_now();
            disk.set(|s| s.closed = false);
        });
        m.driver.set_status(0);
        opener.join().unwrap();
    });
    assert_eq!(m.driver.status(), 0);
    let calls = m.disk.get(|s| s.calls.len());
    m.driver.write_ram(m.data, &[0x77; 512]);
    m.start(!transport::RING_EVENT_IDX);
    m.driver.write_ram(m.data, &[0x77; 512]);
    assert_eq!(m.request(4, 0, &[]), (1, OK));
    assert_eq!(m.disk.get(|s| s.calls.len()), calls + 1, "no request of before was done after the reset");
    assert_eq!(m.driver.bytes(m.data, 512), [0x77; 512]);
}

#[test]
fn a_disk_is_flushed_when_the_machine_ends() {
    let mut m = Machine::usual();
    assert_eq!(m.request(1, 0, &[(m.data, 512, false)]).1, OK);
    let disk = m.disk.clone();
    drop(m);
    assert_eq!(disk.get(|s| s.calls.last().copied()), Some("flush"));
}

#[test]
fn a_disk_that_is_left_alone_is_flushed() {
    let (memory, disk) = Memory::new(false);
    let quiet = Duration::from_millis(1);
    let mut m = Machine::with(Box::new(memory), (1, 1, quiet), !transport::RING_EVENT_IDX);
    assert_eq!(m.request(1, 0, &[(m.data, 512, false)]).1, OK);
    while disk.get(|s| s.calls.clone()) != ["write", "flush"] {
        std::thread::yield_now();
    }
}

#[test]
fn a_busy_queue_does_not_keep_others_waiting() {
    let (memory, disk) = Memory::new(false);
    let hour = Duration::from_secs(3600);
    let mut m = Machine::with(Box::new(memory), (2, 1, hour), !transport::RING_EVENT_IDX);
    let write = m.driver.alloc(16);
    for (at, kind) in [(m.header, 0u32), (write, 1)] {
        m.driver.write_ram(at, &kind.to_le_bytes());
    }
    disk.set(|s| s.closed = true);
    for _ in 0..80 {
        m.driver.add(0, &[(m.header, 16, false), (m.data, 512, true), (m.status, 1, true)]);
    }
    m.driver.notify(0);
    disk.wait_for_a_call();
    m.driver.add(1, &[(write, 16, false), (m.data, 512, false), (m.status, 1, true)]);
    m.driver.notify(1);
    disk.set(|s| s.closed = false);
    let mut done = 0;
    while done < 81 {
        done += m.driver.used(0).len() + m.driver.used(1).len();
        std::thread::yield_now();
    }
    let calls = disk.get(|s| s.calls.clone());
    assert!(calls.iter().position(|call| *call == "write").is_some_and(|at| at < 80), "{calls:?}");
}

/// Where the configuration space has the capacity, in sectors.
fn capacity(m: &mut Machine) -> u64 {
    u64::from_le_bytes(m.driver.device_config(0))
}

const SECTORS: u64 = DISK as u64 / SECTOR;
/// Config changed (virtio 1.2, 4.1.4.5).
const ISR_CONFIG: u8 = 2;

#[test]
fn a_disk_that_grows_tells_the_driver() {
    let mut m = Machine::usual();
    let (before, old) = (m.driver.common8(0x15), capacity(&mut m));
    assert_eq!((old, m.driver.isr()), (SECTORS, 0));
    let last = SECTORS + 7;
    assert_eq!(m.request(1, last, &[(m.data, 512, false)]).1, IO_ERROR, "there is no such sector yet");
    m.driver.isr();
    assert_eq!(m.handle.grow(|size| size + 8 * SECTOR).unwrap(), DISK as u64 + 8 * SECTOR);
    assert_ne!(m.driver.common8(0x15), before, "the configuration's generation");
    assert_eq!((capacity(&mut m), m.driver.isr()), (SECTORS + 8, ISR_CONFIG));
    assert_eq!(m.request(1, last, &[(m.data, 512, false)]).1, OK);
    assert_eq!(m.request(1, last, &[(m.data, 1024, false)]).1, IO_ERROR, "behind the end");
    // A size that it has is no change.
    m.driver.isr();
    m.handle.grow(|size| size).unwrap();
    assert_eq!(m.driver.isr(), 0);
    // What the host could not do the guest does not hear of.
    m.disk.set(|s| s.fails = true);
    let generation = m.driver.common8(0x15);
    assert!(m.handle.grow(|size| size + SECTOR).is_err());
    assert_eq!((capacity(&mut m), m.driver.isr(), m.driver.common8(0x15)), (SECTORS + 8, 0, generation));
}

#[test]
fn a_driver_that_comes_later_hears_of_what_it_may_have_read_before() {
    let mut m = Machine::usual();
    m.driver.set_status(0);
    m.driver.negotiate(0);
    // It reads the capacity before it is ready, as Linux's does.
    assert_eq!(capacity(&mut m), SECTORS);
    m.handle.grow(|size| 2 * size).unwrap();
    assert_eq!(m.driver.isr(), 0);
    m.driver.setup_all_queues();
    m.driver.driver_ok();
    assert_eq!((capacity(&mut m), m.driver.isr()), (2 * SECTORS, ISR_CONFIG));
    m.driver.set_status(0);
    m.start(!transport::RING_EVENT_IDX);
    assert_eq!(m.driver.isr(), 0, "once");
}

#[test]
fn a_change_has_its_vector() {
    let mut m = Machine::new(false, 1, u64::MAX);
    m.driver.set_status(0);
    m.driver.enable_msix(2);
    m.driver.negotiate(u64::MAX);
    m.driver.write_common(0x10, &1u16.to_le_bytes());
    m.driver.setup_all_queues();
    m.driver.driver_ok();
    m.handle.grow(|size| size + SECTOR).unwrap();
    assert_eq!(m.driver.take_messages(), [0x41]);
}

#[test]
fn a_disk_is_closed_with_its_machine_whoever_could_make_it_larger() {
    let m = Machine::usual();
    let handle = m.handle.clone();
    drop(m);
    assert!(handle.grow(|size| size + SECTOR).unwrap_err().to_string().contains("has ended"));
}

#[test]
fn who_waits_for_the_host_holds_up_no_others_in_the_queue() {
    let mut m = Machine::new(false, 1, u64::MAX);
    m.disk.set(|s| s.held = Some("flush"));
    let read = m.driver.alloc(16);
    let status = m.driver.alloc(1);
    m.driver.write_ram(read, &0u32.to_le_bytes());
    m.driver.write_ram(m.header, &4u32.to_le_bytes());
    m.driver.write_ram(m.status, &[UNTOUCHED]);
    m.driver.add(0, &[(m.header, 16, false), (m.status, 1, true)]);
    let parts = [(read, 16, false), (m.data, 512, true), (status, 1, true)];
    // One that is there already, and one that comes while the flush is waited for.
    for _ in 0..2 {
        let head = m.driver.add(0, &parts);
        m.driver.notify(0);
        let mut used = Vec::new();
        while used.is_empty() {
            used = m.driver.used(0);
            std::thread::yield_now();
        }
        assert_eq!(used, [(head, 513)], "the flush is still waited for");
        while !m.driver.wants_notification(0) {
            std::thread::yield_now();
        }
    }
    assert_eq!(m.driver.bytes(m.status, 1), [UNTOUCHED]);
    m.disk.set(|s| s.held = None);
    while m.driver.used(0).is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(m.driver.bytes(m.status, 1), [OK]);
}

#[test]
fn each_queue_has_its_vector() {
    let mut m = Machine::new(false, 2, u64::MAX);
    m.driver.set_status(0);
    m.driver.enable_msix(3);
    m.driver.negotiate(u64::MAX);
    for queue in 0..2u16 {
        m.driver.select_queue(queue);
        m.driver.write_common(0x1a, &(queue + 1).to_le_bytes());
    }
    m.driver.setup_all_queues();
    m.driver.driver_ok();
    (m.header, m.data, m.status) = (m.driver.alloc(16), m.driver.alloc(4096), m.driver.alloc(1));
    for queue in [1, 0, 1] {
        let head = m.submit(queue, 0, 0, &[(m.data, 512, true)]);
        assert_eq!(m.finish(queue, head), (513, OK));
        let expected = 0x41 + u32::from(queue);
        // The interrupt comes after the request was given back.
        while !m.driver.take_messages().contains(&expected) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_full_ring_is_worked_off() {
    let mut m = Machine::new(false, 1, u64::MAX);
    for round in 0..20u64 {
        let mut header = 0u32.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(round.to_le_bytes());
        m.driver.write_ram(m.header, &header);
        for n in 0..80 {
            m.driver.add(0, &[(m.header, 16, false), (m.data + n * 512, 512, true), (m.status + n, 1, true)]);
        }
        m.driver.notify(0);
        let mut done = 0;
        while done < 80 {
            done += m.driver.used(0).len();
            std::thread::yield_now();
        }
        assert_eq!(m.driver.bytes(m.data, 80 * 512), vec![round as u8; 80 * 512]);
        // It has asked to be notified of the next one.
        while !m.driver.wants_notification(0) {
            std::thread::yield_now();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever requests are made of, each is given back or the device says that it needs a reset.
    #[test]
    fn every_request_is_answered(
        requests in prop::collection::vec((prop_oneof![0..15u32, any::<u32>()], prop_oneof![0..520u64, any::<u64>()],
            prop::collection::vec((0..3000u32, any::<bool>()), 0..4), any::<bool>()), 1..20),
    ) {
        let mut m = Machine::usual();
        for (kind, sector, lens, indirect) in requests {
            let mut header = kind.to_le_bytes().to_vec();
            header.extend([0; 4]);
            header.extend(sector.to_le_bytes());
            m.driver.write_ram(m.header, &header);
            let mut parts: Vec<Part> = lens.iter().map(|(len, write)| (m.data, *len, *write)).collect();
            parts.push((m.header, 16, false));
            parts.push((m.status, 1, true));
            parts.sort_by_key(|(at, _, write)| (*write, *at != m.header));
            let head = if indirect { m.driver.add_indirect(0, &parts) } else { m.driver.add(0, &parts) };
            m.driver.notify(0);
            m.finish(0, head);
        }
        prop_assert_eq!(m.driver.malformed(), 0);
    }
}
