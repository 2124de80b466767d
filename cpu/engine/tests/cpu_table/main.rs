//! docs/cpu.md is what the engine's own tables say.
//!
//! `MOTU_WRITE_DOCS=1` writes the file instead of comparing it (`cargo xtask docs`).

mod forms;
mod markdown;
mod registers;

use std::fs;
use std::path::PathBuf;

/// Everything before this line is written by hand, everything from it on by this test.
const MARKER: &str = "<!-- From here on made by `cargo xtask docs`: do not edit. -->\n";

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/cpu.md")
}

fn generated() -> String {
    [MARKER, &registers::contracts(), &forms::tables(), &registers::msrs(), &registers::cpuid()].concat()
}

#[test]
fn the_document_says_what_the_code_does() {
    let text = fs::read_to_string(path()).expect("docs/cpu.md can be read");
    let (by_hand, found) = text.split_at(text.find(MARKER).expect("docs/cpu.md has the marker"));
    let expected = generated();
    if std::env::var_os("MOTU_WRITE_DOCS").is_some() {
        fs::write(path(), [by_hand, &expected].concat()).expect("docs/cpu.md can be written");
        return;
    }
    let stale = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert_eq!(stale, None, "docs/cpu.md is stale: cargo xtask docs");
    assert_eq!(found.len(), expected.len(), "docs/cpu.md is stale: cargo xtask docs");
}

/// What a contract promises and the engine lacks would be #UD where the guest was told otherwise.
#[test]
fn nothing_that_a_contract_has_is_missing() {
    assert_eq!(forms::missing(), Vec::<String>::new());
}
