//! Bus 0, reached by configuration mechanism #1 (3.2.2.3.2).

use super::{BarKind, BarValue, ConfigSpace, HostBridge, PciError, intx_gsi};
use motu_bus::{AddressSpace, Device, Effect, lock, shared};
use std::fmt;
use std::sync::{Arc, Mutex};

/// Where BARs may lie; the same ranges are the host bridge's _CRS in ACPI.
pub mod layout {
    /// First address of the memory window, right above low RAM.
    pub const MEMORY_START: u64 = 0xc000_0000;
    /// Last address of the memory window, right below the IOAPIC.
    pub const MEMORY_LAST: u64 = 0xfebf_ffff;
    /// First port of the I/O window.
    pub const IO_START: u64 = 0xc000;
    /// Last port of the I/O window.
    pub const IO_LAST: u64 = 0xffff;
}

/// A function on the bus, always function 0 of its slot.
///
/// What is behind its BARs is given to [`PciBus::add`]; the bus looks at [`PciFunction::config`]
/// after each write to see whether a BAR has moved.
pub trait PciFunction: Send {
    fn config(&self) -> &ConfigSpace;
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// Reads 1, 2 or 4 bytes of configuration space.
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// Writes 1, 2 or 4 bytes of configuration space.
    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config_mut().write(offset, data);
        Effect::None
    }

    /// Back to power-up, configuration space included.
    fn reset(&mut self);
}

struct Slot {
    function: Arc<Mutex<dyn PciFunction>>,
    bars: Vec<Bar>,
}

struct Bar {
    index: usize,
    device: Arc<Mutex<dyn Device>>,
    /// What of it is in an address space at present.
    mapped: Option<BarValue>,
}

/// PCI bus 0 with its configuration ports: a device of 8 ports for 0xcf8.
///
/// A byte written to its port 1 (0xcf9) is no configuration access but the reset control register,
/// as in Intel's chipsets: bit 2 resets the machine.
pub struct PciBus {
    memory: Arc<AddressSpace>,
    io: Arc<AddressSpace>,
    slots: [Option<Slot>; 32],
    address: u32,
    reset_control: u8,
}

/// CONFIG_ADDRESS: enable bit, and the bits that can be set at all.
const ADDRESS_ENABLE: u32 = 1 << 31;
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;
const DATA_PORT: u64 = 4;
const RESET_PORT: u64 = 1;
/// Reset control register: bit 2 starts the reset that bit 1 names the kind of.
const RESET_CPU: u8 = 1 << 2;
const RESET_KIND: u8 = 1 << 1;

impl PciBus {
    /// A bus with the host bridge in slot 0, that maps BARs into `memory` and `io`.
    pub fn new(memory: Arc<AddressSpace>, io: Arc<AddressSpace>) -> Self {
        let mut slots = [const { None }; 32];
        slots[0] = Some(Slot { function: shared(HostBridge::new()), bars: Vec::new() });
        Self { memory, io, slots, address: 0, reset_control: 0 }
    }

    /// Puts `function` into `slot`; `bars` has what answers behind each BAR that it defines.
    ///
    /// # Errors
    /// The slot does not exist or is taken, or a BAR is not defined.
    pub fn add(
        &mut self,
        slot: u8,
        function: Arc<Mutex<dyn PciFunction>>,
        bars: Vec<(usize, Arc<Mutex<dyn Device>>)>,
    ) -> Result<(), PciError> {
        let place = self.slots.get_mut(usize::from(slot)).ok_or(PciError::NoSuchSlot(slot))?;
        if place.is_some() {
            return Err(PciError::SlotTaken(slot));
        }
        if let Some((index, _)) = bars.iter().find(|(index, _)| lock(&function).config().bar(*index).is_none()) {
            return Err(PciError::UndefinedBar(*index));
        }
        let bars = bars.into_iter().map(|(index, device)| Bar { index, device, mapped: None }).collect();
        *place = Some(Slot { function, bars });
        self.remap();
        Ok(())
    }

    /// Gives every BAR an address and every INTx pin its line, as firmware does before a kernel
    /// starts. To be called when all functions are added, and again after each reset.
    ///
    /// # Errors
    /// The BARs do not fit into the windows of [`layout`].
    pub fn assign_resources(&mut self) -> Result<(), PciError> {
        let mut memory = layout::MEMORY_START;
        let mut io = layout::IO_START;
        for (number, slot) in (0u8..).zip(&self.slots) {
            let Some(slot) = slot else { continue };
            let mut function = lock(&slot.function);
            let config = function.config_mut();
            for index in 0..6 {
                let Some(BarValue { kind, size, .. }) = config.bar(index) else { continue };
                let (next, last, align) = match kind {
                    BarKind::Io => (&mut io, layout::IO_LAST, size),
                    _ => (&mut memory, layout::MEMORY_LAST, size.max(0x1000)),
                };
                let full = PciError::WindowFull { slot: number, size };
                let start = next.checked_next_multiple_of(align);
                let range = start.and_then(|start| Some((start, start.checked_add(size)?)));
                let (start, end) = range.filter(|&(_, end)| end - 1 <= last).ok_or(full)?;
                *next = end;
                config.place_bar(index, start);
            }
            if let Some(pin) = config.intx().map(|intx| intx.pin().index()) {
                config.set_interrupt_line(intx_gsi(number, pin) as u8);
            }
        }
        self.remap();
        Ok(())
    }

    /// Brings the address spaces in line with the BARs. A BAR that the guest has put where something
    /// else answers is left out until that has gone.
    fn remap(&mut self) {
        let wanted = |slot: &Slot, bar: &Bar| lock(&slot.function).config().bar(bar.index).filter(|b| b.enabled);
        let mut moves = Vec::new();
        for (s, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            for (b, bar) in slot.bars.iter().enumerate() {
                let value = wanted(slot, bar);
                if value != bar.mapped {
                    moves.push((s, b, value));
                }
            }
        }
        let (memory, io) = (&self.memory, &self.io);
        let space = |value: &BarValue| if value.kind == BarKind::Io { io } else { memory };
        for &(s, b, _) in &moves {
            let bar = self.slots.get_mut(s).and_then(Option::as_mut).and_then(|slot| slot.bars.get_mut(b));
            if let Some(old) = bar.and_then(|bar| bar.mapped.take()) {
                space(&old).unmap(old.address);
            }
        }
        for (s, b, value) in moves {
            let bar = self.slots.get_mut(s).and_then(Option::as_mut).and_then(|slot| slot.bars.get_mut(b));
            let (Some(bar), Some(value)) = (bar, value) else { continue };
            match space(&value).map(value.address, value.size, Arc::clone(&bar.device)) {
                Ok(()) => bar.mapped = Some(value),
                Err(error) => tracing::debug!(slot = s, bar = bar.index, %error, "the guest's BAR is not mapped"),
            }
        }
    }

    /// The function and register that CONFIG_ADDRESS points at, if there is one.
    fn target(&self, byte: u64) -> Option<(&Slot, u16)> {
        let [register, device_function, bus, _] = self.address.to_le_bytes();
        if self.address & ADDRESS_ENABLE == 0 || bus != 0 || device_function & 7 != 0 {
            return None;
        }
        let slot = self.slots.get(usize::from(device_function >> 3))?.as_ref()?;
        Some((slot, u16::from(register & 0xfc) + (byte & 3) as u16))
    }

    /// A configuration access does not cross its doubleword.
    fn is_config_access(offset: u64, len: usize) -> bool {
        offset >= DATA_PORT && matches!(len, 1 | 2 | 4) && (offset & 3) + len as u64 <= 4
    }
}

impl Device for PciBus {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Effect {
        data.fill(0xff);
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (RESET_PORT, 1) => data.fill(self.reset_control),
            _ if Self::is_config_access(offset, data.len()) => {
                if let Some((slot, register)) = self.target(offset) {
                    lock(&slot.function).config_read(register, data);
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & ADDRESS_WRITABLE,
            (RESET_PORT, &[byte]) => {
                self.reset_control = byte & RESET_KIND;
                if byte & RESET_CPU != 0 {
                    return Effect::Reset;
                }
            }
            _ if Self::is_config_access(offset, data.len()) => {
                let Some((slot, register)) = self.target(offset) else { return Effect::None };
                let effect = lock(&slot.function).config_write(register, data);
                self.remap();
                return effect;
            }
            _ => {}
        }
        Effect::None
    }

    /// Resets every function too; BARs are unassigned afterwards.
    fn reset(&mut self) {
        self.address = 0;
        self.reset_control = 0;
        for slot in self.slots.iter().flatten() {
            lock(&slot.function).reset();
        }
        self.remap();
    }
}

impl fmt::Debug for PciBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciBus").field("address", &self.address).finish_non_exhaustive()
    }
}
