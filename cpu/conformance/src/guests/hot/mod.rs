//! Code that runs often enough to be translated, and then something happens to it.
//!
//! Every guest here runs its code some hundreds of times, most of them in several places ([`place::Place`]).

mod case;
mod exceptions;
mod page_faults;
mod place;
mod rounds;
mod stores;

pub(crate) use exceptions::GUESTS as EXCEPTIONS;
pub(crate) use page_faults::GUESTS as PAGE_FAULTS;
pub(crate) use stores::GUESTS as STORES;
