//! What a file says of its origin: whatever the bytes, an error, or an origin that survives being written and read again;
//! and whatever the name of a program, a file of each kind that names it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unclip_safety::provenance::{Origin, carries_manifest, read_origin, write_origin};

const FILES: [&[u8]; 3] = [
    include_bytes!("../corpus/provenance/png"),
    include_bytes!("../corpus/provenance/jpeg"),
    include_bytes!("../corpus/provenance/webp"),
];

fuzz_target!(|bytes: &[u8]| {
    let _ = Origin::parse(bytes);
    let _ = carries_manifest(bytes);
    if let Ok(origin) = read_origin(bytes) {
        for origin in origin.into_iter().chain([Origin::trained("fuzz")]) {
            let Ok(written) = write_origin(bytes, &origin) else { continue };
            let read = read_origin(&written).expect("what was just written").expect("an origin");
            assert_eq!(read.source_type, origin.source_type);
        }
    }

    let text = String::from_utf8_lossy(bytes);
    // What XML cannot hold is left out by the writer.
    let holds = |c: &char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..);
    let kept: String = text.chars().filter(holds).collect();
    for file in FILES {
        let written = write_origin(file, &Origin::trained(text.clone())).expect("a short name");
        let read = read_origin(&written).expect("what was just written").expect("an origin");
        assert!(read.is_generated());
        assert_eq!(read.tool.as_deref(), Some(kept.as_str()));
    }
});
