//! Which device sits where; the life of one machine.
