//! What instructions wrote to memory, so that it can be taken back and done again.

use crate::mmu::PAGE;

/// Bytes of one page that an instruction is about to overwrite.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where the guest has them.
    pub address: u64,
    /// Where the host has them: inside one page of guest RAM.
    pub host: *mut u8,
    pub bytes: usize,
    /// The instruction's number in its block.
    pub by: usize,
    /// Bytes that the same instruction writes before them.
    pub from: u64,
}

impl Place {
    /// How many of its bytes are written when `done` instructions are, and `partly` bytes by the next one.
    fn written(&self, done: usize, partly: u64) -> usize {
        match self.by.cmp(&done) {
            std::cmp::Ordering::Less => self.bytes,
            std::cmp::Ordering::Equal => partly.saturating_sub(self.from).min(self.bytes as u64) as usize,
            std::cmp::Ordering::Greater => 0,
        }
    }

    fn covers(&self, host: usize) -> Option<usize> {
        let offset = host.wrapping_sub(self.host as usize);
        (offset < self.bytes).then_some(offset)
    }
}

/// Places in the order of writing, and what was there before each write and behind it.
#[derive(Debug, Default)]
pub struct Log {
    /// And where the bytes of each begin in the two lists.
    places: Vec<(Place, usize)>,
    old: Vec<u8>,
    new: Vec<u8>,
    /// Instructions that push flags, and those of them that are undefined.
    excused: Vec<(usize, u64)>,
}

// SAFETY: the pointers lead into guest RAM, which the CPU keeps mapped; they are used while a block runs.
unsafe impl Send for Log {}

impl Log {
    pub fn clear(&mut self) {
        self.places.clear();
        self.old.clear();
        self.excused.clear();
    }

    /// Of what an instruction writes, these bits are undefined.
    pub fn excuse(&mut self, by: usize, bits: u64) {
        if bits != 0 {
            self.excused.push((by, bits));
        }
    }

    /// The bits that count of byte `offset` of a place.
    fn counted_bits(&self, place: &Place, offset: usize) -> u8 {
        let excused = self.excused.iter().find(|(by, _)| *by == place.by).map_or(0, |&(_, bits)| bits);
        let byte = place.from + offset as u64;
        if byte < 8 { !(excused >> (8 * byte)) as u8 } else { u8::MAX }
    }

    /// Keeps what is at a place that is about to be written.
    pub fn keep(&mut self, place: Place) {
        assert!(place.bytes as u64 <= PAGE);
        self.places.push((place, self.old.len()));
        read(&place, &mut self.old);
    }

    /// Puts everything back as it was, and keeps what was there.
    pub fn take_back(&mut self) {
        self.new.clear();
        self.new.resize(self.old.len(), 0);
        for (place, at) in self.places.iter().rev() {
            let range = *at..*at + place.bytes;
            let (Some(old), Some(new)) = (self.old.get(range.clone()), self.new.get_mut(range)) else { continue };
            // SAFETY: `host` leads to that many bytes inside one page of guest RAM, which stays mapped and is writable.
            unsafe {
                std::ptr::copy_nonoverlapping(place.host, new.as_mut_ptr(), new.len());
                std::ptr::copy_nonoverlapping(old.as_ptr(), place.host, old.len());
            }
        }
    }

    /// How memory differs from what it was when `done` instructions had run, and `partly` bytes of the next one.
    pub fn difference(&self, done: usize, partly: u64) -> Option<String> {
        let mut now = Vec::new();
        for (n, (place, at)) in self.places.iter().enumerate() {
            let written = place.written(done, partly);
            now.clear();
            read(place, &mut now);
            let new = self.new.get(*at..*at + written).unwrap_or_default();
            let old = self.old.get(*at + written..*at + place.bytes).unwrap_or_default();
            let (first, second) = now.split_at(written.min(now.len()));
            if first == new && second == old {
                continue;
            }
            for (offset, (is, should)) in now.iter().zip(new.iter().chain(old)).enumerate() {
                let differs = (is ^ should) & self.counted_bits(place, offset) != 0;
                if differs && self.counts(n, place.host as usize + offset, (offset < written, done, partly)) {
                    let address = place.address.wrapping_add(offset as u64);
                    return Some(format!("memory at {address:x} is {is:x} and should be {should:x}"));
                }
            }
        }
        None
    }

    /// Whether it is place `n` that says what a byte is: the last one that is written, and of those that are not, the first.
    fn counts(&self, n: usize, host: usize, (written, done, partly): (bool, usize, u64)) -> bool {
        let others = self.places.iter().enumerate();
        !others.filter(|&(other, _)| other != n).any(|(other, (place, _))| {
            place.covers(host).is_some_and(|offset| {
                let other_written = offset < place.written(done, partly);
                if written { other > n && other_written } else { other < n || other_written }
            })
        })
    }
}

/// Appends what is at a place now.
fn read(place: &Place, to: &mut Vec<u8>) {
    let at = to.len();
    to.resize(at + place.bytes, 0);
    let Some(room) = to.get_mut(at..) else { return };
    // SAFETY: `host` leads to that many bytes inside one page of guest RAM, which stays mapped.
    unsafe { std::ptr::copy_nonoverlapping(place.host, room.as_mut_ptr(), room.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(log: &mut Log, memory: &mut [u8], at: usize, bytes: &[u8], by: usize) {
        let host = memory[at..].as_mut_ptr();
        log.keep(Place { address: at as u64, host, bytes: bytes.len(), by, from: 0 });
        // SAFETY: the slice has that many bytes there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), host, bytes.len()) };
    }

    /// Three writes that overlap, all taken back.
    fn overlapping(memory: &mut [u8]) -> Log {
        let mut log = Log::default();
        write(&mut log, memory, 0, &[1; 8], 0);
        write(&mut log, memory, 4, &[2; 8], 1);
        write(&mut log, memory, 2, &[3; 4], 2);
        assert_eq!(memory[..14], [1, 1, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 9, 9]);
        log.take_back();
        log
    }

    #[test]
    fn writes_are_taken_back() {
        let mut memory = [9; 16];
        overlapping(&mut memory);
        assert_eq!(memory, [9; 16]);
    }

    #[test]
    fn each_byte_is_compared_with_the_write_that_counts() {
        let ends = [
            [9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9],
            [1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9],
            [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2],
            [1, 1, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2],
        ];
        for (done, end) in ends.iter().enumerate() {
            let mut memory = [9; 16];
            let log = overlapping(&mut memory);
            memory[..12].copy_from_slice(end);
            assert_eq!(log.difference(done, 0), None, "after {done}");
            for at in 0..12 {
                memory[at..][0] ^= 0x40;
                assert!(log.difference(done, 0).is_some(), "after {done}, byte {at}");
                memory[at..][0] ^= 0x40;
            }
        }
    }

    #[test]
    fn a_repeated_instruction_may_have_done_a_part() {
        let mut memory = [9; 8];
        let mut log = Log::default();
        write(&mut log, &mut memory, 0, &[1; 8], 0);
        log.take_back();
        memory[..4].fill(1);
        assert_eq!(log.difference(0, 4), None);
        assert!(log.difference(0, 3).is_some() && log.difference(0, 5).is_some() && log.difference(1, 0).is_some());
    }
}
