//! `motu doctor`: what this host can do for motu, and what to do about the rest.

use crate::doctor::{self, Files, Kvm, Level, Style};
use crate::engine;
use crate::status::Status;
use crate::terminal;
use anyhow::{Context, Result};
use motu_engine::SoftHypervisor;
use motu_hv::Hypervisor;
use std::io::{IsTerminal, Write};

/// Columns where there is no terminal, or none that says.
const WIDTH: usize = 80;

/// How the findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Table,
    Json,
    Commands,
}

/// # Errors
/// stdout cannot be written.
pub fn run(form: Form) -> Result<Status> {
    let soft = SoftHypervisor::default().capabilities();
    let findings = doctor::examine(&Files::below("/"), &Kvm::of_this_host(), &soft.contracts);
    let (name, why) = engine::verdict();
    let text = match form {
        Form::Table => doctor::table(&findings, &format!("--engine auto takes {name}: {why}"), style()),
        Form::Json => format!("{:#}\n", doctor::json(&findings, name, &why)),
        Form::Commands => doctor::commands(&findings),
    };
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")?;
    let has_problem = findings.iter().any(|finding| finding.level == Level::Problem);
    Ok(if has_problem { Status::Code(1) } else { Status::Success })
}

/// A terminal's own width, up to what is read with ease, and colours if it is one and nobody minds (no-color.org).
fn style() -> Style {
    let is_terminal = std::io::stdout().is_terminal();
    let columns = terminal::size().map_or(WIDTH, |(_, columns)| columns.into());
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style { width: columns.min(100), colour: is_terminal && !no_colour }
}
