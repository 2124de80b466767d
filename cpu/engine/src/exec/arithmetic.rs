//! Integer arithmetic, shifts, multiplication and division (Intel SDM vol. 2).

use super::operand::{Place, Source};
use super::width::{Arith, Wide, Width, arith};
use crate::cpu::{Cpu, Done, Flow, slot};
use crate::decode::Op;
use motu_x86::Exception;

/// A two-operand operation.
pub trait Binary {
    /// Whether the result goes anywhere; CMP and TEST keep only the flags.
    const WRITES: bool;
    fn apply<W: Width>(a: W, b: W, flags: Arith) -> (W, Arith);
}

macro_rules! binary {
    ($($name:ident $writes:literal |$a:ident, $b:ident, $f:ident| $body:expr;)*) => {$(
        pub enum $name {}
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<W: Width>($a: W, $b: W, $f: Arith) -> (W, Arith) {
                $body
            }
        }
    )*};
}

binary! {
    Add true |a, b, _f| a.add(b);
    Or true |a, b, _f| a.or(b);
    Adc true |a, b, f| a.adc(b, f);
    Sbb true |a, b, f| a.sbb(b, f);
    And true |a, b, _f| a.and(b);
    Sub true |a, b, _f| a.sub(b);
    Xor true |a, b, _f| a.xor(b);
    Cmp false |a, b, _f| a.sub(b);
    Test false |a, b, _f| a.and(b);
}

pub fn binary<O: Binary, W: Width, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b = S::get::<W>(cpu, op)?;
    if O::WRITES {
        D::update::<W>(cpu, op, |cpu, a| {
            let (result, flags) = O::apply(a, b, cpu.arith);
            cpu.arith = flags;
            result
        })?;
    } else {
        let a = D::get::<W>(cpu, op)?;
        cpu.arith = O::apply(a, b, cpu.arith).1;
    }
    Ok(Flow::Next)
}

/// A one-operand operation.
pub trait Unary {
    fn apply<W: Width>(a: W, flags: Arith) -> (W, Arith);
}

macro_rules! unary {
    ($($name:ident |$a:ident, $f:ident| $body:expr;)*) => {$(
        pub enum $name {}
        impl Unary for $name {
            #[inline(always)]
            fn apply<W: Width>($a: W, $f: Arith) -> (W, Arith) {
                $body
            }
        }
    )*};
}

unary! {
    Inc |a, f| a.inc(f);
    Dec |a, f| a.dec(f);
    Neg |a, _f| a.neg();
    Not |a, f| (W::from_u64(!a.to_u64()), f);
}

pub fn unary<O: Unary, W: Width, D: Place>(cpu: &mut Cpu, op: &Op) -> Done {
    D::update::<W>(cpu, op, |cpu, a| {
        let (result, flags) = O::apply(a, cpu.arith);
        cpu.arith = flags;
        result
    })?;
    Ok(Flow::Next)
}

/// A shift or rotate.
pub trait Shift {
    fn apply<W: Width>(a: W, count: u8, flags: Arith) -> (W, Arith);
}

macro_rules! shift {
    ($($name:ident $method:ident;)*) => {$(
        pub enum $name {}
        impl Shift for $name {
            #[inline(always)]
            fn apply<W: Width>(a: W, count: u8, flags: Arith) -> (W, Arith) {
                a.$method(count, flags)
            }
        }
    )*};
}

shift! { Shl shl; Shr shr; Sar sar; Rol rol; Ror ror; Rcl rcl; Rcr rcr; }

/// The count is `S`, masked to five bits (six for 64-bit operands); zero changes nothing, but a
/// memory operand is still written (SDM vol. 2, SAL/SAR/SHL/SHR).
pub fn shift<O: Shift, W: Width, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let mask = if W::BYTES == 8 { 63 } else { 31 };
    let count = S::get::<u8>(cpu, op)? & mask;
    D::update::<W>(cpu, op, |cpu, a| {
        if count == 0 {
            return a;
        }
        let (result, flags) = O::apply(a, count, cpu.arith);
        cpu.arith = flags;
        result
    })?;
    Ok(Flow::Next)
}

/// SHLD (`LEFT`) and SHRD; the count is CL or the immediate, as `C` says.
pub fn double_shift<const LEFT: bool, W: Wide, D: Place, C: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let mask = if W::BYTES == 8 { 63 } else { 31 };
    let count = C::get::<u8>(cpu, op)? & mask;
    let fill = cpu.register::<W>(op.src);
    D::update::<W>(cpu, op, |cpu, a| {
        if count == 0 {
            return a;
        }
        let (result, flags) = if LEFT { a.shld(fill, count) } else { a.shrd(fill, count) };
        cpu.arith = flags;
        result
    })?;
    Ok(Flow::Next)
}

/// CL as a count: for instructions whose `dst` and `src` are taken.
pub enum Cl {}

impl Source for Cl {
    #[inline(always)]
    fn get<W: Width>(cpu: &mut Cpu, _: &Op) -> crate::cpu::Faulting<W> {
        Ok(W::from_u64(cpu.gpr(slot::RCX) & 0xff))
    }
}

/// IMUL r, r/m and IMUL r, r/m, imm.
pub fn imul<W: Wide, A: Source, B: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let a = A::get::<W>(cpu, op)?;
    let b = B::get::<W>(cpu, op)?;
    let (result, flags) = a.imul(b);
    cpu.arith = flags;
    cpu.set_register(op.dst, result);
    Ok(Flow::Next)
}

/// CF and OF tell whether the upper half is significant; the others are undefined, and kept.
fn product_flags(flags: Arith, significant: bool) -> Arith {
    const BOTH: Arith = arith::CF | arith::OF;
    (flags & !BOTH) | if significant { BOTH } else { 0 }
}

/// One-operand MUL (`SIGNED` false) and IMUL: AX, DX:AX, EDX:EAX or RDX:RAX.
pub fn multiply<const SIGNED: bool, W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let b = S::get::<W>(cpu, op)?;
    let a = cpu.register::<W>(0);
    let product = if SIGNED {
        (i128::from(a.sign_extend() as i64) * i128::from(b.sign_extend() as i64)) as u128
    } else {
        u128::from(a.to_u64()) * u128::from(b.to_u64())
    };
    let low = W::from_u64(product as u64);
    let high = W::from_u64((product >> W::BITS) as u64);
    if W::BYTES == 1 {
        cpu.set_register::<u16>(0, product as u16);
    } else {
        cpu.set_register(0, low);
        cpu.set_register(8 * slot::RDX, high);
    }
    let significant =
        if SIGNED { high.sign_extend() != ((low.sign_extend() as i64) >> 63) as u64 } else { high.to_u64() != 0 };
    cpu.arith = product_flags(cpu.arith, significant);
    Ok(Flow::Next)
}

/// DIV (`SIGNED` false) and IDIV. #DE when the divisor is zero or the quotient does not fit.
pub fn divide<const SIGNED: bool, W: Width, S: Source>(cpu: &mut Cpu, op: &Op) -> Done {
    let divisor = S::get::<W>(cpu, op)?;
    let (low, high) = if W::BYTES == 1 {
        let ax = cpu.register::<u16>(0);
        (W::from_u64(u64::from(ax)), W::from_u64(u64::from(ax >> 8)))
    } else {
        (cpu.register::<W>(0), cpu.register::<W>(8 * slot::RDX))
    };
    let halves = if SIGNED { divide_signed(low, high, divisor) } else { divide_unsigned(low, high, divisor) };
    let Some((quotient, remainder)) = halves else {
        return cpu.raise(Exception::plain(Exception::DE));
    };
    if W::BYTES == 1 {
        cpu.set_register::<u8>(0, quotient.to_u64() as u8);
        cpu.set_register::<u8>(1, remainder.to_u64() as u8);
    } else {
        cpu.set_register(0, quotient);
        cpu.set_register(8 * slot::RDX, remainder);
    }
    Ok(Flow::Next)
}

fn divide_unsigned<W: Width>(low: W, high: W, divisor: W) -> Option<(W, W)> {
    let d = divisor.to_u64();
    if high.to_u64() >= d {
        return None;
    }
    if high.to_u64() == 0 {
        return Some((W::from_u64(low.to_u64() / d), W::from_u64(low.to_u64() % d)));
    }
    let dividend = u128::from(high.to_u64()) << W::BITS | u128::from(low.to_u64());
    let d = u128::from(d);
    Some((W::from_u64((dividend / d) as u64), W::from_u64((dividend % d) as u64)))
}

fn divide_signed<W: Width>(low: W, high: W, divisor: W) -> Option<(W, W)> {
    let d = i128::from(divisor.sign_extend() as i64);
    let dividend = i128::from(high.sign_extend() as i64) << W::BITS | i128::from(low.to_u64());
    // The only overflow of 128-bit division is MIN / -1; its quotient would not fit either.
    let quotient = dividend.checked_div(d)?;
    let remainder = dividend.checked_rem(d)?;
    let limit = 1i128 << (W::BITS - 1);
    if quotient < -limit || quotient >= limit {
        return None;
    }
    Some((W::from_u64(quotient as u64), W::from_u64(remainder as u64)))
}

/// CBW, CWDE, CDQE: the lower half of the accumulator, extended to `W`.
pub fn extend_accumulator<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let value = match W::BYTES {
        2 => cpu.register::<u8>(0).sign_extend(),
        4 => cpu.register::<u16>(0).sign_extend(),
        _ => cpu.register::<u32>(0).sign_extend(),
    };
    cpu.set_register(0, W::from_u64(value));
    Ok(Flow::Next)
}

/// CWD, CDQ, CQO: the accumulator's sign into DX, EDX or RDX.
pub fn sign_to_rdx<W: Width>(cpu: &mut Cpu, _: &Op) -> Done {
    let sign = (cpu.register::<W>(0).sign_extend() as i64) >> 63;
    cpu.set_register(8 * slot::RDX, W::from_u64(sign as u64));
    Ok(Flow::Next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_overflows_exactly_at_the_edges() {
        assert_eq!(divide_unsigned(0u64, 5, 5), None);
        assert_eq!(divide_unsigned(u64::MAX, 4, 5), Some((u64::MAX, 4)));
        assert_eq!(divide_unsigned(1u32, 0, 0), None);
        assert_eq!(divide_signed(0x8000_0000u32, u32::MAX, u32::MAX), None, "i32::MIN / -1");
        assert_eq!(divide_signed(0x80u8, 0xff, 1), Some((0x80, 0)));
        assert_eq!(divide_signed(0u64, 1 << 63, u64::MAX), None, "i128::MIN / -1");
        assert_eq!(divide_signed((-7i64) as u64, u64::MAX, 2), Some(((-3i64) as u64, (-1i64) as u64)));
    }
}
