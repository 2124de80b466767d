//! The workspace's crates and what they name in their manifests.

use crate::workspace::{Metadata, root};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// One crate of the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// As its manifest names it.
    pub name: String,
    /// Its folder below the workspace's, such as `cpu/engine`.
    pub folder: String,
    /// Crates that it is built with, of the workspace or not.
    pub needs: Vec<String>,
    /// Crates that only its tests, benchmarks and examples are built with.
    pub needs_in_tests: Vec<String>,
    /// Files that are the root of a target and lack `#![forbid(unsafe_code)]`.
    pub unsafe_roots: Vec<String>,
}

/// The crates of the workspace.
#[derive(Clone, Debug, Default)]
pub struct Graph(pub Vec<Node>);

impl Graph {
    /// The folder of the workspace's crate `name`.
    pub fn folder_of(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|node| node.name == name).map(|node| node.folder.as_str())
    }

    /// # Errors
    /// A source file cannot be read.
    pub fn from_metadata(metadata: &Metadata) -> Result<Graph> {
        let mut nodes = Vec::new();
        for package in &metadata.packages {
            let folder = package.manifest_path.parent().unwrap_or(root());
            let folder = folder.strip_prefix(root()).unwrap_or(folder).display().to_string();
            let named = |dev: bool| {
                let of_kind = move |kind: Option<&str>| (kind == Some("dev")) == dev;
                package
                    .dependencies
                    .iter()
                    .filter(move |dependency| of_kind(dependency.kind.as_deref()))
                    .map(|dependency| dependency.name.clone())
                    .collect()
            };
            nodes.push(Node {
                name: package.name.clone(),
                folder,
                needs: named(false),
                needs_in_tests: named(true),
                unsafe_roots: roots_without_forbid(package.targets.iter().filter_map(|target| {
                    let code = ["lib", "bin"].iter().any(|kind| target.kind.iter().any(|have| have == kind));
                    code.then_some(&target.src_path)
                }))?,
            });
        }
        Ok(Graph(nodes))
    }
}

fn roots_without_forbid<'a>(roots: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<String>> {
    let mut lacking = Vec::new();
    for path in roots {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        if !text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]") {
            lacking.push(path.strip_prefix(root()).unwrap_or(path).display().to_string());
        }
    }
    Ok(lacking)
}
