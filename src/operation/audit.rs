//! What became of a request, for the record.

use serde::Serialize;
use unclip_safety::{AuditEntry, Outcome, Verdict};

use crate::{
    Pipeline, Supplied,
    error::{Error, Result},
};

impl Pipeline {
    /// Records what became of a request, where the pipeline keeps a record, and gives the result back. Nothing leaves
    /// unrecorded: when the record cannot be written, that error takes the result's place.
    pub(super) fn audited<T>(
        &self,
        operation: &str,
        request: &impl Serialize,
        supplied: &Supplied,
        result: Result<T>,
        verdicts: impl FnOnce(&T) -> Vec<Verdict>,
    ) -> Result<T> {
        let Some(audit) = &self.inner.audit else { return result };
        let mut entry = AuditEntry::now(operation, as_json(request, supplied)?, Outcome::Done);
        entry.user.clone_from(&self.inner.user);
        (entry.outcome, entry.verdicts) = match &result {
            Ok(done) => (Outcome::Done, verdicts(done)),
            Err(Error::Refused(verdict)) => (Outcome::Refused, vec![(**verdict).clone()]),
            Err(error) if error.is_cancelled() => (Outcome::Cancelled, Vec::new()),
            Err(_) => (Outcome::Failed, Vec::new()),
        };
        audit.record(&entry).map_err(|error| Error::Record(error.into()))?;
        result
    }
}

/// The request without supplied tensors, which would be most of it and say nothing to a reader.
fn as_json(request: &impl Serialize, supplied: &Supplied) -> Result<serde_json::Value> {
    let mut json = serde_json::to_value(request).map_err(|error| Error::Record(error.into()))?;
    if !supplied.is_empty() {
        let painting = match json.get_mut("painting") {
            Some(painting) => painting,
            None => &mut json,
        };
        painting["supplied"] = "tensors, not recorded".into();
    }
    Ok(json)
}
