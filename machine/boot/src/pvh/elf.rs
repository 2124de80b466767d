//! The parts of an ELF file that booting needs (System V ABI, chapters 4 and 5).

use crate::error::BootError;
use crate::image::Image;
use crate::layout;
use linux_loader::elf::{Elf64_Ehdr, Elf64_Nhdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use vm_memory::ByteValued;

const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const DATA: usize = 5;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE: usize = 18;
const MACHINE_X86_64: u16 = 62;
/// More program headers than any kernel has.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// More bytes of notes than any kernel has.
const MAX_NOTES: u64 = 1 << 20;
/// Xen public/elfnote.h: the descriptor is the physical address of the 32-bit entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";

/// A kernel's segments and entry, checked against the file but not against RAM.
#[derive(Debug)]
pub(crate) struct Elf {
    /// Lowest first, apart from each other, none below 1 MiB; at least one.
    pub segments: Vec<Segment>,
    /// Physical; inside one of the segments.
    pub entry: u32,
}

/// A piece of memory that a kernel starts with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub address: u64,
    /// Where its content lies in the file, and how many bytes; the rest is zeros.
    pub offset: u64,
    pub file_len: u64,
    pub len: u64,
}

impl Segment {
    /// The first address behind it; [`Elf::parse`] has seen that there is one.
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.len)
    }
}

impl Elf {
    /// # Errors
    /// It is no x86-64 ELF with a PVH entry, is truncated, or contradicts itself.
    pub fn parse(kernel: &Image, head: &[u8]) -> Result<Self, BootError> {
        let name = || kernel.name().to_owned();
        let not_this = |looks_like: String| BootError::NotAKernel { name: name(), looks_like };
        let damaged = |what: String| BootError::Damaged { name: name(), what };
        check_machine(head).map_err(not_this)?;
        let header: Elf64_Ehdr = read(head).ok_or_else(|| BootError::Truncated {
            name: name(),
            needs: size_of::<Elf64_Ehdr>() as u64,
            has: kernel.size(),
        })?;
        let program_headers = read_program_headers(kernel, &header)?;

        let needs = |program: &Elf64_Phdr| program.p_offset.saturating_add(program.p_filesz);
        let used = program_headers.iter().filter(|program| matches!(program.p_type, PT_LOAD | PT_NOTE));
        if let Some(needs) = used.map(needs).find(|needs| *needs > kernel.size()) {
            return Err(BootError::Truncated { name: name(), needs, has: kernel.size() });
        }
        // An ordinary program has odd segments too: that it has no entry says more of it.
        let entry = find_entry(kernel, &program_headers)?.ok_or_else(|| {
            not_this("an x86-64 ELF without a PVH entry, such as a program or a kernel built without CONFIG_PVH".into())
        })?;
        let loaded = program_headers.iter().filter(|program| program.p_type == PT_LOAD && program.p_memsz > 0);
        let mut segments: Vec<_> = loaded.map(segment).collect::<Result<_, _>>().map_err(damaged)?;
        segments.sort_by_key(|segment| segment.address);
        if segments.windows(2).any(|pair| matches!(pair, [a, b] if a.end() > b.address)) {
            return Err(damaged("its segments overlap in memory".into()));
        }
        if !segments.iter().any(|s| (s.address..s.end()).contains(&u64::from(entry))) {
            return Err(damaged(format!("its PVH entry {entry:#x} lies in none of its segments")));
        }
        Ok(Self { segments, entry })
    }

    /// The first address behind the last segment.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, Segment::end)
    }
}

/// Says what the file is when it is not a little-endian 64-bit ELF for x86-64.
fn check_machine(head: &[u8]) -> Result<(), String> {
    let machine = match head.get(MACHINE..MACHINE + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    };
    if head.get(DATA) != Some(&LITTLE_ENDIAN) {
        return Err("a big-endian ELF for another architecture".into());
    }
    if head.get(CLASS) != Some(&CLASS_64) {
        return Err("a 32-bit ELF".into());
    }
    // ELF machine numbers as the generic ABI registers them.
    let other = match machine {
        MACHINE_X86_64 => return Ok(()),
        22 => "s390",
        21 => "64-bit POWER",
        183 => "64-bit ARM",
        243 => "RISC-V",
        258 => "LoongArch",
        _ => return Err(format!("an ELF for another architecture (machine number {machine})")),
    };
    Err(format!("an ELF for another architecture, {other}"))
}

fn read_program_headers(kernel: &Image, header: &Elf64_Ehdr) -> Result<Vec<Elf64_Phdr>, BootError> {
    let name = || kernel.name().to_owned();
    let size = size_of::<Elf64_Phdr>();
    let (count, offset) = (header.e_phnum, header.e_phoff);
    if count > MAX_PROGRAM_HEADERS || (count > 0 && usize::from(header.e_phentsize) != size) {
        let what = format!("{count} program headers of {} bytes", header.e_phentsize);
        return Err(BootError::Damaged { name: name(), what });
    }
    let mut bytes = vec![0; usize::from(count) * size];
    let needs = offset.saturating_add(bytes.len() as u64);
    if needs > kernel.size() {
        return Err(BootError::Truncated { name: name(), needs, has: kernel.size() });
    }
    kernel.read_at(offset, &mut bytes)?;
    Ok(bytes.chunks_exact(size).filter_map(read).collect())
}

fn segment(program: &Elf64_Phdr) -> Result<Segment, String> {
    let (address, file_len, len) = (program.p_paddr, program.p_filesz, program.p_memsz);
    if file_len > len {
        return Err(format!("a segment has {file_len} bytes in the file and {len} in memory"));
    }
    if address < layout::HIGH_MEMORY || address.checked_add(len).is_none() {
        return Err(format!("a segment of {len} bytes wants to be at {address:#x}; kernels begin at 1 MiB"));
    }
    Ok(Segment { address, offset: program.p_offset, file_len, len })
}

fn find_entry(kernel: &Image, program_headers: &[Elf64_Phdr]) -> Result<Option<u32>, BootError> {
    for program in program_headers.iter().filter(|program| program.p_type == PT_NOTE) {
        let mut notes = vec![0; program.p_filesz.min(MAX_NOTES) as usize];
        kernel.read_at(program.p_offset, &mut notes)?;
        let entry = pvh_entry(&notes, if program.p_align == 8 { 8 } else { 4 });
        if entry.is_some() {
            return Ok(entry);
        }
    }
    Ok(None)
}

/// Finds the PVH entry among `notes`, whose parts are aligned to `align` bytes.
fn pvh_entry(notes: &[u8], align: usize) -> Option<u32> {
    let mut rest = notes;
    loop {
        let note: Elf64_Nhdr = read(rest)?;
        let name_at = size_of::<Elf64_Nhdr>();
        let name_end = name_at.checked_add(usize::try_from(note.n_namesz).ok()?)?;
        let value_at = name_end.checked_next_multiple_of(align)?;
        let value_end = value_at.checked_add(usize::try_from(note.n_descsz).ok()?)?;
        if note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && rest.get(name_at..name_end) == Some(XEN) {
            // 4 or 8 bytes: Linux writes a pointer of its own width.
            let value = rest.get(value_at..value_end)?.first_chunk::<4>()?;
            return Some(u32::from_le_bytes(*value));
        }
        rest = rest.get(value_end.checked_next_multiple_of(align)?..)?;
    }
}

/// The structure that `bytes` begins with.
fn read<T: ByteValued + Default>(bytes: &[u8]) -> Option<T> {
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(bytes.get(..size_of::<T>())?);
    Some(value)
}
