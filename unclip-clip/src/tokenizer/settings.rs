//! The special tokens and the length, from `tokenizer_config.json` and `special_tokens_map.json`.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};
use unclip_core::{Error as CoreError, checkpoint::Folder};

use super::{
    read::read_json_if_present,
    vocabulary::{END, START},
};
use crate::Result;

/// Tokens that CLIP's text encoders read.
pub(super) const DEFAULT_LENGTH: usize = 77;
/// Lengths from here on are how transformers writes "unlimited".
const UNLIMITED: f64 = 1e6;

/// A token that is looked for in the text before byte-pair encoding.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct AddedToken {
    /// The token.
    pub(super) content: String,
    /// Whether it only matches between characters that are no part of a word.
    #[serde(default)]
    pub(super) single_word: bool,
    /// Whether it takes the white space on its left with it.
    #[serde(default)]
    pub(super) lstrip: bool,
    /// Whether it takes the white space on its right with it.
    #[serde(default)]
    pub(super) rstrip: bool,
    /// Whether it is looked for after normalisation, as against before it.
    #[serde(default = "yes")]
    pub(super) normalized: bool,
    /// Whether it is a marker, as against a word that was added.
    #[serde(default)]
    pub(super) special: bool,
}

fn yes() -> bool {
    true
}

impl AddedToken {
    /// A marker that is looked for in the text as it stands, which is what a bare string means in both files.
    pub(super) fn marker(content: impl Into<String>) -> Self {
        Self {
            content: content.into(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }
}

/// A special token as the files write it: bare, or with its flags.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TokenEntry {
    Bare(String),
    Flagged(AddedToken),
}

impl From<TokenEntry> for AddedToken {
    fn from(entry: TokenEntry) -> Self {
        match entry {
            TokenEntry::Bare(content) => Self::marker(content),
            TokenEntry::Flagged(token) => Self { special: true, ..token },
        }
    }
}

/// What this library reads of either file; the rest does not reach the ids of the fast tokenizer.
#[derive(Debug, Default, Deserialize)]
struct SettingsFile {
    bos_token: Option<TokenEntry>,
    eos_token: Option<TokenEntry>,
    unk_token: Option<TokenEntry>,
    pad_token: Option<TokenEntry>,
    #[serde(default)]
    additional_special_tokens: Option<Vec<TokenEntry>>,
    added_tokens_decoder: Option<BTreeMap<u32, AddedToken>>,
    model_max_length: Option<Number>,
}

/// Everything about a tokenizer but its vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// Precedes every caption.
    pub(super) bos: AddedToken,
    /// Follows every caption.
    pub(super) eos: AddedToken,
    /// Stands for what the vocabulary cannot express.
    pub(super) unk: AddedToken,
    /// Fills up short captions.
    pub(super) pad: AddedToken,
    /// Further tokens, with the id that the file gives them.
    pub(super) added: Vec<(Option<u32>, AddedToken)>,
    /// Tokens of an encoded caption, markers and padding included.
    pub(super) max_length: usize,
}

impl Settings {
    /// CLIP's own markers and length, with the padding token `pad`.
    pub(super) fn clip(pad: &str) -> Self {
        Self {
            bos: AddedToken::marker(START),
            eos: AddedToken::marker(END),
            unk: AddedToken::marker(END),
            pad: AddedToken::marker(pad),
            added: Vec::new(),
            max_length: DEFAULT_LENGTH,
        }
    }

    /// Reads both files of `dir`; either may be absent.
    pub(super) fn read(dir: &Folder) -> Result<Self> {
        let file = "tokenizer_config.json";
        let config: SettingsFile = read_json_if_present(dir, file)?.unwrap_or_default();
        // Since files list their added tokens in the configuration, transformers no longer reads the map.
        let map: SettingsFile = match config.added_tokens_decoder {
            Some(_) => SettingsFile::default(),
            None => read_json_if_present(dir, "special_tokens_map.json")?.unwrap_or_default(),
        };
        let max_length = match &config.model_max_length {
            Some(length) => read_length(length, &dir.path().join(file))?,
            None => DEFAULT_LENGTH,
        };
        let pick = |map: Option<TokenEntry>, config: Option<TokenEntry>, default: &str| {
            map.or(config).map_or_else(|| AddedToken::marker(default), AddedToken::from)
        };
        let listed = config.added_tokens_decoder.unwrap_or_default();
        let further =
            map.additional_special_tokens.or(config.additional_special_tokens).unwrap_or_default();
        let added = listed
            .into_iter()
            .map(|(id, token)| (Some(id), token))
            .chain(further.into_iter().map(|entry| (None, entry.into())))
            .collect();
        Ok(Self {
            bos: pick(map.bos_token, config.bos_token, START),
            eos: pick(map.eos_token, config.eos_token, END),
            unk: pick(map.unk_token, config.unk_token, END),
            pad: pick(map.pad_token, config.pad_token, END),
            added,
            max_length,
        })
    }

    /// Every token to look for, each once: those that the files list with an id keep the flags given there.
    pub(super) fn tokens(&self) -> Vec<(Option<u32>, AddedToken)> {
        let mut tokens = self.added.clone();
        for named in [&self.bos, &self.eos, &self.unk, &self.pad] {
            if tokens.iter().all(|(_, token)| token.content != named.content) {
                tokens.push((None, named.clone()));
            }
        }
        tokens
    }

    /// The two files' contents, configuration first.
    pub(super) fn to_json(&self) -> (Value, Value) {
        let entry = |token: &AddedToken| match *token == AddedToken::marker(&token.content) {
            true => json!(token.content),
            false => json!(token),
        };
        let mut map = json!({
            "bos_token": entry(&self.bos),
            "eos_token": entry(&self.eos),
            "pad_token": entry(&self.pad),
            "unk_token": entry(&self.unk),
        });
        let further: Vec<Value> =
            self.added.iter().filter(|(id, _)| id.is_none()).map(|(_, t)| entry(t)).collect();
        if !further.is_empty() {
            map["additional_special_tokens"] = json!(further);
        }
        let mut config = map.clone();
        config["do_lower_case"] = json!(true);
        config["model_max_length"] = json!(self.max_length);
        config["tokenizer_class"] = json!("CLIPTokenizer");
        let listed: BTreeMap<String, &AddedToken> = self
            .added
            .iter()
            .filter_map(|(id, token)| Some((id.as_ref()?.to_string(), token)))
            .collect();
        if !listed.is_empty() {
            config["added_tokens_decoder"] = json!(listed);
        }
        (config, map)
    }
}

/// A length that leaves room for both markers, or CLIP's where the file says "unlimited".
fn read_length(length: &Number, path: &Path) -> Result<usize> {
    if length.as_f64().is_some_and(|length| length >= UNLIMITED) {
        return Ok(DEFAULT_LENGTH);
    }
    match length.as_u64().and_then(|length| usize::try_from(length).ok()) {
        Some(length) if length >= 2 => Ok(length),
        _ => Err(CoreError::Config {
            path: path.to_owned(),
            key: "model_max_length".into(),
            found: length.to_string(),
            expected: "a whole number from 2 on".into(),
        }
        .into()),
    }
}
