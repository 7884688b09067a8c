//! XMP in JPEG: an `APP1` segment under Adobe's namespace.

use super::{Container, ProvenanceError};

/// The first bytes of every JPEG file.
pub(super) const START: &[u8] = &[0xFF, 0xD8, 0xFF];
/// What a segment with a packet starts with.
const NAMESPACE: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

const APP0: u8 = 0xE0;
const APP1: u8 = 0xE1;
const APP11: u8 = 0xEB;
const START_OF_SCAN: u8 = 0xDA;

struct Segment<'a> {
    marker: u8,
    data: &'a [u8],
    whole: &'a [u8],
    offset: usize,
}

/// The segments up to the first scan, and everything from there on.
fn segments(file: &[u8]) -> Result<(Vec<Segment<'_>>, &[u8]), ProvenanceError> {
    let damaged = |offset, reason: &str| Container::Jpeg.damaged(offset, reason);
    let mut segments = Vec::new();
    let mut offset = 2;
    loop {
        let rest = &file[offset..];
        let [0xFF, marker, ..] = *rest else {
            return Err(damaged(offset, "expected a marker"));
        };
        match marker {
            START_OF_SCAN => return Ok((segments, rest)),
            // Fill bytes before a marker, and markers without a segment.
            0xFF => {
                offset += 1;
                continue;
            }
            0x01 | 0xD0..=0xD7 => {
                offset += 2;
                continue;
            }
            0x00 | 0xD8 | 0xD9 => return Err(damaged(offset, "a picture without a scan")),
            _ => {}
        }
        let length = rest.get(2..4).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        let whole = rest
            .get(..length + 2)
            .filter(|_| length >= 2)
            .ok_or_else(|| damaged(offset, "a segment is cut off or shorter than its length"))?;
        segments.push(Segment { marker, data: &whole[4..], whole, offset });
        offset += whole.len();
    }
}

fn is_packet(segment: &Segment<'_>) -> bool {
    segment.marker == APP1 && segment.data.starts_with(NAMESPACE)
}

pub(super) fn packet(file: &[u8]) -> Result<Option<&[u8]>, ProvenanceError> {
    let (segments, _) = segments(file)?;
    let mut packets = segments.iter().filter(|segment| is_packet(segment));
    let Some(segment) = packets.next() else { return Ok(None) };
    match packets.next() {
        Some(second) => Err(Container::Jpeg.damaged(second.offset, "a second XMP packet")),
        None => Ok(Some(&segment.data[NAMESPACE.len()..])),
    }
}

pub(super) fn with_packet(file: &[u8], packet: &str) -> Result<Vec<u8>, ProvenanceError> {
    let (segments, scans) = segments(file)?;
    let length = u16::try_from(2 + NAMESPACE.len() + packet.len()).map_err(|_| {
        let reason = format!("{} bytes are too long for one segment of JPEG", packet.len());
        ProvenanceError::Xmp { reason }
    })?;
    let mut written = file[..2].to_vec();
    // Readers of JFIF and EXIF expect theirs first.
    let first = |segment: &&Segment<'_>| {
        segment.marker == APP0 || segment.marker == APP1 && segment.data.starts_with(b"Exif\0")
    };
    let head = segments.iter().take_while(first).count();
    for segment in &segments[..head] {
        written.extend(segment.whole);
    }
    written.extend([0xFF, APP1]);
    written.extend(length.to_be_bytes());
    written.extend(NAMESPACE);
    written.extend(packet.as_bytes());
    for segment in segments[head..].iter().filter(|segment| !is_packet(segment)) {
        written.extend(segment.whole);
    }
    written.extend(scans);
    Ok(written)
}

pub(super) fn carries_manifest(file: &[u8]) -> Result<bool, ProvenanceError> {
    let (segments, _) = segments(file)?;
    // JUMBF superboxes in APP11: "JP", box instance and sequence, then length, `jumb`, length, `jumd`, `c2pa`.
    Ok(segments.iter().any(|segment| {
        segment.marker == APP11
            && segment.data.starts_with(b"JP")
            && segment.data.get(24..28) == Some(b"c2pa")
    }))
}
