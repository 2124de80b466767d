//! Whether the crates keep the layers' directions.

mod graph;
mod rules;
#[cfg(test)]
mod tests;

use crate::workspace::Metadata;
use anyhow::{Result, bail};
use graph::Graph;

pub use rules::UNSAFE_ALLOWED;

/// Checks the workspace.
///
/// # Errors
/// A rule is broken (all that are have been printed), or cargo fails.
pub fn run() -> Result<()> {
    let graph = Graph::from_metadata(&Metadata::read()?)?;
    let violations = rules::violations(&graph);
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("{} crates keep the layers' directions", graph.0.len());
            Ok(())
        }
        broken => bail!("{broken} rules of ARCHITECTURE.md are broken; a new edge needs an ADR"),
    }
}
