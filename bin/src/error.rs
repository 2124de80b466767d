//! An error for a person: one line, from what was being done down to why it failed.

use anyhow::Error;
use std::fmt::{self, Display, Formatter};

/// Shows an error with its causes; those that say nothing new are left out (many errors end in
/// their cause's words already).
pub struct Shown<'a>(pub &'a Error);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut shown = String::new();
        for cause in self.0.chain() {
            let cause = cause.to_string();
            if shown.is_empty() {
                shown = cause;
            } else if !shown.contains(&cause) {
                shown = format!("{shown}: {cause}");
            }
        }
        f.write_str(&shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_says_nothing_new_is_left_out() {
        let error = anyhow!("no such file").context("opening k: no such file").context("booting");
        assert_eq!(Shown(&error).to_string(), "booting: opening k: no such file");
        let error = anyhow!("no such file").context("opening k");
        assert_eq!(Shown(&error).to_string(), "opening k: no such file");
    }
}
