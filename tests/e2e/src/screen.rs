//! What a person sees of a program that writes a whole screen to a serial line, as memtest86+ does.

const COLUMNS: usize = 80;
const ROWS: usize = 25;

/// A screen of 80 by 25 that knows the control sequences of such programs (ECMA-48): CUP and ED; what else
/// there is only changes colours.
#[derive(Clone, Debug)]
pub struct Screen {
    cells: [[u8; COLUMNS]; ROWS],
    row: usize,
    column: usize,
    /// A control sequence that has not ended yet.
    sequence: Option<Vec<u8>>,
}

impl Default for Screen {
    fn default() -> Self {
        Self { cells: [[b' '; COLUMNS]; ROWS], row: 0, column: 0, sequence: None }
    }
}

impl Screen {
    pub fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_byte(*byte));
    }

    fn write_byte(&mut self, byte: u8) {
        if let Some(sequence) = &mut self.sequence {
            // After ESC comes '[', then parameters, then a letter.
            sequence.push(byte);
            if sequence.len() > 1 && (0x40..0x7f).contains(&byte) || sequence.as_slice() == b"c" {
                let sequence = self.sequence.take().unwrap_or_default();
                self.control(&sequence);
            }
            return;
        }
        match byte {
            0x1b => self.sequence = Some(Vec::new()),
            b'\r' => self.column = 0,
            b'\n' => self.row = (self.row + 1).min(ROWS - 1),
            8 => self.column = self.column.saturating_sub(1),
            _ => {
                if let Some(cell) = self.cells.get_mut(self.row).and_then(|row| row.get_mut(self.column)) {
                    *cell = byte;
                }
                self.column += 1;
            }
        }
    }

    fn control(&mut self, sequence: &[u8]) {
        let (Some(kind), Some(parameters)) = (sequence.last(), sequence.get(1..sequence.len() - 1)) else {
            return;
        };
        let parameters = String::from_utf8_lossy(parameters);
        let mut numbers = parameters.split(';').map(|number| number.parse().unwrap_or(1_usize).max(1));
        match kind {
            b'H' => {
                self.row = numbers.next().unwrap_or(1) - 1;
                self.column = numbers.next().unwrap_or(1) - 1;
            }
            b'J' => self.cells = [[b' '; COLUMNS]; ROWS],
            _ => {}
        }
    }

    /// Whether the text stands somewhere in one row.
    pub fn shows(&self, text: &str) -> bool {
        self.cells.iter().any(|row| String::from_utf8_lossy(row).contains(text))
    }
}

impl std::fmt::Display for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for row in &self.cells {
            writeln!(f, "{}", String::from_utf8_lossy(row).trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Screen;

    #[test]
    fn text_stands_where_it_was_put() {
        let mut screen = Screen::default();
        screen.write(b"\x1bc\x1b[?7l\x1b[2Jgone\x1b[2J\x1b[2;3H\x1b[7mPass  1\x1b[0m\x1b[2;9");
        screen.write(b"H2\r\nnext\x1b[H*");
        assert_eq!(screen.to_string().trim_end(), "*\n  Pass  2\nnext");
        assert!(screen.shows("Pass  2") && !screen.shows("gone"));
    }

    #[test]
    fn what_goes_beyond_its_edges_is_lost() {
        let mut screen = Screen::default();
        screen.write(b"\x1b[99;99Hx\x1b[1;80Hab\x1b[25;1H\nlast\x08t");
        assert!(screen.shows("last"));
        assert_eq!(screen.to_string().lines().next().map(str::len), Some(80));
    }
}
