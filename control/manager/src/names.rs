//! What machines are called.

use crate::ManagerError;
use rustix::rand::{GetRandomFlags, getrandom};

/// Characters of a name: a file's name, a host's name in the guest and a column of `motu ls` are made of it.
const LENGTHS: std::ops::RangeInclusive<usize> = 1..=128;

/// For names that nobody chose: how it is, and what it is. Islets have both.
const HOW: [&str; 32] = [
    "amber", "bright", "calm", "clear", "coral", "dawn", "deep", "early", "far", "gentle", "golden", "green", "high",
    "hidden", "late", "little", "long", "low", "lunar", "misty", "noon", "old", "outer", "pale", "quiet", "sandy",
    "silver", "still", "sunny", "tidal", "warm", "windy",
];
const WHAT: [&str; 32] = [
    "atoll", "bank", "bay", "beach", "breeze", "cay", "channel", "cliff", "cove", "crab", "current", "dune", "fern",
    "gull", "harbor", "heron", "inlet", "isle", "lagoon", "mangrove", "palm", "pearl", "pelican", "pier", "reef",
    "shell", "shoal", "shore", "spit", "swell", "tern", "turtle",
];

/// Checks that `text` can be a machine's name: Docker's rule, but that one character will do.
///
/// # Errors
/// [`ManagerError::Name`].
pub fn check(text: &str) -> Result<(), ManagerError> {
    let other = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let good = LENGTHS.contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(other);
    if good { Ok(()) } else { Err(ManagerError::Name(text.to_owned())) }
}

/// A name for a machine that nobody named, that is not among those that are `taken`.
pub(crate) fn invent(taken: &[String]) -> String {
    let mut number = 0u32;
    loop {
        let mut bytes = [0; 2];
        // So few bytes come at once (getrandom(2)); without them, the count makes the difference.
        let _ = getrandom(&mut bytes, GetRandomFlags::empty());
        let [how, what] = bytes.map(|byte| usize::from(byte % 32));
        let words = format!("{}-{}", HOW.get(how).unwrap_or(&"calm"), WHAT.get(what).unwrap_or(&"motu"));
        let name = if number < 20 { words } else { format!("{words}-{number}") };
        if !taken.contains(&name) {
            return name;
        }
        number = number.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dockers() {
        for name in ["w", "web", "w1", "1w", "Web_2.x-y", "a.", &"x".repeat(128)] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "-web", ".web", "_web", "we b", "we/b", "..", "wéb", "a\n", &"x".repeat(129)] {
            let error = check(name).unwrap_err().to_string();
            assert!(error.contains("no machine name"), "{error}");
        }
    }

    #[test]
    fn invented_names_are_names_that_nobody_has() {
        let mut taken = Vec::new();
        for _ in 0..1100 {
            let name = invent(&taken);
            assert!(check(&name).is_ok() && !taken.contains(&name), "{name}");
            taken.push(name);
        }
    }
}
