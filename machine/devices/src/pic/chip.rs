//! One 8259A (Intel 8259A data sheet, order number 231468).

/// What the next byte to the odd port is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// The registers of one controller.
#[derive(Clone, Debug)]
pub(super) struct Chip {
    /// Levels of the inputs.
    lines: u8,
    request: u8,
    in_service: u8,
    mask: u8,
    /// Inputs that are level-triggered, from the ELCR beside the chip.
    pub level_triggered: u8,
    vector_base: u8,
    /// The input of lowest priority; 7 when nothing is rotated.
    lowest: u8,
    expect: Expect,
    single: bool,
    wants_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_fully_nested: bool,
    read_in_service: bool,
    poll: bool,
}

impl Chip {
    pub fn new() -> Self {
        Self {
            lines: 0,
            request: 0,
            in_service: 0,
            mask: 0,
            level_triggered: 0,
            vector_base: 0,
            lowest: 7,
            expect: Expect::Mask,
            single: false,
            wants_icw4: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_fully_nested: false,
            read_in_service: false,
            poll: false,
        }
    }

    /// Back to power-up; the inputs stay as they are driven.
    pub fn reset(&mut self) {
        *self = Self { lines: self.lines, ..Self::new() };
    }

    /// The level of `input` (0 to 7) is now `level`. An edge is remembered until it is acknowledged.
    pub fn set_line(&mut self, input: u8, level: bool) {
        let bit = bit(input);
        let rising = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if self.level_triggered & bit != 0 {
            self.request = self.request & !bit | self.lines & bit;
        } else if rising {
            self.request |= bit;
        }
    }

    /// Makes the request of `input` follow `level`, as the cascade input does.
    pub fn set_request(&mut self, input: u8, level: bool) {
        self.request = if level { self.request | bit(input) } else { self.request & !bit(input) };
    }

    /// The input of highest priority in `set`, with its rank (0 is highest).
    fn highest(&self, set: u8) -> Option<(u8, u8)> {
        (0..8).map(|rank| ((self.lowest + 1 + rank) & 7, rank)).find(|&(input, _)| set & bit(input) != 0)
    }

    /// The in-service bits that count for priority and for a non-specific end of interrupt.
    fn blocking(&self) -> u8 {
        if self.special_mask { self.in_service & !self.mask } else { self.in_service }
    }

    /// The input that asks for an interrupt now, if INT is high. `cascade` has the inputs that
    /// another chip is behind.
    pub fn pending(&self, cascade: u8) -> Option<u8> {
        let (input, rank) = self.highest(self.request & !self.mask)?;
        let nested = if self.special_fully_nested { cascade } else { 0 };
        let serving = self.highest(self.blocking() & !nested).map_or(8, |(_, rank)| rank);
        (rank < serving).then_some(input)
    }

    /// The acknowledge cycle for `input`.
    pub fn acknowledge(&mut self, input: u8) {
        if self.level_triggered & bit(input) == 0 {
            self.request &= !bit(input);
        }
        if !self.auto_eoi {
            self.in_service |= bit(input);
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    pub fn vector(&self, input: u8) -> u8 {
        self.vector_base | input & 7
    }

    /// Whether the next read of either port is a poll.
    pub fn take_poll(&mut self) -> bool {
        std::mem::take(&mut self.poll)
    }

    /// Reads the even port (0) or the odd one.
    pub fn read(&self, port: u64) -> u8 {
        match (port, self.read_in_service) {
            (0, false) => self.request,
            (0, true) => self.in_service,
            _ => self.mask,
        }
    }

    pub fn write(&mut self, port: u64, value: u8) {
        match (port, value & 0x18) {
            (0, 0x00) => self.operation(value),
            (0, 0x08) => self.operation_3(value),
            (0, _) => self.start_initialization(value),
            _ => self.write_odd(value),
        }
    }

    /// ICW1. The trigger mode bit is ignored: ELCR decides, as in PC chipsets.
    fn start_initialization(&mut self, icw1: u8) {
        *self = Self {
            lines: self.lines,
            request: self.lines & self.level_triggered,
            level_triggered: self.level_triggered,
            vector_base: self.vector_base,
            expect: Expect::Icw2,
            wants_icw4: icw1 & 0x01 != 0,
            single: icw1 & 0x02 != 0,
            ..Self::new()
        };
    }

    fn write_odd(&mut self, value: u8) {
        let last = if self.wants_icw4 { Expect::Icw4 } else { Expect::Mask };
        match self.expect {
            Expect::Mask => self.mask = value,
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expect = if self.single { last } else { Expect::Icw3 };
            }
            // Which input has the cascade is wired.
            Expect::Icw3 => self.expect = last,
            Expect::Icw4 => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_fully_nested = value & 0x10 != 0;
                self.expect = Expect::Mask;
            }
        }
    }

    /// OCW2: end of interrupt and rotation.
    fn operation(&mut self, ocw2: u8) {
        let named = ocw2 & 7;
        match ocw2 >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            command @ (0b001 | 0b101) => {
                if let Some((input, _)) = self.highest(self.blocking()) {
                    self.in_service &= !bit(input);
                    if command == 0b101 {
                        self.lowest = input;
                    }
                }
            }
            0b011 => self.in_service &= !bit(named),
            0b110 => self.lowest = named,
            0b111 => {
                self.in_service &= !bit(named);
                self.lowest = named;
            }
            _ => {}
        }
    }

    /// OCW3: poll, special mask, which register to read.
    fn operation_3(&mut self, ocw3: u8) {
        if ocw3 & 0x04 != 0 {
            self.poll = true;
        } else if ocw3 & 0x02 != 0 {
            self.read_in_service = ocw3 & 0x01 != 0;
        }
        if ocw3 & 0x40 != 0 {
            self.special_mask = ocw3 & 0x20 != 0;
        }
    }

    /// Changes which inputs are level-triggered; their requests follow the inputs from now on.
    pub fn set_level_triggered(&mut self, inputs: u8) {
        self.level_triggered = inputs;
        self.request = self.request & !inputs | self.lines & inputs;
    }
}

fn bit(input: u8) -> u8 {
    1 << (input & 7)
}
