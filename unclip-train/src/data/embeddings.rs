//! Embeddings that were computed before, with a caption for every row.

use std::{fs, path::Path};

use unclip_core::Error as CoreError;

use super::{
    Content, EmbeddingsConfig, Fault, Sample, Skipped, metadata::Metadata, npy::NpyFile,
    stream::Records,
};
use crate::{Error, Result};

/// Files of embeddings side by side with captions.
#[derive(Debug)]
pub(super) struct Embeddings {
    parts: Vec<Part>,
}

/// Files that describe the same rows.
#[derive(Debug)]
struct Part {
    name: String,
    image: NpyFile,
    text: Option<NpyFile>,
    about: Vec<Result<Metadata, Fault>>,
}

/// A row of a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    part: usize,
    row: usize,
}

impl Embeddings {
    pub(super) fn open(config: &EmbeddingsConfig) -> Result<Self> {
        let files = config.image.len();
        for (field, found) in [("captions", config.captions.len()), ("text", config.text.len())] {
            if found != files && !(field == "text" && found == 0) {
                let expected = format!("{files}, one for each of `image`");
                return Err(
                    CoreError::invalid(field, format_args!("{found} files"), expected).into()
                );
            }
        }
        let mut parts: Vec<Part> = Vec::new();
        for (index, (image, captions)) in config.image.iter().zip(&config.captions).enumerate() {
            let image = NpyFile::open(image)?;
            let text = config.text.get(index).map(|path| NpyFile::open(path)).transpose()?;
            let about = read_captions(captions)?;
            let text_rows = text.as_ref().map(|text| (text.path(), text.rows()));
            for (path, found) in
                [Some((captions.as_path(), about.len())), text_rows].into_iter().flatten()
            {
                if found != image.rows() {
                    let (other, expected) = (image.path().to_owned(), image.rows());
                    return Err(Error::RowsDisagree {
                        path: path.to_owned(),
                        found,
                        other,
                        expected,
                    });
                }
            }
            if let Some(first) = parts.first() {
                let same = |a: &NpyFile, b: &NpyFile| match a.width() == b.width() {
                    true => Ok(()),
                    false => Err(Error::Npy {
                        path: a.path().to_owned(),
                        reason: format!(
                            "its rows hold {} numbers where those of {} hold {}",
                            a.width(),
                            b.path().display(),
                            b.width()
                        ),
                    }),
                };
                same(&image, &first.image)?;
                if let (Some(text), Some(first)) = (&text, &first.text) {
                    same(text, first)?;
                }
            }
            let name = image.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            parts.push(Part { name, image, text, about });
        }
        if parts.iter().all(|part| part.image.rows() == 0) {
            return Err(Error::NoSamples {
                path: config.image.first().cloned().unwrap_or_default(),
                found: format!("{files} files without rows"),
                expected: "`.npy` files of embeddings",
            });
        }
        Ok(Self { parts })
    }
}

/// One description a line.
fn read_captions(path: &Path) -> Result<Vec<Result<Metadata, Fault>>> {
    let text = fs::read(path).map_err(CoreError::io("read", path))?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let objects = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("jsonl"));
    let line = |line: &[u8]| match objects {
        true => Metadata::parse(line),
        false => {
            let captions = Metadata::default().captions(Some(line), true)?;
            Ok(Metadata { captions, ..Metadata::default() })
        }
    };
    Ok(text.split(|byte| *byte == b'\n').map(line).collect())
}

impl Records for Embeddings {
    type Entry = Entry;

    fn parts(&self) -> Vec<String> {
        let name = |part: &Part| format!("{} {}", part.name, part.image.rows());
        self.parts.iter().map(name).collect()
    }

    fn list(&mut self, part: usize, _: &mut Skipped) -> Result<Vec<Entry>> {
        Ok((0..self.parts[part].image.rows()).map(|row| Entry { part, row }).collect())
    }

    fn name(&self, entry: &Entry) -> String {
        format!("{}: row {}", self.parts[entry.part].name, entry.row)
    }

    fn read(&mut self, entry: &Entry) -> Result<Sample, Fault> {
        let key = self.name(entry);
        let part = &mut self.parts[entry.part];
        let about = part.about[entry.row].clone()?;
        let captions = about.captions(None, true)?;
        let row = |file: &mut NpyFile| {
            let values = file.row(entry.row).map_err(|e| Fault::Picture(e.to_string()))?;
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(Fault::NotFinite),
            }
        };
        let image = row(&mut part.image)?;
        let text = part.text.as_mut().map(row).transpose()?;
        Ok(Sample {
            key,
            content: Content::Embeddings { image, text },
            captions,
            concept: about.concept,
            family: about.family,
            style: about.style,
        })
    }
}
