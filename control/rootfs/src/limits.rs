//! How much layers may ask for.

/// Bounds on what is made of layers; beyond one, building ends with an error that names layer and entry.
///
/// The data of files is bounded by the file system's size as well. Names and links have Linux's own bounds: 255 bytes a name,
/// 4095 a path or a symbolic link's target, 65 000 links to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, folders and links, in all layers together; folders that no layer has an entry for as well.
    pub entries: u64,
    /// Bytes of all layers together, decompressed.
    pub bytes: u64,
    /// Bytes of names, targets of links and extended attributes, in all layers together: they are kept in memory.
    pub metadata: u64,
}

impl Default for Limits {
    /// Several times what the largest images have: 2 million entries, 256 GiB, 512 MiB.
    fn default() -> Self {
        Limits { entries: 2 << 20, bytes: 256 << 30, metadata: 512 << 20 }
    }
}
