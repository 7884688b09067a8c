//! A tokenizer folder, written back.

use std::{fs, path::Path};

use serde_json::Value;
use unclip_core::{Error as CoreError, checkpoint::write_atomic};

use super::{settings::Settings, vocabulary::Vocabulary};
use crate::Result;

/// Writes the four files of the older layout.
pub(super) fn write_dir(vocabulary: &Vocabulary, settings: &Settings, dir: &Path) -> Result<()> {
    let (config, map) = settings.to_json();
    let mut tokens: Vec<(&String, &u32)> = vocabulary.ids.iter().collect();
    tokens.sort_unstable_by_key(|(_, id)| **id);
    // In the order of ids: a map of the JSON library would sort by token.
    let entries: Vec<String> =
        tokens.iter().map(|(token, id)| format!("{}: {id}", Value::from(token.as_str()))).collect();
    let files = [
        ("vocab.json", format!("{{{}}}\n", entries.join(", "))),
        ("merges.txt", vocabulary.merges_text()),
        ("tokenizer_config.json", format!("{config:#}\n")),
        ("special_tokens_map.json", format!("{map:#}\n")),
    ];
    fs::create_dir_all(dir).map_err(CoreError::io("create", dir))?;
    for (name, text) in files {
        write_atomic(dir.join(name), text.as_bytes())?;
    }
    Ok(())
}
