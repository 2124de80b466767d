//! Markdown tables.

use std::fmt::Write;

/// A table with a heading and a row each.
pub fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        writeln!(text, "| {} |", cells.join(" | ")).expect("text can be written to");
    };
    line(&heads.map(str::to_owned));
    line(&[(); N].map(|()| "---".to_owned()));
    for row in rows {
        // A bar would end the cell.
        line(&row.map(|cell| cell.replace('|', "\\|")));
    }
    text.push('\n');
    text
}

/// `a, b and c`.
pub fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
