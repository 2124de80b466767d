//! House rules that no compiler checks (CONTRIBUTING.md).

use crate::arch::UNSAFE_ALLOWED;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of code in a file: neither blank, nor a comment, nor its own tests.
const MOST_LINES: usize = 500;

/// What is not left in the code. Split, so that this file does not find itself.
const NOT_LEFT: [(&str, &str); 4] = [
    (concat!("todo", "!("), "finish it or open an issue"),
    (concat!("unimplemented", "!("), "finish it or open an issue"),
    (concat!("dbg", "!("), "use tracing"),
    (concat!("#[", "ignore"), "a test runs or is not there; one that cannot run here says SKIPPED and why"),
];

/// Every breach in the Rust sources below `root`.
///
/// # Errors
/// A source cannot be read.
pub fn breaches(root: &Path) -> Result<Vec<String>> {
    let mut sources = Vec::new();
    collect(root, &mut sources)?;
    sources.sort();
    let mut found = Vec::new();
    for path in sources {
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path);
        found.extend(in_source(name, &text));
    }
    Ok(found)
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if entry.file_type()?.is_dir() {
            if !hidden && name != "target" {
                collect(&path, sources)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

fn in_source(path: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let place = path.display();
    let lines = lines_of_code(text);
    if lines > MOST_LINES && !is_test(path) {
        found.push(format!("{place}: {lines} lines of code; {MOST_LINES} are the most: one idea a file"));
    }
    let unsafe_is_due = UNSAFE_ALLOWED.iter().any(|folder| path.starts_with(folder));
    for (number, line) in (1..).zip(text.lines()) {
        let code = line.split("//").next().unwrap_or_default();
        for (pattern, instead) in NOT_LEFT.iter().filter(|(pattern, _)| code.contains(pattern)) {
            found.push(format!("{place}:{number}: {pattern}: {instead}"));
        }
        if !unsafe_is_due && has_unsafe(code) {
            found.push(format!("{place}:{number}: unsafe code; only {} may have it", UNSAFE_ALLOWED.join(", ")));
        }
    }
    found
}

/// Whether the file has nothing but tests in it.
fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
    stem || path.components().any(|part| part.as_os_str() == "tests")
}

/// Lines that are neither blank nor a comment, up to the file's own tests.
fn lines_of_code(text: &str) -> usize {
    let tests = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let code = text.get(..tests).unwrap_or(text);
    code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// Whether the keyword opens a block, a function, a trait or an attribute on this line.
fn has_unsafe(code: &str) -> bool {
    const KEYWORD: &str = "unsafe";
    code.match_indices(KEYWORD).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + KEYWORD.len()..).unwrap_or_default();
        let begins = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"');
        let opens =
            ["{", "(", "fn ", "impl ", "extern ", "trait "].iter().any(|next| after.trim_start().starts_with(next));
        begins && (opens || after.trim().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        in_source(Path::new(path), text)
    }

    #[test]
    fn long_files_are_found_and_their_tests_not_counted() {
        let code = "let x = 1;\n// why\n\n".repeat(MOST_LINES);
        assert_eq!(found("cpu/hv/src/lib.rs", &code), [""; 0]);
        let longer = format!("{code}let y = 2;\n");
        assert!(found("cpu/hv/src/lib.rs", &longer)[0].contains("501 lines"));
        assert_eq!(found("cpu/hv/src/tests.rs", &longer), [""; 0]);
        assert_eq!(found("cpu/hv/tests/whole.rs", &longer), [""; 0]);
        let tested = format!("{code}\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(found("cpu/hv/src/lib.rs", &tested), [""; 0]);
    }

    #[test]
    fn what_must_not_be_left_is_found_with_its_line() {
        let text = format!("fn f() {{\n    {}\n}}", concat!("todo", "!()"));
        assert!(found("bin/src/main.rs", &text)[0].starts_with("bin/src/main.rs:2: "));
        assert_eq!(found("bin/src/main.rs", &format!("// {text}").replace('\n', " ")), [""; 0]);
    }

    #[test]
    fn unsafe_code_is_found_and_words_about_it_are_not() {
        let block = concat!("let x = un", "safe { y };");
        assert_eq!(found("machine/bus/src/lib.rs", block).len(), 1);
        assert_eq!(found("cpu/engine/src/lib.rs", block), [""; 0]);
        for words in
            ["#![forbid(unsafe_code)]", "// an unsafe { block", "f(\"unsafe (code)\")", "let unsafe_allowed = 1;"]
        {
            assert_eq!(found("machine/bus/src/lib.rs", words), [""; 0], "{words}");
        }
    }
}
