//! Host machine code, as far as translation adds any to what the guest has.
//!
//! Only what is used is here; instructions of the guest are encoded by iced.

/// A general register of the host by its number in encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

pub const RAX: Reg = Reg(0);
pub const RCX: Reg = Reg(1);
pub const RDX: Reg = Reg(2);
pub const RBP: Reg = Reg(5);
pub const RSP: Reg = Reg(4);
pub const R9: Reg = Reg(9);
pub const R10: Reg = Reg(10);
pub const R11: Reg = Reg(11);

/// A memory operand of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    pub base: Reg,
    /// And the shift count of its scale.
    pub index: Option<(Reg, u8)>,
    pub disp: i32,
}

/// A word of the frame.
pub const fn frame(disp: i32) -> Mem {
    Mem { base: RSP, index: None, disp }
}

/// A word of an array in the frame.
pub const fn frame_indexed(disp: i32, index: Reg, shift: u8) -> Mem {
    Mem { base: RSP, index: Some((index, shift)), disp }
}

/// Conditions of Jcc by their number in opcodes.
pub mod cc {
    pub const Z: u8 = 4;
    pub const NZ: u8 = 5;
    pub const BE: u8 = 6;
    pub const AE: u8 = 3;
    pub const A: u8 = 7;
    pub const LE: u8 = 14;
}

/// Arithmetic with a register as destination: opcode of the form `op r, r/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    Add = 0x03,
    Sub = 0x2b,
    Cmp = 0x3b,
}

/// A place in the code that jumps lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(u32);

#[derive(Debug, Default)]
pub struct Asm {
    pub code: Vec<u8>,
    /// Offset of each label, once it is known.
    labels: Vec<Option<u32>>,
    /// Places of four or one byte that hold a distance to a label.
    fixups: Vec<(u32, Label, u8)>,
}

impl Asm {
    pub fn clear(&mut self) {
        self.code.clear();
        self.labels.clear();
        self.fixups.clear();
    }

    pub fn here(&self) -> u32 {
        self.code.len() as u32
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() as u32 - 1)
    }

    pub fn bind(&mut self, label: Label) {
        let here = self.here();
        if let Some(place) = self.labels.get_mut(label.0 as usize) {
            *place = Some(here);
        }
    }

    /// Writes the distances to labels. `crossing` gets the places of those that lead over offset `border`. False if a label
    /// was never bound or is too far.
    #[must_use]
    pub fn resolve(&mut self, border: u32, crossing: &mut Vec<u32>) -> bool {
        crossing.clear();
        for &(at, label, bytes) in &self.fixups {
            let Some(&Some(target)) = self.labels.get(label.0 as usize) else { return false };
            let end = at as usize + usize::from(bytes);
            let distance = i64::from(target) - end as i64;
            let Some(place) = self.code.get_mut(at as usize..end) else { return false };
            let crosses = (at < border) != (target < border);
            if crosses {
                crossing.push(at);
            }
            if bytes == 1 && (crosses || i8::try_from(distance).is_err()) {
                return false;
            }
            place.copy_from_slice(&distance.to_le_bytes()[..bytes.into()]);
        }
        true
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    fn imm32(&mut self, value: i32) {
        self.bytes(&value.to_le_bytes());
    }

    /// REX prefix; none if nothing in it is set.
    fn rex(&mut self, wide: bool, reg: u8, mem: Option<Mem>, rm: u8) {
        let (x, b) = match mem {
            Some(mem) => (mem.index.map_or(0, |(index, _)| index.0 >> 3), mem.base.0 >> 3),
            None => (0, rm >> 3),
        };
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | x << 1 | b;
        if rex != 0x40 {
            self.code.push(rex);
        }
    }

    fn modrm_mem(&mut self, reg: u8, mem: Mem) {
        let reg = (reg & 7) << 3;
        let base = mem.base.0 & 7;
        // RBP and R13 as bases have no form without displacement.
        let mode = match mem.disp {
            0 if base != 5 => 0,
            -128..=127 => 1,
            _ => 2,
        };
        match mem.index {
            None if base != 4 => self.code.push(mode << 6 | reg | base),
            None => self.bytes(&[mode << 6 | reg | 4, 0x24]),
            Some((index, shift)) => self.bytes(&[mode << 6 | reg | 4, shift << 6 | (index.0 & 7) << 3 | base]),
        }
        match mode {
            1 => self.code.push(mem.disp as i8 as u8),
            2 => self.imm32(mem.disp),
            _ => {}
        }
    }

    fn op_mem(&mut self, wide: bool, opcode: u8, reg: u8, mem: Mem) {
        self.rex(wide, reg, Some(mem), 0);
        self.code.push(opcode);
        self.modrm_mem(reg, mem);
    }

    fn op_reg(&mut self, wide: bool, opcode: u8, reg: u8, rm: u8) {
        self.rex(wide, reg, None, rm);
        self.bytes(&[opcode, 0xc0 | (reg & 7) << 3 | (rm & 7)]);
    }

    pub fn load(&mut self, to: Reg, from: Mem) {
        self.op_mem(true, 0x8b, to.0, from);
    }

    pub fn load32(&mut self, to: Reg, from: Mem) {
        self.op_mem(false, 0x8b, to.0, from);
    }

    pub fn store(&mut self, to: Mem, from: Reg) {
        self.op_mem(true, 0x89, from.0, to);
    }

    pub fn store32(&mut self, to: Mem, from: Reg) {
        self.op_mem(false, 0x89, from.0, to);
    }

    pub fn store_imm32(&mut self, to: Mem, value: u32) {
        self.op_mem(false, 0xc7, 0, to);
        self.imm32(value as i32);
    }

    /// Eight bytes: the sign-extended value.
    pub fn store_imm(&mut self, to: Mem, value: i32) {
        self.op_mem(true, 0xc7, 0, to);
        self.imm32(value);
    }

    pub fn mov(&mut self, to: Reg, from: Reg) {
        self.op_reg(true, 0x8b, to.0, from.0);
    }

    /// The shortest way to a constant that leaves the flags alone.
    pub fn mov_imm(&mut self, to: Reg, value: u64) {
        if let Ok(low) = u32::try_from(value) {
            self.rex(false, 0, None, to.0);
            self.code.push(0xb8 | to.0 & 7);
            self.imm32(low as i32);
        } else if let Ok(signed) = i32::try_from(value as i64) {
            self.rex(true, 0, None, to.0);
            self.bytes(&[0xc7, 0xc0 | to.0 & 7]);
            self.imm32(signed);
        } else {
            self.rex(true, 0, None, to.0);
            self.code.push(0xb8 | to.0 & 7);
            self.bytes(&value.to_le_bytes());
        }
    }

    pub fn lea(&mut self, to: Reg, mem: Mem) {
        self.op_mem(true, 0x8d, to.0, mem);
    }

    pub fn lea32(&mut self, to: Reg, mem: Mem) {
        self.op_mem(false, 0x8d, to.0, mem);
    }

    pub fn alu(&mut self, op: Alu, to: Reg, from: Mem) {
        self.op_mem(true, op as u8, to.0, from);
    }

    pub fn cmp_imm(&mut self, reg: Reg, value: i32) {
        self.rex(true, 0, None, reg.0);
        self.bytes(&[0x81, 0xf8 | reg.0 & 7]);
        self.imm32(value);
    }

    pub fn test_imm8(&mut self, reg: Reg, value: u8) {
        self.rex(false, 0, None, reg.0);
        self.bytes(&[0xf6, 0xc0 | reg.0 & 7, value]);
    }

    /// All bits of the register with the sign-extended value.
    pub fn test_imm(&mut self, reg: Reg, value: i32) {
        self.rex(true, 0, None, reg.0);
        self.bytes(&[0xf7, 0xc0 | reg.0 & 7]);
        self.imm32(value);
    }

    pub fn test_imm32(&mut self, reg: Reg, value: u32) {
        self.rex(false, 0, None, reg.0);
        self.bytes(&[0xf7, 0xc0 | reg.0 & 7]);
        self.imm32(value as i32);
    }

    pub fn xor32(&mut self, to: Reg, from: Reg) {
        self.op_reg(false, 0x33, to.0, from.0);
    }

    pub fn and32_imm(&mut self, reg: Reg, value: u32) {
        self.rex(false, 0, None, reg.0);
        self.bytes(&[0x81, 0xe0 | reg.0 & 7]);
        self.imm32(value as i32);
    }

    pub fn dec32(&mut self, mem: Mem) {
        self.op_mem(false, 0xff, 1, mem);
    }

    /// Compares four bytes of memory with zero.
    pub fn is_zero32(&mut self, mem: Mem) {
        self.op_mem(false, 0x83, 7, mem);
        self.bytes(&[0]);
    }

    /// Copies of the sign bit in every bit.
    pub fn sign_of(&mut self, reg: Reg, wide: bool) {
        self.rex(wide, 0, None, reg.0);
        self.bytes(&[0xc1, 0xf8 | reg.0 & 7, if wide { 63 } else { 31 }]);
    }

    /// `mov`, of 64 bits or of 32.
    pub fn mov_sized(&mut self, to: Reg, from: Reg, wide: bool) {
        self.op_reg(wide, 0x8b, to.0, from.0);
    }

    pub fn cmp_sized(&mut self, a: Reg, b: Reg, wide: bool) {
        self.op_reg(wide, Alu::Cmp as u8, a.0, b.0);
    }

    pub fn cmp_imm8(&mut self, reg: Reg, value: i8, wide: bool) {
        self.rex(wide, 0, None, reg.0);
        self.bytes(&[0x83, 0xf8 | reg.0 & 7, value as u8]);
    }

    /// DIV, or IDIV, by a register.
    pub fn divide(&mut self, by: Reg, signed: bool, wide: bool) {
        self.rex(wide, 0, None, by.0);
        self.bytes(&[0xf7, if signed { 0xf8 } else { 0xf0 } | by.0 & 7]);
    }

    /// Pushes RFLAGS.
    pub fn pushf(&mut self) {
        self.code.push(0x9c);
    }

    pub fn pop(&mut self, to: Reg) {
        self.rex(false, 0, None, to.0);
        self.code.push(0x58 | to.0 & 7);
    }

    /// Zero-extends a byte.
    pub fn load8(&mut self, to: Reg, from: Mem) {
        self.rex(false, to.0, Some(from), 0);
        self.bytes(&[0x0f, 0xb6]);
        self.modrm_mem(to.0, from);
    }

    pub fn not(&mut self, reg: Reg) {
        self.rex(true, 0, None, reg.0);
        self.bytes(&[0xf7, 0xd0 | reg.0 & 7]);
    }

    /// `to` = `from` rotated right.
    pub fn rorx(&mut self, to: Reg, from: Reg, count: u8) {
        self.bytes(&[0xc4, 0x43 | (!to.0 >> 3 & 1) << 7 | (!from.0 >> 3 & 1) << 5, 0xfb, 0xf0]);
        self.bytes(&[0xc0 | (to.0 & 7) << 3 | from.0 & 7, count]);
    }

    /// `to` = the bits of `from` that `mask` selects.
    pub fn pext(&mut self, to: Reg, from: Reg, mask: Mem) {
        self.gather(0b010, to, from, mask);
    }

    /// `to` = bits of `from` where `mask` has ones.
    pub fn pdep(&mut self, to: Reg, from: Reg, mask: Mem) {
        self.gather(0b011, to, from, mask);
    }

    fn gather(&mut self, prefix: u8, to: Reg, from: Reg, mask: Mem) {
        let x = mask.index.map_or(0, |(index, _)| index.0 >> 3);
        let first = (!to.0 >> 3 & 1) << 7 | (!x & 1) << 6 | (!(mask.base.0 >> 3) & 1) << 5 | 0b00010;
        self.bytes(&[0xc4, first, 0x80 | (!from.0 & 15) << 3 | prefix, 0xf5]);
        self.modrm_mem(to.0, mask);
    }

    pub fn jcc(&mut self, condition: u8, target: Label) {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.distance(target, 4);
    }

    pub fn jmp(&mut self, target: Label) {
        self.code.push(0xe9);
        self.distance(target, 4);
    }

    /// JRCXZ, or LOOP and its kin by their opcode.
    pub fn jump_short(&mut self, opcode: u8, target: Label) {
        self.code.push(opcode);
        self.distance(target, 1);
    }

    fn distance(&mut self, target: Label, bytes: u8) {
        let at = self.here();
        self.fixups.push((at, target, bytes));
        self.code.resize(self.code.len() + usize::from(bytes), 0);
    }

    pub fn jmp_mem(&mut self, mem: Mem) {
        self.op_mem(false, 0xff, 4, mem);
    }

    pub fn call_mem(&mut self, mem: Mem) {
        self.op_mem(false, 0xff, 2, mem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    fn text(write: impl FnOnce(&mut Asm)) -> String {
        let mut asm = Asm::default();
        write(&mut asm);
        assert!(asm.resolve(u32::MAX, &mut Vec::new()));
        let mut out = Vec::new();
        for instruction in Decoder::with_ip(64, &asm.code, 0, DecoderOptions::NONE) {
            let mut line = String::new();
            IntelFormatter::new().format(&instruction, &mut line);
            out.push(line);
        }
        out.join("; ")
    }

    #[test]
    fn what_is_written_is_what_was_meant() {
        let far = frame_indexed(0x12345, R11, 3);
        assert_eq!(text(|a| a.load(R10, frame(8))), "mov r10,[rsp+8]");
        assert_eq!(text(|a| a.load32(RCX, frame(0))), "mov ecx,[rsp]");
        assert_eq!(text(|a| a.store(Mem { base: Reg(13), index: None, disp: 0 }, RAX)), "mov [r13],rax");
        assert_eq!(text(|a| a.store32(frame(200), R9)), "mov [rsp+0C8h],r9d");
        assert_eq!(
            text(|a| a.store_imm(Mem { base: R10, index: None, disp: 0 }, -2)),
            "mov qword ptr [r10],0FFFFFFFFFFFFFFFEh"
        );
        assert_eq!(text(|a| a.store_imm32(frame(4), 7)), "mov dword ptr [rsp+4],7");
        assert_eq!(text(|a| a.is_zero32(frame(4))), "cmp dword ptr [rsp+4],0");
        assert_eq!(text(|a| a.lea(R10, Mem { base: R9, index: Some((R11, 2)), disp: -8 })), "lea r10,[r9+r11*4-8]");
        assert_eq!(text(|a| a.alu(Alu::Sub, R10, far)), "sub r10,[rsp+r11*8+12345h]");
        assert_eq!(text(|a| a.alu(Alu::Cmp, R10, frame(8))), "cmp r10,[rsp+8]");
        assert_eq!(text(|a| a.cmp_imm(R10, 4088)), "cmp r10,0FF8h");
        assert_eq!(text(|a| a.test_imm(R10, -4081)), "test r10,0FFFFFFFFFFFFF00Fh");
        assert_eq!(text(|a| a.and32_imm(R11, 0x1ffe0)), "and r11d,1FFE0h");
        assert_eq!(text(|a| a.rorx(R11, R10, 7)), "rorx r11,r10,7");
        assert_eq!(text(|a| a.rorx(RCX, RAX, 7)), "rorx rcx,rax,7");
        assert_eq!(text(|a| a.pext(R11, R10, frame(48))), "pext r11,r10,[rsp+30h]");
        assert_eq!(text(|a| a.pext(RCX, RCX, frame(48))), "pext rcx,rcx,[rsp+30h]");
        assert_eq!(text(|a| a.pdep(R10, R10, frame(200))), "pdep r10,r10,[rsp+0C8h]");
        assert_eq!(text(|a| a.load8(RCX, Mem { base: R10, index: None, disp: 400 })), "movzx ecx,byte ptr [r10+190h]");
        assert_eq!(text(|a| a.pushf()), "pushfq");
        assert_eq!(text(|a| a.pop(R10)), "pop r10");
        assert_eq!(text(|a| a.not(RCX)), "not rcx");
        assert_eq!(text(|a| a.dec32(frame(72))), "dec dword ptr [rsp+48h]");
        assert_eq!(text(|a| a.test_imm8(R10, 15)), "test r10b,0Fh");
        assert_eq!(text(|a| a.test_imm32(R11, 4096)), "test r11d,1000h");
        assert_eq!(text(|a| a.xor32(R11, R10)), "xor r11d,r10d");
        assert_eq!(text(|a| a.mov_imm(R10, 0xffff_ffff)), "mov r10d,0FFFFFFFFh");
        assert_eq!(text(|a| a.mov_imm(R10, u64::MAX - 1)), "mov r10,0FFFFFFFFFFFFFFFEh");
        assert_eq!(text(|a| a.mov_imm(RAX, 1 << 40)), "mov rax,10000000000h");
        assert_eq!(text(|a| a.jmp_mem(far)), "jmp qword ptr [rsp+r11*8+12345h]");
        assert_eq!(text(|a| a.call_mem(frame(0x70))), "call qword ptr [rsp+70h]");
    }

    #[test]
    fn labels_are_found_forwards_and_backwards() {
        let jumps = text(|a| {
            let (back, forth) = (a.label(), a.label());
            a.bind(back);
            a.jump_short(0xe3, forth);
            a.jcc(cc::A, back);
            a.bind(forth);
            a.jmp(back);
        });
        assert_eq!(jumps, "jrcxz 8; ja 0; jmp 0");
    }

    #[test]
    fn a_label_without_a_place_is_noticed() {
        let mut asm = Asm::default();
        let label = asm.label();
        asm.jmp(label);
        assert!(!asm.resolve(u32::MAX, &mut Vec::new()));
    }
}
