//! XMP in PNG: an `iTXt` chunk under Adobe's keyword.

use super::{Container, ProvenanceError};

/// The first bytes of every PNG.
pub(super) const START: &[u8] = b"\x89PNG\r\n\x1A\n";
/// What the text of an `iTXt` chunk with a packet starts with: the keyword, no compression, no language, no translation.
const KEYWORD: &[u8] = b"XML:com.adobe.xmp\0";
const PLAIN: &[u8] = b"\0\0\0\0";

/// A chunk's kind and its place in the file, length and checksum included.
struct Chunk<'a> {
    kind: &'a [u8],
    data: &'a [u8],
    whole: &'a [u8],
    offset: usize,
}

fn chunks(file: &[u8]) -> Result<Vec<Chunk<'_>>, ProvenanceError> {
    let mut chunks = Vec::new();
    let mut offset = START.len();
    while offset < file.len() {
        let rest = &file[offset..];
        let length = rest.first_chunk::<4>().map_or(usize::MAX, |length| {
            usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX)
        });
        let whole = length.checked_add(12).and_then(|size| rest.get(..size)).ok_or_else(|| {
            Container::Png.damaged(offset, format!("a chunk ends {} bytes later", rest.len()))
        })?;
        let kind = &whole[4..8];
        chunks.push(Chunk { kind, data: &whole[8..length + 8], whole, offset });
        offset += whole.len();
        if kind == b"IEND" {
            break;
        }
    }
    match (chunks.first(), chunks.last()) {
        (Some(first), Some(last)) if first.kind == b"IHDR" && last.kind == b"IEND" => Ok(chunks),
        _ => Err(Container::Png.damaged(offset, "expected chunks from IHDR to IEND")),
    }
}

fn is_packet(chunk: &Chunk<'_>) -> bool {
    chunk.kind == b"iTXt" && chunk.data.starts_with(KEYWORD)
}

pub(super) fn packet(file: &[u8]) -> Result<Option<&[u8]>, ProvenanceError> {
    let chunks = chunks(file)?;
    let mut packets = chunks.iter().filter(|chunk| is_packet(chunk));
    let Some(chunk) = packets.next() else { return Ok(None) };
    if let Some(second) = packets.next() {
        return Err(Container::Png.damaged(second.offset, "a second XMP packet"));
    }
    let crc = crc32fast::hash(&chunk.whole[4..chunk.whole.len() - 4]).to_be_bytes();
    if !chunk.whole.ends_with(&crc) {
        return Err(Container::Png.damaged(chunk.offset, "the XMP chunk's checksum is wrong"));
    }
    // The standard forbids compression here, and everybody writes the two empty texts.
    let text = chunk.data[KEYWORD.len()..].strip_prefix(PLAIN);
    text.map(Some).ok_or_else(|| {
        Container::Png.damaged(chunk.offset, "the XMP chunk is compressed or in a language")
    })
}

pub(super) fn with_packet(file: &[u8], packet: &str) -> Result<Vec<u8>, ProvenanceError> {
    let mut written = START.to_vec();
    for chunk in chunks(file)?.iter().filter(|chunk| !is_packet(chunk)) {
        written.extend(chunk.whole);
        if chunk.kind == b"IHDR" {
            let data = [b"iTXt", KEYWORD, PLAIN, packet.as_bytes()].concat();
            let length = u32::try_from(data.len() - 4).ok().filter(|&length| length < 1 << 31);
            let length = length.ok_or_else(|| ProvenanceError::Xmp {
                reason: format!("{} bytes are too long for PNG", packet.len()),
            })?;
            written.extend(length.to_be_bytes());
            written.extend(&data);
            written.extend(crc32fast::hash(&data).to_be_bytes());
        }
    }
    Ok(written)
}

pub(super) fn carries_manifest(file: &[u8]) -> Result<bool, ProvenanceError> {
    Ok(chunks(file)?.iter().any(|chunk| chunk.kind == b"caBX"))
}
