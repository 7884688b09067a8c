//! The header of a safetensors file: what stands where, checked before anything is believed.

use std::{collections::BTreeMap, fmt};

use safetensors::tensor::{Dtype, TensorInfo as Entry};
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// The largest header that the format allows.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// The bytes of the length that the file begins with.
pub(super) const LENGTH: u64 = 8;

/// One tensor of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape, as PyTorch has it.
    pub shape: Vec<usize>,
    /// Its size in the file.
    pub bytes: u64,
    /// Which of the checkpoint's files holds it.
    pub(super) file: usize,
    /// Where in that file it begins.
    pub(super) offset: u64,
}

impl TensorInfo {
    /// The number of its elements.
    pub fn elements(&self) -> u64 {
        // The header was refused if this product did not fit.
        self.shape.iter().map(|&axis| axis as u64).product()
    }
}

/// A safetensors header, parsed and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The free strings under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// How many bytes the header has after the 8 that state its length, given those 8 and the length of the file.
    ///
    /// # Errors
    ///
    /// What is wrong, in words, when no header can be that long here.
    pub fn length(start: [u8; 8], file_length: u64) -> Result<u64, String> {
        let length = u64::from_le_bytes(start);
        if length > MAX_HEADER {
            return Err(format!(
                "its header claims {length} bytes, where the format allows {MAX_HEADER}"
            ));
        }
        if length > file_length.saturating_sub(LENGTH) {
            return Err(format!(
                "its header claims {length} bytes, and the file has {file_length} in all"
            ));
        }
        Ok(length)
    }

    /// Parses the JSON of a header whose file has `file_length` bytes.
    ///
    /// What comes out satisfies the format: every tensor has the bytes that its shape and type ask for, and together
    /// they cover the rest of the file without overlap or gap.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn parse(json: &[u8], file_length: u64) -> Result<Self, String> {
        let start = LENGTH + json.len() as u64;
        let mut parser = serde_json::Deserializer::from_slice(json);
        let raw = parser.deserialize_map(RawVisitor).and_then(|raw| {
            parser.end()?;
            Ok(raw)
        });
        let Raw { mut entries, metadata } =
            raw.map_err(|e| format!("its header is not the JSON expected: {e}"))?;

        entries.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut tensors = BTreeMap::new();
        let mut expected = 0usize;
        for (name, entry) in entries {
            let (begin, end) = entry.data_offsets;
            if begin != expected || end < begin {
                return Err(format!(
                    "`{name}` lies at {begin}..{end}, where the data before it ends at {expected}"
                ));
            }
            let bits = entry
                .shape
                .iter()
                .try_fold(1usize, |product, &axis| product.checked_mul(axis))
                .and_then(|elements| elements.checked_mul(entry.dtype.bitsize()));
            if bits.map(|bits| (bits / 8, bits % 8)) != Some((end - begin, 0)) {
                return Err(format!(
                    "`{name}` has {} bytes, which is not the size of {:?} in {}",
                    end - begin,
                    entry.shape,
                    entry.dtype
                ));
            }
            expected = end;
            let info = TensorInfo {
                dtype: entry.dtype,
                shape: entry.shape,
                bytes: (end - begin) as u64,
                file: 0,
                offset: start.saturating_add(begin as u64),
            };
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("`{name}` is there twice"));
            }
        }
        if start.checked_add(expected as u64) != Some(file_length) {
            return Err(format!(
                "its tensors take {expected} bytes after a header of {start}, and the file has \
                 {file_length}: it is cut short or has a tail"
            ));
        }
        Ok(Self { tensors, metadata })
    }
}

/// The header as written.
struct Raw {
    entries: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        let mut metadata = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "__metadata__" {
                entries.push((key, map.next_value()?));
            } else if metadata.replace(map.next_value()?).is_some() {
                return Err(de::Error::duplicate_field("__metadata__"));
            }
        }
        Ok(Raw { entries, metadata: metadata.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    use super::*;

    fn parse(json: &str, data: u64) -> Result<Header, String> {
        Header::parse(json.as_bytes(), 8 + json.len() as u64 + data)
    }

    #[test]
    fn a_header_states_type_shape_and_place() {
        let json = r#"{"b":{"dtype":"F16","shape":[3],"data_offsets":[16,22]},
            "a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}  "#;
        let header = parse(json, 22).expect("valid");
        let b = &header.tensors["b"];
        assert_eq!(
            (b.dtype, b.shape.as_slice(), b.bytes, b.elements()),
            (Dtype::F16, &[3][..], 6, 3)
        );
        assert_eq!(b.offset, 8 + json.len() as u64 + 16);
        assert_eq!(header.metadata["format"], "pt");
        assert!(parse("{}", 0).expect("no tensor is valid").tensors.is_empty());
    }

    #[test]
    fn every_lie_is_found() {
        let one = |dtype: &str, shape: &str, begin: &str, end: &str| {
            format!(
                r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#
            )
        };
        let cases = [
            (one("F32", "[2]", "0", "8"), 7, "cut short"),
            (one("F32", "[2]", "0", "8"), 9, "tail"),
            (one("F32", "[3]", "0", "8"), 8, "not the size"),
            (one("F32", "[2]", "4", "12"), 12, "lies at"),
            (one("F32", "[2]", "8", "0"), 8, "lies at"),
            (one("F32", "[4294967296,4294967296]", "0", "0"), 0, "not the size"),
            (one("F32", "[2305843009213693952]", "0", "0"), 0, "not the size"),
            (one("F4", "[3]", "0", "1"), 1, "not the size"),
            (one("F33", "[2]", "0", "8"), 8, "unknown variant"),
            (one("F32", "[-2]", "0", "8"), 8, "JSON"),
            (one("F32", "[2]", "0", "18446744073709551615"), 8, "not the size"),
            (one("F32", "[2]", "0", "18446744073709551616"), 8, "JSON"),
            ("[]".to_owned(), 0, "JSON"),
            ("{} {}".to_owned(), 0, "JSON"),
            (r#"{"__metadata__":{"a":1}}"#.to_owned(), 0, "JSON"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.to_owned(), 0, "duplicate"),
        ];
        for (json, data, expected) in cases {
            let reason = parse(&json, data).expect_err(&json);
            assert!(reason.contains(expected), "{json}: {reason}");
        }
        let twice = r#"{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},
            "a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
        assert!(parse(twice, 0).expect_err("a name twice").contains("twice"));
    }

    #[test]
    fn a_length_is_bounded_by_the_format_and_by_the_file() {
        assert_eq!(Header::length(2u64.to_le_bytes(), 10), Ok(2));
        Header::length(3u64.to_le_bytes(), 10).expect_err("longer than the file");
        Header::length(0u64.to_le_bytes(), 7).expect("an empty header is for the parser to refuse");
        Header::length(u64::MAX.to_le_bytes(), u64::MAX).expect_err("longer than allowed");
    }

    /// What both readers should make of the same bytes.
    fn ours(bytes: &[u8]) -> Result<Header, String> {
        let start = bytes.first_chunk().ok_or("no length")?;
        let length = Header::length(*start, bytes.len() as u64)?;
        let end = 8 + usize::try_from(length).expect("bounded by the bytes");
        Header::parse(&bytes[8..end], bytes.len() as u64)
    }

    fn sample() -> Vec<u8> {
        let json = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[24,26]}}"#;
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.extend_from_slice(&[7; 26]);
        bytes
    }

    #[test]
    fn no_truncation_is_accepted() {
        let bytes = sample();
        ours(&bytes).expect("whole");
        for length in 0..bytes.len() {
            ours(&bytes[..length]).expect_err("cut short");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn changed_bytes_are_judged_as_the_reference_judges_them(
            changes in prop::collection::vec((0usize..170, any::<u8>()), 1..4)
        ) {
            let mut bytes = sample();
            for (place, value) in changes {
                let place = place % bytes.len();
                bytes[place] = value;
            }
            let reference = SafeTensors::read_metadata(&bytes);
            match (ours(&bytes), reference) {
                (Ok(header), Ok((_, reference))) => {
                    prop_assert_eq!(header.tensors.len(), reference.tensors().len());
                    for (name, info) in reference.tensors() {
                        prop_assert_eq!(&header.tensors[&name].shape, &info.shape);
                        prop_assert_eq!(header.tensors[&name].dtype, info.dtype);
                    }
                }
                (Err(_), Err(_)) => {}
                // The reference keeps the last of several tensors of one name.
                (Err(reason), Ok(_)) => {
                    prop_assert!(reason.contains("twice") || reason.contains("duplicate"), "{}", reason);
                }
                (Ok(_), Err(reason)) => prop_assert!(false, "only the reference refuses: {reason}"),
            }
        }
    }
}
