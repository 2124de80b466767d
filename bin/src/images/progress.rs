//! Long work as a person sees it: bars on a terminal, plain lines in a log.

use indicatif::{ProgressBar, ProgressStyle};
use motu_store::Progress;
use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::Duration;

/// Draws on stderr.
#[derive(Debug, Default)]
pub struct Bars {
    /// The steps under way, the innermost last.
    steps: RefCell<Vec<ProgressBar>>,
}

impl Progress for Bars {
    fn start(&self, what: &str, total: Option<u64>) {
        let bar = if std::io::stderr().is_terminal() {
            bar(total)
        } else {
            tell!("motu: {what}");
            ProgressBar::hidden()
        };
        bar.set_message(what.to_owned());
        self.steps.borrow_mut().push(bar);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = self.steps.borrow().last() {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.steps.borrow_mut().pop() {
            bar.finish_and_clear();
        }
    }
}

/// Bytes that come, of which nobody knows how many there will be.
pub fn bytes_spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    match ProgressStyle::with_template("{spinner} {msg} {bytes} {binary_bytes_per_sec}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total), "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    bar.enable_steady_tick(Duration::from_millis(100));
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
