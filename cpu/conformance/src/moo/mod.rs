//! Single-step test data in the MOO format (Machine Opcode Operation file, version 1.1), and how to run it.
//!
//! Public suites in this format hold what real processors, from the 8088 to the 80386, made of one
//! instruction each: registers and memory before it and after it. A file is a chain of chunks, each an
//! identifier of four bytes, a length and a payload, which may be chunks again:
//!
//! ```text
//!   MOO   header: version, number of cases, which CPU
//!   RMSK/RM32          bits of registers that are defined, in all cases
//!   TEST  one case: index, then
//!     NAME BYTS        disassembly and bytes
//!     INIT FINA        before and after, of
//!       REGS/RG32      16-bit or 32-bit registers
//!       RMSK/RM32      bits that are defined in this case
//!       RAM            bytes by physical address
//!     EXCP             exception, and where its frame has FLAGS
//!     HASH             the case's name for lists of bad cases
//! ```

mod chunk;
mod run;

pub use run::{Mismatch, Runner, Verdict};

use chunk::{Chunk, Reader};

/// Why a file is none that can be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    #[error("it ends within {0}")]
    Short(&'static str),
    #[error("it does not begin with a chunk \"MOO \"")]
    NotMoo,
    #[error("its version is {0}; only version 1 is known")]
    Version(u8),
    #[error("it announces {announced} cases and has {found}")]
    Count { announced: u32, found: usize },
    #[error("case {index} has no chunk {chunk:?}")]
    Missing { index: u32, chunk: &'static str },
}

/// A register of the suites, in the order of an `RG32` chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Cr0,
    Cr3,
    Eax,
    Ebx,
    Ecx,
    Edx,
    Esi,
    Edi,
    Ebp,
    Esp,
    Cs,
    Ds,
    Es,
    Fs,
    Gs,
    Ss,
    Eip,
    Eflags,
    Dr6,
    Dr7,
}

use Register::{Cr0, Cr3, Cs, Dr6, Dr7, Ds, Eax, Ebp, Ebx, Ecx, Edi, Edx, Eflags, Eip, Es, Esi, Esp, Fs, Gs, Ss};

impl Register {
    /// The bits of an `RG32` chunk.
    pub const ALL: [Self; 20] =
        [Cr0, Cr3, Eax, Ebx, Ecx, Edx, Esi, Edi, Ebp, Esp, Cs, Ds, Es, Fs, Gs, Ss, Eip, Eflags, Dr6, Dr7];
    /// The bits of a `REGS` chunk.
    pub const OF_16_BITS: [Self; 14] = [Eax, Ebx, Ecx, Edx, Cs, Ss, Ds, Es, Esp, Ebp, Esi, Edi, Eip, Eflags];
}

/// Registers, or masks of registers; some may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers([Option<u32>; 20]);

impl Registers {
    pub fn get(&self, register: Register) -> Option<u32> {
        self.0[register as usize]
    }

    pub fn set(&mut self, register: Register, value: u32) {
        self.0[register as usize] = Some(value);
    }
}

/// Registers and bytes of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub registers: Registers,
    /// Bits of registers that are defined, where this case says so itself.
    pub defined: Registers,
    /// Physical addresses and bytes.
    pub ram: Vec<(u32, u8)>,
}

/// An exception or software interrupt that a case ended in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    pub vector: u8,
    /// Physical address of FLAGS in the frame.
    pub flags_at: u32,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub index: u32,
    pub name: String,
    /// The instruction, with the HLT behind it if the suite has that.
    pub bytes: Vec<u8>,
    pub before: Snapshot,
    /// What changed.
    pub after: Snapshot,
    pub exception: Option<Exception>,
    /// In hexadecimal digits; empty if the file has none.
    pub hash: String,
}

/// A file of cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// As the file has it: "8088", "C286", "386E".
    pub cpu: String,
    /// Bits of registers that are defined in all cases.
    pub defined: Registers,
    pub cases: Vec<Case>,
}

impl Suite {
    /// # Errors
    /// The bytes are not of the format.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut file = Reader::new(bytes);
        let mut header = match file.chunk()? {
            Some(Chunk { id, data }) if &id == b"MOO " => data,
            _ => return Err(FormatError::NotMoo),
        };
        let [major, _minor, _, _] = header.array("the header")?;
        if major != 1 {
            return Err(FormatError::Version(major));
        }
        let announced = header.u32("the header")?;
        let cpu = String::from_utf8_lossy(&header.array::<4>("the header")?).trim_end().to_owned();
        let mut suite = Self { cpu, defined: Registers::default(), cases: Vec::new() };
        while let Some(Chunk { id, data }) = file.chunk()? {
            match &id {
                b"RMSK" | b"RM32" => suite.defined = registers(id, data)?,
                b"TEST" => suite.cases.push(case(data)?),
                _ => {}
            }
        }
        match suite.cases.len() {
            found if found == announced as usize => Ok(suite),
            found => Err(FormatError::Count { announced, found }),
        }
    }

    /// Whether the suite's CPU was stopped by a HLT behind the instruction, which it then has run. The older
    /// ones were stopped as they fetched the next instruction.
    pub fn halts(&self) -> bool {
        matches!(self.cpu.as_str(), "C286" | "386E")
    }
}

fn case(mut data: Reader<'_>) -> Result<Case, FormatError> {
    let index = data.u32("a case")?;
    let (mut before, mut after) = (None, None);
    let (mut name, mut bytes, mut hash, mut exception) = (String::new(), Vec::new(), String::new(), None);
    while let Some(Chunk { id, mut data }) = data.chunk()? {
        match &id {
            b"NAME" => {
                let len = data.u32("a name")?;
                name = String::from_utf8_lossy(data.take(len as usize, "a name")?).into_owned();
            }
            b"BYTS" => {
                let len = data.u32("an instruction")?;
                bytes = data.take(len as usize, "an instruction")?.to_vec();
            }
            b"INIT" => before = Some(snapshot(data)?),
            b"FINA" => after = Some(snapshot(data)?),
            b"EXCP" => {
                let [vector] = data.array("an exception")?;
                exception = Some(Exception { vector, flags_at: data.u32("an exception")? });
            }
            b"HASH" => hash = data.rest().iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => {}
        }
    }
    let missing = |chunk| FormatError::Missing { index, chunk };
    let (before, after) = (before.ok_or(missing("INIT"))?, after.ok_or(missing("FINA"))?);
    Ok(Case { index, name, bytes, before, after, exception, hash })
}

fn snapshot(mut chunks: Reader<'_>) -> Result<Snapshot, FormatError> {
    let mut snapshot = Snapshot::default();
    while let Some(Chunk { id, mut data }) = chunks.chunk()? {
        match &id {
            b"REGS" | b"RG32" => snapshot.registers = registers(id, data)?,
            b"RMSK" | b"RM32" => snapshot.defined = registers(id, data)?,
            b"RAM " => {
                // Each entry is taken from the data before the next: a count cannot ask for memory.
                for _ in 0..data.u32("memory")? {
                    let address = data.u32("memory")?;
                    let [byte] = data.array("memory")?;
                    snapshot.ram.push((address, byte));
                }
            }
            _ => {}
        }
    }
    Ok(snapshot)
}

fn registers(id: [u8; 4], mut data: Reader<'_>) -> Result<Registers, FormatError> {
    const WHAT: &str = "registers";
    let wide = matches!(&id, b"RG32" | b"RM32");
    let order: &[Register] = if wide { &Register::ALL } else { &Register::OF_16_BITS };
    let present = if wide { data.u32(WHAT)? } else { u32::from(data.u16(WHAT)?) };
    let mut registers = Registers::default();
    for (bit, register) in order.iter().enumerate() {
        if present >> bit & 1 != 0 {
            let value = if wide { data.u32(WHAT)? } else { u32::from(data.u16(WHAT)?) };
            registers.set(*register, value);
        }
    }
    Ok(registers)
}
