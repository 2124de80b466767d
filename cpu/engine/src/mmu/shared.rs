//! Memory that other threads access at the same time: processors and devices.
//!
//! The guest's accesses are made by single instructions of the host, which is ordered as the guest is (Intel SDM vol. 3, 9.1.1 and
//! 9.2.3.2) and whose accesses are as whole; in Rust's terms each is an atomic access of assembly code that the compiler neither
//! divides nor leaves out.

use crate::exec::width::Width;
use std::arch::asm;

/// From here on a copy is left to the host's string instruction.
const LONG: usize = 128;

/// Reads `W` at `from`, aligned or not.
///
/// # Safety
/// That many bytes are mapped there.
#[inline(always)]
pub unsafe fn load<W: Width>(from: *const u8) -> W {
    let value: u64;
    // SAFETY: as the caller says; nothing but the register is written.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("movzx {v:e}, byte ptr [{p}]", v = out(reg) value, p = in(reg) from, options(nostack, preserves_flags, readonly));
            }
            2 => {
                asm!("movzx {v:e}, word ptr [{p}]", v = out(reg) value, p = in(reg) from, options(nostack, preserves_flags, readonly));
            }
            4 => {
                asm!("mov {v:e}, [{p}]", v = out(reg) value, p = in(reg) from, options(nostack, preserves_flags, readonly));
            }
            _ => {
                asm!("mov {v}, [{p}]", v = out(reg) value, p = in(reg) from, options(nostack, preserves_flags, readonly));
            }
        }
    }
    W::from_u64(value)
}

/// Writes `W` at `to`, aligned or not.
///
/// # Safety
/// That many bytes are mapped there, and none of them is Rust's.
#[inline(always)]
pub unsafe fn store<W: Width>(to: *mut u8, value: W) {
    let value = value.to_u64();
    // SAFETY: as the caller says.
    unsafe {
        match W::BYTES {
            1 => asm!("mov [{p}], {v:l}", v = in(reg) value, p = in(reg) to, options(nostack, preserves_flags)),
            2 => asm!("mov [{p}], {v:x}", v = in(reg) value, p = in(reg) to, options(nostack, preserves_flags)),
            4 => asm!("mov [{p}], {v:e}", v = in(reg) value, p = in(reg) to, options(nostack, preserves_flags)),
            _ => asm!("mov [{p}], {v}", v = in(reg) value, p = in(reg) to, options(nostack, preserves_flags)),
        }
    }
}

/// Writes `new` at `at` if `old` is there, in one step. Gives what was there.
///
/// # Safety
/// As of [`store`].
#[inline(always)]
pub unsafe fn compare_exchange<W: Width>(at: *mut u8, old: W, new: W) -> W {
    let mut found = old.to_u64();
    let new = new.to_u64();
    // SAFETY: as the caller says.
    unsafe {
        match W::BYTES {
            1 => {
                asm!("lock cmpxchg [{p}], {n:l}", inout("rax") found, n = in(reg) new, p = in(reg) at, options(nostack))
            }
            2 => {
                asm!("lock cmpxchg [{p}], {n:x}", inout("rax") found, n = in(reg) new, p = in(reg) at, options(nostack))
            }
            4 => {
                asm!("lock cmpxchg [{p}], {n:e}", inout("rax") found, n = in(reg) new, p = in(reg) at, options(nostack))
            }
            _ => asm!("lock cmpxchg [{p}], {n}", inout("rax") found, n = in(reg) new, p = in(reg) at, options(nostack)),
        }
    }
    W::from_u64(found)
}

/// The same for 16 bytes.
///
/// # Safety
/// As of [`store`]; `at` is a multiple of 16.
pub unsafe fn compare_exchange_16(at: *mut u8, old: [u64; 2], new: [u64; 2]) -> [u64; 2] {
    let [mut low, mut high] = old;
    // SAFETY: as the caller says; RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!(
            "xchg rbx, {low}",
            "lock cmpxchg16b [rdi]",
            "mov rbx, {low}",
            low = inout(reg) new[0] => _,
            in("rdi") at,
            in("rcx") new[1],
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    [low, high]
}

/// Copies from shared memory. One, two, four, eight and sixteen bytes are read at once.
///
/// # Safety
/// `to.len()` bytes are mapped at `from`, and none of them is in `to`.
#[inline]
pub unsafe fn copy_in(from: *const u8, to: &mut [u8]) {
    // SAFETY: as the caller says.
    unsafe { copy(from, to.as_mut_ptr(), to.len()) }
}

/// Copies to shared memory; the same.
///
/// # Safety
/// `from.len()` bytes are mapped at `to`, and none of them is Rust's.
#[inline]
pub unsafe fn copy_out(from: &[u8], to: *mut u8) {
    // SAFETY: as the caller says.
    unsafe { copy(from.as_ptr(), to, from.len()) }
}

/// Copies within shared memory, from the lowest address on.
///
/// # Safety
/// `len` bytes are mapped at either place, and none of those at `to` is Rust's.
#[inline]
pub unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len > LONG {
        // SAFETY: as the caller says; the direction flag is clear in Rust code.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") len => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    let mut done = 0;
    while done < len {
        let (from, to, left) = (from.wrapping_add(done), to.wrapping_add(done), len - done);
        // SAFETY: as the caller says: what is left is as long.
        unsafe {
            done += match left {
                16.. => {
                    asm!("movups {x}, [{from}]", "movups [{to}], {x}", x = out(xmm_reg) _, from = in(reg) from,
                         to = in(reg) to, options(nostack, preserves_flags));
                    16
                }
                8.. => piece::<u64>(from, to),
                4.. => piece::<u32>(from, to),
                2.. => piece::<u16>(from, to),
                _ => piece::<u8>(from, to),
            };
        }
    }
}

/// # Safety
/// As of [`load`] and [`store`].
#[inline(always)]
unsafe fn piece<W: Width>(from: *const u8, to: *mut u8) -> usize {
    // SAFETY: as the caller says.
    unsafe { store(to, load::<W>(from)) };
    W::BYTES as usize
}

/// Writes `pattern`, of which the bytes repeat, over `len` bytes.
///
/// # Safety
/// That many bytes are mapped at `to`, and none of them is Rust's.
pub unsafe fn fill(to: *mut u8, pattern: u64, len: usize) {
    let mut rest = to;
    // SAFETY: the quads and what is left are all the bytes that the caller speaks of; the direction flag is clear in Rust code.
    unsafe {
        asm!(
            "rep stosq",
            in("rax") pattern,
            inout("rcx") len / 8 => _,
            inout("rdi") rest,
            options(nostack, preserves_flags),
        );
        copy_out(pattern.to_le_bytes().get(..len % 8).unwrap_or(&[]), rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_width_is_loaded_stored_and_exchanged_whole() {
        let mut memory = [0x11u8; 24];
        let at = memory.as_mut_ptr();
        // SAFETY: all of it lies inside `memory`, which is looked at behind.
        unsafe {
            store::<u8>(at.add(1), 0x22);
            assert_eq!(load::<u16>(at), 0x2211);
            assert_eq!(compare_exchange::<u8>(at.add(1), 0x22, 0x33), 0x22);
            assert_eq!(compare_exchange::<u16>(at.add(1), 0x1122, 0), 0x1133, "not exchanged");
            assert_eq!(compare_exchange::<u16>(at.add(1), 0x1133, 0x4444), 0x1133);
            assert_eq!(compare_exchange::<u32>(at.add(3), 0x1111_1111, 0x5555_5555), 0x1111_1111);
            store::<u64>(at.add(7), 0x8877_6655_4433_2211);
            assert_eq!(compare_exchange::<u64>(at.add(7), 0x8877_6655_4433_2211, 0), 0x8877_6655_4433_2211);
            assert_eq!(load::<u64>(at.add(6)), 0x55);
        }
        assert_eq!(memory[..8], [0x11, 0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0]);
    }

    #[test]
    fn sixteen_bytes_are_exchanged_if_both_halves_match() {
        #[repr(align(16))]
        struct Aligned([u64; 2]);
        let mut memory = Aligned([1, 2]);
        let at = memory.0.as_mut_ptr().cast();
        // SAFETY: the place is aligned, and looked at behind.
        unsafe {
            assert_eq!(compare_exchange_16(at, [1, 3], [7, 8]), [1, 2]);
            assert_eq!(compare_exchange_16(at, [1, 2], [7, 8]), [1, 2]);
        }
        assert_eq!(memory.0, [7, 8]);
    }

    proptest! {
        #[test]
        fn copies_and_fills_are_as_long_as_they_should(len in 0usize..300, at in 0usize..20, pattern: [u8; 8]) {
            let source: Vec<u8> = (0..400u32).map(|n| n as u8).collect();
            let mut target = vec![0xee; 400];
            // SAFETY: at most 320 bytes of 400.
            unsafe { copy_out(&source[at..at + len], target.as_mut_ptr().add(at)) };
            prop_assert_eq!(&target[at..at + len], &source[at..at + len]);
            prop_assert!(target[..at].iter().chain(&target[at + len..]).all(|&byte| byte == 0xee));
            // SAFETY: the same.
            unsafe { fill(target.as_mut_ptr().add(at), u64::from_le_bytes(pattern), len) };
            prop_assert!(target[at..at + len].iter().enumerate().all(|(n, &byte)| byte == pattern[n % 8]));
            prop_assert!(target[at + len..].iter().all(|&byte| byte == 0xee));
        }
    }
}
