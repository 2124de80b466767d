//! The four operand widths, and what arithmetic does at each, with the flags it leaves.
//!
//! The host is an x86-64 CPU: its own instruction computes result and flags, so every defined flag
//! (and most undefined ones) is what hardware gives. Flags travel as [`Arith`], the word that
//! `lahf; seto al` leaves in AX: storing and testing it costs less than keeping operands for later.

use std::arch::asm;
use std::fmt::Debug;

/// Arithmetic flags: SF ZF 0 AF 0 PF 1 CF in bits 15 to 8, OF in bit 0.
pub type Arith = u16;

/// Bits of [`Arith`].
pub mod arith {
    pub const CF: u16 = 1 << 8;
    pub const PF: u16 = 1 << 10;
    pub const AF: u16 = 1 << 12;
    pub const ZF: u16 = 1 << 14;
    pub const SF: u16 = 1 << 15;
    pub const OF: u16 = 1;

    /// As the low twelve bits of RFLAGS.
    pub const fn to_rflags(flags: u16) -> u64 {
        ((flags >> 8) & 0xd5) as u64 | ((flags & OF) as u64) << 11
    }

    /// From RFLAGS.
    pub const fn from_rflags(rflags: u64) -> u16 {
        ((rflags & 0xd5) << 8) as u16 | ((rflags >> 11) & 1) as u16
    }
}

/// An unsigned operand of 1, 2, 4 or 8 bytes.
pub trait Width: Copy + Eq + Debug + Send + 'static {
    const BYTES: u64;
    const BITS: u32;
    fn to_u64(self) -> u64;
    /// Truncates.
    fn from_u64(value: u64) -> Self;
    /// The value as signed, extended to 64 bits.
    fn sign_extend(self) -> u64;
    fn from_le(bytes: &[u8; 8]) -> Self {
        Self::from_u64(u64::from_le_bytes(*bytes))
    }

    fn add(self, other: Self) -> (Self, Arith);
    fn sub(self, other: Self) -> (Self, Arith);
    fn and(self, other: Self) -> (Self, Arith);
    fn or(self, other: Self) -> (Self, Arith);
    fn xor(self, other: Self) -> (Self, Arith);
    /// With the carry of `flags`.
    fn adc(self, other: Self, flags: Arith) -> (Self, Arith);
    /// With the borrow of `flags`.
    fn sbb(self, other: Self, flags: Arith) -> (Self, Arith);
    /// Keeps the carry of `flags`.
    fn inc(self, flags: Arith) -> (Self, Arith);
    /// Keeps the carry of `flags`.
    fn dec(self, flags: Arith) -> (Self, Arith);
    fn neg(self) -> (Self, Arith);

    /// Shifts and rotates; `count` is already masked to 5 or 6 bits and is not zero.
    fn shl(self, count: u8, flags: Arith) -> (Self, Arith);
    fn shr(self, count: u8, flags: Arith) -> (Self, Arith);
    fn sar(self, count: u8, flags: Arith) -> (Self, Arith);
    fn rol(self, count: u8, flags: Arith) -> (Self, Arith);
    fn ror(self, count: u8, flags: Arith) -> (Self, Arith);
    fn rcl(self, count: u8, flags: Arith) -> (Self, Arith);
    fn rcr(self, count: u8, flags: Arith) -> (Self, Arith);
}

/// `op r, b; lahf; seto al`
macro_rules! binary {
    ($name:ident, $op:literal, $class:ident, $modifier:literal) => {
        #[inline(always)]
        fn $name(self, other: Self) -> (Self, Arith) {
            let mut result = self;
            let flags: u16;
            // SAFETY: register arithmetic only; no memory, no stack; flags are declared clobbered by default.
            unsafe {
                asm!(concat!($op, " {r", $modifier, "}, {b", $modifier, "}"), "lahf", "seto al",
                     r = inout($class) result, b = in($class) other, out("ax") flags,
                     options(pure, nomem, nostack));
            }
            (result, flags)
        }
    };
}

/// `add c, 255` sets CF when c is 1; then `op r, b; lahf; seto al`.
macro_rules! carried {
    ($name:ident, $op:literal, $class:ident, $modifier:literal) => {
        #[inline(always)]
        fn $name(self, other: Self, flags_in: Arith) -> (Self, Arith) {
            let mut result = self;
            let carry = ((flags_in & arith::CF) != 0) as u8;
            let flags: u16;
            // SAFETY: register arithmetic only; no memory, no stack.
            unsafe {
                asm!("add {c}, 255", concat!($op, " {r", $modifier, "}, {b", $modifier, "}"), "lahf", "seto al",
                     r = inout($class) result, b = in($class) other, c = inout(reg_byte) carry => _, out("ax") flags,
                     options(pure, nomem, nostack));
            }
            (result, flags)
        }
    };
}

/// One operand; flags not in `$written` are kept.
macro_rules! unary {
    ($name:ident, $op:literal, $class:ident, $modifier:literal) => {
        #[inline(always)]
        fn $name(self, flags_in: Arith) -> (Self, Arith) {
            let mut result = self;
            let flags: u16;
            // SAFETY: register arithmetic only; no memory, no stack.
            unsafe {
                asm!(concat!($op, " {r", $modifier, "}"), "lahf", "seto al",
                     r = inout($class) result, out("ax") flags, options(pure, nomem, nostack));
            }
            (result, (flags & !arith::CF) | (flags_in & arith::CF))
        }
    };
}

/// Shift by CL; all arithmetic flags are written.
macro_rules! shift {
    ($name:ident, $op:literal, $class:ident, $modifier:literal) => {
        #[inline(always)]
        fn $name(self, count: u8, _flags: Arith) -> (Self, Arith) {
            let mut result = self;
            let flags: u16;
            // SAFETY: register arithmetic only; no memory, no stack.
            unsafe {
                asm!(concat!($op, " {r", $modifier, "}, cl"), "lahf", "seto al",
                     r = inout($class) result, in("cl") count, out("ax") flags, options(pure, nomem, nostack));
            }
            (result, flags)
        }
    };
}

/// Rotate by CL: only CF and OF are written; CF comes in.
macro_rules! rotate {
    ($name:ident, $op:literal, $class:ident, $modifier:literal) => {
        #[inline(always)]
        fn $name(self, count: u8, flags_in: Arith) -> (Self, Arith) {
            let mut result = self;
            let carry = ((flags_in & arith::CF) != 0) as u8;
            let flags: u16;
            // SAFETY: register arithmetic only; no memory, no stack.
            unsafe {
                asm!("add {c}, 255", concat!($op, " {r", $modifier, "}, cl"), "lahf", "seto al",
                     r = inout($class) result, c = inout(reg_byte) carry => _, in("cl") count, out("ax") flags,
                     options(pure, nomem, nostack));
            }
            const WRITTEN: u16 = arith::CF | arith::OF;
            (result, (flags & WRITTEN) | (flags_in & !WRITTEN))
        }
    };
}

macro_rules! width {
    ($ty:ty, $signed:ty, $class:ident, $modifier:literal) => {
        impl Width for $ty {
            const BYTES: u64 = <$ty>::BITS as u64 / 8;
            const BITS: u32 = <$ty>::BITS;
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $ty
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
            binary!(add, "add", $class, $modifier);
            binary!(sub, "sub", $class, $modifier);
            binary!(and, "and", $class, $modifier);
            binary!(or, "or", $class, $modifier);
            binary!(xor, "xor", $class, $modifier);
            carried!(adc, "adc", $class, $modifier);
            carried!(sbb, "sbb", $class, $modifier);
            unary!(inc, "inc", $class, $modifier);
            unary!(dec, "dec", $class, $modifier);
            #[inline(always)]
            fn neg(self) -> (Self, Arith) {
                <$ty as Width>::sub(0, self)
            }
            shift!(shl, "shl", $class, $modifier);
            shift!(shr, "shr", $class, $modifier);
            shift!(sar, "sar", $class, $modifier);
            rotate!(rol, "rol", $class, $modifier);
            rotate!(ror, "ror", $class, $modifier);
            rotate!(rcl, "rcl", $class, $modifier);
            rotate!(rcr, "rcr", $class, $modifier);
        }
    };
}

width!(u8, i8, reg_byte, "");
width!(u16, i16, reg, ":x");
width!(u32, i32, reg, ":e");
width!(u64, i64, reg, ":r");

/// Double shifts, bit scans, multiplication: forms that only some widths have.
pub trait Wide: Width {
    fn shld(self, fill: Self, count: u8) -> (Self, Arith);
    fn shrd(self, fill: Self, count: u8) -> (Self, Arith);
    /// The low half of the signed product, and the flags.
    fn imul(self, other: Self) -> (Self, Arith);
    fn bswap(self) -> Self;
}

macro_rules! wide {
    ($ty:ty, $modifier:literal) => {
        impl Wide for $ty {
            #[inline(always)]
            fn shld(self, fill: Self, count: u8) -> (Self, Arith) {
                let mut result = self;
                let flags: u16;
                // SAFETY: register arithmetic only; no memory, no stack.
                unsafe {
                    asm!(concat!("shld {r", $modifier, "}, {b", $modifier, "}, cl"), "lahf", "seto al",
                         r = inout(reg) result, b = in(reg) fill, in("cl") count, out("ax") flags,
                         options(pure, nomem, nostack));
                }
                (result, flags)
            }
            #[inline(always)]
            fn shrd(self, fill: Self, count: u8) -> (Self, Arith) {
                let mut result = self;
                let flags: u16;
                // SAFETY: register arithmetic only; no memory, no stack.
                unsafe {
                    asm!(concat!("shrd {r", $modifier, "}, {b", $modifier, "}, cl"), "lahf", "seto al",
                         r = inout(reg) result, b = in(reg) fill, in("cl") count, out("ax") flags,
                         options(pure, nomem, nostack));
                }
                (result, flags)
            }
            binary!(imul, "imul", reg, $modifier);
            #[inline(always)]
            fn bswap(self) -> Self {
                self.swap_bytes()
            }
        }
    };
}

wide!(u16, ":x");
wide!(u32, ":e");
wide!(u64, ":r");

#[cfg(test)]
mod tests {
    use super::*;
    use arith::*;

    #[test]
    fn flags_of_addition_and_subtraction() {
        let (r, f) = Width::add(0x7fu8, 1);
        assert_eq!((r, f & (OF | SF | CF | ZF | AF)), (0x80, OF | SF | AF));
        let (r, f) = Width::add(u64::MAX, 1);
        assert_eq!((r, f & (OF | SF | CF | ZF)), (0, CF | ZF));
        let (r, f) = Width::sub(0u16, 1);
        assert_eq!((r, f & (OF | SF | CF | ZF)), (0xffff, CF | SF));
    }

    #[test]
    fn carry_goes_in_and_out() {
        assert_eq!(Width::adc(1u32, 1, CF).0, 3);
        assert_eq!(Width::adc(1u32, 1, 0).0, 2);
        assert_eq!(Width::sbb(1u32, 1, CF), { (u32::MAX, Width::sbb(1u32, 1, CF).1) });
        assert_ne!(Width::inc(5u8, CF).1 & CF, 0, "inc keeps CF");
        assert_eq!(Width::rcl(0x80u8, 1, CF), (1, (CF | OF)));
    }

    #[test]
    fn rflags_round_trip() {
        for bits in 0..=0xfffu64 {
            let defined = bits & 0x8d5;
            assert_eq!(to_rflags(from_rflags(bits)), defined);
        }
    }
}
