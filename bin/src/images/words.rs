//! Sizes and times as people read them.

use anyhow::{Context, Result};
use motu_store::Timestamp;
use serde::Serialize;
use std::io::Write;

/// Prints a value for programs.
///
/// # Errors
/// stdout cannot be written.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("writing JSON")?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")
}

/// Bytes in the largest binary unit of which there is one: `12.3 MiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = bytes as f64;
    while shown >= 1024.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    let unit_name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes} B") } else { format!("{shown:.1} {unit_name}") }
}

/// How long ago that was, by the host's clock: `3 days ago`.
pub fn ago(time: Timestamp) -> String {
    since(Timestamp::now().unix().saturating_sub(time.unix()))
}

fn since(seconds: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (365 * 86_400, "year"),
        (30 * 86_400, "month"),
        (7 * 86_400, "week"),
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
    ];
    let unit = UNITS.iter().find(|(length, _)| seconds >= *length);
    let (count, name) = unit.map_or((seconds, "second"), |(length, name)| (seconds / length, name));
    format!("{count} {name}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_in_the_largest_unit() {
        let sizes = [0, 1023, 1024, 13 << 20, 5 << 40].map(human);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "13.0 MiB", "5.0 TiB"]);
        let times = [0, 1, 59, 60, 7200, 86_400 * 13, 86_400 * 800].map(since);
        assert_eq!(
            times,
            [
                "0 seconds ago",
                "1 second ago",
                "59 seconds ago",
                "1 minute ago",
                "2 hours ago",
                "1 week ago",
                "2 years ago"
            ]
        );
    }
}
