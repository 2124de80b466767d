//! What a multiboot kernel is told (Multiboot Specification 0.6.96, section 3.3).

use crate::error::BootError;
use crate::layout;
use crate::memory_map::{low_ram_end, memory_map};
use crate::module::Module;
use crate::placed::Placed;
use crate::put;
use motu_memory::GuestRam;

const LOADER: &[u8] = b"motu";

/// Which fields are valid.
const HAS_MEMORY: u32 = 1 << 0;
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MEMORY_MAP: u32 = 1 << 6;
const HAS_LOADER_NAME: u32 = 1 << 9;

/// Fields of the structure, which are 32 bits each up to the last one.
mod field {
    pub const FLAGS: usize = 0;
    pub const MEM_LOWER: usize = 1;
    pub const MEM_UPPER: usize = 2;
    pub const CMDLINE: usize = 4;
    pub const MODS_COUNT: usize = 5;
    pub const MODS_ADDR: usize = 6;
    pub const MMAP_LENGTH: usize = 11;
    pub const MMAP_ADDR: usize = 12;
    pub const BOOT_LOADER_NAME: usize = 16;
    /// Up to the VBE fields and with them.
    pub const COUNT: usize = 22;
}

/// Bytes of a memory map's entry behind its own size field.
const MAP_ENTRY_SIZE: u32 = 20;

/// What a multiboot kernel is told, as bytes with their places.
#[derive(Debug)]
pub(crate) struct Info {
    fields: [u32; field::COUNT],
    /// What the fields point to; it goes to [`layout::COMMAND_LINE`].
    pointed_to: Vec<u8>,
}

impl Info {
    /// For a machine with `ram_bytes` of RAM and a kernel with this command line.
    pub fn new(ram_bytes: u64, command_line: &[u8]) -> Self {
        let mut info = Self { fields: [0; field::COUNT], pointed_to: Vec::new() };
        let upper = low_ram_end(ram_bytes).saturating_sub(layout::HIGH_MEMORY);
        info.set(field::MEM_LOWER, (layout::EBDA >> 10) as u32);
        info.set(field::MEM_UPPER, (upper >> 10) as u32);
        info.say(HAS_MEMORY);

        let map: Vec<u8> = memory_map(ram_bytes)
            .iter()
            .flat_map(|entry| {
                let size = MAP_ENTRY_SIZE.to_le_bytes().into_iter();
                let range = [entry.start, entry.len].into_iter().flat_map(u64::to_le_bytes);
                size.chain(range).chain((entry.kind as u32).to_le_bytes())
            })
            .collect();
        info.set(field::MMAP_LENGTH, map.len() as u32);
        let at = info.add(&map);
        info.set(field::MMAP_ADDR, at);
        info.say(HAS_MEMORY_MAP);

        let at = info.add_text(command_line);
        info.set(field::CMDLINE, at);
        info.say(HAS_COMMAND_LINE);
        let at = info.add_text(LOADER);
        info.set(field::BOOT_LOADER_NAME, at);
        info.say(HAS_LOADER_NAME);
        info
    }

    /// Adds the list of modules, each with its place. Without any there is none.
    pub fn add_modules(&mut self, modules: &[(&Module, Placed<'_>)]) {
        if modules.is_empty() {
            return;
        }
        let mut list = Vec::new();
        for (module, placed) in modules {
            let text = self.add_text(module.command_line());
            let entry = [placed.start as u32, placed.end() as u32, text, 0];
            list.extend(entry.into_iter().flat_map(u32::to_le_bytes));
        }
        let at = self.add(&list);
        self.set(field::MODS_COUNT, modules.len() as u32);
        self.set(field::MODS_ADDR, at);
        self.say(HAS_MODULES);
    }

    /// # Errors
    /// The texts are too long together.
    pub fn write(&self, ram: &GuestRam) -> Result<(), BootError> {
        let (bytes, room) = (self.pointed_to.len(), layout::COMMAND_LINE_ROOM);
        if bytes > room {
            return Err(BootError::MultibootInfoTooLong { bytes, room });
        }
        put(ram, layout::COMMAND_LINE, &self.pointed_to, "multiboot command lines")?;
        let fields: Vec<u8> = self.fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        put(ram, layout::BOOT_INFO, &fields, "multiboot information")
    }

    fn set(&mut self, field: usize, value: u32) {
        if let Some(slot) = self.fields.get_mut(field) {
            *slot = value;
        }
    }

    fn say(&mut self, flag: u32) {
        self.fields[field::FLAGS] |= flag;
    }

    /// Answers where the bytes come to lie: at a multiple of 4.
    fn add(&mut self, bytes: &[u8]) -> u32 {
        self.pointed_to.resize(self.pointed_to.len().next_multiple_of(4), 0);
        let at = layout::COMMAND_LINE + self.pointed_to.len() as u64;
        self.pointed_to.extend_from_slice(bytes);
        at as u32
    }

    fn add_text(&mut self, text: &[u8]) -> u32 {
        let at = self.add(text);
        self.pointed_to.push(0);
        at
    }
}
