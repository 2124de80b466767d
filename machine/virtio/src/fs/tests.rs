use super::FileSystem;
use crate::testing::{Driver, Part};
use motu_share::Share;
use std::fs;
use tempfile::TempDir;

const HEADER: u32 = 40;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;

struct Machine {
    driver: Driver,
    message: u64,
    reply: u64,
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("f"), "hello").unwrap();
        let device = FileSystem::new("src", Share::open(folder.path(), false).unwrap(), "share").unwrap();
        let mut driver = Driver::new(Box::new(device));
        driver.negotiate(0);
        driver.setup_all_queues();
        driver.driver_ok();
        let (message, reply) = (driver.alloc(4096), driver.alloc(4096));
        Self { driver, message, reply, folder }
    }

    /// Asks by queue number one, in two pieces; the reply's error and body.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
        let len = self.ask_by(1, opcode, node, body, 4096);
        let reply = self.driver.bytes(self.reply, len);
        (i32::from_le_bytes(reply[4..8].try_into().unwrap()), reply[16..].to_vec())
    }

    fn ask_by(&mut self, queue: u16, opcode: u32, node: u64, body: &[u8], room: u32) -> u32 {
        let mut parts = Vec::new();
        if room > 0 {
            parts.extend([(self.reply, 7.min(room), true), (self.reply + 7, room.saturating_sub(7), true)]);
        }
        self.ask_into(queue, opcode, node, body, &parts)
    }

    /// Asks, with this place for the reply; its length.
    fn ask_into(&mut self, queue: u16, opcode: u32, node: u64, body: &[u8], reply: &[Part]) -> u32 {
        let len = HEADER + body.len() as u32;
        let mut message = Vec::new();
        [len, opcode, 9, 0].iter().for_each(|word| message.extend(word.to_le_bytes()));
        message.extend(node.to_le_bytes());
        message.resize(HEADER as usize, 0);
        message.extend(body);
        self.driver.write_ram(self.message, &message);
        let message = [(self.message, 10, false), (self.message + 10, len - 10, false)];
        let head = self.driver.add(queue, &[&message, reply].concat());
        self.driver.notify(queue);
        loop {
            if let [(used, len)] = self.driver.used(queue)[..] {
                assert_eq!(used, head);
                return len;
            }
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_file_is_read_through_the_queue() {
    let mut machine = Machine::new();
    assert_eq!(machine.driver.device_config::<6>(0), *b"src\0\0\0");
    assert_eq!(machine.driver.device_config::<4>(36), 1u32.to_le_bytes());
    let (error, entry) = machine.ask(LOOKUP, 1, b"f\0");
    assert_eq!((error, entry.len()), (0, 128));
    let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
    let (_, open) = machine.ask(OPEN, node, &[0; 8]);
    let read = [&open[..8], &[0; 8], &100u32.to_le_bytes(), &[0; 20]].concat();
    assert_eq!(machine.ask(READ, node, &read), (0, b"hello".to_vec()));
    assert_eq!(machine.ask(LOOKUP, 1, b"..\0").0, -22);
    // What wants no reply has no room for one, and comes by the other queue.
    assert_eq!(machine.ask_by(0, FORGET, node, &1u64.to_le_bytes(), 0), 0);
    assert_eq!(machine.ask(GETATTR, node, &[0; 16]).0, -116, "ESTALE");
}

#[test]
fn a_mebibyte_is_read_by_one_request() {
    const PAGE: u32 = 4096;
    let mut machine = Machine::new();
    let data: Vec<u8> = (0..=255).flat_map(|page: u8| [page; PAGE as usize]).collect();
    fs::write(machine.folder.path().join("f"), &data).unwrap();
    let (_, entry) = machine.ask(LOOKUP, 1, b"f\0");
    let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
    let (_, open) = machine.ask(OPEN, node, &[0; 8]);
    let place = machine.driver.alloc(data.len() as u64);
    // As Linux does: a descriptor for each page.
    let pages = (0..256).map(|page| (place + u64::from(page * PAGE), PAGE, true));
    let reply: Vec<Part> = [(machine.reply, 16, true)].into_iter().chain(pages).collect();
    let read = [&open[..8], &[0; 8], &(data.len() as u32).to_le_bytes(), &[0; 20]].concat();
    assert_eq!(machine.ask_into(1, READ, node, &read, &reply), 16 + data.len() as u32);
    assert!(machine.driver.bytes(place, data.len() as u32) == data);
}

#[test]
fn a_reply_without_room_is_left_out() {
    let mut machine = Machine::new();
    for room in [1, 15, 16, 20] {
        assert_eq!(machine.ask_by(1, LOOKUP, 1, b"f\0", room), if room < 16 { 0 } else { 16 });
    }
    assert_eq!(machine.ask(LOOKUP, 1, b"f\0").0, 0);
}

#[test]
fn a_reset_forgets_what_the_guest_knew() {
    let mut machine = Machine::new();
    let (_, entry) = machine.ask(LOOKUP, 1, b"f\0");
    let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
    machine.driver.set_status(0);
    machine.driver.negotiate(0);
    machine.driver.setup_all_queues();
    machine.driver.driver_ok();
    assert_eq!(machine.ask(GETATTR, node, &[0; 16]).0, -116, "ESTALE");
}
