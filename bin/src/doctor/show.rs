//! Findings for a person, for a shell and for programs.

use super::{Finding, Level};
use serde_json::{Value, json};
use std::fmt::Write;

/// How a table looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    pub colour: bool,
}

const LEVEL: usize = 9;
const NAME: usize = 19;
/// A narrower text than this is no text.
const LEAST: usize = 24;

/// A line or more for each finding, and what to do about it.
pub fn table(findings: &[Finding], engine: &str, style: Style) -> String {
    let mut text = format!("{}\n\n", wrap(engine, style.width, 0));
    let width = style.width.saturating_sub(LEVEL + NAME).max(LEAST);
    for finding in findings {
        let level = format!("{:<LEVEL$}", finding.level.name());
        let level = if style.colour { format!("{}{level}\x1b[0m", colour(finding.level)) } else { level };
        let found = wrap(&finding.found, width, LEVEL + NAME);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{level}{:<NAME$}{found}", finding.name);
        if let Some(advice) = finding.advice.as_ref().filter(|_| finding.level != Level::Ok) {
            let advice = wrap(&format!("-> {advice}"), width, LEVEL + NAME);
            let _ = writeln!(text, "{:indent$}{advice}", "", indent = LEVEL + NAME);
        }
    }
    if findings.iter().any(|finding| !finding.fix.is_empty()) {
        let hint = "'motu doctor --fix' prints the commands that change what can be changed";
        let _ = writeln!(text, "\n{}", wrap(hint, style.width, 0));
    }
    text
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Ok => "\x1b[32m",
        Level::Note => "\x1b[33m",
        Level::Problem => "\x1b[31m",
    }
}

/// Breaks `text` between words into lines of at most `width`, all but the first behind `indent` spaces.
fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { continue };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}

/// What a shell may run, each with the reason in front.
pub fn commands(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| !finding.fix.is_empty()) {
        let _ = writeln!(text, "# {}: {}", finding.name, finding.found);
        for command in &finding.fix {
            let _ = writeln!(text, "{command}");
        }
    }
    if text.is_empty() { "# there is nothing that a command could change\n".to_owned() } else { text }
}

pub fn json(findings: &[Finding], engine: &str, why: &str) -> Value {
    let one = |finding: &Finding| {
        json!({
            "name": finding.name,
            "level": finding.level.name(),
            "found": finding.found,
            "advice": finding.advice,
            "fix": finding.fix,
        })
    };
    json!({ "engine": engine, "why": why, "checks": findings.iter().map(one).collect::<Vec<_>>() })
}
