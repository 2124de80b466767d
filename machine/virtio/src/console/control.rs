//! Control messages of a multiport console (virtio 1.2, 5.3.6.2).

/// `id, event, value`, little endian: the length of every message before its payload.
pub const HEADER_LEN: usize = 8;

pub const DEVICE_READY: u16 = 0;
pub const PORT_ADD: u16 = 1;
pub const PORT_READY: u16 = 3;
pub const CONSOLE_PORT: u16 = 4;
pub const RESIZE: u16 = 5;
pub const PORT_OPEN: u16 = 6;
pub const PORT_NAME: u16 = 7;

/// A message's fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The port's number.
    pub id: u32,
    pub event: u16,
    pub value: u16,
}

impl Message {
    /// `None` for bytes that are too few.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (event, rest) = rest.split_first_chunk()?;
        let (value, _) = rest.split_first_chunk()?;
        Some(Self { id: u32::from_le_bytes(*id), event: u16::from_le_bytes(*event), value: u16::from_le_bytes(*value) })
    }

    /// The message with what follows it.
    pub fn encode(self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(self.event.to_le_bytes());
        bytes.extend(self.value.to_le_bytes());
        bytes.extend(payload);
        bytes
    }
}

/// A terminal's size in characters; 0 by 0 is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    pub cols: u16,
    pub rows: u16,
}

/// In which order RESIZE carries its two fields.
///
/// The specification says columns first. Linux's driver read rows first from 2.6.35 up to 6.14
/// (commit 5326ab737a47 changed it), and no message says which driver is at the other end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResizeOrder {
    /// Linux before 6.15.
    #[default]
    RowsFirst,
    /// The specification, and Linux from 6.15.
    ColumnsFirst,
}

impl WindowSize {
    pub fn encode(self, order: ResizeOrder) -> Vec<u8> {
        let (first, second) = match order {
            ResizeOrder::RowsFirst => (self.rows, self.cols),
            ResizeOrder::ColumnsFirst => (self.cols, self.rows),
        };
        [first.to_le_bytes(), second.to_le_bytes()].concat()
    }
}

/// What the driver has yet to be told about one port.
///
/// One bit each instead of a list, so that a driver that provides no buffers for messages, but
/// asks for ever more of them, makes nothing grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    pub add: bool,
    pub console: bool,
    pub resize: bool,
    pub name: bool,
    /// The host opened or closed its end; the latest counts.
    pub open: Option<bool>,
}
