//! The unpacked packages, and what they say about themselves.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Licences that let a model of the pictures be shipped as part of a program; CC-BY asks for the author's name.
const LICENCES: [&str; 4] = ["MIT", "Apache-2.0", "CC-BY-4.0", "Unicode-3.0"];

/// A package, for the record.
#[derive(Debug, Serialize)]
pub(crate) struct Source {
    version: String,
    licence: String,
    author: Option<String>,
}

/// Packages by name.
#[derive(Debug)]
pub(crate) struct Packages {
    dirs: BTreeMap<String, PathBuf>,
    sources: BTreeMap<String, Source>,
}

impl Packages {
    /// Finds every package in the folders of `dir`.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let mut packages = Self { dirs: BTreeMap::new(), sources: BTreeMap::new() };
        let entries = fs::read_dir(dir)
            .with_context(|| format!("reading {}; tools/fetch_icons makes it", dir.display()))?;
        for entry in entries {
            let dir = entry?.path();
            if !dir.join("package.json").is_file() {
                continue;
            }
            let about: Value = read_json(&dir.join("package.json"))?;
            let text = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
            let (name, licence) = (text("name"), text("license"));
            if !LICENCES.contains(&licence.as_str()) {
                bail!("{name} has the licence {licence:?}, expected one of {LICENCES:?}");
            }
            let info: Option<Value> = dir
                .join("info.json")
                .is_file()
                .then(|| read_json(&dir.join("info.json")))
                .transpose()?;
            let author = info.as_ref().and_then(|info| {
                let author = &info["author"];
                Some(format!("{} <{}>", author["name"].as_str()?, author["url"].as_str()?))
            });
            let source = Source { version: text("version"), licence, author };
            packages.sources.insert(name.clone(), source);
            packages.dirs.insert(name, dir);
        }
        Ok(packages)
    }

    /// Reads a JSON file of a package.
    pub(crate) fn read<T: DeserializeOwned>(&self, package: &str, file: &str) -> anyhow::Result<T> {
        let dir = self.dirs.get(package).with_context(|| {
            format!("the package {package} is not there; tools/fetch_icons fetches it")
        })?;
        read_json(&dir.join(file))
    }

    /// Every package with its version, licence and author.
    pub(crate) fn sources(&self) -> &BTreeMap<String, Source> {
        &self.sources
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not the JSON expected", path.display()))
}
