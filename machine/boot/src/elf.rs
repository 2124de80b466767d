//! The parts of an ELF file that booting needs (System V ABI, chapters 4 and 5), of 32 or 64 bits.

use crate::error::BootError;
use crate::fields::Fields;
use crate::image::Image;
use crate::segment::Segment;

const CLASS: usize = 4;
const DATA: usize = 5;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE: usize = 18;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// More program headers than any kernel has.
const MAX_PROGRAM_HEADERS: u16 = 256;
/// More bytes of notes than any kernel has.
const MAX_NOTES: u64 = 1 << 20;

/// Whether addresses and sizes have 32 or 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

impl Class {
    /// Bytes of the file header.
    fn header_len(self) -> usize {
        match self {
            Self::Elf32 => 52,
            Self::Elf64 => 64,
        }
    }

    /// Bytes of a program header.
    fn program_header_len(self) -> usize {
        match self {
            Self::Elf32 => 32,
            Self::Elf64 => 56,
        }
    }
}

/// One entry of the program header table.
#[derive(Clone, Copy, Debug)]
struct Program {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_len: u64,
    len: u64,
    align: u64,
}

/// An ELF file for x86, whose program headers speak of bytes that the file has.
#[derive(Debug)]
pub(crate) struct Elf<'a> {
    kernel: &'a Image,
    entry: u64,
    programs: Vec<Program>,
}

impl<'a> Elf<'a> {
    /// # Errors
    /// It is no ELF for x86, is truncated, or contradicts itself.
    pub fn parse(kernel: &'a Image, head: &[u8]) -> Result<Self, BootError> {
        let class =
            class(head).map_err(|looks_like| BootError::NotAKernel { name: kernel.name().to_owned(), looks_like })?;
        let truncated = |needs: u64| BootError::Truncated { name: kernel.name().to_owned(), needs, has: kernel.size() };
        let header = Header::read(head, class).ok_or_else(|| truncated(class.header_len() as u64))?;
        let programs = read_programs(kernel, &header, class)?;
        let used = programs.iter().filter(|program| matches!(program.kind, PT_LOAD | PT_NOTE));
        let needs = |program: &Program| program.offset.saturating_add(program.file_len);
        if let Some(needs) = used.map(needs).find(|needs| *needs > kernel.size()) {
            return Err(truncated(needs));
        }
        Ok(Self { kernel, entry: header.entry, programs })
    }

    /// What is to be in memory at the start: lowest first, apart from each other, at least one.
    ///
    /// # Errors
    /// There is nothing to load, or the program headers contradict each other.
    pub fn segments(&self) -> Result<Vec<Segment>, BootError> {
        let damaged = |what: String| BootError::Damaged { name: self.kernel.name().to_owned(), what };
        let segment = |program: &Program| {
            let (file_len, len) = (program.file_len, program.len);
            if file_len > len {
                return Err(format!("a segment has {file_len} bytes in the file and {len} in memory"));
            }
            Segment::new(program.physical_address, program.offset, file_len, len)
                .ok_or_else(|| format!("a segment of {len} bytes wants to be at {:#x}", program.physical_address))
        };
        let mut segments: Vec<_> = self.loaded().map(segment).collect::<Result<_, _>>().map_err(damaged)?;
        segments.sort_by_key(|segment| segment.address);
        if segments.is_empty() {
            return Err(damaged("it has no segment to load".into()));
        }
        if segments.windows(2).any(|pair| matches!(pair, [a, b] if a.end() > b.address)) {
            return Err(damaged("its segments overlap in memory".into()));
        }
        Ok(segments)
    }

    /// The physical address of the entry in the file's header. Kernels that are linked to high
    /// virtual addresses give a virtual one: it is where the segment around it is loaded.
    pub fn physical_entry(&self) -> u64 {
        self.loaded()
            .find_map(|program| {
                let distance = self.entry.checked_sub(program.virtual_address).filter(|d| *d < program.len)?;
                program.physical_address.checked_add(distance)
            })
            .unwrap_or(self.entry)
    }

    /// Looks through the notes with `find`, which gets the bytes of one segment of notes and what
    /// their parts are aligned to.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn find_in_notes<T>(&self, find: impl Fn(&[u8], usize) -> Option<T>) -> Result<Option<T>, BootError> {
        for program in self.programs.iter().filter(|program| program.kind == PT_NOTE) {
            let mut notes = vec![0; program.file_len.min(MAX_NOTES) as usize];
            self.kernel.read_at(program.offset, &mut notes)?;
            let found = find(&notes, if program.align == 8 { 8 } else { 4 });
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn loaded(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(|program| program.kind == PT_LOAD && program.len > 0)
    }
}

/// Says what the file is when it is not a little-endian ELF for x86.
fn class(head: &[u8]) -> Result<Class, String> {
    let machine = Fields(head).u16_at(MACHINE).unwrap_or(0);
    if head.get(DATA) != Some(&LITTLE_ENDIAN) {
        return Err("a big-endian ELF for another architecture".into());
    }
    // ELF machine numbers as the generic ABI registers them.
    let other = match (machine, head.get(CLASS)) {
        (MACHINE_386 | MACHINE_X86_64, Some(1)) => return Ok(Class::Elf32),
        (MACHINE_X86_64, Some(2)) => return Ok(Class::Elf64),
        (MACHINE_386 | MACHINE_X86_64, _) => return Err("an ELF of neither 32 nor 64 bits".into()),
        (22, _) => "s390",
        (21, _) => "64-bit POWER",
        (40, _) => "32-bit ARM",
        (183, _) => "64-bit ARM",
        (243, _) => "RISC-V",
        (258, _) => "LoongArch",
        _ => return Err(format!("an ELF for another architecture (machine number {machine})")),
    };
    Err(format!("an ELF for another architecture, {other}"))
}

/// What the file header says.
#[derive(Clone, Copy, Debug)]
struct Header {
    entry: u64,
    /// Where the program headers lie in the file, how many, and the bytes of each.
    programs_at: u64,
    programs: u16,
    program_len: u16,
}

impl Header {
    fn read(head: &[u8], class: Class) -> Option<Self> {
        let fields = Fields(head.get(..class.header_len())?);
        Some(match class {
            Class::Elf32 => Self {
                entry: fields.u32_at(24)?.into(),
                programs_at: fields.u32_at(28)?.into(),
                program_len: fields.u16_at(42)?,
                programs: fields.u16_at(44)?,
            },
            Class::Elf64 => Self {
                entry: fields.u64_at(24)?,
                programs_at: fields.u64_at(32)?,
                program_len: fields.u16_at(54)?,
                programs: fields.u16_at(56)?,
            },
        })
    }
}

impl Program {
    fn read(bytes: &[u8], class: Class) -> Option<Self> {
        let fields = Fields(bytes);
        let kind = fields.u32_at(0)?;
        Some(match class {
            Class::Elf32 => Self {
                kind,
                offset: fields.u32_at(4)?.into(),
                virtual_address: fields.u32_at(8)?.into(),
                physical_address: fields.u32_at(12)?.into(),
                file_len: fields.u32_at(16)?.into(),
                len: fields.u32_at(20)?.into(),
                align: fields.u32_at(28)?.into(),
            },
            Class::Elf64 => Self {
                kind,
                offset: fields.u64_at(8)?,
                virtual_address: fields.u64_at(16)?,
                physical_address: fields.u64_at(24)?,
                file_len: fields.u64_at(32)?,
                len: fields.u64_at(40)?,
                align: fields.u64_at(48)?,
            },
        })
    }
}

fn read_programs(kernel: &Image, header: &Header, class: Class) -> Result<Vec<Program>, BootError> {
    let name = || kernel.name().to_owned();
    let size = class.program_header_len();
    let count = header.programs;
    if count > MAX_PROGRAM_HEADERS || (count > 0 && usize::from(header.program_len) != size) {
        let what = format!("{count} program headers of {} bytes", header.program_len);
        return Err(BootError::Damaged { name: name(), what });
    }
    let mut bytes = vec![0; usize::from(count) * size];
    let needs = header.programs_at.saturating_add(bytes.len() as u64);
    if needs > kernel.size() {
        return Err(BootError::Truncated { name: name(), needs, has: kernel.size() });
    }
    kernel.read_at(header.programs_at, &mut bytes)?;
    Ok(bytes.chunks_exact(size).filter_map(|bytes| Program::read(bytes, class)).collect())
}
