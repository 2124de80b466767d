//! Commands on machines' disks.

pub mod named;
pub mod resize;
