//! `motu image ls`: what images there are.

use crate::images;
use crate::status::Status;
use anyhow::{Context, Result};
use motu_store::{Listed, Store};
use std::io::Write;

/// # Errors
/// The store cannot be read.
pub fn run(json: bool) -> Result<Status> {
    let store = images::store()?;
    let images = store.images()?;
    if json {
        print_json(&store, &images)?;
    } else {
        std::io::stdout().write_all(table(&store, &images).as_bytes()).context("writing to stdout")?;
    }
    Ok(Status::Success)
}

fn table(store: &Store, images: &[Listed]) -> String {
    let mut text = format!("{:<24} {:<16} {:<14} {:<16} {:>10} SOURCE\n", "NAME", "TAG", "IMAGE ID", "CREATED", "SIZE");
    for image in images {
        let (created, size, source) = match &image.record {
            Ok(record) => (images::ago(record.created), images::human(store.bytes_of(record)), record.source.clone()),
            Err(error) => (String::new(), String::new(), error.to_string()),
        };
        let mut line = |name: &str, tag: &str| {
            let id = image.digest.short();
            text.push_str(&format!("{name:<24} {tag:<16} {id:<14} {created:<16} {size:>10} {source}\n"));
        };
        if image.names.is_empty() {
            line("<none>", "<none>");
        }
        for name in &image.names {
            line(name.repository(), name.tag());
        }
    }
    text
}

fn print_json(store: &Store, images: &[Listed]) -> Result<()> {
    let images = images.iter().map(|image| {
        let (id, names) = (image.digest.to_string(), &image.names);
        match &image.record {
            Ok(record) => serde_json::json!({
                "id": id, "names": names, "bytes": store.bytes_of(record), "record": record,
            }),
            Err(error) => serde_json::json!({ "id": id, "names": names, "error": error.to_string() }),
        }
    });
    images::print_json(&images.collect::<Vec<_>>())
}
