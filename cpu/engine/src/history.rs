//! The last blocks that ran, for crash reports.

use crate::cpu::{CodeSize, Cpu};
use crate::mmu::{Access, PAGE_MASK};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use motu_hv::RecentInstruction;

/// Blocks remembered.
const BLOCKS: usize = 32;
/// Instructions of a block that a report shows.
const SHOWN: usize = 8;

/// A ring of block addresses with the code size they ran in, cheap enough to be kept always.
#[derive(Debug, Default)]
pub struct History {
    ring: [(u64, u32); BLOCKS],
    next: usize,
}

impl History {
    #[inline(always)]
    pub fn note(&mut self, rip: u64, code_size: CodeSize) {
        self.ring[self.next % BLOCKS] = (rip, code_size as u32);
        self.next = self.next.wrapping_add(1);
    }

    /// The instructions of the remembered blocks, oldest first, as far as their code can still be read.
    pub fn instructions(&self, cpu: &Cpu) -> Vec<RecentInstruction> {
        let count = self.next.min(BLOCKS);
        (self.next - count..self.next).flat_map(|n| disassemble(cpu, self.ring[n % BLOCKS])).collect()
    }
}

/// The first instructions at `rip`, up to a branch. Segment bases and page tables are those of now.
fn disassemble(cpu: &Cpu, (rip, bits): (u64, u32)) -> Vec<RecentInstruction> {
    let linear = rip.wrapping_add(cpu.bases[crate::cpu::seg::CS]) & cpu.linear_mask;
    let Ok(page) = cpu.mmu.walk(linear, Access::Read, false) else { return Vec::new() };
    let mut bytes = Vec::new();
    for offset in linear & PAGE_MASK..=PAGE_MASK {
        let Some([byte]) = cpu.mmu.ram.read::<1>(page.physical + offset) else { break };
        bytes.push(byte);
    }
    let mut formatter = IntelFormatter::new();
    let mut found = Vec::new();
    let decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(SHOWN) {
        if instruction.is_invalid() {
            break;
        }
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        found.push(RecentInstruction { rip: instruction.ip(), text });
        if instruction.flow_control() != iced_x86::FlowControl::Next {
            break;
        }
    }
    found
}
