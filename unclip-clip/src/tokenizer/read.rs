//! The files of a tokenizer folder.

use std::{collections::HashMap, fs, io, path::Path};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use unclip_core::Error as CoreError;

use super::{
    settings::{AddedToken, Settings},
    vocabulary::{END_OF_WORD, Place, Vocabulary, parse_merge, parse_merges},
};
use crate::{Error, Result};

/// The largest file that is read; CLIP's own are below 4 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// How CLIP prepares text, as `tokenizer.json` writes it.
const NORMALIZER: &str = r#"{"type": "Sequence", "normalizers": [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
    {"type": "Lowercase"}
]}"#;

/// Reads the vocabulary and the settings of `dir`.
pub(super) fn read_dir(dir: &Path) -> Result<(Vocabulary, Settings)> {
    let [vocab, merges, whole] =
        ["vocab.json", "merges.txt", "tokenizer.json"].map(|f| dir.join(f));
    let settings = Settings::read(dir)?;
    if vocab.is_file() && merges.is_file() {
        let ids: HashMap<String, u32> = read_json(&vocab)?;
        let list = parse_merges(&read_text(&merges)?, &merges)?;
        Ok((Vocabulary::new(ids, list, (&vocab, &merges))?, settings))
    } else if whole.is_file() {
        let file: TokenizerFile = read_json(&whole)?;
        file.check(&whole)?;
        let added = file
            .added_tokens
            .into_iter()
            .map(|ListedToken { id, token }| (Some(id), token))
            .collect();
        Ok((file.model.into_vocabulary(&whole)?, Settings { added, ..settings }))
    } else {
        Err(CoreError::MissingPart {
            dir: dir.to_owned(),
            part: "the vocabulary".into(),
            expected: "`vocab.json` and `merges.txt`, or `tokenizer.json`".into(),
        }
        .into())
    }
}

/// What a `tokenizer.json` holds.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<ListedToken>,
    normalizer: Value,
    pre_tokenizer: Value,
    model: ModelEntry,
}

#[derive(Deserialize)]
struct ListedToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelEntry {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeEntry>,
    /// Everything that says how to merge.
    #[serde(flatten)]
    options: HashMap<String, Value>,
}

/// A merge, in the older and in the newer form of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeEntry {
    Line(String),
    Pair(String, String),
}

impl TokenizerFile {
    /// Demands that the file describes CLIP's way of cutting text: this library runs no other.
    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |key: &str, found: &Value, expected: String| {
            Err(CoreError::Config {
                path: path.to_owned(),
                key: key.into(),
                found: found.to_string(),
                expected,
            }
            .into())
        };
        let normalizer: Value = serde_json::from_str(NORMALIZER).expect("a valid constant");
        if self.normalizer != normalizer {
            return refuse("normalizer", &self.normalizer, normalizer.to_string());
        }
        // Files from before the markers were part of the expression differ in nothing else.
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": true});
        let words = super::WORDS;
        let older =
            words.split_once("'s").map_or(words.to_owned(), |(_, rest)| format!("'s{rest}"));
        let steps = &self.pre_tokenizer["pretokenizers"];
        let byte_level = &steps[1];
        if self.pre_tokenizer["type"] != "Sequence"
            || steps.as_array().is_none_or(|steps| steps.len() != 2)
            || (steps[0] != split(words) && steps[0] != split(&older))
            || byte_level["type"] != "ByteLevel"
            || byte_level["add_prefix_space"] != false
            || byte_level.get("use_regex").is_some_and(|on| on != true)
        {
            let expected = format!("{} and then byte level without a prefix space", split(words));
            return refuse("pre_tokenizer", &self.pre_tokenizer, expected);
        }
        let unset = [Value::Null];
        let empty = [Value::Null, json!("")];
        let off = [Value::Null, json!(false)];
        let demands: [(&str, &[Value]); 7] = [
            ("type", &[json!("BPE")]),
            ("end_of_word_suffix", &[json!(END_OF_WORD)]),
            ("continuing_subword_prefix", &empty),
            ("dropout", &unset),
            ("fuse_unk", &off),
            ("byte_fallback", &off),
            ("ignore_merges", &off),
        ];
        for (key, accepted) in demands {
            let found = self.model.options.get(key).unwrap_or(&Value::Null);
            if !accepted.contains(found) {
                let expected = accepted.iter().map(Value::to_string).collect::<Vec<_>>();
                return refuse(&format!("model.{key}"), found, expected.join(" or "));
            }
        }
        Ok(())
    }
}

impl ModelEntry {
    fn into_vocabulary(self, path: &Path) -> Result<Vocabulary> {
        let merges = self
            .merges
            .into_iter()
            .enumerate()
            .map(|(index, entry)| {
                let line = match entry {
                    MergeEntry::Line(line) => line,
                    MergeEntry::Pair(left, right) => format!("{left} {right}"),
                };
                parse_merge(&line, Place::Entry(index), path)
            })
            .collect::<Result<Vec<_>>>()?;
        Vocabulary::new(self.vocab, merges, (path, path))
    }
}

/// The text of a file of bounded size.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::metadata(path).map_err(CoreError::io("read", path))?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(Error::Vocabulary {
            path: path.to_owned(),
            place: "its length".into(),
            found: format!("{bytes} bytes"),
            expected: "at most 64 MiB",
        });
    }
    Ok(fs::read_to_string(path).map_err(CoreError::io("read", path))?)
}

/// The value that a JSON file holds.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    Ok(serde_json::from_str(&text)
        .map_err(|source| CoreError::Json { path: path.to_owned(), source })?)
}

/// The value that a JSON file holds, or nothing where there is no such file.
pub(super) fn read_json_if_present<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read_json(path).map(Some),
    }
}
