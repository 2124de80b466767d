//! The board's devices.
