//! docs/performance.md, where reports are kept.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::fs;

/// Puts a report of `cargo xtask bench WHAT` into the document, between the lines that are there for it.
///
/// # Errors
/// The document cannot be read or written, or the lines are not in it.
pub fn write(what: &str, report: &str) -> Result<()> {
    let path = workspace::root().join("docs/performance.md");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let text = replaced(&text, what, report).with_context(|| format!("putting the report into {}", path.display()))?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// `text` with `report` between the two marks.
fn replaced(text: &str, what: &str, report: &str) -> Result<String> {
    let mark = |edge: &str| format!("<!-- cargo xtask bench {what}: {edge} -->");
    let (begin, end) = (mark("begin"), mark("end"));
    let Some((before, rest)) = text.split_once(&begin) else { bail!("the line {begin:?} is not in it") };
    let Some((_, after)) = rest.split_once(&end) else { bail!("the line {end:?} is not in it, or before the other") };
    Ok(format!("{before}{begin}\n{}\n{end}{after}", report.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let marks = |what: &str, report: &str| {
            format!("<!-- cargo xtask bench {what}: begin -->\n{report}\n<!-- cargo xtask bench {what}: end -->\n")
        };
        let text = format!("# Title\n{}middle\n{}end\n", marks("boot", "old"), marks("cpu", "other"));
        let new = replaced(&text, "boot", "new\n").unwrap();
        assert_eq!(new, text.replace("old", "new"));
        assert_eq!(replaced(&new, "boot", "new").unwrap(), new);
        assert!(replaced("# Title", "boot", "new").unwrap_err().to_string().contains("bench boot: begin"));
    }
}
