//! Host code raises no exception of its own: of what is aligned, and of divisions.

use super::form::{Definition, Form};
use super::state::State;
use super::walk::{Checked, Proof};
use crate::native::required_alignment;
use iced_x86::{Code, Formatter, Instruction, IntelFormatter, Register};

impl Proof<'_> {
    /// An access to guest memory is as aligned as the instruction wants it (SDM vol. 2, 2.4).
    pub fn check_alignment(&self, instruction: &Instruction, address: &Form, bytes: i64, state: &State) -> Checked {
        let to = u64::from(required_alignment(instruction, bytes as u16));
        if self.is_aligned(address, to, state) {
            return Ok(());
        }
        Err(format!("an access that may not be aligned, to {}", self.symbols.describe(address)))
    }

    /// Whether an address is a multiple of a power of two: what is added to an address in an entry's page is one of the page.
    fn is_aligned(&self, address: &Form, to: u64, state: &State) -> bool {
        let is_addend = |symbol| matches!(self.symbols.definition(symbol), Some(Definition::Addend(_)));
        let terms = address.terms.iter().copied().filter(|&(symbol, _)| !is_addend(symbol)).collect();
        let guest = self.symbols.without_tags(&Form { terms, ..*address });
        let zero = Form::default();
        let known = state.aligned.iter().filter(|&(_, &multiple)| multiple >= to).map(|(form, _)| form);
        known.chain([&zero]).any(|form| self.symbols.alignment(&guest.minus(form)) >= to)
    }

    /// DIV and IDIV come behind what shows that the quotient fits, and no way leads in between.
    pub fn check_division(&self, instruction: &Instruction) -> Checked {
        let (signed, wide) = match instruction.code() {
            Code::Div_rm64 => (false, true),
            Code::Div_rm32 => (false, false),
            Code::Idiv_rm64 => (true, true),
            Code::Idiv_rm32 => (true, false),
            _ => return Err("a division of a few bits".to_owned()),
        };
        let mut before = self.code.range(..instruction.ip() as u32).rev().map(|(_, before)| before);
        let mut next = *instruction;
        let mut text = String::new();
        for _ in 0..if signed { 7 } else { 2 } {
            let Some(&earlier) = before.next() else { break };
            if earlier.next_ip() != next.ip() || self.targets.contains(&(next.ip() as u32)) {
                break;
            }
            let mut line = String::new();
            IntelFormatter::new().format(&earlier, &mut line);
            let line = if earlier.is_jcc_short_or_near() { line.split(' ').next().unwrap_or_default() } else { &line };
            text = format!("{line}; {text}");
            next = earlier;
        }
        let right = match (signed, wide) {
            (false, true) => "cmp rdx,r10; jae; ",
            (false, false) => "cmp edx,r10d; jae; ",
            (true, true) => "mov r11,rax; sar r11,3Fh; cmp r11,rdx; jne; lea r11,[r10+1]; cmp r11,1; jbe; ",
            (true, false) => "mov r11d,eax; sar r11d,1Fh; cmp r11d,edx; jne; lea r11d,[r10+1]; cmp r11d,1; jbe; ",
        };
        let by_r10 = instruction.op0_register().full_register() == Register::R10;
        if by_r10 && text == right { Ok(()) } else { Err(format!("a division that may fault, behind {text}")) }
    }
}
