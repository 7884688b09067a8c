//! The guidance that a model is painted with where a request names none.

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
}

/// The reference's, KARLO's pipeline in diffusers.
impl Default for Guidance {
    fn default() -> Self {
        Self { prior: 4.0, decoder: 8.0 }
    }
}

impl Guidance {
    const FILE: &str = "guidance.json";

    /// Reads a model directory's `guidance.json`, with the keys `prior` and `decoder`; the reference's values where
    /// there is none.
    pub(crate) fn read(model: &Folder) -> Result<Self> {
        let default = Self::default();
        if !model.has(Self::FILE) {
            return Ok(default);
        }
        let mut reader = ConfigReader::open_in(model.clone(), Self::FILE)?;
        let prior = reader.or("prior", default.prior)?;
        let decoder = reader.or("decoder", default.decoder)?;
        reader.finish();
        for (field, scale) in [("guidance.json: prior", prior), ("guidance.json: decoder", decoder)]
        {
            if !(0.0..=MAX_GUIDANCE).contains(&scale) {
                return Err(invalid(field, scale, format!("0 to {MAX_GUIDANCE}")));
            }
        }
        Ok(Self { prior, decoder })
    }

    /// Writes the file, where it says more than its absence.
    pub(crate) fn write(self, dir: &Path) -> Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        let json = serde_json::json!({"prior": self.prior, "decoder": self.decoder});
        Ok(write_json_atomic(dir.join(Self::FILE), &json)?)
    }
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
        let own = Guidance { prior: 1.5, decoder: 2.0 };
        own.write(folder.path()).expect("is written");
        assert_eq!(open().expect("is read"), own);
    }

    #[test]
    fn a_scale_out_of_range_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(Guidance::FILE), r#"{"decoder": -1}"#).expect("is written");
        let error = Guidance::read(&Folder::from(folder.path())).expect_err("negative");
        assert!(error.to_string().contains("guidance.json: decoder"), "{error}");
    }
}
