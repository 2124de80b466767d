//! Instructions to be translated: every form that the decoder has, with operands of every shape.

use crate::translate::mode::Mode;
use iced_x86::{Code, Encoder, Instruction, OpCodeOperandKind, OpKind, Register};

/// A generator of numbers, the same each time (xorshift*).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// A memory operand of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub base: Register,
    pub index: Register,
    pub scale: u32,
    pub displacement: i64,
    pub segment: Register,
}

const fn shape(base: Register, index: Register, scale: u32, displacement: i64) -> Shape {
    Shape { base, index, scale, displacement, segment: Register::None }
}

const fn within(segment: Register, shape: Shape) -> Shape {
    Shape { segment, ..shape }
}

/// Addresses of 32-bit code.
pub const NARROW_SHAPES: &[Shape] = {
    use Register as R;
    &[
        shape(R::EAX, R::None, 1, 0),
        shape(R::EBX, R::None, 1, 0x10),
        shape(R::EBP, R::None, 1, -0x1000),
        shape(R::EDI, R::None, 1, 0x7fff_fff0),
        shape(R::ESP, R::None, 1, 0),
        shape(R::ESP, R::None, 1, 0x18),
        shape(R::ESP, R::None, 1, -0x7fff_fff0),
        shape(R::ESP, R::ECX, 2, 8),
        shape(R::ECX, R::ECX, 8, 0),
        shape(R::EDX, R::ESI, 1, 0x1234),
        shape(R::EDI, R::EBP, 8, -8),
        shape(R::None, R::ESI, 8, 0x4000),
        shape(R::None, R::ECX, 1, 0x4000),
        shape(R::None, R::EAX, 2, -0x4000),
        shape(R::None, R::None, 1, 0x1000),
        shape(R::None, R::None, 1, -0x1000),
        shape(R::BX, R::SI, 1, 0x10),
        shape(R::BP, R::None, 1, 0),
        within(R::FS, shape(R::EAX, R::None, 1, 0)),
        within(R::GS, shape(R::ESP, R::EDI, 8, 0x80)),
        within(R::GS, shape(R::None, R::None, 1, 0x28)),
        within(R::GS, shape(R::None, R::None, 1, -4)),
        within(R::FS, shape(R::EBX, R::None, 1, -4)),
        within(R::SS, shape(R::EDI, R::None, 1, 7)),
        within(R::CS, shape(R::EBX, R::None, 1, 7)),
        within(R::ES, shape(R::EBP, R::EAX, 4, 7)),
    ]
};

/// Addresses of 64-bit code.
pub const SHAPES: &[Shape] = {
    use Register as R;
    &[
        shape(R::RAX, R::None, 1, 0),
        shape(R::RBX, R::None, 1, 0x10),
        shape(R::RBP, R::None, 1, -0x1000),
        shape(R::R13, R::None, 1, 0),
        shape(R::RSP, R::None, 1, 0),
        shape(R::RSP, R::None, 1, 0x18),
        shape(R::RSP, R::None, 1, -0x7fff_fff0),
        shape(R::RSP, R::RCX, 2, 8),
        shape(R::RCX, R::RCX, 8, 0),
        shape(R::R9, R::None, 1, 0x20),
        shape(R::R10, R::R11, 4, 0),
        shape(R::RDX, R::R9, 1, 0x1234),
        shape(R::R12, R::R15, 8, -8),
        shape(R::None, R::RSI, 8, 0x4000),
        shape(R::None, R::R10, 2, -0x4000),
        shape(R::RIP, R::None, 1, 0x400),
        shape(R::RIP, R::None, 1, 0x4000_0000),
        shape(R::EIP, R::None, 1, 0x10_0000),
        shape(R::None, R::None, 1, 0x1000),
        shape(R::None, R::None, 1, -0x1000),
        shape(R::EAX, R::None, 1, 0),
        shape(R::ESP, R::ECX, 4, 0x10),
        shape(R::R9D, R::R10D, 8, -1),
        within(R::FS, shape(R::RAX, R::None, 1, 0)),
        within(R::GS, shape(R::RSP, R::RDI, 8, 0x80)),
        within(R::GS, shape(R::None, R::None, 1, 0x28)),
        within(R::FS, shape(R::RIP, R::None, 1, 0x100)),
        within(R::FS, shape(R::EBX, R::None, 1, -4)),
        within(R::SS, shape(R::RDI, R::None, 1, 7)),
    ]
};

impl Shape {
    /// The same address and `more` bytes.
    pub fn plus(self, more: i64) -> Self {
        Self { displacement: self.displacement.wrapping_add(more), ..self }
    }

    /// Makes this the memory operand of an instruction at `rip`.
    pub fn put(&self, instruction: &mut Instruction, rip: u64, narrow: bool) {
        let relative = matches!(self.base, Register::RIP | Register::EIP);
        let displacement = if relative { rip.wrapping_add(self.displacement as u64) } else { self.displacement as u64 };
        let none = [self.base, self.index] == [Register::None; 2];
        let short = self.base.size() == 4 || self.index.size() == 4 || (none && narrow);
        let displacement = if short { u64::from(displacement as u32) } else { displacement };
        let displacement = if self.base.size() == 2 { u64::from(displacement as u16) } else { displacement };
        instruction.set_memory_base(self.base);
        instruction.set_memory_index(self.index);
        instruction.set_memory_index_scale(self.scale);
        instruction.set_memory_displacement64(displacement);
        let bytes = if none { 8 } else { 4 };
        let bytes = if relative || self.base.size() == 2 { self.base.size() as u32 } else { bytes };
        instruction.set_memory_displ_size(if short && !relative { 4 } else { bytes });
        instruction.set_segment_prefix(self.segment);
    }
}

/// Whether a form may have a memory operand that ModR/M names.
pub fn has_memory(code: Code) -> bool {
    code.op_code().op_kinds().iter().any(|kind| names(*kind).1)
}

/// The kind of register that an operand may be, and whether it may be memory.
fn names(kind: OpCodeOperandKind) -> (String, bool) {
    let name = format!("{kind:?}");
    let memory = kind == OpCodeOperandKind::mem || name.ends_with("_or_mem");
    (name.split('_').next().unwrap_or_default().to_owned(), memory)
}

/// An instruction of the form with operands by chance, memory as the shape has it. `None` if there is none.
fn build(code: Code, memory: Option<&Shape>, (rip, mode): (u64, Mode), random: &mut Random) -> Option<Instruction> {
    let info = code.op_code();
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let mut given = false;
    for operand in 0..info.op_count() {
        let (name, may_be_memory) = names(info.op_kind(operand));
        if let (true, Some(shape)) = (may_be_memory, memory) {
            given = true;
            instruction.set_op_kind(operand, OpKind::Memory);
            shape.put(&mut instruction, rip, mode.narrow);
            continue;
        }
        if let Some(kind) = immediate(&name) {
            instruction.set_op_kind(operand, kind);
            instruction.set_immediate_i32(operand, random.pick(&[0, 1, 5, 31, 63, 127, -1, -128]));
            continue;
        }
        if name == "br64" {
            instruction.set_op_kind(operand, OpKind::NearBranch64);
            instruction.set_near_branch64(rip.wrapping_add(random.pick(&[0, 2, 0x20, 0x7f, u64::MAX - 100])));
            continue;
        }
        if name == "br32" {
            instruction.set_op_kind(operand, OpKind::NearBranch32);
            instruction.set_near_branch32((rip as u32).wrapping_add(random.pick(&[0, 2, 0x20, 0x7f, u32::MAX - 100])));
            continue;
        }
        let register = register(&name, mode.narrow, random)?;
        instruction.set_op_kind(operand, OpKind::Register);
        instruction.set_op_register(operand, register);
    }
    (given == memory.is_some()).then_some(instruction)
}

fn immediate(name: &str) -> Option<OpKind> {
    Some(match name {
        "imm8" => OpKind::Immediate8,
        "imm8sex16" => OpKind::Immediate8to16,
        "imm8sex32" => OpKind::Immediate8to32,
        "imm8sex64" => OpKind::Immediate8to64,
        "imm16" => OpKind::Immediate16,
        "imm32" => OpKind::Immediate32,
        "imm32sex64" => OpKind::Immediate32to64,
        "imm64" => OpKind::Immediate64,
        _ => return None,
    })
}

fn register(name: &str, narrow: bool, random: &mut Random) -> Option<Register> {
    // RSP, and those that have no register of the host, more often than others.
    let general = random.pick(&[0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15]) & if narrow { 7 } else { 15 };
    let (bytes, vectors) = if narrow { (8, 8) } else { (20, 16) };
    Some(match name {
        "r8" => Register::AL + random.below(bytes) as u32,
        "r16" => Register::AX + general,
        "r32" => Register::EAX + general,
        "r64" => Register::RAX + general,
        "xmm" => Register::XMM0 + random.below(vectors) as u32,
        "ymm" => Register::YMM0 + random.below(vectors) as u32,
        "mm" => Register::MM0 + random.below(8) as u32,
        "sti" => Register::ST0 + random.below(8) as u32,
        "st0" => Register::ST0,
        "al" => Register::AL,
        "ax" => Register::AX,
        "eax" => Register::EAX,
        "rax" => Register::RAX,
        "cl" => Register::CL,
        "dx" => Register::DX,
        "seg" => Register::ES + random.below(6) as u32,
        _ => return None,
    })
}

/// The bytes of a run of instructions at `rip`, each of which is built for the place where it comes to lie.
pub struct Run {
    pub bytes: Vec<u8>,
    rip: u64,
    mode: Mode,
    encoder: Encoder,
}

impl Run {
    pub fn new(rip: u64, mode: Mode) -> Self {
        Self { bytes: Vec::new(), rip, mode, encoder: Encoder::new(mode.bits()) }
    }

    pub fn narrow(&self) -> bool {
        self.mode.narrow
    }

    pub fn here(&self) -> u64 {
        self.rip + self.bytes.len() as u64
    }

    /// Appends an instruction; nothing if it has no encoding.
    pub fn push(&mut self, instruction: &Instruction) -> Option<()> {
        let encoded = self.encoder.encode(instruction, self.here());
        let bytes = self.encoder.take_buffer();
        encoded.ok()?;
        self.bytes.extend(bytes);
        Some(())
    }

    pub fn form(&mut self, code: Code, memory: Option<&Shape>, random: &mut Random) -> Option<()> {
        let mut instruction = build(code, memory, (self.here(), self.mode), random)?;
        instruction.set_has_rep_prefix(instruction.is_string_instruction() && random.below(4) != 0);
        self.push(&instruction)
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}
