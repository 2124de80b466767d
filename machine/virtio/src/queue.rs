//! A split virtqueue whose memory and contents are the guest's word only (virtio 1.2, 2.7).
//!
//! Around `virtio-queue`, which reads the rings but ends a bad descriptor chain silently: here a
//! chain is walked once, whole, into a checked list of RAM ranges, so that everything after it works
//! on plain bounded data. What the driver got wrong comes back as [`Malformed`].

use motu_memory::{Mmap, transfer};
use motu_x86::Gpa;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

/// Descriptors that one chain may have, indirect ones included. Linux never uses more.
pub const MAX_CHAIN_DESCRIPTORS: usize = 1024;

/// What a driver did against the specification; the device then needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the status register went to {to:#x} from {from:#x}, which is not in order")]
    StatusOrder { from: u8, to: u8 },
    #[error("queue {queue} was enabled with {size} entries; the size must be a power of two up to {max}")]
    QueueSize { queue: u16, size: u16, max: u16 },
    #[error("queue {queue} was enabled with a ring that is misaligned or outside RAM")]
    QueueAddress { queue: u16 },
    #[error("queue {queue}: the available index is more than the queue's size ahead")]
    AvailableIndex { queue: u16 },
    #[error("queue {queue}: chain {head} is empty, loops, or leaves its descriptor table")]
    Chain { queue: u16, head: u16 },
    #[error("queue {queue}: chain {head} has more than {MAX_CHAIN_DESCRIPTORS} descriptors or too many bytes")]
    ChainLength { queue: u16, head: u16 },
    #[error("queue {queue}: chain {head} has a buffer outside RAM")]
    Buffer { queue: u16, head: u16 },
    #[error("queue {queue}: chain {head} has a readable descriptor after a writable one")]
    Order { queue: u16, head: u16 },
    #[error("queue {queue}: chain {head} is too short for what it is for")]
    TooShort { queue: u16, head: u16 },
    #[error("queue {queue}: its rings are outside RAM")]
    Ring { queue: u16 },
}

/// One queue's registers as the driver left them when it enabled the queue (virtio 1.2, 4.1.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSetup {
    pub index: u16,
    /// In entries.
    pub size: u16,
    /// The largest size the device offers.
    pub max_size: u16,
    pub descriptors: u64,
    /// The available ring.
    pub driver: u64,
    /// The used ring.
    pub device: u64,
}

impl QueueSetup {
    /// Checks what can be checked once: size, alignment, and that every ring lies in RAM.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, memory: &Mmap) -> Result<(), Malformed> {
        self.build(memory, false).map(|_| ())
    }

    fn build(&self, memory: &Mmap, event_idx: bool) -> Result<Queue, Malformed> {
        let Self { index: queue, size, max_size: max, .. } = *self;
        if !size.is_power_of_two() || size > max {
            return Err(Malformed::QueueSize { queue, size, max });
        }
        let state = QueueState {
            max_size: max,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: event_idx,
            size,
            ready: true,
            desc_table: self.descriptors,
            avail_ring: self.driver,
            used_ring: self.device,
        };
        let built = Queue::try_from(state).map_err(|_| Malformed::QueueAddress { queue })?;
        // Address 0 is what a queue that was never set up has.
        if self.driver == 0 || !built.is_valid(memory) {
            return Err(Malformed::QueueAddress { queue });
        }
        Ok(built)
    }
}

/// A contiguous buffer in RAM, checked when its chain was taken.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    address: u64,
    len: usize,
}

/// Buffers one after the other, as if they were one.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    buffers: Vec<Buffer>,
    len: usize,
}

impl Buffers {
    /// In bytes. Less than 4 GiB for one chain.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, buffer: Buffer) {
        self.len = self.len.saturating_add(buffer.len);
        self.buffers.push(buffer);
    }

    /// Copies out from byte `offset`; returns how many bytes there were.
    pub fn read(&self, memory: &Mmap, offset: usize, data: &mut [u8]) -> usize {
        let mut done = 0;
        for (address, len) in self.pieces(offset, data.len()) {
            let Some(piece) = data.get_mut(done..done + len) else { break };
            if memory.read_slice(piece, GuestAddress(address)).is_err() {
                break;
            }
            done += len;
        }
        done
    }

    /// Copies in from byte `offset`; returns how many bytes had room.
    pub fn write(&self, memory: &Mmap, offset: usize, data: &[u8]) -> usize {
        let mut done = 0;
        for (address, len) in self.pieces(offset, data.len()) {
            let Some(piece) = data.get(done..done + len) else { break };
            if memory.write_slice(piece, GuestAddress(address)).is_err() {
                break;
            }
            done += len;
        }
        done
    }

    /// Fills bytes `offset..offset + len` from a file's byte `from` on.
    ///
    /// # Errors
    /// The host's, or the file ends before.
    pub fn fill(&self, memory: &Mmap, (offset, len): (usize, usize), file: &File, from: u64) -> io::Result<()> {
        transfer::read_file(memory, self.places(offset, len), file, from)
    }

    /// The same for the first `len` bytes, as far as the host has them in its page cache: see [`transfer::read_cached`].
    ///
    /// # Errors
    /// The host's.
    pub fn fill_cached(&self, memory: &Mmap, len: usize, file: &File, from: u64) -> io::Result<Option<usize>> {
        transfer::read_cached(memory, self.places(0, len), file, from)
    }

    /// Writes bytes `offset..offset + len` to a file, from its byte `to` on.
    ///
    /// # Errors
    /// The host's.
    pub fn store(&self, memory: &Mmap, (offset, len): (usize, usize), file: &File, to: u64) -> io::Result<()> {
        transfer::write_file(memory, self.places(offset, len), file, to)
    }

    fn places(&self, offset: usize, len: usize) -> impl Iterator<Item = transfer::Piece> {
        self.pieces(offset, len).map(|(address, len)| (Gpa(address), len))
    }

    /// The parts of the buffers that bytes `offset..offset + len` lie in: address and length.
    fn pieces(&self, offset: usize, len: usize) -> impl Iterator<Item = (u64, usize)> {
        let (mut skip, mut left) = (offset, len);
        self.buffers.iter().filter_map(move |buffer| {
            let skipped = skip.min(buffer.len);
            skip -= skipped;
            let take = left.min(buffer.len - skipped);
            left -= take;
            (take > 0).then(|| (buffer.address.wrapping_add(skipped as u64), take))
        })
    }
}

/// One descriptor chain, walked and checked: every buffer lies in RAM.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What [`VirtQueue::push_used`] gives back to the driver.
    pub head: u16,
    /// What the driver has for the device.
    pub readable: Buffers,
    /// What the device may fill.
    pub writable: Buffers,
}

/// What [`VirtQueue::next`] came to.
#[derive(Debug)]
pub enum Next {
    Chain(Chain),
    /// None left; the driver will notify when it adds one.
    Idle,
    /// The budget is spent and the driver still adds chains.
    Spent,
}

/// A queue in use.
#[derive(Debug)]
pub struct VirtQueue {
    index: u16,
    queue: Queue,
    memory: Arc<Mmap>,
}

impl VirtQueue {
    /// Starts a queue where the driver put it.
    ///
    /// # Errors
    /// As [`QueueSetup::check`].
    pub fn new(setup: &QueueSetup, event_idx: bool, memory: &Arc<Mmap>) -> Result<Self, Malformed> {
        let queue = setup.build(memory, event_idx)?;
        Ok(Self { index: setup.index, queue, memory: Arc::clone(memory) })
    }

    pub fn index(&self) -> u16 {
        self.index
    }

    /// In entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    pub fn memory(&self) -> &Arc<Mmap> {
        &self.memory
    }

    /// Takes the next chain that the driver made available.
    ///
    /// # Errors
    /// The ring or the chain breaks the specification.
    pub fn pop(&mut self) -> Result<Option<Chain>, Malformed> {
        let queue = self.index;
        let mut available = self.queue.iter(self.memory.as_ref()).map_err(|_| Malformed::AvailableIndex { queue })?;
        let Some(chain) = available.next() else { return Ok(None) };
        walk(queue, self.memory.as_ref(), chain).map(Some)
    }

    /// How many chains one notification may have worked off: another processor of the guest may
    /// refill the ring for ever, and the thread that works it off is wanted elsewhere.
    pub fn budget(&self) -> u32 {
        4 * u32::from(self.size())
    }

    /// Takes the next chain, or asks the driver to notify when there is one; counts `budget` down.
    ///
    /// # Errors
    /// The ring or the chain breaks the specification.
    pub fn next(&mut self, budget: &mut u32) -> Result<Next, Malformed> {
        while *budget > 0 {
            *budget -= 1;
            if let Some(chain) = self.pop()? {
                return Ok(Next::Chain(chain));
            }
            if !self.rearm()? {
                return Ok(Next::Idle);
            }
        }
        if !self.rearm()? {
            return Ok(Next::Idle);
        }
        self.rearm_at_end()?;
        Ok(Next::Spent)
    }

    /// Asks the driver to notify after what it has already made available, though that is not all taken.
    fn rearm_at_end(&mut self) -> Result<(), Malformed> {
        let failed = Malformed::Ring { queue: self.index };
        let memory = self.memory.as_ref();
        let taken = self.queue.next_avail();
        let end = self.queue.avail_idx(memory, Ordering::Acquire).map_err(|_| failed)?;
        self.queue.set_next_avail(end.0);
        let armed = self.queue.enable_notification(memory);
        self.queue.set_next_avail(taken);
        armed.map(|_| ()).map_err(|_| failed)
    }

    /// Puts the chain taken last back, to be taken again.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back, with `written` bytes in its writable buffers.
    ///
    /// # Errors
    /// The used ring is not in RAM, or `head` is no index of this queue.
    pub fn push_used(&mut self, head: u16, written: usize) -> Result<(), Malformed> {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.queue.add_used(self.memory.as_ref(), head, written).map_err(|_| Malformed::Ring { queue: self.index })
    }

    /// Whether the driver wants an interrupt for what was given back since the last call (2.7.7, 2.7.10).
    ///
    /// # Errors
    /// The available ring is not in RAM.
    pub fn needs_interrupt(&mut self) -> Result<bool, Malformed> {
        let failed = Malformed::Ring { queue: self.index };
        if !self.queue.event_idx_enabled() {
            // The flag is to be read after the used index was written.
            fence(Ordering::SeqCst);
            let flags: u16 = self
                .memory
                .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
                .map(u16::from_le)
                .map_err(|_| failed)?;
            return Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        self.queue.needs_notification(self.memory.as_ref()).map_err(|_| failed)
    }

    /// Asks the driver to notify when it makes the next chain available; true if there is one already.
    ///
    /// # Errors
    /// The used ring is not in RAM.
    pub fn rearm(&mut self) -> Result<bool, Malformed> {
        self.queue.enable_notification(self.memory.as_ref()).map_err(|_| Malformed::Ring { queue: self.index })
    }
}

fn walk(queue: u16, memory: &Mmap, descriptors: DescriptorChain<&Mmap>) -> Result<Chain, Malformed> {
    let head = descriptors.head_index();
    let mut chain = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
    // A chain that ends anywhere but at a descriptor without NEXT was cut off by a check.
    let mut whole = false;
    let mut count = 0;
    for descriptor in descriptors {
        count += 1;
        if count > MAX_CHAIN_DESCRIPTORS {
            return Err(Malformed::ChainLength { queue, head });
        }
        let buffer = Buffer { address: descriptor.addr().0, len: descriptor.len() as usize };
        if buffer.len > 0 {
            let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
            if !memory.check_range(descriptor.addr(), buffer.len, access) {
                return Err(Malformed::Buffer { queue, head });
            }
        }
        if descriptor.is_write_only() {
            chain.writable.push(buffer);
        } else if chain.writable.buffers.is_empty() {
            chain.readable.push(buffer);
        } else {
            return Err(Malformed::Order { queue, head });
        }
        whole = !descriptor.has_next();
    }
    if whole { Ok(chain) } else { Err(Malformed::Chain { queue, head }) }
}
