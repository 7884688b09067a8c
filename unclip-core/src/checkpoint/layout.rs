//! The directory: an index, and a folder for each component.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{atomic::write_json_atomic, config::ConfigReader, folder::Folder, is_plain_name};
use crate::{Error, Result};

/// The file that makes a folder a model directory.
const INDEX: &str = "model_index.json";

/// What the index says about one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The Python library that defines the class: `diffusers`, `transformers`, or a module of a pipeline.
    pub library: String,
    /// The class.
    pub class: String,
}

/// The contents of `model_index.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelIndex {
    /// The pipeline's class, such as `UnCLIPPipeline`.
    pub class_name: String,
    /// The version of diffusers that wrote the directory.
    pub diffusers_version: Option<String>,
    /// The components by name.
    pub parts: BTreeMap<String, Part>,
    /// Entries that are not components: options of the pipeline.
    pub options: Map<String, Value>,
}

impl ModelIndex {
    /// An index without components.
    pub fn new(class_name: impl Into<String>) -> Self {
        Self {
            class_name: class_name.into(),
            diffusers_version: None,
            parts: BTreeMap::new(),
            options: Map::new(),
        }
    }

    /// Adds a component.
    #[must_use]
    pub fn part(mut self, name: &str, library: &str, class: &str) -> Self {
        self.parts
            .insert(name.to_owned(), Part { library: library.to_owned(), class: class.to_owned() });
        self
    }

    /// Reads the index at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Json`] when it cannot be read as JSON; [`Error::Config`] when it has no class, or a
    /// component whose name would lead out of the directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(ConfigReader::open(path)?)
    }

    /// Reads the index in `text`; errors call it `path`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), except for [`Error::Io`].
    pub fn from_bytes(path: impl Into<PathBuf>, text: &[u8]) -> Result<Self> {
        Self::read(ConfigReader::from_bytes(path, text)?)
    }

    fn read(mut config: ConfigReader) -> Result<Self> {
        let mut index = Self::new(config.required::<String>("_class_name")?);
        index.diffusers_version = config.optional("_diffusers_version")?;
        let keys: Vec<String> =
            config.keys().filter(|key| !key.starts_with('_')).map(str::to_owned).collect();
        for key in keys {
            let value: Value = config.required(&key)?;
            let pair = match &value {
                Value::Array(pair) => pair.as_slice(),
                _ => &[],
            };
            match pair {
                // An optional component that this model does without.
                [Value::Null, Value::Null] => {}
                [Value::String(library), Value::String(class)] => {
                    if !is_plain_name(&key) {
                        let expected = "an entry named like a folder in the model directory";
                        return Err(config.error(&key, expected));
                    }
                    index = index.part(&key, library, class);
                }
                [Value::Null | Value::String(_), Value::Null | Value::String(_)] => {
                    return Err(config.error(&key, "a library and a class, or null twice"));
                }
                _ => {
                    index.options.insert(key, value);
                }
            }
        }
        config.finish();
        Ok(index)
    }

    /// Writes the index into `dir`, as diffusers would.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let mut entries = Map::new();
        entries.insert("_class_name".to_owned(), json!(self.class_name));
        if let Some(version) = &self.diffusers_version {
            entries.insert("_diffusers_version".to_owned(), json!(version));
        }
        entries.extend(self.options.clone());
        for (name, part) in &self.parts {
            entries.insert(name.clone(), json!([part.library, part.class]));
        }
        write_json_atomic(dir.as_ref().join(INDEX), &Value::Object(entries))
    }
}

/// A model directory, opened.
#[derive(Debug, Clone)]
pub struct ModelDir {
    folder: Folder,
    index: ModelIndex,
}

impl ModelDir {
    /// Opens the directory and reads its index; the components are not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::MissingPart`] when there is no `model_index.json`, and what [`ModelIndex::open`] says.
    pub fn open(folder: impl Into<Folder>) -> Result<Self> {
        let folder = folder.into();
        if !folder.has(INDEX) {
            return Err(Error::MissingPart {
                dir: folder.path().to_owned(),
                part: INDEX.to_owned(),
                expected: "a folder in the layout of diffusers, with an index and a folder for \
                           each component"
                    .to_owned(),
            });
        }
        let index = ModelIndex::read(ConfigReader::open_in(&folder, INDEX)?)?;
        Ok(Self { folder, index })
    }

    /// A directory whose index stands elsewhere: two pipelines may share the folders of one.
    pub fn with_index(folder: impl Into<Folder>, index: ModelIndex) -> Self {
        Self { folder: folder.into(), index }
    }

    /// The folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The index.
    pub fn index(&self) -> &ModelIndex {
        &self.index
    }

    /// The components: name, library and class.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &Part)> {
        self.index.parts.iter().map(|(name, part)| (name.as_str(), part))
    }

    /// Whether the index names this component.
    pub fn has(&self, part: &str) -> bool {
        self.index.parts.contains_key(part)
    }

    /// The class of a component.
    pub fn class(&self, part: &str) -> Option<&str> {
        self.index.parts.get(part).map(|part| part.class.as_str())
    }

    /// The folder of a component.
    ///
    /// # Errors
    ///
    /// [`Error::MissingPart`] when the index does not name it, or its folder is not there.
    pub fn dir(&self, part: &str) -> Result<Folder> {
        let missing = |expected| Error::MissingPart {
            dir: self.folder.path().to_owned(),
            part: part.to_owned(),
            expected,
        };
        // A name in the index is a plain one; asking for any other finds nothing.
        if !self.has(part) || !is_plain_name(part) {
            return Err(missing(format!("an entry `{part}` in {INDEX}")));
        }
        let dir = self.folder.join(part);
        if !dir.exists() {
            return Err(missing(format!("the folder {}", dir.path().display())));
        }
        Ok(dir)
    }
}

#[cfg(test)]
mod tests {
    use unclip_testkit::fixture_sets;

    use super::*;

    fn index(value: &Value) -> Result<ModelIndex> {
        ModelIndex::from_bytes("model_index.json", value.to_string().as_bytes())
    }

    #[test]
    fn the_recorded_directories_list_their_components() {
        for set in fixture_sets() {
            let dir = ModelDir::open(set.model_dir()).expect("a model directory");
            assert_eq!(dir.index().class_name, "UnCLIPPipeline");
            assert_eq!(dir.class("prior"), Some("PriorTransformer"));
            assert!(dir.dir("decoder").expect("is there").has("config.json"));
            let error = dir.dir("image_encoder").expect_err("not in this index").to_string();
            assert!(error.contains("an entry `image_encoder` in model_index.json"), "{error}");

            let other = ModelIndex::open(set.model_dir().join("model_index.image_variation.json"));
            let other = other.expect("the other index");
            let dir = ModelDir::with_index(set.model_dir(), other);
            dir.dir("image_encoder").expect("in this one it is");
        }
    }

    #[test]
    fn null_components_are_absent_and_other_entries_are_options() {
        let index = index(&json!({
            "_class_name": "P",
            "safety_checker": [null, null],
            "prior": ["diffusers", "PriorTransformer"],
            "requires_safety_checker": true,
            "steps": [1, 2],
        }))
        .expect("an index");
        assert_eq!(index.parts.keys().collect::<Vec<_>>(), ["prior"]);
        assert_eq!(index.options.len(), 2);
        assert_eq!(index.diffusers_version, None);
    }

    #[test]
    fn no_component_leads_out_of_the_directory() {
        for name in ["..", ".", "", "a/b", "/etc", "..\\x", "C:", "a\0b"] {
            let result = index(&json!({"_class_name": "P", name: ["l", "c"]}));
            let error = result.expect_err("the name is refused");
            assert!(matches!(error, Error::Config { .. }), "{name:?}: {error}");
        }
        index(&json!({"_class_name": "P", "x": ["l", null]})).expect_err("half a component");
        index(&json!({"x": ["l", "c"]})).expect_err("no class");
    }

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut written = ModelIndex::new("UnCLIPPipeline")
            .part("prior", "diffusers", "PriorTransformer")
            .part("decoder", "diffusers", "UNet2DConditionModel");
        written.diffusers_version = Some("0.42.1".to_owned());
        written.options.insert("option".to_owned(), json!(1));
        written.save(dir.path()).expect("is written");
        let model = ModelDir::open(dir.path()).expect("reads back");
        assert_eq!(model.index(), &written);
        let error = model.dir("prior").expect_err("no such folder").to_string();
        assert!(error.contains("lacks prior: expected the folder"), "{error}");
    }

    #[test]
    fn a_folder_without_an_index_is_not_a_model() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let error = ModelDir::open(dir.path()).expect_err("empty");
        assert!(matches!(error, Error::MissingPart { .. }), "{error}");
    }
}
