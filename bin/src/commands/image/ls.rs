//! `motu image ls`: what images there are.

use crate::images;
use crate::status::Status;
use anyhow::{Context, Result};
use motu_store::ImageRecord;
use std::io::Write;

/// # Errors
/// The store cannot be read.
pub fn run(json: bool) -> Result<Status> {
    let images = images::store()?.images()?;
    let text = if json { json_text(&images)? } else { table(&images) };
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")?;
    Ok(Status::Success)
}

fn table(images: &[(String, ImageRecord)]) -> String {
    let mut text = format!("{:<12} {:<64} MADE FROM\n", "NAME", "KERNEL");
    for (name, record) in images {
        let packages: Vec<String> = record.packages.iter().map(|p| format!("{}={}", p.name, p.version)).collect();
        text.push_str(&format!("{name:<12} {:<64} {}\n", record.kernel.to_string(), packages.join(" ")));
    }
    text
}

fn json_text(images: &[(String, ImageRecord)]) -> Result<String> {
    let images = images.iter().map(|(name, record)| serde_json::json!({ "name": name, "record": record }));
    let mut text = serde_json::to_string_pretty(&images.collect::<Vec<_>>()).context("writing JSON")?;
    text.push('\n');
    Ok(text)
}
