//! A line that a person reads once.
//!
//! Every `motu run` on a host without KVM would say the same. So the line is for a person at a terminal, and only if it is another
//! than the last time; what reads motu's stderr from a pipe never finds it there. `-v`, `--stats` and `motu doctor` say it always.

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Beside the person's images.
const FILE: &str = "engine-notice";

/// Prints `text` on a terminal, unless it was the last to be told.
pub fn tell_once(text: &str) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let folder = motu_store::default_path(|name| std::env::var_os(name)).ok();
    if is_news(folder.as_deref(), text) {
        // A terminal that is gone has nobody to read it.
        let _ = writeln!(std::io::stderr(), "motu: {text}");
    }
}

/// Whether `text` is another than the last time; it is remembered, if there is a place for that.
fn is_news(folder: Option<&Path>, text: &str) -> bool {
    let Some(folder) = folder else { return true };
    let file: PathBuf = folder.join(FILE);
    if fs::read_to_string(&file).is_ok_and(|told| told == text) {
        return false;
    }
    // A folder that cannot be written means that the person reads it again.
    let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&file, text));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_line_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("home");
        assert!(is_news(Some(&inside), "a"));
        assert!(!is_news(Some(&inside), "a"));
        assert!(is_news(Some(&inside), "b"));
        assert!(is_news(Some(&inside), "a"));
    }

    #[test]
    fn without_a_place_to_remember_it_is_told_each_time() {
        assert!(is_news(None, "a"));
        assert!(is_news(Some(Path::new("/proc/no-such-folder")), "a"));
        assert!(is_news(Some(Path::new("/proc/no-such-folder")), "a"));
    }
}
