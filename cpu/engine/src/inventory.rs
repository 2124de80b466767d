//! What the engine can do, asked of the code that does it. docs/cpu.md is made from this.

mod bytes;
mod deviations;
mod msrs;

pub use deviations::{DEVIATIONS, Deviation, Subject};
pub use msrs::{MsrRow, msrs, x2apic};

use crate::cpu::CodeSize;
use crate::decode::{decoder_options, is_in_contract, lower};
use crate::exec::system;
use crate::native::{NativeCache, NotNative};
use iced_x86::{Code, CpuidFeature, Decoder, EncodingKind, Instruction, Mnemonic};
use motu_x86::contract::Contract;
use std::io;

/// How an instruction form stands under a contract, in code of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Code of this size has no such form.
    NotInMode,
    /// It does what the manual says.
    Done,
    /// The contract lacks a feature: #UD.
    NotInContract,
    /// The contract lacks a feature, and its bytes are then another instruction, as on older processors.
    RunsAs(Mnemonic),
    /// The contract has it, and the engine does not.
    Missing,
}

/// Why a form of the decoder's table is none that this processor could meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Foreign {
    /// WAIT and another instruction, which assemblers write as one.
    TwoInstructions,
    /// A meaning that only some other processor gives to the bytes.
    OtherProcessor,
}

/// Every instruction form that decoders know, without data directives.
pub fn forms() -> impl Iterator<Item = Code> {
    Code::values().filter(|code| code.op_code().is_instruction())
}

/// Why `code` is not met on any processor of a contract; `None` if it may be.
pub fn foreign(code: Code) -> Option<Foreign> {
    let op = code.op_code();
    if op.fwait() {
        return Some(Foreign::TwoInstructions);
    }
    (op.decoder_option() != 0).then_some(Foreign::OtherProcessor)
}

/// Lowers forms as the engine would.
pub struct Inventory {
    native: NativeCache,
}

impl Inventory {
    /// # Errors
    /// The host gives no memory for code.
    pub fn new() -> io::Result<Self> {
        Ok(Self { native: NativeCache::new()? })
    }

    /// How `code` stands in code of `bits` (16, 32 or 64) bits. The same on every host: what the host runs for
    /// the guest counts as done, since a host that cannot refuses the contract.
    pub fn standing(&mut self, code: Code, bits: u32, contract: &'static Contract) -> Standing {
        let op = code.op_code();
        let in_mode = match bits {
            16 => op.mode16(),
            32 => op.mode32(),
            _ => op.mode64(),
        };
        if !in_mode {
            return Standing::NotInMode;
        }
        // No contract has another encoding than these.
        if !matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
            return Standing::NotInContract;
        }
        let Some(bytes) = bytes::encode(code, bits) else {
            // On some other vendor's processors, or on those before the prefix was given its meaning.
            let mut instruction = Instruction::default();
            instruction.set_code(code);
            let allowed = is_in_contract(contract, &instruction);
            return if allowed { Standing::NotInMode } else { Standing::NotInContract };
        };
        let instruction = Decoder::with_ip(bits, &bytes, 0, decoder_options(contract)).decode();
        if instruction.code() != code && !instruction.is_invalid() {
            return Standing::RunsAs(instruction.mnemonic());
        }
        if !is_in_contract(contract, &instruction) {
            return Standing::NotInContract;
        }
        if self.is_lowered(&instruction, contract) {
            Standing::Done
        } else if code.cpuid_features().contains(&CpuidFeature::CET_SS) {
            // The gate lets the feature pass for what lies in the hint space; the rest of it is #UD.
            Standing::NotInContract
        } else {
            Standing::Missing
        }
    }

    fn is_lowered(&mut self, instruction: &Instruction, contract: &Contract) -> bool {
        let raises_ud = matches!(instruction.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Rsm);
        // The key of flat 64-bit code: no checks of operands come before the handler.
        let op = lower(instruction, 0, CodeSize::Bits64 as u32, contract, &mut self.native);
        raises_ud
            || !std::ptr::fn_addr_eq(op.run, system::undefined as crate::decode::Handler)
            || matches!(self.native.compile(instruction), Err(NotNative::HostLacks(_)))
    }
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inventory").finish_non_exhaustive()
    }
}
