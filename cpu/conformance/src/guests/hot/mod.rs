//! Code that runs often enough to be translated, and then something happens to it.
//!
//! Every guest here runs its code some hundreds of times, most of them in several places ([`place::Place`]).

mod place;
mod stores;

pub(crate) use stores::GUESTS as STORES;
