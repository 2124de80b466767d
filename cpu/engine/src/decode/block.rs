//! A run of instructions that is entered at its first.

use super::Op;
use super::gate;
use super::lower::{ends_block, lower};
use crate::cpu::{CodeSize, Cpu, Faulting};
use crate::mmu::{PAGE, PAGE_MASK};
use crate::native::NativeCache;
use iced_x86::{Decoder, DecoderError, Instruction};
use motu_x86::contract::Contract;

/// Instructions of one block at most.
const MAX_OPS: usize = 64;
/// Bytes of one instruction at most (SDM vol. 2, 2.3.11).
const MAX_LEN: usize = 15;

/// Decoded instructions, keyed by where they lie in guest-physical memory.
#[derive(Debug)]
pub struct Block {
    pub ops: Box<[Op]>,
    /// Bytes of code.
    pub len: u32,
    /// Guest-physical address of the first byte.
    pub physical: u64,
    /// [`Cpu::decode_key`] it was decoded under.
    pub key: u32,
    /// The page that a last instruction runs over into.
    pub second_page: Option<u64>,
    /// Never the same for two blocks; zero until the cache gives it.
    pub id: u64,
}

/// What decoding depends on beside the bytes.
pub struct Context<'a> {
    pub code_size: CodeSize,
    pub contract: &'static Contract,
    pub native: &'a mut NativeCache,
}

impl Cpu {
    /// Decodes the block at the current instruction, whose first byte is at `physical` in `host_page`.
    ///
    /// # Errors
    /// The first instruction runs over into a page that cannot be fetched.
    pub fn decode_block(&mut self, physical: u64, host_page: *const u8) -> Faulting<Block> {
        let rip = self.rip;
        let start = (physical & PAGE_MASK) as usize;
        let mut bytes = [0u8; PAGE as usize + MAX_LEN];
        // SAFETY: `host_page` is a whole page of guest RAM; it is copied because the guest may change
        // it while we look.
        unsafe { std::ptr::copy_nonoverlapping(host_page, bytes.as_mut_ptr(), PAGE as usize) };
        let Some(code) = bytes.get(start..PAGE as usize) else { return self.general_protection(0) };
        let mut context = Context { code_size: self.code_size, contract: self.contract, native: &mut self.native };
        let mut ops = Vec::new();
        let mut len = decode_run(code, rip, &mut context, &mut ops);
        let mut second_page = None;
        if ops.is_empty() {
            // The first instruction does not fit into the page.
            let next = rip.wrapping_add(PAGE - start as u64) & self.ip_mask();
            let base = self.bases[crate::cpu::seg::CS];
            let (next_physical, next_host, _) = self.fetch_page(next.wrapping_add(base) & self.linear_mask)?;
            second_page = Some(next_physical & !PAGE_MASK);
            // SAFETY: as above; the buffer has MAX_LEN bytes behind the page.
            unsafe {
                std::ptr::copy_nonoverlapping(next_host.cast_const(), bytes.as_mut_ptr().add(PAGE as usize), MAX_LEN);
            }
            let code = bytes.get(start..).unwrap_or(&[]);
            let mut context = Context { code_size: self.code_size, contract: self.contract, native: &mut self.native };
            len = decode_one(code, rip, &mut context, &mut ops);
        }
        Ok(Block { ops: ops.into_boxed_slice(), len: len as u32, physical, key: self.decode_key(), second_page, id: 0 })
    }
}

fn decoder<'a>(code: &'a [u8], rip: u64, context: &Context<'_>) -> Decoder<'a> {
    let options = gate::decoder_options(context.contract);
    Decoder::with_ip(context.code_size as u32, code, rip, options)
}

/// Decodes up to the end of the block or of `code`. Bytes used; nothing if not even one instruction is whole.
fn decode_run(code: &[u8], rip: u64, context: &mut Context<'_>, ops: &mut Vec<Op>) -> usize {
    let mut decoder = decoder(code, rip, context);
    let mut instruction = Instruction::default();
    let mut used = 0;
    while decoder.can_decode() && ops.len() < MAX_OPS {
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes && code.len() - used < MAX_LEN {
            break;
        }
        ops.push(lower(&instruction, used as u16, context.contract, context.native));
        used += instruction.len().max(1);
        if instruction.is_invalid() || ends_block(&instruction) {
            break;
        }
    }
    used
}

/// Decodes one instruction, whatever it is.
fn decode_one(code: &[u8], rip: u64, context: &mut Context<'_>, ops: &mut Vec<Op>) -> usize {
    let mut decoder = decoder(code, rip, context);
    let instruction = decoder.decode();
    ops.push(lower(&instruction, 0, context.contract, context.native));
    instruction.len().max(1)
}
