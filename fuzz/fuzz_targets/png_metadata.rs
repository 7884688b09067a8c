//! The request inside a PNG: whatever the bytes, an error, or metadata that survives its own JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unclip::PictureMetadata;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(metadata) = PictureMetadata::parse(bytes, "fuzz.png") {
        let json = serde_json::to_string(&metadata).expect("plain data");
        let again: PictureMetadata = serde_json::from_str(&json).expect("our own JSON");
        assert_eq!(again, metadata);
    }
});
