//! Commands on images.

pub mod ls;
pub mod rm;
