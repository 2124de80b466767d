//! Images: made once, never changed, found by digest.
