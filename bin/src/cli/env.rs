//! Environment variables for the guest, as Docker takes them.

use anyhow::{Context, Result, bail};
use std::path::Path;

/// The variables of these files, one `NAME=VALUE` a line (`#` begins a comment), and then those that were given one by one. A name
/// alone is set to what it is here, and left out if it is not.
///
/// # Errors
/// A file cannot be read; something is no variable.
pub fn variables(given: &[String], files: &[impl AsRef<Path>]) -> Result<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for file in files {
        let file = file.as_ref();
        let text =
            std::fs::read_to_string(file).with_context(|| format!("reading variables from {}", file.display()))?;
        for (n, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let variable = variable(line).with_context(|| format!("{}, line {}", file.display(), n + 1))?;
            variables.extend(variable);
        }
    }
    for text in given {
        variables.extend(variable(text)?);
    }
    Ok(variables)
}

fn variable(text: &str) -> Result<Option<(String, String)>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if name.is_empty() || name.contains(char::is_whitespace) || text.contains('\0') {
        bail!("{text:?} is no environment variable; write NAME=VALUE, or NAME for what it is here");
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_files_and_words() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("env");
        std::fs::write(&file, "# a comment\n\nA=1\n  B=x = y\nMOTU_NO_SUCH\nPATH\n").unwrap();
        let variables = variables(&["A=2".into(), "C=".into()], &[&file]).unwrap();
        let path = std::env::var("PATH").unwrap();
        let expected = [("A", "1"), ("B", "x = y"), ("PATH", path.as_str()), ("A", "2"), ("C", "")];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for text in ["=1", "A B=1", ""] {
            assert!(
                super::variables(&[text.into()], &[&file]).unwrap_err().to_string().contains("NAME=VALUE"),
                "{text}"
            );
        }
        std::fs::write(&file, "A=1\nA B=2\n").unwrap();
        let error = super::variables(&[], &[&file]).unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
    }
}
