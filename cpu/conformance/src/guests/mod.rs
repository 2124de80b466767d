//! The guests, by theme.

mod exceptions;
mod paging;

use crate::Guest;

pub(crate) const THEMES: &[&[Guest]] = &[paging::GUESTS, exceptions::GUESTS];
