//! `motu system check`: whether all is as it was stored.

use crate::images::{self, Interrupt, human};
use crate::status::Status;
use anyhow::Result;
use motu_manager::Machines;
use motu_store::CheckReport;

/// # Errors
/// The store cannot be read.
pub fn run(json: bool) -> Result<Status> {
    let store = images::store()?;
    let mut report = match Interrupt::run(|watch| Ok(store.check(watch)?))? {
        Ok(report) => report,
        Err(by) => return Ok(by),
    };
    report.troubles.extend(Machines::of(store).check()?);
    if json {
        print_json(&report)?
    } else {
        print(&report)
    }
    Ok(if report.troubles.is_empty() { Status::Success } else { Status::Code(1) })
}

fn print(report: &CheckReport) {
    for trouble in &report.troubles {
        let affects = if trouble.affects.is_empty() { "nothing".to_owned() } else { trouble.affects.join(", ") };
        println!("{} {} (affects {affects})", trouble.path.display(), trouble.problem);
    }
    let CheckReport { images, blobs, machines, .. } = report;
    let read = human(report.bytes);
    println!(
        "{images} images, {blobs} blobs of {read}, {machines} machines: {}",
        match report.troubles.len() {
            0 => "all is as it was stored".to_owned(),
            1 => "1 thing is damaged; `motu image rm` removes an image, to be got again".to_owned(),
            many => format!("{many} things are damaged; `motu image rm` removes an image, to be got again"),
        }
    );
}

fn print_json(report: &CheckReport) -> Result<()> {
    let troubles = report.troubles.iter().map(
        |trouble| serde_json::json!({ "path": trouble.path, "problem": trouble.problem, "affects": trouble.affects }),
    );
    images::print_json(&serde_json::json!({
        "images": report.images, "blobs": report.blobs, "bytes": report.bytes, "machines": report.machines,
        "troubles": troubles.collect::<Vec<_>>(),
    }))
}
