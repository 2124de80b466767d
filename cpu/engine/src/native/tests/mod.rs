//! The thunks against the host's own instructions.

mod behaviour;
mod elements;
mod exceptions;
mod forms;
mod images;
mod oracle;
mod sandbox;

use iced_x86::{Decoder, DecoderOptions, Instruction};
use motu_x86::XsaveArea;

use super::image::ReservedBits;
use super::simd::{MXCSR_DEFAULT, MXCSR_MASK, mxcsr, set_mxcsr};
use super::*;

fn decode(code: &[u8]) -> Instruction {
    decode_as(64, code)
}

fn decode_as(bitness: u32, code: &[u8]) -> Instruction {
    Decoder::new(bitness, code, DecoderOptions::NONE).decode()
}

/// A virtual CPU's user state.
#[derive(Clone)]
struct Guest {
    gpr: [u64; 16],
    flags: u64,
    fpu: XsaveArea,
    memory: Staging,
}

impl Guest {
    fn new() -> Self {
        let mut fpu = XsaveArea::at_reset();
        x87::initialise(&mut fpu);
        Self { gpr: [0; 16], flags: 2, fpu, memory: Staging::default() }
    }

    fn run(&mut self, cache: &mut NativeCache, code: &[u8]) -> Outcome {
        let thunk = cache.compile(&decode(code)).expect("a native instruction");
        cache.run(&thunk, &mut self.gpr, &mut self.flags, &mut self.fpu, &mut self.memory)
    }

    fn xmm(&self, number: usize) -> [u8; 16] {
        let start = XsaveArea::XMM + number * 16;
        self.fpu.0[start..start + 16].try_into().unwrap()
    }

    fn set_xmm(&mut self, number: usize, bytes: [u8; 16]) {
        let start = XsaveArea::XMM + number * 16;
        self.fpu.0[start..start + 16].copy_from_slice(&bytes);
    }

    fn high(&self, number: usize) -> [u8; 16] {
        let start = XsaveArea::YMM_HIGH + number * 16;
        self.fpu.0[start..start + 16].try_into().unwrap()
    }

    fn set_high(&mut self, number: usize, bytes: [u8; 16]) {
        let start = XsaveArea::YMM_HIGH + number * 16;
        self.fpu.0[start..start + 16].copy_from_slice(&bytes);
    }

    fn double(&self, number: usize) -> f64 {
        f64::from_le_bytes(self.xmm(number)[..8].try_into().unwrap())
    }

    fn set_double(&mut self, number: usize, value: f64) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&value.to_le_bytes());
        self.set_xmm(number, bytes);
    }
}

fn cache() -> NativeCache {
    NativeCache::new().expect("executable memory")
}
