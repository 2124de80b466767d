//! The software CPU as a [`UserCpu`].

use crate::layout::{self, AREAS, PAGE};
use crate::native::MAX_INSTRUCTION;
use crate::{End, UserCpu, UserState};
use motu_engine::harness::{self, UserHarness, UserPage};
use motu_hv::HvError;

/// Frames of the harness: the code pages, then the window.
const WINDOW_FRAME: u64 = layout::CODE_PAGES;

/// The engine with the pages of [`layout`] and nothing else.
#[derive(Debug)]
pub struct Soft {
    harness: UserHarness,
    /// Where the instruction of the last case lies in the code pages, and its bytes.
    written: (u64, Vec<u8>),
    state: harness::UserState,
    translated: u64,
}

impl Soft {
    /// A CPU of contract `v3-2026`.
    ///
    /// # Errors
    /// The host lacks a resource.
    pub fn new() -> Result<Self, HvError> {
        let pages: Vec<_> = (0..AREAS.len()).flat_map(pages).collect();
        let state =
            harness::UserState { gpr: [0; 16], rip: 0, rflags: 0, xsave: UserState::new(0).xsave, selectors: [0; 6] };
        Ok(Self { harness: UserHarness::new("v3-2026", &pages)?, written: (0, Vec::new()), state, translated: 0 })
    }
}

fn pages(area: usize) -> impl Iterator<Item = UserPage> {
    let code = (0..layout::CODE_PAGES).map(move |page| UserPage {
        linear: layout::code(area) + page * PAGE,
        frame: page,
        writable: false,
    });
    let window = (0..layout::WINDOW_PAGES).map(move |page| UserPage {
        linear: layout::window(area) + page * PAGE,
        frame: WINDOW_FRAME + page,
        writable: page != layout::READ_ONLY_PAGE,
    });
    code.chain(window)
}

/// HLT: a block of decoded code ends there.
const END_OF_BLOCK: u8 = 0xf4;

impl Soft {
    /// Puts an instruction into the code pages, unless it is there already, which spares decoding it again.
    fn write_code(&mut self, offset: u64, code: &[u8]) {
        let (at, bytes) = &mut self.written;
        if *at == offset && *bytes == code {
            return;
        }
        *at = offset;
        bytes.clear();
        bytes.extend_from_slice(code);
        let fitting = (layout::CODE_SIZE - offset) as usize;
        let mut all = [END_OF_BLOCK; MAX_INSTRUCTION + 1];
        all[..code.len()].copy_from_slice(code);
        let len = (code.len() + 1).min(fitting);
        self.harness.write(offset, &all[..len]);
    }
}

impl UserCpu for Soft {
    fn window(&mut self) -> &mut [u8] {
        &mut self.harness.frames()[(WINDOW_FRAME * PAGE) as usize..]
    }

    /// # Panics
    /// `before.rip` lies in no code page.
    fn run_one(&mut self, before: &UserState, code: &[u8], after: &mut UserState) -> End {
        let offset = layout::code_offset(before.rip).expect("the instruction must lie in a code page");
        self.write_code(offset, code);
        let state = &mut self.state;
        (state.gpr, state.rip, state.rflags) = (before.gpr, before.rip, before.rflags);
        state.selectors = before.selectors;
        state.xsave.0.copy_from_slice(&before.xsave.0);
        let end = if is_translated(before) {
            let (end, translated) = self.harness.step_translated(state);
            self.translated += u64::from(translated);
            end
        } else {
            self.harness.step(state)
        };
        (after.gpr, after.rip, after.rflags) = (state.gpr, state.rip, state.rflags);
        after.selectors = state.selectors;
        after.xsave.0.copy_from_slice(&state.xsave.0);
        after.materialize_xsave();
        match end {
            Ok(()) => End::Ok,
            Err(fault) => {
                End::Exception { vector: fault.vector, error_code: fault.error_code.unwrap_or(0), address: fault.cr2 }
            }
        }
    }

    fn translated(&self) -> u64 {
        self.translated
    }
}

/// Every second case, the same whatever ran before it.
fn is_translated(before: &UserState) -> bool {
    before.gpr.iter().map(|register| register.count_ones()).sum::<u32>() % 2 == 0
}
