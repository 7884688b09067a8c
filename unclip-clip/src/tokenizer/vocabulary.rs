//! Tokens, their ids and the merge list.
//!
//! CLIP's ids follow from its merges alone (Radford et al. 2021, §2.4; openai/CLIP `simple_tokenizer.py`): the 256
//! byte symbols, the same with an end-of-word mark, one token a merge in their order, then the two markers.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use tokenizers::models::bpe::{Merges, Vocab};

use crate::{Error, Result};

/// What the last symbol of a word carries.
pub(super) const END_OF_WORD: &str = "</w>";
/// CLIP's start marker.
pub(super) const START: &str = "<|startoftext|>";
/// CLIP's end marker.
pub(super) const END: &str = "<|endoftext|>";

/// What byte-pair encoding runs on: checked, so that building a tokenizer from it cannot fail half-way.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    /// The id of each token: every number below the number of tokens, once.
    pub(super) ids: Vocab,
    /// Pairs to join, first ones first.
    pub(super) merges: Merges,
}

impl Vocabulary {
    /// Checks a vocabulary against a merge list. `paths` are where the two came from, for messages.
    pub(super) fn new(
        ids: HashMap<String, u32>,
        merges: Vec<Merge>,
        paths: (&Path, &Path),
    ) -> Result<Self> {
        check_ids(&ids, paths.0)?;
        for Merge { place, left, right } in &merges {
            let joined = format!("{left}{right}");
            if let Some(unknown) =
                [left, right, &joined].into_iter().find(|t| !ids.contains_key(*t))
            {
                return Err(Error::Vocabulary {
                    path: paths.1.to_owned(),
                    place: place.to_string(),
                    found: format!("`{left} {right}`, where `{unknown}` is not in the vocabulary"),
                    expected: "two tokens that join into a third, all in the vocabulary",
                });
            }
        }
        Ok(Self {
            ids: ids.into_iter().collect(),
            merges: merges.into_iter().map(|m| (m.left, m.right)).collect(),
        })
    }

    /// The vocabulary that `merges` imply: bytes, bytes that end a word, merges, start and end.
    pub(super) fn from_merges(merges: Vec<Merge>, path: &Path) -> Result<Self> {
        let joined = merges.iter().map(|m| format!("{}{}", m.left, m.right));
        let mut ids = HashMap::new();
        let markers = [START.to_owned(), END.to_owned()];
        for token in base_tokens().into_iter().chain(joined).chain(markers) {
            // A merge list may reach one token by two ways; the published one never does, and its ids say so.
            let next = id(ids.len(), path)?;
            ids.entry(token).or_insert(next);
        }
        Self::new(ids, merges, (path, path))
    }

    /// The merge list as a `merges.txt`.
    pub(super) fn merges_text(&self) -> String {
        let mut text = String::from("#version: 0.2\n");
        for (left, right) in &self.merges {
            text.extend([left, " ", right, "\n"]);
        }
        text
    }
}

/// One line of a merge list.
#[derive(Debug, Clone)]
pub(super) struct Merge {
    /// Where it stands.
    pub(super) place: Place,
    /// The left token.
    pub(super) left: String,
    /// The right token.
    pub(super) right: String,
}

/// Where a merge stands in its file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// In a text file, from 1.
    Line(usize),
    /// In the list of a `tokenizer.json`, from 0.
    Entry(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry(index) => write!(f, "`model.merges[{index}]`"),
        }
    }
}

/// Reads the text of a `merges.txt`. Lines that begin with `#version` are headers.
pub(super) fn parse_merges(text: &str, path: &Path) -> Result<Vec<Merge>> {
    text.trim_end_matches(['\r', '\n'])
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.starts_with("#version"))
        .map(|(index, line)| parse_merge(line, Place::Line(index + 1), path))
        .collect()
}

/// Reads one merge, `left right`.
pub(super) fn parse_merge(line: &str, place: Place, path: &Path) -> Result<Merge> {
    let token = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    match line.split_once(' ') {
        Some((left, right)) if token(left) && token(right) => {
            Ok(Merge { place, left: left.to_owned(), right: right.to_owned() })
        }
        _ => Err(Error::Vocabulary {
            path: path.to_owned(),
            place: place.to_string(),
            found: quoted(line),
            expected: "two tokens with one space between them",
        }),
    }
}

/// `text` in quotes, shortened when long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("`{}…`", &text[..cut]),
        None => format!("`{text}`"),
    }
}

/// The tokens before any merge: every byte's symbol, then the same at the end of a word.
pub(super) fn base_tokens() -> Vec<String> {
    let symbols = byte_symbols();
    let endings = symbols.iter().map(|symbol| format!("{symbol}{END_OF_WORD}"));
    symbols.iter().map(char::to_string).chain(endings).collect()
}

/// The printable symbol of each byte, in the order of CLIP's ids: the printable ones as themselves, then the rest as
/// the characters from U+0100 on.
fn byte_symbols() -> Vec<char> {
    let printable = (33u8..=126).chain(161..=172).chain(174..=255).map(char::from);
    let rest = (0x100..).map_while(char::from_u32);
    printable.chain(rest).take(256).collect()
}

fn id(index: usize, path: &Path) -> Result<u32> {
    u32::try_from(index).map_err(|_| Error::Vocabulary {
        path: path.to_owned(),
        place: "its length".into(),
        found: index.to_string(),
        expected: "as many tokens as 32 bits count",
    })
}

/// Demands every id below the number of tokens once.
fn check_ids(ids: &HashMap<String, u32>, path: &Path) -> Result<()> {
    let mut seen = HashSet::with_capacity(ids.len());
    for (token, &id) in ids {
        let in_range = usize::try_from(id).is_ok_and(|id| id < ids.len());
        if !in_range || !seen.insert(id) {
            return Err(Error::Vocabulary {
                path: path.to_owned(),
                place: format!("the token {}", quoted(token)),
                found: format!("id {id} among {} tokens", ids.len()),
                expected: "every id below the number of tokens, once",
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vocabulary> {
        let path = Path::new("merges.txt");
        Vocabulary::from_merges(parse_merges(text, path)?, path)
    }

    #[test]
    fn bytes_come_first_in_the_order_of_their_symbols() {
        let vocabulary = parse("#version: 0.2\ni n\nt h\nin g</w>\n").expect("a valid list");
        for (token, id) in
            [("!", 0), ("~", 93), ("¡", 94), ("ÿ", 187), ("Ā", 188), ("Ń", 255), ("!</w>", 256)]
        {
            assert_eq!(vocabulary.ids.get(token), Some(&id), "{token}");
        }
        for (token, id) in [("in", 512), ("th", 513), ("ing</w>", 514), (START, 515), (END, 516)] {
            assert_eq!(vocabulary.ids.get(token), Some(&id), "{token}");
        }
    }

    #[test]
    fn a_broken_merge_names_its_line() {
        for (text, line) in [
            ("#version: 0.2\ni n\nthree little words\n", "line 3"),
            ("i n\n\nt h\n", "line 2"),
            ("i n\nin  g\n", "line 2"),
            ("i n\nt hh\n", "line 2"),
        ] {
            let message = parse(text).expect_err("a broken list").to_string();
            assert!(message.contains("merges.txt") && message.contains(line), "{message}");
        }
    }

    #[test]
    fn two_tokens_never_share_an_id() {
        let path = Path::new("vocab.json");
        for ids in [[("a", 0), ("b", 0)], [("a", 0), ("b", u32::MAX)]] {
            let ids = ids.into_iter().map(|(t, id)| (t.to_owned(), id)).collect();
            let message =
                Vocabulary::new(ids, vec![], (path, path)).expect_err("not ids").to_string();
            assert!(message.contains("vocab.json"), "{message}");
        }
    }
}
