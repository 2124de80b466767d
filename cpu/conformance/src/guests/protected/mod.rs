//! 16-bit and 32-bit protected mode.

mod delivery;
mod gates;
mod implicit;
mod limits;
mod loads;
mod mixed;
mod privileges;
mod tasks;

pub(crate) use delivery::GUESTS as DELIVERY;
pub(crate) use gates::GUESTS as GATES;
pub(crate) use implicit::GUESTS as IMPLICIT;
pub(crate) use limits::GUESTS as LIMITS;
pub(crate) use loads::GUESTS as LOADS;
pub(crate) use mixed::GUESTS as MIXED;
pub(crate) use privileges::GUESTS as PRIVILEGES;
pub(crate) use tasks::GUESTS as TASK_SWITCHES;
