//! Real-address mode (SDM vol. 3, 20.1).

mod delivery;
mod modes;

pub(crate) use delivery::GUESTS as DELIVERY;
pub(crate) use modes::GUESTS as MODES;
