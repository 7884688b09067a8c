//! XMP in WebP: an `XMP ` chunk of the extended form, whose header says that it is there.

use super::{Container, ProvenanceError};

/// Bytes before the first chunk.
const HEADER: usize = 12;
const HAS_XMP: u8 = 1 << 2;
const HAS_ALPHA: u8 = 1 << 4;

struct Chunk<'a> {
    kind: &'a [u8],
    data: &'a [u8],
    offset: usize,
}

fn chunks(file: &[u8]) -> Result<Vec<Chunk<'_>>, ProvenanceError> {
    let damaged = |offset, reason: &str| Container::WebP.damaged(offset, reason);
    let size = little(file, 4, 4).ok_or_else(|| damaged(0, "a header is cut off"))?;
    // What lies behind the announced end is not part of the picture.
    let file = size
        .checked_add(8)
        .and_then(|end| file.get(..end))
        .ok_or_else(|| damaged(4, "the file is shorter than it says"))?;
    let mut chunks = Vec::new();
    let mut offset = HEADER;
    while offset < file.len() {
        let data = little(file, offset + 4, 4)
            .and_then(|length| file.get(offset + 8..)?.get(..length))
            .ok_or_else(|| damaged(offset, "a chunk is cut off"))?;
        chunks.push(Chunk { kind: &file[offset..offset + 4], data, offset });
        // Chunks start at even places.
        offset += 8 + data.len() + data.len() % 2;
    }
    if chunks.is_empty() {
        return Err(damaged(offset, "expected a chunk"));
    }
    Ok(chunks)
}

/// A little-endian number of `bytes` bytes.
fn little(file: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let slice = file.get(at..at.checked_add(bytes)?)?;
    Some(slice.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
}

pub(super) fn packet(file: &[u8]) -> Result<Option<&[u8]>, ProvenanceError> {
    let chunks = chunks(file)?;
    let mut packets = chunks.iter().filter(|chunk| chunk.kind == b"XMP ");
    let Some(chunk) = packets.next() else { return Ok(None) };
    match packets.next() {
        Some(second) => Err(Container::WebP.damaged(second.offset, "a second XMP packet")),
        None => Ok(Some(chunk.data)),
    }
}

pub(super) fn with_packet(file: &[u8], packet: &str) -> Result<Vec<u8>, ProvenanceError> {
    let chunks = chunks(file)?;
    let mut body = b"WEBP".to_vec();
    let mut push = |kind: &[u8], data: &[u8]| -> Result<(), ProvenanceError> {
        let length = u32::try_from(data.len()).map_err(|_| ProvenanceError::Xmp {
            reason: format!("{} bytes are too long for WebP", data.len()),
        })?;
        body.extend(kind);
        body.extend(length.to_le_bytes());
        body.extend(data);
        body.extend(&[0_u8; 1][..data.len() % 2]);
        Ok(())
    };
    let (first, rest) = chunks.split_first().expect("`chunks` refuses a file without one");
    if first.kind == b"VP8X" {
        let mut header = first.data.to_vec();
        *header
            .first_mut()
            .ok_or_else(|| Container::WebP.damaged(first.offset, "empty header"))? |= HAS_XMP;
        push(b"VP8X", &header)?;
    } else {
        push(b"VP8X", &extended_header(first)?)?;
        push(first.kind, first.data)?;
    }
    for chunk in rest.iter().filter(|chunk| chunk.kind != b"XMP ") {
        push(chunk.kind, chunk.data)?;
    }
    push(b"XMP ", packet.as_bytes())?;
    let size = u32::try_from(body.len()).map_err(|_| {
        Container::WebP.damaged(0, format!("{} bytes are too long for WebP", body.len()))
    })?;
    Ok([b"RIFF", &size.to_le_bytes()[..], &body].concat())
}

/// The extended form's header for a picture in the simple form.
fn extended_header(picture: &Chunk<'_>) -> Result<[u8; 10], ProvenanceError> {
    let short = || Container::WebP.damaged(picture.offset, "the picture's header is cut off");
    let (width, height, alpha) = match picture.kind {
        // RFC 6386, 9.1: three bytes of frame tag, three of start code, then two sizes of 14 bits.
        b"VP8 " => {
            let side = |at| Some(little(picture.data, at, 2)? & 0x3FFF);
            let (Some(width), Some(height)) = (side(6), side(8)) else { return Err(short()) };
            (width, height, false)
        }
        // RFC 9649, 3.4: a signature byte, then two sizes of 14 bits, one less each, and whether there is alpha.
        b"VP8L" => {
            let bits = little(picture.data, 1, 4).ok_or_else(short)?;
            ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bits >> 28 & 1 == 1)
        }
        kind => {
            let reason = format!("the first chunk is {}, expected a picture", kind.escape_ascii());
            return Err(Container::WebP.damaged(picture.offset, reason));
        }
    };
    if width == 0 || height == 0 {
        return Err(Container::WebP.damaged(picture.offset, "a picture of no pixels"));
    }
    let mut header = [0; 10];
    header[0] = HAS_XMP | if alpha { HAS_ALPHA } else { 0 };
    header[4..7].copy_from_slice(&(width - 1).to_le_bytes()[..3]);
    header[7..].copy_from_slice(&(height - 1).to_le_bytes()[..3]);
    Ok(header)
}

pub(super) fn carries_manifest(file: &[u8]) -> Result<bool, ProvenanceError> {
    Ok(chunks(file)?.iter().any(|chunk| chunk.kind == b"C2PA"))
}
