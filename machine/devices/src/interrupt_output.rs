//! A device's interrupt output.

use motu_bus::IrqLine;

/// A line that remembers its level: the interrupt controllers are called for changes only, not for
/// each access to the device.
#[derive(Clone, Debug)]
pub(crate) struct InterruptOutput {
    line: IrqLine,
    level: bool,
}

impl InterruptOutput {
    pub fn new(line: IrqLine) -> Self {
        Self { line, level: false }
    }

    pub fn set(&mut self, level: bool) {
        if level != self.level {
            self.level = level;
            self.line.set(level);
        }
    }

    /// A rising edge, whatever the level was; the line stays up.
    pub fn pulse(&mut self) {
        self.set(false);
        self.set(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Wires;
    use std::sync::Arc;

    #[test]
    fn changes_are_passed_on_once_and_pulses_always() {
        let wires = Arc::new(Wires::default());
        let mut output = InterruptOutput::new(wires.line(3));
        output.set(false);
        assert!(wires.levels.lock().unwrap().is_empty(), "it was low already");
        output.set(true);
        output.set(true);
        output.pulse();
        assert_eq!(wires.take_edges(), 2);
        output.set(false);
        assert!(!wires.level(3));
    }
}
