//! Commands on machines.

mod attached;
pub mod cp;
pub mod create;
pub mod exec;
pub mod inspect;
pub mod kept;
pub mod kill;
pub mod logs;
pub mod ls;
pub mod rename;
pub mod rm;
pub mod run;
pub mod start;
pub mod stats;
mod stdin;
pub mod stop;
pub mod wait;
