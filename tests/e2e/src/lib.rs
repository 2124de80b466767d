//! motu as its users run it.
