//! The software CPU as a [`UserCpu`].

use crate::layout::{self, AREAS, PAGE};
use crate::{End, UserCpu, UserState};
use motu_engine::harness::{self, UserHarness, UserPage};
use motu_hv::HvError;

/// Frames of the harness: the code pages, then the window.
const WINDOW_FRAME: u64 = layout::CODE_PAGES;

/// The engine with the pages of [`layout`] and nothing else.
#[derive(Debug)]
pub struct Soft {
    harness: UserHarness,
}

impl Soft {
    /// A CPU of contract `v3-2026`.
    ///
    /// # Errors
    /// The host lacks a resource.
    pub fn new() -> Result<Self, HvError> {
        let pages: Vec<_> = (0..AREAS.len()).flat_map(pages).collect();
        Ok(Self { harness: UserHarness::new("v3-2026", &pages)? })
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

impl UserCpu for Soft {
    fn window(&mut self) -> &mut [u8] {
        &mut self.harness.frames()[(WINDOW_FRAME * PAGE) as usize..]
    }

    /// # Panics
    /// `before.rip` lies in no code page.
    fn run_one(&mut self, before: &UserState, code: &[u8], after: &mut UserState) -> End {
        let offset = layout::code_offset(before.rip).expect("the instruction must lie in a code page");
        let fitting = code.len().min((layout::CODE_SIZE - offset) as usize);
        self.harness.write(offset, &code[..fitting]);
        let mut state =
            harness::UserState { gpr: before.gpr, rip: before.rip, rflags: before.rflags, xsave: before.xsave.clone() };
        let end = self.harness.step(&mut state);
        *after = UserState { xsave: state.xsave, gpr: state.gpr, rip: state.rip, rflags: state.rflags };
        after.materialize_xsave();
        match end {
            Ok(()) => End::Ok,
            Err(fault) => {
                End::Exception { vector: fault.vector, error_code: fault.error_code.unwrap_or(0), address: fault.cr2 }
            }
        }
    }
}
