//! A folder of pictures with captions beside them.
//!
//! Either `metadata.jsonl` lists them, one JSON object a line with `file_name` (Hugging Face's image folders), or every
//! `name.png` has a `name.txt` with one caption a line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use unclip_core::Error as CoreError;

use super::{
    Content, Fault, FolderConfig, Sample, Skipped, metadata::Metadata, picture, stream::Records,
};
use crate::{Error, Result};

/// Endings of pictures that are read.
pub(super) const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// The list of a folder.
const LIST: &str = "metadata.jsonl";

/// The pictures of one folder, listed when it is opened.
#[derive(Debug)]
pub(super) struct Folder {
    config: FolderConfig,
    entries: Vec<Entry>,
    skipped: Skipped,
}

/// A picture, with its caption file or its line of the list.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The picture's path below the folder.
    name: String,
    about: About,
}

#[derive(Debug, Clone)]
enum About {
    File(Option<PathBuf>),
    Line(Metadata),
}

/// A line of the list.
#[derive(Debug, Deserialize)]
struct Line {
    file_name: String,
    #[serde(flatten)]
    metadata: Metadata,
}

impl Folder {
    pub(super) fn open(config: FolderConfig) -> Result<Self> {
        let mut folder = Self { config, entries: Vec::new(), skipped: Skipped::default() };
        let list = folder.config.path.join(LIST);
        let found = if list.is_file() {
            folder.read_list(&list)?;
            format!("a list of {} without one usable line", folder.skipped.count())
        } else {
            let mut files = BTreeSet::new();
            walk(&folder.config.path, "", &mut Vec::new(), &mut files)?;
            folder.pair(&files);
            match folder.skipped.count() {
                0 => format!("{} files", files.len()),
                captions => format!("{captions} captions without pictures"),
            }
        };
        if folder.entries.is_empty() {
            return Err(Error::NoSamples {
                path: folder.config.path,
                found,
                expected: "pictures (PNG, JPEG or WebP) with captions in `.txt` files of the same name or in \
                           `metadata.jsonl`",
            });
        }
        Ok(folder)
    }

    fn read_list(&mut self, list: &Path) -> Result<()> {
        let text = fs::read(list).map_err(CoreError::io("read", list))?;
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice(line) {
                Ok(Line { file_name: name, metadata }) => {
                    self.entries.push(Entry { name, about: About::Line(metadata) });
                }
                Err(error) => {
                    let name = format!("{LIST}, line {}", number + 1);
                    self.skipped.add(name, Fault::Caption(error.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Joins pictures with the caption files of the same name.
    fn pair(&mut self, files: &BTreeSet<String>) {
        let mut captions: BTreeMap<&str, &str> = BTreeMap::new();
        for file in files {
            if let Some((stem, ending)) = split(file)
                && ending.eq_ignore_ascii_case("txt")
            {
                captions.insert(stem, file);
            }
        }
        let mut used = BTreeSet::new();
        for file in files {
            let Some((stem, ending)) = split(file) else { continue };
            if PICTURES.iter().any(|known| ending.eq_ignore_ascii_case(known)) {
                used.insert(stem);
                let caption = captions.get(stem).map(|name| self.config.path.join(name));
                self.entries.push(Entry { name: file.clone(), about: About::File(caption) });
            }
        }
        for (stem, file) in captions {
            if !used.contains(stem) {
                self.skipped.add(file.to_owned(), Fault::NoPicture);
            }
        }
    }
}

/// A file name before and after its last full stop.
fn split(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty() && !stem.ends_with('/'))
}

/// Collects the files below `folder` by their path from it. Names that are no Unicode are left out of what can be named.
///
/// Links are followed, as data sets are often made of them, but not to a folder that they lie in: `trail` holds those. A
/// link to nothing counts as a file, which is skipped with its name when its turn comes.
fn walk(
    folder: &Path,
    prefix: &str,
    trail: &mut Vec<PathBuf>,
    files: &mut BTreeSet<String>,
) -> Result<()> {
    let failed = || CoreError::io("read", folder);
    trail.push(fs::canonicalize(folder).map_err(failed())?);
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = format!("{prefix}{}", name.to_string_lossy());
        if !path.is_dir() {
            files.insert(name);
        } else if fs::canonicalize(&path).is_ok_and(|real| !trail.contains(&real)) {
            walk(&path, &format!("{name}/"), trail, files)?;
        }
    }
    trail.pop();
    Ok(())
}

impl Records for Folder {
    type Entry = Entry;

    fn parts(&self) -> Vec<String> {
        vec![self.entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>().join("\n")]
    }

    fn list(&mut self, _: usize, skipped: &mut Skipped) -> Result<Vec<Entry>> {
        for (name, fault) in self.skipped.iter() {
            skipped.add(name.to_owned(), fault.clone());
        }
        Ok(self.entries.clone())
    }

    fn name(&self, entry: &Entry) -> String {
        entry.name.clone()
    }

    fn read(&mut self, entry: &Entry) -> Result<Sample, Fault> {
        let (metadata, lines) = match &entry.about {
            About::Line(metadata) => (metadata.clone(), None),
            About::File(None) => (Metadata::default(), None),
            About::File(Some(path)) => {
                let lines = fs::read(path).map_err(|error| Fault::Caption(error.to_string()))?;
                (Metadata::default(), Some(lines))
            }
        };
        let captions = metadata.captions(lines.as_deref(), self.config.captions_required)?;
        let path = self.config.path.join(&entry.name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Fault::NoPicture);
            }
            Err(error) => return Err(Fault::Picture(error.to_string())),
        };
        let key = split(&entry.name).map_or(entry.name.as_str(), |(stem, _)| stem).to_owned();
        Ok(Sample {
            key,
            content: Content::Picture(picture::read(&bytes, self.config.side)?),
            captions,
            concept: metadata.concept,
            family: metadata.family,
            style: metadata.style,
        })
    }
}
