//! The host CPU as the judge of the software CPU: native execution and differential tests.
