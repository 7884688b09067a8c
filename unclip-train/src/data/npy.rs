//! NumPy arrays of embeddings: `[rows, width]`, 16 or 32 bits.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use half::f16;
use ndarray::ArrayView2;
use unclip_core::{Error as CoreError, checkpoint::write_atomic};

use crate::{Error, Result};

/// How a file begins.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Widths beyond this are taken for a damaged file.
const MAX_WIDTH: u64 = 1 << 20;

/// A file of embeddings, read row by row.
#[derive(Debug)]
pub(super) struct NpyFile {
    path: PathBuf,
    file: File,
    start: u64,
    rows: usize,
    width: usize,
    kind: Kind,
}

/// The numbers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Half,
    Single,
}

impl NpyFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::Npy { path: path.to_owned(), reason };
        let file = File::open(path).map_err(CoreError::io("read", path))?;
        let length = file.metadata().map_err(CoreError::io("read", path))?.len();
        let mut reader = BufReader::new(file);
        let header = Header::read(&mut reader).map_err(failed)?;
        let start = reader.stream_position().map_err(CoreError::io("read", path))?;
        let kind = match header.descr.as_str() {
            "<f2" => Kind::Half,
            "<f4" => Kind::Single,
            other => return Err(failed(format!("its type is {other}, expected <f2 or <f4"))),
        };
        let [rows, width] = header.shape[..] else {
            let reason = format!("its shape is {:?}, expected [rows, width]", header.shape);
            return Err(failed(reason));
        };
        // A single row or column lies the same in either order.
        if header.fortran_order && rows > 1 && width > 1 {
            return Err(failed("its columns are contiguous, expected its rows".into()));
        }
        if width == 0 || width > MAX_WIDTH {
            return Err(failed(format!(
                "its rows hold {width} numbers, expected 1 to {MAX_WIDTH}"
            )));
        }
        let expected = rows.checked_mul(width * kind.bytes() as u64);
        if expected.and_then(|bytes| bytes.checked_add(start)) != Some(length) {
            let reason = format!("it has {length} bytes, expected {rows} rows of {width} numbers");
            return Err(failed(reason));
        }
        let size = |n: u64| usize::try_from(n).map_err(|_| failed(format!("it has {n} rows")));
        Ok(Self {
            path: path.to_owned(),
            file: reader.into_inner(),
            start,
            rows: size(rows)?,
            width: size(width)?,
            kind,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The numbers of a row.
    pub(super) fn row(&mut self, row: usize) -> std::io::Result<Vec<f32>> {
        let length = self.width * self.kind.bytes();
        self.file.seek(SeekFrom::Start(self.start + row as u64 * length as u64))?;
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes)?;
        Ok(match self.kind {
            Kind::Half => {
                let pairs = bytes.as_chunks::<2>().0;
                pairs.iter().map(|pair| f16::from_le_bytes(*pair).to_f32()).collect()
            }
            Kind::Single => {
                bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
            }
        })
    }
}

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Single => 4,
        }
    }
}

/// What precedes the numbers of a `.npy` file (NumPy Enhancement Proposal 1).
#[derive(Debug, PartialEq, Eq)]
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// The longest header that is read; NumPy's own limit.
const MAX_HEADER: u32 = 10_000;

impl Header {
    fn read(reader: &mut impl Read) -> Result<Self, String> {
        let mut bytes = |count: usize| {
            let mut bytes = vec![0; count];
            reader.read_exact(&mut bytes).map_err(|error| format!("its header: {error}"))?;
            Ok::<_, String>(bytes)
        };
        let start = bytes(8)?;
        if !start.starts_with(MAGIC) {
            return Err("it does not begin as a `.npy` file".into());
        }
        let length = match start[6] {
            1 => bytes(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))?,
            2 | 3 => bytes(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))?,
            other => return Err(format!("its format version is {other}, expected 1 to 3")),
        };
        if length > MAX_HEADER {
            return Err(format!("its header has {length} bytes, expected at most {MAX_HEADER}"));
        }
        let text = String::from_utf8(bytes(length as usize)?).map_err(|e| e.to_string())?;
        Self::parse(&text).ok_or_else(|| format!("its header is {:?}", text.trim()))
    }

    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }`, the form that NumPy prescribes.
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}'"))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let descr = value("descr")?.strip_prefix('\'')?.split_once('\'')?.0.to_owned();
        let order = value("fortran_order")?;
        let fortran_order = order.starts_with("True");
        if !fortran_order && !order.starts_with("False") {
            return None;
        }
        let (shape, _) = value("shape")?.strip_prefix('(')?.split_once(')')?;
        let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?;
        Some(Self { descr, fortran_order, shape })
    }

    /// The header as NumPy writes it for arrays of two axes: padded so that the numbers begin at a multiple of 64.
    fn write(&self) -> Vec<u8> {
        let sizes: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        let order = if self.fortran_order { "True" } else { "False" };
        let (descr, shape) = (&self.descr, sizes.join(", "));
        let mut text =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}");
        let before = MAGIC.len() + 2 + 2;
        let padded = (before + text.len() + 1).next_multiple_of(64) - before;
        text.extend(std::iter::repeat_n(' ', padded - 1 - text.len()));
        text.push('\n');
        let length = u16::try_from(text.len()).expect("a type and two sizes are short");
        [MAGIC, &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat()
    }
}

/// Writes embeddings as a `.npy` file of 32-bit numbers, whole or not at all.
///
/// # Shapes
///
/// - `rows`: `[rows, width]`
///
/// # Errors
///
/// [`unclip_core::Error::Io`] when the file cannot be written.
pub fn write_npy(path: impl AsRef<Path>, rows: ArrayView2<'_, f32>) -> Result<()> {
    let path = path.as_ref();
    let header = Header {
        descr: "<f4".into(),
        fortran_order: false,
        shape: vec![rows.nrows() as u64, rows.ncols() as u64],
    };
    let mut bytes = header.write();
    bytes.extend(rows.iter().flat_map(|value| value.to_le_bytes()));
    Ok(write_atomic(path, &bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_numpy_writes() {
        let header = Header { descr: "<f4".into(), fortran_order: false, shape: vec![3, 2] };
        let bytes = header.write();
        // numpy.save(file, numpy.zeros((3, 2), "<f4")), up to the numbers, with NumPy 2.
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }";
        let expected = [b"\x93NUMPY\x01\x00v\x00", format!("{text:<117}\n").as_bytes()].concat();
        assert_eq!(bytes, expected);
        assert_eq!(Header::read(&mut &bytes[..]), Ok(header));
    }

    #[test]
    fn damaged_headers_say_what_is_wrong() {
        for (bytes, part) in [
            (&b"\x93NUMPY"[..], "its header"),
            (b"PK\x03\x04....", "does not begin"),
            (b"\x93NUMPY\x09\x00", "version is 9"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "at most 10000"),
            (b"\x93NUMPY\x01\x00\x07\x00{'a':1}", "its header is"),
        ] {
            let reason = Header::read(&mut &bytes[..]).expect_err("damaged");
            assert!(reason.contains(part), "{reason}");
        }
    }
}
