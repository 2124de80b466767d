//! Addresses in guest memory as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A physical address in guest memory. Written `0x7c00` or as a decimal number, as in QEMU's `addr=`.
/// In JSON it is such a string or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddress(pub u64);

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address; write it as 0x7c00 or 31744, of at most 64 bits")]
pub struct ParseAddressError(String);

impl FromStr for GuestAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        // The standard library's parsing takes a sign.
        let is_number = digits.chars().all(|c| c.is_digit(radix));
        let value = u64::from_str_radix(digits, radix).ok().filter(|_| is_number);
        value.map(Self).ok_or_else(|| ParseAddressError(text.to_owned()))
    }
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for GuestAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GuestAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = GuestAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a string such as \"0x7c00\"")
            }

            fn visit_u64<E: de::Error>(self, address: u64) -> Result<GuestAddress, E> {
                Ok(GuestAddress(address))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GuestAddress, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hexadecimal_and_decimal() {
        let address = |text: &str| text.parse::<GuestAddress>().unwrap().0;
        assert_eq!(address("0x7c00"), 0x7c00);
        assert_eq!(address("0X100000"), 0x10_0000);
        assert_eq!(address("31744"), 0x7c00);
        for text in ["", "0x", "7c00", "-1", "+1", "0x+1", "0x1_0000_0000_0000_0000", "0x10000000000000000", "1M"] {
            assert_eq!(text.parse::<GuestAddress>(), Err(ParseAddressError(text.into())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(address: u64) {
            prop_assert_eq!(GuestAddress(address).to_string().parse(), Ok(GuestAddress(address)));
        }

        #[test]
        fn no_text_panics(text in "(0x)?.{0,20}") {
            let _ = text.parse::<GuestAddress>();
        }
    }
}
