//! From bytes to operations: decoding by `iced-x86`, choice of handlers, blocks and their cache.

mod block;
mod cache;
mod gate;
#[cfg(test)]
mod kept;
mod lower;
mod lower_integer;
mod lower_locked;
mod lower_system;
mod op;
mod operands;
mod pool;
mod way;
mod widths;

pub use block::{Block, MAX_CODE, MAX_LEN, Reach, Single, Translated};
#[cfg(test)]
pub use cache::MAX_OPS;
pub use cache::{BlockCache, granules};
pub use gate::{allows as is_in_contract, decoder_options};
pub use lower::lower;
pub use lower_integer::condition;
pub use op::{Handler, Op};
pub use pool::Pool;
