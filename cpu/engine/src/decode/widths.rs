//! Handlers for operands of each width: one is chosen when an instruction is decoded.

/// `$e` with the type `$W` as wide as `$size` bytes.
macro_rules! widths {
    ($size:expr, $W:ident => $e:expr) => {
        match $size {
            1 => { type $W = u8; Some($e as $crate::decode::Handler) }
            2 => { type $W = u16; Some($e as $crate::decode::Handler) }
            4 => { type $W = u32; Some($e as $crate::decode::Handler) }
            8 => { type $W = u64; Some($e as $crate::decode::Handler) }
            _ => None,
        }
    };
}

/// As `widths`, without bytes.
macro_rules! wide {
    ($size:expr, $W:ident => $e:expr) => {
        match $size {
            2 => { type $W = u16; Some($e as $crate::decode::Handler) }
            4 => { type $W = u32; Some($e as $crate::decode::Handler) }
            8 => { type $W = u64; Some($e as $crate::decode::Handler) }
            _ => None,
        }
    };
}

pub(super) use {wide, widths};
