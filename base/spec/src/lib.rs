//! What a person asks a machine to be.
