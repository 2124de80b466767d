//! What each command does: one folder a noun, one file a verb.

pub mod image;
pub mod machine;
