//! A record of what was asked for and what became of it.

use std::{
    fmt::{self, Debug},
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    Verdict,
    error::{Error, Result},
};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With pictures, which the verdicts may have had blurred or withheld.
    Done,
    /// Refused by the safety filter.
    Refused,
    /// By its caller.
    Cancelled,
    /// With an error.
    Failed,
}

/// One request, as a line of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// When it ended, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// Who asked, as the caller's program names its users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The operation: `generate`, `variations`, …
    pub operation: String,
    /// The request.
    pub request: serde_json::Value,
    /// How it ended.
    pub outcome: Outcome,
    /// What the safety filter said: of each picture, or of what was refused.
    pub verdicts: Vec<Verdict>,
}

impl AuditEntry {
    /// An entry of this moment, without verdicts.
    pub fn now(operation: &str, request: serde_json::Value, outcome: Outcome) -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            time_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            user: None,
            operation: operation.into(),
            request,
            outcome,
            verdicts: Vec::new(),
        }
    }
}

/// Where entries go.
pub trait AuditSink: Debug + Send + Sync {
    /// Keeps one entry.
    ///
    /// # Errors
    ///
    /// When it could not be kept.
    fn record(&self, entry: &AuditEntry) -> Result<()>;
}

/// Entries as lines of JSON, each written whole and flushed.
pub struct JsonLines {
    name: String,
    out: Mutex<Box<dyn Write + Send>>,
}

impl JsonLines {
    /// Appends to the file at `path`, which is created where it is missing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be opened.
    pub fn append(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|source| Error::Io { action: "open", path: path.to_owned(), source })?;
        Ok(Self { name: path.display().to_string(), out: Mutex::new(Box::new(file)) })
    }

    /// Writes to `out`, which `name` names in errors.
    pub fn to(out: impl Write + Send + 'static, name: impl Into<String>) -> Self {
        Self { name: name.into(), out: Mutex::new(Box::new(out)) }
    }
}

impl Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines").field("name", &self.name).finish_non_exhaustive()
    }
}

impl AuditSink for JsonLines {
    fn record(&self, entry: &AuditEntry) -> Result<()> {
        let fail = |source: io::Error| Error::Io {
            action: "write",
            path: self.name.clone().into(),
            source,
        };
        let mut line = serde_json::to_vec(entry).map_err(|error| fail(error.into()))?;
        line.push(b'\n');
        // A writer that panicked before leaves at worst a line that does not end; the next entry must still be kept.
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(&line).and_then(|()| out.flush()).map_err(fail)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Action, Category, Finding, Signal};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn entry() -> AuditEntry {
        let request = serde_json::json!({ "captions": ["a\nline\u{2028}break"] });
        let signal = Signal::new(Category::Violence, 0.9, "words");
        let verdict = Verdict::of(Finding::new(signal, Action::Refuse, 0.5));
        AuditEntry {
            user: Some("u-17".into()),
            verdicts: vec![verdict],
            ..AuditEntry::now("generate", request, Outcome::Refused)
        }
    }

    #[test]
    fn each_entry_is_one_line_that_reads_back() {
        let out = Shared::default();
        let sink = JsonLines::to(out.clone(), "memory");
        sink.record(&entry()).expect("memory");
        sink.record(&entry()).expect("memory");
        let text = String::from_utf8(out.0.lock().expect("no panics").clone()).expect("JSON");
        let entries: Vec<AuditEntry> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line is an entry"))
            .collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].verdicts, entry().verdicts);
        assert!(entries[0].time_ms > 1_600_000_000_000, "{}", entries[0].time_ms);
    }

    #[test]
    fn a_full_disk_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = JsonLines::to(Full, "audit.jsonl").record(&entry()).expect_err("no space");
        assert_eq!(error.to_string(), "cannot write audit.jsonl");
    }
}
