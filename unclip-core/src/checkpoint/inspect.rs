//! What a checkpoint holds, in a few numbers.

use std::{collections::BTreeMap, fmt};

use super::Weights;

/// The tensors of a checkpoint, counted. `Display` prints a line a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The tensors of each type, by the name of the type in the file.
    pub types: BTreeMap<String, TypeSummary>,
    /// The largest tensor's name and size in bytes.
    pub largest: Option<(String, u64)>,
}

/// The tensors of one type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TypeSummary {
    /// How many there are.
    pub tensors: usize,
    /// How many elements they have together.
    pub elements: u64,
    /// How many bytes they take.
    pub bytes: u64,
}

impl Weights {
    /// Counts the tensors, from the headers alone.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for (name, info) in self.tensors() {
            let entry = summary.types.entry(info.dtype.to_string()).or_default();
            entry.tensors += 1;
            entry.elements += info.elements();
            entry.bytes += info.bytes;
            if summary.largest.as_ref().is_none_or(|(_, bytes)| info.bytes > *bytes) {
                summary.largest = Some((name.to_owned(), info.bytes));
            }
        }
        summary
    }
}

impl Summary {
    /// All types together.
    pub fn total(&self) -> TypeSummary {
        self.types.values().fold(TypeSummary::default(), |sum, one| TypeSummary {
            tensors: sum.tensors + one.tensors,
            elements: sum.elements + one.elements,
            bytes: sum.bytes + one.bytes,
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (dtype, TypeSummary { tensors, elements, bytes }) in &self.types {
            writeln!(f, "{dtype}: {tensors} tensors, {elements} elements, {bytes} bytes")?;
        }
        if let Some((name, bytes)) = &self.largest {
            writeln!(f, "largest: {name}, {bytes} bytes")?;
        }
        Ok(())
    }
}
