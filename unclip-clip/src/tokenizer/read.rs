//! The files of a tokenizer folder.

use std::{collections::HashMap, io, path::Path};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use unclip_core::{Error as CoreError, checkpoint::Folder};

use super::{
    settings::{AddedToken, Settings},
    vocabulary::{END_OF_WORD, Place, Vocabulary, parse_merge, parse_merges},
};
use crate::Result;

/// The largest file that is read; CLIP's own are below 4 MB.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// How CLIP prepares text, as `tokenizer.json` writes it.
const NORMALIZER: &str = r#"{"type": "Sequence", "normalizers": [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
    {"type": "Lowercase"}
]}"#;

/// Reads the vocabulary and the settings of `dir`.
pub(super) fn read_dir(dir: &Folder) -> Result<(Vocabulary, Settings)> {
    let names = ["vocab.json", "merges.txt", "tokenizer.json"];
    let [vocab, merges, whole] = names.map(|name| dir.path().join(name));
    let settings = Settings::read(dir)?;
    if dir.has(names[0]) && dir.has(names[1]) {
        let ids: HashMap<String, u32> = read_json(dir, names[0])?;
        let list = parse_merges(&read_text(dir, names[1])?, &merges)?;
        Ok((Vocabulary::new(ids, list, (&vocab, &merges))?, settings))
    } else if dir.has(names[2]) {
        let file: TokenizerFile = read_json(dir, names[2])?;
        file.check(&whole)?;
        let added = file
            .added_tokens
            .into_iter()
            .map(|ListedToken { id, token }| (Some(id), token))
            .collect();
        Ok((file.model.into_vocabulary(&whole)?, Settings { added, ..settings }))
    } else {
        Err(CoreError::MissingPart {
            dir: dir.path().to_owned(),
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
fn read_text(dir: &Folder, name: &str) -> Result<String> {
    let bytes = dir.read(name, MAX_FILE_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
    Ok(text.map_err(CoreError::io("read", dir.path().join(name)))?)
}

/// The value that a JSON file holds.
fn read_json<T: DeserializeOwned>(dir: &Folder, name: &str) -> Result<T> {
    let text = read_text(dir, name)?;
    Ok(serde_json::from_str(&text)
        .map_err(|source| CoreError::Json { path: dir.path().join(name), source })?)
}

/// The value that a JSON file holds, or nothing where there is no such file.
pub(super) fn read_json_if_present<T: DeserializeOwned>(
    dir: &Folder,
    name: &str,
) -> Result<Option<T>> {
    match dir.read(name, MAX_FILE_BYTES) {
        Err(CoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read_json(dir, name).map(Some),
    }
}
