//! The console's work on its queues; all of it under one lock.

use super::control::{self, Message, Pending, ResizeOrder, WindowSize};
use super::port::Port;
use crate::device::{Activation, Interrupt, Progress};
use crate::queue::{Chain, Malformed, Next, VirtQueue};
use std::sync::Condvar;

/// VIRTIO_CONSOLE_F_MULTIPORT.
pub(super) const F_MULTIPORT: u64 = 1 << 1;
/// Queues of the control port (virtio 1.2, 5.3.2).
const CONTROL_RX: u16 = 2;
const CONTROL_TX: u16 = 3;
/// Bytes of one chain of output: Linux sends at most a pipe's content, 1 MiB.
const MAX_OUTPUT_CHAIN: usize = 4 * 1024 * 1024;
/// Bytes handed to a backend, or to the guest, at once.
const STEP: usize = 4096;

/// A driver that is at work.
pub(super) struct Active {
    queues: Vec<Option<VirtQueue>>,
    interrupt: Interrupt,
    multiport: bool,
}

pub(super) struct State {
    pub ports: Vec<Port>,
    pub size: WindowSize,
    pub resize_order: ResizeOrder,
    pub generation: u8,
    pub active: Option<Active>,
}

/// A port's receive queue, from the driver's view: host to guest.
pub(super) fn receive_queue(port: usize) -> u16 {
    let port = u16::try_from(port).unwrap_or(u16::MAX / 4);
    if port == 0 { 0 } else { 2 + 2 * port }
}

/// A port's transmit queue, from the driver's view: guest to host.
pub(super) fn transmit_queue(port: usize) -> u16 {
    receive_queue(port) + 1
}

/// What a queue is for.
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

fn role(queue: u16, multiport: bool) -> Option<Role> {
    let port = match queue {
        0 | 1 => 0,
        _ if !multiport => return None,
        CONTROL_RX => return Some(Role::ControlReceive),
        CONTROL_TX => return Some(Role::ControlTransmit),
        _ => usize::from(queue / 2 - 1),
    };
    Some(if queue.is_multiple_of(2) { Role::Receive(port) } else { Role::Transmit(port) })
}

impl State {
    pub fn activate(&mut self, activation: Activation) {
        let Activation { features, queues, interrupt, .. } = activation;
        let multiport = features & F_MULTIPORT != 0;
        self.active = Some(Active { queues, interrupt, multiport });
        if !multiport && let Some(port) = self.ports.first_mut() {
            // Without MULTIPORT there is no message for it: a driver is a reader.
            port.set_guest_open(true);
        }
    }

    pub fn reset(&mut self) {
        self.active = None;
        for port in &mut self.ports {
            port.reset();
        }
    }

    /// The driver notified `queue`.
    pub fn notify(&mut self, queue: u16, room: &Condvar) -> Result<Progress, Malformed> {
        let Some(active) = &self.active else { return Ok(Progress::Idle) };
        match role(queue, active.multiport) {
            Some(Role::Receive(port)) => self.deliver_input(port, room).map(|()| Progress::Idle),
            Some(Role::Transmit(port)) => self.take_output(port),
            Some(Role::ControlReceive) => self.send_messages().map(|()| Progress::Idle),
            Some(Role::ControlTransmit) => self.take_messages(room),
            None => Ok(Progress::Idle),
        }
    }

    /// Stops using the rings of a driver that broke them, until it resets the device.
    pub fn fail(&mut self, why: Malformed) {
        if let Some(active) = self.active.take() {
            active.interrupt.needs_reset(why);
            self.reset();
        }
    }

    /// Guest to host, until the ring is empty or the backend is full.
    pub fn take_output(&mut self, id: usize) -> Result<Progress, Malformed> {
        let (Some(active), Some(port)) = (&mut self.active, self.ports.get_mut(id)) else {
            return Ok(Progress::Idle);
        };
        let Some((queue, interrupt)) = active.queue(transmit_queue(id)) else { return Ok(Progress::Idle) };
        if port.throttled && port.host_open {
            return Ok(Progress::Idle);
        }
        port.throttled = false;
        let (mut budget, mut used) = (queue.budget(), false);
        let progress = loop {
            let chain = match queue.next(&mut budget)? {
                Next::Chain(chain) => chain,
                Next::Idle => break Progress::Idle,
                Next::Spent => break Progress::More,
            };
            if chain.readable.len() > MAX_OUTPUT_CHAIN {
                return Err(Malformed::ChainLength { queue: queue.index(), head: chain.head });
            }
            if !output_chain(port, queue, &chain) {
                queue.undo_pop();
                break Progress::Idle;
            }
            port.taken = 0;
            queue.push_used(chain.head, 0)?;
            used = true;
        };
        if used && queue.needs_interrupt()? {
            interrupt.queue_used(queue.index());
        }
        port.settle();
        Ok(progress)
    }

    /// Host to guest, as far as the guest has the port open and gives buffers.
    pub fn deliver_input(&mut self, id: usize, room: &Condvar) -> Result<(), Malformed> {
        let (Some(active), Some(port)) = (&mut self.active, self.ports.get_mut(id)) else { return Ok(()) };
        if !port.guest_open || port.input.is_empty() {
            return Ok(());
        }
        let Some((queue, interrupt)) = active.queue(receive_queue(id)) else { return Ok(()) };
        let (mut budget, mut used) = (queue.budget(), false);
        while !port.input.is_empty() {
            let Next::Chain(chain) = queue.next(&mut budget)? else { break };
            let mut done = 0;
            while done < chain.writable.len() && !port.input.is_empty() {
                let (front, _) = port.input.as_slices();
                let part = front.get(..STEP).unwrap_or(front);
                let written = chain.writable.write(queue.memory(), done, part);
                if written == 0 {
                    break;
                }
                port.input.drain(..written);
                done += written;
            }
            if done == 0 {
                return Err(Malformed::TooShort { queue: queue.index(), head: chain.head });
            }
            port.counters.input += done as u64;
            queue.push_used(chain.head, done)?;
            used = true;
        }
        if used && queue.needs_interrupt()? {
            interrupt.queue_used(queue.index());
        }
        if port.take_room_event() {
            room.notify_all();
        }
        if port.input.is_empty() && port.pending.open == Some(false) {
            self.send_messages()?;
        }
        Ok(())
    }

    /// Control messages of the driver.
    fn take_messages(&mut self, room: &Condvar) -> Result<Progress, Malformed> {
        let (mut budget, mut used) = (u32::MAX, false);
        let progress = loop {
            let Some((queue, _)) = self.active.as_mut().and_then(|a| a.queue(CONTROL_TX)) else {
                return Ok(Progress::Idle);
            };
            budget = budget.min(queue.budget());
            let chain = match queue.next(&mut budget)? {
                Next::Chain(chain) => chain,
                Next::Idle => break Progress::Idle,
                Next::Spent => break Progress::More,
            };
            let mut bytes = [0; control::HEADER_LEN];
            let read = chain.readable.read(queue.memory(), 0, &mut bytes);
            queue.push_used(chain.head, 0)?;
            used = true;
            // A message that is too short, or of no known kind or port, is no message.
            if let Some(message) = bytes.get(..read).and_then(Message::parse) {
                self.take_message(message, room)?;
            }
        };
        if used
            && let Some((queue, interrupt)) = self.active.as_mut().and_then(|a| a.queue(CONTROL_TX))
            && queue.needs_interrupt()?
        {
            interrupt.queue_used(CONTROL_TX);
        }
        self.send_messages()?;
        Ok(progress)
    }

    fn take_message(&mut self, message: Message, room: &Condvar) -> Result<(), Malformed> {
        let yes = message.value != 0;
        if message.event == control::DEVICE_READY {
            if yes {
                self.ports.iter_mut().for_each(|port| port.pending.add = true);
            } else {
                tracing::warn!("the guest's driver could not start the console");
            }
            return Ok(());
        }
        let Ok(id) = usize::try_from(message.id) else { return Ok(()) };
        let size_known = self.size != WindowSize::default();
        let Some(port) = self.ports.get_mut(id) else { return Ok(()) };
        match message.event {
            control::PORT_READY if yes => {
                port.ready = true;
                port.pending = Pending {
                    add: false,
                    console: port.console,
                    resize: port.console && size_known,
                    name: port.name.is_some(),
                    open: port.host_open.then_some(true),
                };
            }
            control::PORT_READY => tracing::warn!(port = id, "the guest's driver could not add the port"),
            control::PORT_OPEN => {
                if !yes {
                    // What it wrote before it closed comes first.
                    self.take_output(id)?;
                }
                let Some(port) = self.ports.get_mut(id) else { return Ok(()) };
                port.set_guest_open(yes);
                if port.take_room_event() {
                    room.notify_all();
                }
                self.deliver_input(id, room)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the driver what it has yet to be told, as far as it gives buffers.
    pub fn send_messages(&mut self) -> Result<(), Malformed> {
        let Some(active) = self.active.as_mut().filter(|a| a.multiport) else { return Ok(()) };
        let Some((queue, interrupt)) = active.queue(CONTROL_RX) else { return Ok(()) };
        let (mut budget, mut used) = (queue.budget(), false);
        let resize = self.size.encode(self.resize_order);
        'ports: for (id, port) in (0u32..).zip(&mut self.ports) {
            loop {
                let mut rest = port.pending;
                let (event, value, payload): (_, _, &[u8]) = if std::mem::take(&mut rest.add) {
                    (control::PORT_ADD, true, &[])
                } else if std::mem::take(&mut rest.console) {
                    (control::CONSOLE_PORT, true, &[])
                } else if std::mem::take(&mut rest.resize) {
                    (control::RESIZE, false, &resize)
                } else if std::mem::take(&mut rest.name) {
                    (control::PORT_NAME, true, port.name.as_deref().unwrap_or_default().as_bytes())
                } else if port.close_waits_for_input() {
                    break;
                } else if let Some(open) = rest.open.take() {
                    (control::PORT_OPEN, open, &[])
                } else {
                    break;
                };
                let Next::Chain(chain) = queue.next(&mut budget)? else { break 'ports };
                let message = Message { id, event, value: value.into() }.encode(payload);
                if chain.writable.write(queue.memory(), 0, &message) < message.len() {
                    return Err(Malformed::TooShort { queue: CONTROL_RX, head: chain.head });
                }
                queue.push_used(chain.head, message.len())?;
                port.pending = rest;
                used = true;
            }
        }
        if used && queue.needs_interrupt()? {
            interrupt.queue_used(CONTROL_RX);
        }
        Ok(())
    }

    pub fn set_size(&mut self, size: WindowSize) -> Result<(), Malformed> {
        if self.size == size {
            return Ok(());
        }
        self.size = size;
        self.generation = self.generation.wrapping_add(1);
        for port in self.ports.iter_mut().filter(|p| p.console && p.ready) {
            port.pending.resize = true;
        }
        if let Some(active) = &self.active {
            active.interrupt.config_changed();
        }
        self.send_messages()
    }

    pub fn set_host_open(&mut self, id: usize, open: bool) -> Result<(), Malformed> {
        let Some(port) = self.ports.get_mut(id).filter(|p| p.host_open != open) else { return Ok(()) };
        port.host_open = open;
        if port.ready {
            port.pending.open = Some(open);
        }
        if !open {
            // One round: what the guest goes on writing is dropped as it notifies.
            self.take_output(id)?;
        }
        self.send_messages()
    }
}

impl Active {
    fn queue(&mut self, index: u16) -> Option<(&mut VirtQueue, &Interrupt)> {
        let queue = self.queues.get_mut(usize::from(index))?.as_mut()?;
        Some((queue, &self.interrupt))
    }
}

/// Gives a chain's bytes to the backend; false if it took less than all.
fn output_chain(port: &mut Port, queue: &VirtQueue, chain: &Chain) -> bool {
    let mut bytes = [0; STEP];
    if !port.host_open {
        port.counters.discarded += chain.readable.len().saturating_sub(port.taken) as u64;
        return true;
    }
    loop {
        let read = chain.readable.read(queue.memory(), port.taken, &mut bytes);
        let Some(part) = bytes.get(..read).filter(|p| !p.is_empty()) else { return true };
        let taken = port.backend.output(part).min(read);
        port.taken += taken;
        port.counters.output += taken as u64;
        if taken < read {
            port.throttled = true;
            return false;
        }
    }
}
