//! The guidance that a model is painted with where a request names none, and how many embeddings its prior draws.

use std::path::Path;

use unclip_core::checkpoint::{ConfigReader, Folder, write_json_atomic};

use crate::error::{Result, invalid};

/// The largest scale that a request or a model may ask for; beyond it nothing but saturation remains.
pub(crate) const MAX_GUIDANCE: f64 = 1000.0;

/// Guidance of both stages that have one. A small model wants less than Karlo does, and says so in a file of its own in
/// the model directory, which diffusers does not read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Guidance {
    pub(crate) prior: f64,
    pub(crate) decoder: f64,
    /// Embeddings that the prior draws for each picture (paper §2.2 draws two).
    pub(crate) prior_candidates: usize,
}

/// The reference's, KARLO's pipeline in diffusers.
impl Default for Guidance {
    fn default() -> Self {
        Self { prior: 4.0, decoder: 8.0, prior_candidates: 1 }
    }
}

impl Guidance {
    const FILE: &str = "guidance.json";

    /// Reads a model directory's `guidance.json`, with the keys `prior`, `decoder` and `prior_candidates`; the
    /// reference's values where there is none.
    pub(crate) fn read(model: &Folder) -> Result<Self> {
        let default = Self::default();
        if !model.has(Self::FILE) {
            return Ok(default);
        }
        let mut reader = ConfigReader::open_in(model.clone(), Self::FILE)?;
        let prior = reader.or("prior", default.prior)?;
        let decoder = reader.or("decoder", default.decoder)?;
        let prior_candidates = reader.or("prior_candidates", default.prior_candidates)?;
        reader.finish();
        for (field, scale) in [("guidance.json: prior", prior), ("guidance.json: decoder", decoder)]
        {
            if !(0.0..=MAX_GUIDANCE).contains(&scale) {
                return Err(invalid(field, scale, format!("0 to {MAX_GUIDANCE}")));
            }
        }
        check_candidates("guidance.json: prior_candidates", prior_candidates)?;
        Ok(Self { prior, decoder, prior_candidates })
    }

    /// Writes the file, where it says more than its absence.
    pub(crate) fn write(self, dir: &Path) -> Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        let json = serde_json::json!({
            "prior": self.prior,
            "decoder": self.decoder,
            "prior_candidates": self.prior_candidates,
        });
        Ok(write_json_atomic(dir.join(Self::FILE), &json)?)
    }
}

/// Refuses a number of candidates that no one can want.
pub(crate) fn check_candidates(field: &'static str, candidates: usize) -> Result<()> {
    if !(1..=64).contains(&candidates) {
        return Err(invalid(field, candidates, "1 to 64"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_model_keeps_its_own_and_lacks_the_reference_s() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = || Guidance::read(&Folder::from(folder.path()));
        assert_eq!(open().expect("no file is no error"), Guidance::default());
        Guidance::default().write(folder.path()).expect("nothing to write");
        assert!(!folder.path().join(Guidance::FILE).exists());
        let own = Guidance { prior: 1.5, decoder: 2.0, prior_candidates: 2 };
        own.write(folder.path()).expect("is written");
        assert_eq!(open().expect("is read"), own);
    }

    #[test]
    fn a_scale_out_of_range_is_refused_by_name() {
        for (field, value) in [("decoder", -1), ("prior_candidates", 0)] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let json = format!(r#"{{"{field}": {value}}}"#);
            fs::write(folder.path().join(Guidance::FILE), json).expect("is written");
            let error = Guidance::read(&Folder::from(folder.path())).expect_err("out of range");
            assert!(error.to_string().contains(&format!("guidance.json: {field}")), "{error}");
        }
    }
}
