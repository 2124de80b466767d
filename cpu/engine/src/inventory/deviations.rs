//! Where the engine does not do what the manual says, and why.

use iced_x86::Mnemonic;

/// A known difference from the manual.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    pub of: Subject,
    /// What is different, and why.
    pub reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// All forms of these mnemonics.
    Instructions(&'static [Mnemonic]),
    /// An MSR, by number.
    Msr(u32),
    /// Something that concerns more than one of either.
    Processor(&'static str),
}

use Subject::{Instructions, Msr, Processor};

pub const DEVIATIONS: &[Deviation] = &[
    Deviation {
        of: Instructions(&[Mnemonic::Dpps, Mnemonic::Dppd, Mnemonic::Vdpps, Mnemonic::Vdppd]),
        reason: "After #XM MXCSR may have a flag of a later step too: all steps run before the exception is taken.",
    },
    Deviation {
        of: Processor("#XM for overflow or underflow"),
        reason: "PE may be set although the result would be exact with an unbounded exponent: the host computes with \
                 exceptions masked, and then rounds to the range too.",
    },
    Deviation {
        of: Processor("arithmetic flags in pushed RFLAGS"),
        reason: "Where translated code is interrupted or faults, flags that are written before they are read again may \
                 have any value in the image that is pushed. `--engine soft,flags=exact` has them exact, at a quarter \
                 more time (docs/adr/0013).",
    },
    Deviation {
        of: Processor("memory types"),
        reason: "PAT and MTRRs are kept and have no effect: all RAM is write-back, and no cache is there to differ. \
                 INVD, WBINVD and CLFLUSH therefore do nothing but their checks.",
    },
    Deviation {
        of: Processor("speculation"),
        reason: "IA32_SPEC_CTRL and IA32_PRED_CMD have no effect: docs/adr/0002 says what separates guests instead.",
    },
    Deviation {
        of: Processor("system-management mode, VMX"),
        reason: "There is neither: SMIs are taken and dropped, and RSM is #UD as everywhere outside of it.",
    },
    Deviation { of: Processor("A20"), reason: "It is always on: docs/adr/0012." },
    Deviation {
        of: Processor("segments of 4 GiB"),
        reason: "An operand that wraps around the end of one does not fault: flat code runs without checks of limits.",
    },
    Deviation {
        of: Processor("data breakpoints"),
        reason: "Frames of events, and what the processor writes to descriptor tables and task states, hit none.",
    },
    Deviation {
        of: Processor("I/O APIC"),
        reason: "A level-triggered entry has remote IRR as soon as its message is sent, though a local APIC that is \
                 disabled by software takes none: it is the bus that says so, and there is none.",
    },
    Deviation {
        of: Msr(motu_x86::msr::DEBUGCTL),
        reason: "LBR does not come on, since there are no branch records. BTF is kept, and a step is an instruction \
                 all the same.",
    },
];
