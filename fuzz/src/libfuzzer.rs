//! The entry point of libFuzzer, for the target that `MOTU_FUZZ_TARGET` names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use motu_fuzz::Target;
use std::sync::OnceLock;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("MOTU_FUZZ_TARGET").unwrap_or_default();
        motu_fuzz::find(&name).expect("MOTU_FUZZ_TARGET names a target")
    });
    (target.run)(bytes);
});
