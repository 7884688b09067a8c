//! What a file says of its origin: whatever the bytes, an error, or an origin that survives being written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unclip_safety::provenance::{Origin, carries_manifest, read_origin, write_origin};

fuzz_target!(|bytes: &[u8]| {
    let _ = Origin::parse(bytes);
    let _ = carries_manifest(bytes);
    let Ok(origin) = read_origin(bytes) else { return };
    let tool = String::from_utf8_lossy(bytes.get(..64).unwrap_or(bytes)).into_owned();
    for origin in origin.into_iter().chain([Origin::trained(tool)]) {
        let Ok(written) = write_origin(bytes, &origin) else { continue };
        let read = read_origin(&written).expect("what was just written").expect("an origin");
        assert_eq!(read.source_type, origin.source_type);
    }
});
