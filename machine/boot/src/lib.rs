//! Loaders and the tables firmware would have made.
