//! Layers that become file systems, which somebody else's code reads (`ext4-view`) and judges (`e2fsck`).

mod archive;
mod hostile;
mod layers;
mod made;
mod random;
