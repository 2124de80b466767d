//! The chain of frame pointers: at RBP lies the caller's RBP, and above it the address that is returned to.
//!
//! Code that is compiled without frame pointers uses RBP for anything else, so a link counts only if all that can be
//! known of it fits: frames lie above each other, near each other, and what is returned to stands behind a CALL.

/// Bytes from the stack pointer to a frame, or from a frame to the next, at most.
const LARGEST_FRAME: u64 = 1 << 20;

/// How a guest's stack and code are read, to find where the running function was called from.
#[derive(Clone, Copy, Debug)]
pub struct Frames<R> {
    /// Bytes of an address on the stack: 4 or 8.
    pub word: usize,
    /// What CS adds to a return address.
    pub code_base: u64,
    /// Fills the buffer from a linear address on; false if it cannot.
    pub read: R,
}

impl<R: Fn(u64, &mut [u8]) -> bool> Frames<R> {
    /// Puts the linear return addresses above the linear addresses `stack` and `frame` into `callers`, innermost first;
    /// gives how many there are.
    pub fn callers(&self, stack: u64, frame: u64, callers: &mut [u64]) -> usize {
        let (mut below, mut frame) = (stack, frame);
        let mut count = 0;
        for caller in callers {
            let Some((next, back)) = self.link(below, frame) else { break };
            *caller = back;
            count += 1;
            // The next frame lies above this one's two words.
            below = frame.wrapping_add(2 * self.word as u64);
            frame = next;
        }
        count
    }

    /// The frame above `frame` and the return address, if `frame` is one above `below`.
    fn link(&self, below: u64, frame: u64) -> Option<(u64, u64)> {
        let distance = frame.checked_sub(below)?;
        let fits = distance < LARGEST_FRAME && frame.is_multiple_of(self.word as u64);
        if !fits || !is_canonical(frame) || frame >> 63 != below >> 63 {
            return None;
        }
        let next = self.word_at(frame)?;
        let back = self.word_at(frame.checked_add(self.word as u64)?)?.wrapping_add(self.code_base);
        let back = if self.word == 4 { back & 0xffff_ffff } else { back };
        (is_canonical(back) && back >> 63 == frame >> 63 && self.follows_call(back)).then_some((next, back))
    }

    fn word_at(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read)(address, bytes.get_mut(..self.word)?).then(|| u64::from_le_bytes(bytes))
    }

    /// Whether the bytes before `address` may be a near CALL: E8 with 4 bytes of displacement, or FF /2 of any length
    /// (SDM vol. 2, CALL; prefixes before it do not matter).
    fn follows_call(&self, address: u64) -> bool {
        let before = |bytes: u64, out: &mut [u8]| (self.read)(address.wrapping_sub(bytes), out);
        let mut direct = [0];
        if before(5, &mut direct) && direct == [0xe8] {
            return true;
        }
        [2, 3, 4, 6, 7].into_iter().any(|length| {
            // Of two bytes the last is no SIB byte, and none is needed.
            let mut code = [0; 3];
            let read = code.len().min(length as usize);
            code.get_mut(..read).is_some_and(|out| before(length, out))
                && code[0] == 0xff
                && indirect_length(code[1], code[2]) == Some(length)
        })
    }
}

fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// Bytes of FF /2 with this ModRM byte and, if there is one, this SIB byte (SDM vol. 2, 2.1.3).
fn indirect_length(modrm: u8, sib: u8) -> Option<u64> {
    let (mode, operation, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let displacement = match (mode, rm) {
        (0, 5) | (2, _) => 4,
        (0, 4) if sib & 7 == 5 => 4,
        (1, _) => 1,
        _ => 0,
    };
    (operation == 2).then_some(2 + u64::from(has_sib) + displacement)
}
