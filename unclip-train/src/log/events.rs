//! TensorBoard's event files: records of the TFRecord format, each of which holds an `Event` protocol buffer.

use std::{
    fs::File,
    io::{BufWriter, Cursor, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use image::{ImageFormat, RgbImage};
use unclip_core::Error as CoreError;

use crate::Result;

/// `SessionLog.START`: events of this step and later ones that were written before are void.
const SESSION_START: u64 = 1;

/// A file of events, which TensorBoard finds in the folder of a run.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Events {
    /// Begins a file of its own in `dir`, after `step`; files of earlier starts stay. TensorBoard shows them as one, and
    /// leaves out what they say of later steps.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`].
    pub fn create(dir: impl AsRef<Path>, step: u64) -> Result<Self> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(CoreError::io("create", dir))?;
        let now = now();
        let process = std::process::id();
        // TensorBoard reads the files in the order of their names.
        let path = dir.join(format!("events.out.tfevents.{now:017.6}.unclip.{process}"));
        let file = File::create_new(&path).map_err(CoreError::io("create", &path))?;
        let mut events = Self { path, file: BufWriter::new(file) };
        let mut event = Message::default();
        event.double(1, now);
        event.bytes(3, b"brain.Event:2");
        events.record(&event.0)?;
        let mut start = Message::default();
        start.integer(1, SESSION_START);
        let mut event = Message::default();
        event.double(1, now);
        event.integer(2, step + 1);
        event.bytes(7, &start.0);
        events.record(&event.0)?;
        Ok(events)
    }

    /// Writes a number of a step.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`].
    #[expect(clippy::cast_possible_truncation, reason = "the format's numbers are 32 bits wide")]
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<()> {
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.float(2, value as f32);
        self.value(step, &summary)
    }

    /// Writes a picture of a step.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`], and [`unclip_core::Error::Picture`] when it cannot be encoded.
    pub fn picture(&mut self, step: u64, tag: &str, picture: &RgbImage) -> Result<()> {
        let mut png = Cursor::new(Vec::new());
        picture.write_to(&mut png, ImageFormat::Png).map_err(|source| CoreError::Picture {
            action: "encode",
            origin: tag.to_owned(),
            source,
        })?;
        let mut image = Message::default();
        image.integer(1, u64::from(picture.height()));
        image.integer(2, u64::from(picture.width()));
        image.integer(3, 3);
        image.bytes(4, png.get_ref());
        let mut summary = Message::default();
        summary.bytes(1, tag.as_bytes());
        summary.bytes(4, &image.0);
        self.value(step, &summary)
    }

    /// Hands everything written so far to the system.
    ///
    /// # Errors
    ///
    /// [`unclip_core::Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.file.flush().map_err(CoreError::io("write", &self.path))?)
    }

    fn value(&mut self, step: u64, value: &Message) -> Result<()> {
        let mut summary = Message::default();
        summary.bytes(1, &value.0);
        let mut event = Message::default();
        event.double(1, now());
        event.integer(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    /// A record: its length and its bytes, each followed by a checksum.
    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let length = (bytes.len() as u64).to_le_bytes();
        let parts = [&length[..], &masked(&length), bytes, &masked(bytes)].concat();
        Ok(self.file.write_all(&parts).map_err(CoreError::io("write", &self.path))?)
    }
}

/// TFRecord's checksum.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A protocol buffer in the making.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        loop {
            let low = u8::try_from(value & 0x7f).unwrap_or_default();
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_tfrecord_s() {
        // Of the eight bytes that say 24, in the first record of any file that TensorFlow writes.
        assert_eq!(masked(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_scalar_is_encoded_as_its_protocol_buffer() {
        let mut summary = Message::default();
        summary.bytes(1, b"loss");
        summary.float(2, 0.5);
        assert_eq!(summary.0, [0x0a, 4, b'l', b'o', b's', b's', 0x15, 0, 0, 0, 0x3f]);
        let mut step = Message::default();
        step.integer(2, 300);
        assert_eq!(step.0, [0x10, 0xac, 0x02]);
    }

    #[test]
    fn records_follow_each_other_whole() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut events = Events::create(dir.path(), 0).expect("is created");
        events.scalar(1, "loss", 0.5).expect("is written");
        events.picture(2, "sheet", &RgbImage::new(2, 3)).expect("is written");
        events.flush().expect("is written");
        let bytes = std::fs::read(&events.path).expect("is there");
        let mut rest = &bytes[..];
        let mut records = 0;
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes"));
            let length = usize::try_from(length).expect("small");
            assert_eq!(rest[8..12], masked(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data));
            rest = &rest[16 + length..];
            records += 1;
        }
        assert_eq!(records, 4, "the version, the start, a number, a picture");
    }

    #[test]
    fn a_later_start_has_a_later_file_and_says_after_which_step() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut paths = Vec::new();
        for step in [0, 300] {
            let mut events = Events::create(dir.path(), step).expect("is created");
            events.flush().expect("is written");
            let bytes = std::fs::read(&events.path).expect("is there");
            // The step after it, and a session's start.
            let mut expected = Message::default();
            expected.integer(2, step + 1);
            expected.bytes(7, &[0x08, 0x01]);
            assert!(bytes.windows(expected.0.len()).any(|window| window == expected.0));
            paths.push(events.path);
        }
        assert!(paths[0] < paths[1], "{paths:?}");
    }
}
