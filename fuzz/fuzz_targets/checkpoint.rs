//! The header of a safetensors file: whatever the bytes, an error or tensors that share out the file among them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use unclip_core::checkpoint::Header;

fuzz_target!(|bytes: &[u8]| {
    file(bytes);
    // A length that fits is hard to come by; here the first two bytes say how much data follows a header.
    if let Some((data, json)) = bytes.split_first_chunk() {
        let file_length = 8 + json.len() as u64 + u64::from(u16::from_le_bytes(*data));
        parse(json, file_length);
    }
});

fn file(bytes: &[u8]) {
    let Some(start) = bytes.first_chunk() else { return };
    let Ok(length) = Header::length(*start, bytes.len() as u64) else { return };
    let length = usize::try_from(length).expect("not longer than the bytes");
    parse(&bytes[8..8 + length], bytes.len() as u64);
}

fn parse(json: &[u8], file_length: u64) {
    let Ok(header) = Header::parse(json, file_length) else { return };
    let mut total = 0;
    for (name, info) in &header.tensors {
        assert_eq!(info.elements() * info.dtype.bitsize() as u64, info.bytes * 8, "{name}");
        total += info.bytes;
    }
    let length = 8 + json.len() as u64 + total;
    assert_eq!(length, file_length, "a byte belongs to no tensor, or to several");
}
