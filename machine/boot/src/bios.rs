//! What is left of a BIOS for a guest that calls one though motu has none.
//!
//! Some kernels go back to real mode while they start, and ask the BIOS for a memory map, disks or video modes before they
//! believe their boot loader (Xen does). Without an interrupt vector table they would run off into zeros. So there is a
//! table, and every service in it says that it does not exist: CF is set, and the caller goes on without. INT 0x12 tells the
//! size of conventional memory; handlers of hardware interrupts end them.

use crate::error::BootError;
use crate::{layout, put};
use motu_memory::GuestRam;

const SEGMENT: u16 = 0xf000;
const WHAT: &str = "interrupt vector table";

/// Real-mode code at an offset of [`SEGMENT`].
struct Handler {
    offset: u16,
    code: &'static [u8],
}

/// `iret`
const RETURN: Handler = Handler { offset: 0xff50, code: &[0xcf] };
/// Where IBM's BIOS had its dummy handler.
///
/// `push bp; mov bp, sp; or byte [bp + 6], 1; pop bp; iret`: sets CF in the flags that IRET restores.
const NO_SERVICE: Handler = Handler { offset: 0xff53, code: &[0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf] };
/// `push ds; xor ax, ax; mov ds, ax; mov ax, [0x413]; pop ds; iret`
const MEMORY_SIZE: Handler =
    Handler { offset: 0xff60, code: &[0x1e, 0x31, 0xc0, 0x8e, 0xd8, 0xa1, 0x13, 0x04, 0x1f, 0xcf] };
/// `push ax; mov al, 0x20; out 0x20, al; pop ax; iret`: an unspecific end of interrupt.
const FIRST_PIC: Handler = Handler { offset: 0xff70, code: &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf] };
/// The same for the second 8259, cascaded to the first.
const SECOND_PIC: Handler = Handler { offset: 0xff80, code: &[0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf] };

/// What answers interrupt `vector`; the assignment is the IBM AT's.
fn handler(vector: u8) -> Handler {
    match vector {
        0x00..=0x07 => RETURN,
        0x08..=0x0f => FIRST_PIC,
        0x12 => MEMORY_SIZE,
        // The user's hooks of the timer and the keyboard, which are called and not asked.
        0x1b | 0x1c => RETURN,
        0x70..=0x77 => SECOND_PIC,
        _ => NO_SERVICE,
    }
}

/// The table at address 0 and its handlers.
///
/// # Errors
/// Guest memory does not begin at 0, or has a hole below 1 MiB.
pub(crate) fn write(ram: &GuestRam) -> Result<(), BootError> {
    for Handler { offset, code } in [RETURN, NO_SERVICE, MEMORY_SIZE, FIRST_PIC, SECOND_PIC] {
        put(ram, layout::BIOS_CODE + u64::from(offset), code, WHAT)?;
    }
    for vector in 0..=255u8 {
        let entry = u32::from(SEGMENT) << 16 | u32::from(handler(vector).offset);
        put(ram, u64::from(vector) * 4, &entry.to_le_bytes(), WHAT)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use motu_x86::Gpa;

    #[test]
    fn every_vector_leads_to_code_that_ends_with_iret() {
        let ram = GuestRam::new(layout::MIN_RAM).unwrap();
        write(&ram).unwrap();
        for vector in 0..=255u8 {
            let mut entry = [0; 4];
            ram.read(Gpa(u64::from(vector) * 4), &mut entry).unwrap();
            let [low, high, s0, s1] = entry;
            let at = u64::from(u16::from_le_bytes([s0, s1])) * 16 + u64::from(u16::from_le_bytes([low, high]));
            let code = handler(vector).code;
            let mut found = vec![0; code.len()];
            ram.read(Gpa(at), &mut found).unwrap();
            assert!(at >= layout::BIOS_HANDLERS, "vector {vector:#x}");
            assert_eq!((found.as_slice(), found.last()), (code, Some(&0xcf)), "vector {vector:#x}");
        }
    }
}
