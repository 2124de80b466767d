//! What each command does: one folder a noun, one file a verb.

pub mod disk;
pub mod doctor;
pub mod image;
pub mod machine;
pub mod system;
pub mod vmm;
