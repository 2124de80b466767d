//! The key that leaves a machine.

/// Ctrl-], as in telnet(1): no program uses it, and it is one key on most keyboards.
const LEAVE: u8 = 0x1d;

/// What was typed, up to the key that leaves if it is there: that part is for the guest; and
/// whether the person left.
pub fn scan(typed: &[u8]) -> (&[u8], bool) {
    match typed.iter().position(|&b| b == LEAVE) {
        Some(at) => (typed.split_at(at).0, true),
        None => (typed, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_key_still_goes_to_the_guest() {
        assert_eq!(scan(b"ls\r"), (&b"ls\r"[..], false));
        assert_eq!(scan(b"ls\r\x1dpwd\r"), (&b"ls\r"[..], true));
        assert_eq!(scan(b"\x1d"), (&b""[..], true));
    }
}
