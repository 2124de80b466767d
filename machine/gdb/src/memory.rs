//! Guest memory by virtual address, as the CPU that is looked at has it: by its page tables, whatever their rights.
//!
//! Only RAM is reached: a device's registers may do something when they are read.

use motu_memory::{GuestRam, PAGE_SIZE};
use motu_x86::{CpuState, Gpa, Paging};

/// Memory as one CPU sees it.
pub struct View<'a> {
    paging: Paging,
    ram: &'a GuestRam,
}

impl<'a> View<'a> {
    pub fn of(state: &CpuState, ram: &'a GuestRam) -> Self {
        Self { paging: Paging::of(state), ram }
    }

    /// Guest-physical address of a linear one.
    pub fn physical(&self, address: u64) -> Option<Gpa> {
        self.paging.physical(address, |at| {
            let mut bytes = [0; 8];
            self.ram.read(at, &mut bytes).ok().map(|()| u64::from_le_bytes(bytes))
        })
    }

    /// Fills as much of `data` from linear `address` on as there is; gives how many bytes.
    pub fn read(&self, address: u64, data: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = address.wrapping_add(done as u64);
            let piece = rest.len().min(to_page_end(at));
            let (Some(physical), Some(place)) = (self.physical(at), rest.get_mut(..piece)) else { break };
            if self.ram.read(physical, place).is_err() {
                break;
            }
            done += piece;
        }
        done
    }

    /// Writes `data`: all of it, or nothing. True if there is memory for it.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let mut pieces = Vec::new();
        let mut rest = data;
        let mut at = address;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(to_page_end(at)));
            let Some(physical) = self.physical(at) else { return false };
            // Whether it is RAM.
            if self.ram.read(physical, &mut [0]).is_err() {
                return false;
            }
            pieces.push((physical, piece));
            at = at.wrapping_add(piece.len() as u64);
            rest = behind;
        }
        // The engine learns of writes to code by itself.
        pieces.into_iter().all(|(physical, piece)| self.ram.write(physical, piece).is_ok())
    }
}

/// Bytes from `address` to the end of its page.
fn to_page_end(address: u64) -> usize {
    (PAGE_SIZE - address % PAGE_SIZE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_into_nothing_is_read_in_part_and_not_written_at_all() {
        let ram = GuestRam::new(2 * PAGE_SIZE).unwrap();
        let view = View::of(&CpuState::default(), &ram);
        assert!(view.write(PAGE_SIZE - 2, &[1, 2, 3, 4]));
        let mut data = [0xff; 4];
        assert_eq!(view.read(PAGE_SIZE - 2, &mut data), 4);
        assert_eq!(data, [1, 2, 3, 4]);
        assert!(!view.write(2 * PAGE_SIZE - 1, &[9, 9]));
        assert_eq!(view.read(2 * PAGE_SIZE - 1, &mut data), 1);
        assert_eq!(data, [0, 2, 3, 4]);
        assert_eq!(view.read(u64::MAX, &mut data), 0);
    }
}
