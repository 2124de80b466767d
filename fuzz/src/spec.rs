//! What a person asks for: a bad word gets an error, and what is taken means the same when said again.

use motu_spec::{ByteSize, Timeout, VmSpec};

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size), "{text:?}");
    }
    _ = text.parse::<Timeout>();
    if let Ok(spec) = serde_json::from_str::<VmSpec>(text) {
        let again = serde_json::to_string(&spec).expect("a spec is JSON");
        let same = serde_json::from_str::<VmSpec>(&again).expect("what was written can be read");
        assert_eq!(format!("{spec:?}"), format!("{same:?}"));
        // Its YAML and its keys.
        _ = spec.seed.map(|seed| seed.check());
    }
}
