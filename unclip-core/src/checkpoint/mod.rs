//! Model directories as diffusers writes them: configurations, weights, and what loads and saves both.
//!
//! A model directory holds `model_index.json`, which names the components, and a folder for each with `config.json`
//! and safetensors weights. From the outside in:
//!
//! | type | reads |
//! |---|---|
//! | [`ModelDir`] | the index: which components there are, and where |
//! | [`Folder`] | files, on disk or in the program |
//! | [`ConfigReader`] | one JSON configuration, so that every key is honoured, refused or reported |
//! | [`Weights`] | the tensors of one component, in one file or in shards |
//! | [`load`] | those tensors into a Burn module, strictly |
//!
//! [`save`] and [`ModelIndex::save`] write the same layout back; a file appears under its name only when it is
//! complete. With the feature `hub`, `hub::fetch` brings such a directory from a model hub.

mod atomic;
mod config;
mod convert;
mod folder;
mod header;
#[cfg(feature = "hub")]
pub mod hub;
mod inspect;
mod layout;
mod load;
mod save;
mod weights;

pub use atomic::{write_atomic, write_json_atomic};
pub use config::ConfigReader;
pub use folder::Folder;
pub use inspect::{Summary, TypeSummary};
pub use layout::{ModelDir, ModelIndex, Part};
pub use load::{LoadOptions, WeightPrecision, checkpoint_name, load, shapes};
pub use save::{SaveOptions, save};
pub use weights::{DIFFUSERS_STEM, Dtype, Header, TRANSFORMERS_STEM, TensorInfo, Weights};

/// Whether `name` stays inside the folder it is joined to.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && !name.contains(['/', '\\', ':', '\0'])
        && name.len() <= 255
}
