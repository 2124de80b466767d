//! What of this host matters to motu, and what to do about it.
//!
//! Each check is a function from [`Files`] (and what KVM says of itself) to a [`Finding`], so that tests give it files of their own.

mod files;
mod kvm;
mod resources;
mod show;
#[cfg(test)]
mod tests;

pub use files::Files;
pub use kvm::Kvm;
pub use show::{Style, commands, json, table};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know: motu works without it.
    Note,
    /// Something that this host could do for motu and does not.
    Problem,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub name: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do about it, in words.
    pub advice: Option<String>,
    /// The same as commands for a shell.
    pub fix: Vec<String>,
}

impl Finding {
    fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self { name, level, found: found.into(), advice: None, fix: Vec::new() }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, found)
    }

    fn note(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Note, found)
    }

    fn problem(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Level::Problem, found)
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix.push(command.into());
        self
    }
}

/// Every check, in the order in which a person wants to know.
pub fn examine(files: &Files, kvm: &Kvm, soft_contracts: &[&str]) -> Vec<Finding> {
    let cpu = kvm::Cpu::of(files);
    vec![
        kvm::virtualization(&cpu),
        kvm::nested(files, &cpu),
        kvm::device(files, &cpu, kvm),
        kvm::api(kvm),
        kvm::backing(kvm),
        kvm::contracts(kvm),
        resources::soft_engine(&cpu, soft_contracts),
        kvm::iommu(files, &cpu),
        resources::huge_pages(files),
        resources::ksm(files),
        resources::cgroups(files),
        resources::delegation(files),
        resources::user_namespaces(files),
        resources::overcommit(files),
    ]
}
