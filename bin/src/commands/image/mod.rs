//! Commands on images.

pub mod build;
pub mod export;
pub mod inspect;
pub mod ls;
pub mod prune;
pub mod pull;
pub mod rm;
pub mod tag;

use crate::images::{self, Interrupt};
use crate::status::Status;
use anyhow::Result;
use motu_store::{Image, Store, Watch};

/// Makes an image, which a signal stops, and prints what it is called.
fn made(store: &Store, json: bool, make: impl FnOnce(Watch<'_>) -> Result<Image>) -> Result<Status> {
    let image = match Interrupt::run(make)? {
        Ok(image) => image,
        Err(by) => return Ok(by),
    };
    if json {
        images::print_json(&inspect::describe(store, &image)?)?;
    } else {
        println!("{} sha256:{}", image.name, image.digest);
    }
    Ok(Status::Success)
}
