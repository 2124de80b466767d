//! The 256 bytes of configuration space of a function with header type 0.

use super::{Intx, Msix, PciError};

/// Register offsets (6.1, figure 6-1).
mod reg {
    pub const COMMAND: usize = 0x04;
    pub const STATUS: usize = 0x06;
    pub const REVISION: usize = 0x08;
    pub const CACHE_LINE: usize = 0x0c;
    pub const LATENCY: usize = 0x0d;
    pub const BAR0: usize = 0x10;
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT_LINE: usize = 0x3c;
    pub const INTERRUPT_PIN: usize = 0x3d;
    pub const FIRST_CAPABILITY: usize = 0x40;
}

const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// I/O, memory, bus master, parity response, SERR# and INTx disable (6.2.2).
const COMMAND_WRITABLE: u16 = COMMAND_IO | COMMAND_MEMORY | COMMAND_BUS_MASTER | 1 << 6 | 1 << 8 | COMMAND_INTX_DISABLE;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const CAP_MSIX: u8 = 0x11;

/// Who a function says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class, sub-class and programming interface, as 0xBBSSPP.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// What kind of addresses a BAR holds (6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    Io,
    Memory32,
    /// Takes the next BAR register as its upper half.
    Memory64 {
        prefetchable: bool,
    },
}

/// A BAR and where the guest has put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarValue {
    pub kind: BarKind,
    /// In bytes, a power of two.
    pub size: u64,
    /// What the register holds; 0 is never decoded.
    pub address: u64,
    /// Whether the command register lets the function answer at `address`.
    pub enabled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    kind: BarKind,
    size: u64,
}

/// Configuration space with BAR sizing, a capability list and the interrupt registers.
///
/// Every bit the guest may change is set in a mask; all else is read-only, which is also what makes
/// a BAR's size readable (6.2.5.1).
#[derive(Debug)]
pub struct ConfigSpace {
    regs: [u8; 256],
    power_up: [u8; 256],
    writable: [u8; 256],
    bars: [Option<Bar>; 6],
    next_capability: usize,
    last_capability: usize,
    msix: Option<(usize, Msix)>,
    intx: Option<Intx>,
}

impl ConfigSpace {
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            regs: [0; 256],
            power_up: [0; 256],
            writable: [0; 256],
            bars: [None; 6],
            next_capability: reg::FIRST_CAPABILITY,
            last_capability: 0,
            msix: None,
            intx: None,
        };
        space.preset(0x00, &identity.vendor.to_le_bytes());
        space.preset(0x02, &identity.device.to_le_bytes());
        space.preset(reg::REVISION, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        space.preset(reg::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.preset(reg::SUBSYSTEM_VENDOR + 2, &identity.subsystem.to_le_bytes());
        space.allow(reg::COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(reg::CACHE_LINE, &[0xff]);
        space.allow(reg::LATENCY, &[0xff]);
        space.allow(reg::INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Defines BAR `index` of `size` bytes.
    ///
    /// # Errors
    /// The index or size is not one that a BAR can have, or the register is in use.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) -> Result<(), PciError> {
        let bad = PciError::BadBar { index, size };
        let registers = if matches!(kind, BarKind::Memory64 { .. }) { 2 } else { 1 };
        let size_fits = match kind {
            BarKind::Io => (4..=256).contains(&size),
            BarKind::Memory32 => (16..=1 << 31).contains(&size),
            BarKind::Memory64 { .. } => size >= 16,
        };
        if index + registers > 6 || !size.is_power_of_two() || !size_fits {
            return Err(bad);
        }
        let upper_half = |i: usize| {
            i.checked_sub(1)
                .and_then(|below| self.bars[below])
                .is_some_and(|b| matches!(b.kind, BarKind::Memory64 { .. }))
        };
        if let Some(taken) = (index..index + registers).find(|&i| self.bars[i].is_some() || upper_half(i)) {
            return Err(PciError::BarTaken(taken));
        }
        self.bars[index] = Some(Bar { kind, size });
        let at = reg::BAR0 + 4 * index;
        let mask = !(size - 1);
        match kind {
            BarKind::Io => {
                self.preset(at, &[0x01]);
                self.allow(at, &(mask as u32).to_le_bytes());
            }
            BarKind::Memory32 => self.allow(at, &(mask as u32).to_le_bytes()),
            BarKind::Memory64 { prefetchable } => {
                self.preset(at, &[if prefetchable { 0x0c } else { 0x04 }]);
                self.allow(at, &mask.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Appends a capability: `body` is what follows the two bytes of identifier and link. Gives the
    /// offset of the capability's first byte.
    ///
    /// # Errors
    /// Configuration space is full.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> Result<u8, PciError> {
        let at = self.next_capability;
        let end = (at + 2 + body.len()).next_multiple_of(4);
        let full = PciError::NoCapabilitySpace(body.len() + 2);
        let Ok(offset) = u8::try_from(at) else { return Err(full) };
        if end > self.regs.len() {
            return Err(full);
        }
        let link = if self.last_capability == 0 { reg::CAPABILITIES } else { self.last_capability + 1 };
        self.preset(link, &[offset]);
        self.preset(at, &[id, 0]);
        self.preset(at + 2, body);
        self.preset(reg::STATUS, &[STATUS_CAPABILITIES]);
        (self.last_capability, self.next_capability) = (at, end);
        Ok(offset)
    }

    /// Appends the MSI-X capability (6.8.2) for `msix`, whose table and pending bits lie at the
    /// given (BAR, offset), the offsets multiples of 8. Gives the capability's offset.
    ///
    /// # Errors
    /// Configuration space is full.
    pub fn add_msix(&mut self, msix: Msix, table: (u8, u32), pending: (u8, u32)) -> Result<u8, PciError> {
        let place = |(bar, offset): (u8, u32)| ((offset & !7) | u32::from(bar & 7)).to_le_bytes();
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(msix.vectors() - 1).to_le_bytes());
        body[2..6].copy_from_slice(&place(table));
        body[6..].copy_from_slice(&place(pending));
        let at = self.add_capability(CAP_MSIX, &body)?;
        // Message control: bit 15 enables, bit 14 masks the function.
        self.allow(usize::from(at) + 3, &[0xc0]);
        self.msix = Some((usize::from(at), msix));
        Ok(at)
    }

    /// Gives the function an INTx pin.
    pub fn set_intx(&mut self, intx: Intx) {
        self.preset(reg::INTERRUPT_PIN, &[intx.pin().register()]);
        self.intx = Some(intx);
    }

    /// Lets the guest change the bits of `mask` from `offset` on (for capabilities with registers).
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (writable, &bits) in self.writable.iter_mut().skip(offset).zip(mask) {
            *writable |= bits;
        }
    }

    /// Sets bytes from `offset` on, read-only or not, as the device itself does. They are not kept
    /// over [`ConfigSpace::reset`].
    pub fn set(&mut self, offset: usize, data: &[u8]) {
        for (byte, &new) in self.regs.iter_mut().skip(offset).zip(data) {
            *byte = new;
        }
    }

    fn preset(&mut self, offset: usize, data: &[u8]) {
        for (i, &bits) in data.iter().enumerate() {
            if let (Some(now), Some(then)) = (self.regs.get_mut(offset + i), self.power_up.get_mut(offset + i)) {
                *now |= bits;
                *then |= bits;
            }
        }
    }

    /// Reads from `offset`; zeros past the end.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            let at = usize::from(offset) + i;
            *byte = self.regs.get(at).copied().unwrap_or(0);
            if at == reg::STATUS && self.intx.as_ref().is_some_and(Intx::is_raised) {
                *byte |= STATUS_INTERRUPT;
            }
        }
    }

    /// Writes what is writable from `offset` on, and lets MSI-X and INTx know what changed.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let (regs, masks) = (self.regs.iter_mut(), self.writable.iter());
        for ((reg, &mask), &new) in regs.zip(masks).skip(usize::from(offset)).zip(data) {
            *reg = *reg & !mask | new & mask;
        }
        self.publish();
    }

    fn publish(&self) {
        if let Some((at, msix)) = &self.msix {
            let control = self.regs.get(at + 3).copied().unwrap_or(0);
            msix.set_control(control & 0x80 != 0, control & 0x40 != 0);
        }
        if let Some(intx) = &self.intx {
            intx.set_disabled(self.command() & COMMAND_INTX_DISABLE != 0);
        }
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes([self.regs[reg::COMMAND], self.regs[reg::COMMAND + 1]])
    }

    /// Whether the guest lets the function reach memory by itself.
    pub fn bus_master(&self) -> bool {
        self.command() & COMMAND_BUS_MASTER != 0
    }

    /// BAR `index`, or `None` if the function does not define it.
    pub fn bar(&self, index: usize) -> Option<BarValue> {
        let Bar { kind, size } = (*self.bars.get(index)?)?;
        let mut raw = [0; 8];
        let width = if matches!(kind, BarKind::Memory64 { .. }) { 8 } else { 4 };
        let at = reg::BAR0 + 4 * index;
        raw[..width].copy_from_slice(self.regs.get(at..at + width)?);
        let needed = if kind == BarKind::Io { COMMAND_IO } else { COMMAND_MEMORY };
        let address = u64::from_le_bytes(raw) & !(size - 1);
        Some(BarValue { kind, size, address, enabled: self.command() & needed != 0 && address != 0 })
    }

    /// Puts BAR `index` at `address` and lets the function answer there, as firmware does.
    pub fn place_bar(&mut self, index: usize, address: u64) {
        let Some(bar) = self.bar(index) else { return };
        let offset = (reg::BAR0 + 4 * index) as u16;
        let bytes = address.to_le_bytes();
        let width = if matches!(bar.kind, BarKind::Memory64 { .. }) { 8 } else { 4 };
        self.write(offset, bytes.get(..width).unwrap_or(&bytes));
        let enable = if bar.kind == BarKind::Io { COMMAND_IO } else { COMMAND_MEMORY };
        let command = self.command() | enable;
        self.write(reg::COMMAND as u16, &command.to_le_bytes());
    }

    /// Notes which interrupt line INTx is wired to, as firmware does (6.2.4).
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.write(reg::INTERRUPT_LINE as u16, &[line]);
    }

    /// The INTx pin, if the function has one.
    pub fn intx(&self) -> Option<&Intx> {
        self.intx.as_ref()
    }

    /// Back to power-up: BARs at 0, nothing enabled, interrupts masked.
    pub fn reset(&mut self) {
        self.regs = self.power_up;
        if let Some(intx) = &self.intx {
            intx.lower();
        }
        if let Some((_, msix)) = &self.msix {
            msix.reset();
        }
        self.publish();
    }
}
