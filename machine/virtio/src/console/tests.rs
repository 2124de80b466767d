use super::control::{self, Message};
use super::state::{receive_queue, transmit_queue};
use super::*;
use crate::pci::feature;
use crate::testing::Driver;
use std::collections::VecDeque;
use std::io::{Read, Write};

const PAGE: u32 = 4096;
/// Of the agent port's input: two pages, so that the guest's pages are filled whole.
const CAPACITY: usize = 2 * PAGE as usize;
const AGENT: &str = "org.motu.agent.0";

/// A backend that takes `room` bytes and remembers everything.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    data: Vec<u8>,
    events: Vec<PortEvent>,
    room: usize,
}

impl Record {
    fn with_room(room: usize) -> Self {
        let record = Self::default();
        record.allow(room);
        record
    }

    fn allow(&self, room: usize) {
        self.0.lock().unwrap().room = room;
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().data)
    }

    fn events(&self) -> Vec<PortEvent> {
        std::mem::take(&mut self.0.lock().unwrap().events)
    }
}

impl PortBackend for Record {
    fn output(&mut self, data: &[u8]) -> usize {
        let mut recorded = self.0.lock().unwrap();
        let taken = data.len().min(recorded.room);
        recorded.room -= taken;
        recorded.data.extend(&data[..taken]);
        taken
    }

    fn event(&mut self, event: PortEvent) {
        self.0.lock().unwrap().events.push(event);
    }
}

/// A guest's console driver, and the host's ends of a console and an agent port.
struct Guest {
    driver: Driver,
    console: PortHandle,
    agent: PortHandle,
    console_record: Record,
    agent_record: Record,
    /// Received and not read yet, by port.
    received: [VecDeque<u8>; 2],
}

impl Guest {
    fn unstarted() -> Self {
        let (console_record, agent_record) = (Record::with_room(usize::MAX), Record::with_room(usize::MAX));
        let ports = vec![
            PortSpec::console(Box::new(console_record.clone())),
            PortSpec::named(AGENT, Box::new(agent_record.clone())).input_capacity(CAPACITY),
        ];
        let (device, handles) = Console::new(ports, ResizeOrder::RowsFirst).unwrap();
        let [console, agent] = handles.try_into().unwrap();
        let driver = Driver::new(Box::new(device));
        Self { driver, console, agent, console_record, agent_record, received: Default::default() }
    }

    /// Starts as Linux does: queues, buffers for messages, DRIVER_OK, DEVICE_READY.
    fn start(&mut self) {
        self.received = Default::default();
        self.driver.negotiate(u64::MAX);
        self.driver.setup_all_queues();
        self.driver.driver_ok();
        self.fill(2);
        self.control(u32::MAX, control::DEVICE_READY, 1);
    }

    /// Started, with both ports added and open.
    fn new() -> Self {
        let mut guest = Self::unstarted();
        guest.start();
        for id in 0..2 {
            guest.add_port(id);
            guest.control(id, control::PORT_OPEN, 1);
        }
        guest.messages();
        guest
    }

    fn add_port(&mut self, id: u32) {
        self.fill(receive_queue(id as usize));
        self.control(id, control::PORT_READY, 1);
    }

    /// Gives the device pages to write to, as many as the ring has room for.
    fn fill(&mut self, queue: u16) {
        let pages = self.driver.alloc(8 * u64::from(PAGE));
        for page in 0..8 {
            self.driver.add(queue, &[(pages + page * u64::from(PAGE), PAGE, true)]);
        }
        self.driver.notify(queue);
    }

    fn control(&mut self, id: u32, event: u16, value: u16) {
        let message = Message { id, event, value }.encode(&[]);
        let buffer = self.driver.alloc(8);
        self.driver.write_ram(buffer, &message);
        self.driver.add(3, &[(buffer, 8, false)]);
        self.driver.notify(3);
        assert_eq!(self.driver.used(3).len(), 1);
    }

    /// Messages from the device; their buffers are given back.
    fn messages(&mut self) -> Vec<(Message, Vec<u8>)> {
        let used = self.driver.used(2);
        used.into_iter()
            .map(|(head, len)| {
                let bytes = self.take_buffer(2, head, len);
                (Message::parse(&bytes).unwrap(), bytes[control::HEADER_LEN..].to_vec())
            })
            .collect()
    }

    fn take_buffer(&mut self, queue: u16, head: u16, len: u32) -> Vec<u8> {
        let (address, _) = self.driver.descriptor(queue, head);
        let bytes = self.driver.bytes(address, len);
        self.driver.add(queue, &[(address, PAGE, true)]);
        self.driver.notify(queue);
        bytes
    }

    /// Makes `data` available for transmission; a test may write more at one time than it reuses.
    fn write(&mut self, port: usize, data: &[u8]) {
        let buffer = self.driver.alloc(data.len() as u64);
        self.driver.write_ram(buffer, data);
        let queue = transmit_queue(port);
        self.driver.add(queue, &[(buffer, data.len() as u32, false)]);
        self.driver.notify(queue);
    }

    /// How many writes the device has given back.
    fn written(&mut self, port: usize) -> usize {
        self.driver.used(transmit_queue(port)).len()
    }

    fn read(&mut self, port: usize) -> Vec<u8> {
        let queue = receive_queue(port);
        loop {
            let used = self.driver.used(queue);
            if used.is_empty() {
                return self.received[port].drain(..).collect();
            }
            for (head, len) in used {
                let bytes = self.take_buffer(queue, head, len);
                self.received[port].extend(bytes);
            }
        }
    }
}

fn message(id: u32, event: u16, value: u16) -> (Message, Vec<u8>) {
    (Message { id, event, value }, Vec::new())
}

#[test]
fn ports_are_announced_in_the_order_that_drivers_expect() {
    let mut g = Guest::unstarted();
    g.console.set_size(80, 25);
    g.start();
    assert_eq!(g.driver.config32(0), 0x1043_1af4);
    assert_eq!(g.driver.common16(0x12), 6, "two queues a port and two for control");
    assert_eq!(g.driver.device_config::<12>(0), [80, 0, 25, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(g.messages(), [message(0, control::PORT_ADD, 1), message(1, control::PORT_ADD, 1)]);
    g.add_port(0);
    let resize = (Message { id: 0, event: control::RESIZE, value: 0 }, vec![25, 0, 80, 0]);
    assert_eq!(g.messages(), [message(0, control::CONSOLE_PORT, 1), resize, message(0, control::PORT_OPEN, 1)]);
    g.add_port(1);
    let name = (Message { id: 1, event: control::PORT_NAME, value: 1 }, AGENT.as_bytes().to_vec());
    assert_eq!(g.messages(), [name, message(1, control::PORT_OPEN, 1)]);
    assert!(!g.agent.guest_open());
    g.control(1, control::PORT_OPEN, 1);
    assert!(g.agent.guest_open());
    assert_eq!(g.agent_record.events(), [PortEvent::Opened]);
    g.control(1, control::PORT_OPEN, 0);
    assert_eq!(g.agent_record.events(), [PortEvent::Closed]);
    assert_eq!(g.console_record.events(), []);
}

#[test]
fn bytes_go_both_ways() {
    let mut g = Guest::new();
    g.write(0, b"login: ");
    g.write(1, b"ready");
    assert_eq!((g.console_record.take(), g.agent_record.take()), (b"login: ".to_vec(), b"ready".to_vec()));
    assert_eq!((g.written(0), g.written(1)), (1, 1));
    assert_eq!(g.agent.send(b"exec"), 4);
    assert_eq!(g.console.send(b"root\n"), 5);
    assert_eq!((g.read(1), g.read(0)), (b"exec".to_vec(), b"root\n".to_vec()));
    let counters = PortCounters { output: 5, discarded: 0, input: 4 };
    assert_eq!(g.agent.counters(), counters);
}

#[test]
fn every_vector_is_the_queue_s_own() {
    let mut g = Guest::new();
    g.driver.enable_msix(7);
    g.driver.write_common(0x10, &6u16.to_le_bytes());
    for queue in 0..6u16 {
        g.driver.select_queue(queue);
        g.driver.write_common(0x1a, &queue.to_le_bytes());
        assert_eq!(g.driver.common16(0x1a), queue);
    }
    g.read(0);
    g.console.send(b"x");
    assert_eq!(g.driver.take_messages(), [0x40], "the console's receive queue");
    g.write(1, b"y");
    assert_eq!(g.driver.take_messages(), [0x45], "the agent's transmit queue");
    let before = g.driver.common8(0x15);
    g.console.set_size(132, 50);
    assert_eq!(g.driver.take_messages(), [0x46, 0x42], "configuration change, then RESIZE");
    assert_ne!(g.driver.common8(0x15), before, "config_generation");
    g.console.set_size(132, 50);
    assert!(g.driver.take_messages().is_empty(), "nothing changed");
}

#[test]
fn a_host_that_does_not_take_output_stops_the_queue() {
    let mut g = Guest::new();
    g.agent_record.allow(6000);
    g.write(1, &[1; 5000]);
    g.write(1, &[2; 5000]);
    g.write(1, &[3; 10]);
    assert_eq!((g.written(1), g.agent_record.take().len()), (1, 6000));
    g.agent_record.allow(usize::MAX);
    g.write(1, &[4; 10]);
    assert_eq!((g.written(1), g.agent_record.take().len()), (0, 0), "not before resume, notified or not");
    g.write(0, b"other ports go on");
    assert_eq!(g.console_record.take().len(), 17);
    // Closing waits for what was written before.
    g.control(1, control::PORT_OPEN, 0);
    g.agent_record.events();
    g.agent.resume();
    let expected = [vec![2; 4000], vec![3; 10], vec![4; 10]].concat();
    assert_eq!((g.written(1), g.agent_record.take()), (3, expected));
    assert_eq!(g.agent_record.events(), [PortEvent::Closed]);
    g.write(1, &[5; 10]);
    assert_eq!(g.agent_record.take(), [5; 10], "the queue notifies again");
}

#[test]
fn input_is_bounded_and_says_when_there_is_room() {
    let mut g = Guest::unstarted();
    let data: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
    let mut sent = g.agent.send(&data);
    assert_eq!(sent, CAPACITY, "nobody reads yet");
    assert!(!g.agent.wait_room(Duration::ZERO));
    g.start();
    g.add_port(1);
    assert!(g.read(1).is_empty(), "the guest has not opened the port");
    g.control(1, control::PORT_OPEN, 1);
    assert_eq!(g.agent_record.events(), [PortEvent::Opened, PortEvent::InputRoom]);
    assert!(g.agent.wait_room(Duration::ZERO));
    // 8 pages at the guest and two here: the rest waits with the sender.
    sent += g.agent.send(&data[sent..]);
    assert_eq!(sent, 8 * PAGE as usize + CAPACITY);
    let mut read = Vec::new();
    while read.len() < data.len() {
        let more = g.read(1);
        assert!(!more.is_empty());
        read.extend(more);
        sent += g.agent.send(&data[sent..]);
    }
    assert!(read == data, "every byte once and in order");
    assert_eq!(g.agent_record.events().first(), Some(&PortEvent::InputRoom));
}

#[test]
fn the_host_s_close_comes_after_its_input() {
    let mut g = Guest::new();
    let data = vec![7; 9 * PAGE as usize];
    assert_eq!(g.agent.send(&data), data.len());
    g.agent.close();
    assert_eq!(g.messages(), [], "a page is still waiting for a buffer");
    assert_eq!(g.agent.send(b"late"), 0);
    assert_eq!(g.read(1), data);
    assert_eq!(g.messages(), [message(1, control::PORT_OPEN, 0)]);
    g.write(1, b"to nobody");
    assert_eq!((g.written(1), g.agent_record.take().len()), (1, 0));
    assert_eq!(g.agent.counters().discarded, 9);
    g.agent.open();
    assert_eq!(g.messages(), [message(1, control::PORT_OPEN, 1)]);
    assert_eq!(g.agent.send(b"again"), 5);
    assert_eq!(g.read(1), b"again");
}

#[test]
fn closing_frees_a_guest_that_waits() {
    let mut g = Guest::new();
    g.agent_record.allow(0);
    g.write(1, b"stuck");
    assert_eq!(g.written(1), 0);
    g.agent.close();
    assert_eq!(g.written(1), 1);
}

#[test]
fn unread_input_is_nobody_else_s() {
    let mut g = Guest::new();
    let data = vec![7; 9 * PAGE as usize];
    assert_eq!(g.agent.send(&data), data.len());
    g.control(1, control::PORT_OPEN, 0);
    assert_eq!(g.read(1).len(), 8 * PAGE as usize, "already with the guest");
    assert_eq!(g.agent.send(b"for the next"), 12, "kept for who opens next");
    g.control(1, control::PORT_OPEN, 1);
    assert_eq!(g.read(1), b"for the next");
}

#[test]
fn a_driver_without_multiport_has_one_console() {
    let mut g = Guest::unstarted();
    g.driver.negotiate(1 | feature::RING_EVENT_IDX);
    g.driver.setup_queue(0);
    g.driver.setup_queue(1);
    g.driver.driver_ok();
    g.fill(0);
    g.write(0, b"hello");
    assert_eq!(g.console_record.take(), b"hello");
    g.console.send(b"there");
    assert_eq!(g.read(0), b"there");
    g.driver.notify(2);
    g.driver.notify(3);
    g.driver.notify(5);
    g.console.set_size(1, 2);
    assert_eq!(g.driver.device_config::<4>(0), [1, 0, 2, 0]);
    assert_eq!(g.driver.status(), 15);
}

#[test]
fn a_reset_while_active_starts_over() {
    let mut g = Guest::new();
    g.agent_record.allow(2);
    g.write(1, b"half");
    assert_eq!(g.agent_record.take(), b"ha");
    g.agent_record.events();
    g.driver.set_status(0);
    assert_eq!(g.agent_record.events(), [PortEvent::Closed]);
    assert!(!g.agent.guest_open());
    g.agent_record.allow(usize::MAX);
    g.agent.resume();
    assert_eq!(g.agent_record.take(), b"", "the device no longer looks at the old rings");
    g.start();
    assert_eq!(g.messages().len(), 2);
    g.add_port(1);
    g.control(1, control::PORT_OPEN, 1);
    g.write(1, b"whole");
    assert_eq!(g.agent_record.take(), b"whole");
}

#[test]
fn nonsense_on_the_control_queue_is_ignored() {
    let mut g = Guest::new();
    for (id, event, value) in [(2, 3, 1), (u32::MAX, 6, 1), (0, 99, 1), (1, 1, 1), (u32::MAX, 0, 0), (0, 3, 0)] {
        g.control(id, event, value);
    }
    let buffer = g.driver.alloc(8);
    g.driver.add(3, &[(buffer, 3, false)]);
    g.driver.add(3, &[(buffer, 8, true)]);
    g.driver.notify(3);
    assert_eq!(g.driver.used(3).len(), 2);
    assert_eq!((g.messages(), g.driver.status()), (vec![], 15));
}

#[test]
fn messages_without_buffers_do_not_pile_up() {
    let mut g = Guest::unstarted();
    g.driver.negotiate(u64::MAX);
    g.driver.setup_all_queues();
    g.driver.driver_ok();
    for round in 0..100 {
        g.control(u32::MAX, control::DEVICE_READY, 1);
        g.control(1, control::PORT_READY, 1);
        g.console.set_size(round, round);
        g.agent.close();
        g.agent.open();
    }
    g.fill(2);
    let events: Vec<_> = g.messages().into_iter().map(|(m, _)| (m.id, m.event)).collect();
    assert_eq!(events, [(0, control::PORT_ADD), (1, control::PORT_NAME), (1, control::PORT_OPEN)]);
}

#[test]
fn host_threads_notice_a_broken_ring() {
    let mut g = Guest::new();
    let available = g.driver.rings[&receive_queue(1)].available;
    g.driver.write16(available + 2, 5000);
    assert_eq!(g.agent.send(b"x"), 1);
    assert_eq!(g.agent_record.events(), [PortEvent::Opened, PortEvent::Closed]);
    g.driver.assert_needs_reset("receive queue");

    let mut g = Guest::new();
    let table = g.driver.rings[&transmit_queue(1)].descriptors;
    g.driver.write_descriptor(table, 0, (0, 0x40_0000), 1, 1);
    g.driver.write_descriptor(table, 1, (0, 1), 0, 0);
    g.driver.publish(transmit_queue(1), 0);
    g.driver.notify(transmit_queue(1));
    g.driver.assert_needs_reset("a chain of more bytes than any driver sends");
}

#[test]
fn a_driver_that_loses_its_way_is_let_go() {
    let mut g = Guest::new();
    g.driver.set_status(1);
    assert_eq!(g.agent_record.events(), [PortEvent::Opened, PortEvent::Closed]);
    g.agent.send(b"kept for the next driver");
    assert!(g.read(1).is_empty());
    g.driver.assert_needs_reset("status bits taken back");
    g.start();
    g.add_port(1);
    g.control(1, control::PORT_OPEN, 1);
    assert_eq!(g.read(1), b"kept for the next driver");
}

#[test]
fn names_and_numbers_of_ports_are_checked() {
    let port = |name: &str| PortSpec::named(name, Box::new(Record::default()));
    let error = |ports| Console::new(ports, ResizeOrder::default()).map(|_| ()).unwrap_err();
    assert_eq!(error(vec![]), ConsoleError::Ports(0));
    assert_eq!(error((0..32).map(|_| port("a")).collect()), ConsoleError::Ports(32));
    for name in ["", "a/b", "a\0", &"n".repeat(256)] {
        assert_eq!(error(vec![port(name)]), ConsoleError::Name(name.to_owned()));
    }
    let (_, handles) = Console::new((0..31).map(|_| port("a")).collect(), ResizeOrder::default()).unwrap();
    assert_eq!(handles.len(), 31);
}

#[test]
fn resize_can_follow_the_specification() {
    let size = WindowSize { cols: 0x1234, rows: 0x56 };
    assert_eq!(size.encode(ResizeOrder::ColumnsFirst), [0x34, 0x12, 0x56, 0]);
    assert_eq!(size.encode(ResizeOrder::RowsFirst), [0x56, 0, 0x34, 0x12]);
}

#[test]
fn a_pipe_makes_both_sides_wait_for_each_other() {
    const TOTAL: usize = 200_000;
    let (backend, reader) = pipe(1000);
    let (device, mut handles) =
        Console::new(vec![PortSpec::console(Box::new(backend))], ResizeOrder::default()).unwrap();
    let mut driver = Driver::new(Box::new(device));
    driver.negotiate(0);
    driver.setup_all_queues();
    driver.driver_ok();
    let mut stream = reader.attach(handles.remove(0));
    let mut writer = stream.clone();
    let host = std::thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    let buffer = driver.alloc(5000);
    driver.write_ram(buffer, &[9; 5000]);
    let receive = driver.alloc(100);
    driver.add(0, &[(receive, 100, true)]);
    driver.notify(0);
    for _ in 0..TOTAL / 5000 {
        driver.add(1, &[(buffer, 5000, false)]);
        driver.notify(1);
        while driver.used(1).is_empty() {
            std::thread::yield_now();
        }
    }
    writer.write_all(&[1; 40_000]).unwrap();
    assert_eq!(driver.used(0), [(0, 100)]);
    driver.set_status(0);
    let all = host.join().unwrap().unwrap();
    assert!(all.len() == TOTAL && all.iter().all(|&b| b == 9));
    writer.shutdown();
    assert_eq!(writer.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
