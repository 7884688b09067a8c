//! Captions to token ids.
//!
//! Byte-level byte-pair encoding as transformers' fast `CLIPTokenizer` runs it: canonical composition, white space to
//! single spaces, lower case; words, single digits and runs of other signs; then merges by rank within each. The
//! result is framed by the start and end markers and padded on the right.
//!
//! The padding token is special, and special tokens are cut out of a caption before anything else. Karlo pads with
//! `!`, so that every `!` of a caption becomes the padding id and nothing of it reaches the vocabulary; a literal
//! `<|endoftext|>` becomes the end marker likewise. Both agree with the reference.

mod learn;
mod read;
mod save;
mod settings;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::{fmt, path::Path, sync::Arc};

use tokenizers::{
    AddedToken as FoundToken, Tokenizer as Engine,
    models::bpe::BPE,
    normalizers::{
        Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers,
        replace::ReplacePattern,
    },
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
    tokenizer::normalizer::SplitDelimiterBehavior,
};
use unclip_core::checkpoint::Folder;

use self::{
    settings::{AddedToken, Settings},
    vocabulary::{Vocabulary, parse_merges, quoted},
};
use crate::{Error, Result};

/// What counts as one word before merging; everything between two matches is dropped.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The longest caption that is read, in bytes of UTF-8.
pub const MAX_CAPTION_BYTES: usize = 1 << 20;

/// Captions longer than this are encoded piece by piece, cut at white space, which no token crosses.
const PIECE_BYTES: usize = 4096;

/// CLIP's tokenizer.
#[derive(Clone)]
pub struct Tokenizer {
    engine: Arc<Engine>,
    vocabulary: Arc<Vocabulary>,
    settings: Settings,
    bos_id: u32,
    eos_id: u32,
    pad_id: u32,
    /// Whether a token that is looked for contains white space, so that captions may not be cut there.
    spaced: bool,
}

/// A caption as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Start marker, tokens, end marker, padding: [`max_length`](Tokenizer::max_length) of them.
    pub ids: Vec<u32>,
    /// Which of `ids` are not padding.
    pub mask: Vec<bool>,
    /// Tokens of the whole caption with both markers, before anything was dropped.
    pub tokens: usize,
    /// Tokens that had no room.
    pub dropped: usize,
}

impl AsRef<[u32]> for Encoding {
    fn as_ref(&self) -> &[u32] {
        &self.ids
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocabulary_size", &self.vocabulary_size())
            .field("max_length", &self.max_length())
            .field("pad", &self.settings.pad.content)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a tokenizer folder: `vocab.json` and `merges.txt`, or the `tokenizer.json` that newer versions of
    /// transformers write in their place, with `tokenizer_config.json` and `special_tokens_map.json` where present.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when a file is absent, unreadable, not JSON or describes another kind of tokenizer;
    /// [`Error::Vocabulary`] when the vocabulary and the merges do not fit together.
    pub fn from_dir(dir: impl Into<Folder>) -> Result<Self> {
        let dir = dir.into();
        let (vocabulary, settings) = read::read_dir(&dir)?;
        Self::build(vocabulary, settings, dir.path())
    }

    /// A tokenizer from the text of a merge list alone, with CLIP's markers and length. CLIP's own list makes
    /// `<|endoftext|>` its padding; Karlo's is `!`.
    ///
    /// ```
    /// # fn main() -> Result<(), unclip_clip::Error> {
    /// let tokenizer = unclip_clip::Tokenizer::from_merges("c a\nca t</w>\n", "!")?;
    /// let cat = tokenizer.encode("cat")?;
    /// assert_eq!(cat.ids[..4], [514, 513, 515, 0]);
    /// assert_eq!((cat.ids.len(), cat.tokens), (77, 3));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Vocabulary`] when a line is not a merge.
    pub fn from_merges(merges: &str, pad: &str) -> Result<Self> {
        let path = Path::new("merges.txt");
        let vocabulary = Vocabulary::from_merges(parse_merges(merges, path)?, path)?;
        Self::build(vocabulary, Settings::clip(pad), path)
    }

    fn build(vocabulary: Vocabulary, settings: Settings, origin: &Path) -> Result<Self> {
        let action = "being built";
        let tokens = settings.tokens();
        let model = BPE::builder()
            .vocab_and_merges(vocabulary.ids.clone(), vocabulary.merges.clone())
            .unk_token(settings.unk.content.clone())
            .end_of_word_suffix(vocabulary::END_OF_WORD.into())
            // Its cache is a thread's and outlives the tokenizer; captions are too short to gain from it.
            .cache_capacity(0)
            .build()
            .map_err(Error::tokenizer(action))?;
        let mut engine = Engine::new(model);
        engine.with_normalizer(Some(normalizer()?)).map_err(Error::tokenizer(action))?;
        engine.with_pre_tokenizer(Some(pre_tokenizer()?));
        engine
            .add_tokens(tokens.iter().map(|(_, token)| found_token(token)))
            .map_err(Error::tokenizer(action))?;
        for (listed, token) in &tokens {
            let found = engine.token_to_id(&token.content);
            if found.is_none() || listed.is_some_and(|listed| found != Some(listed)) {
                return Err(Error::Vocabulary {
                    path: origin.to_owned(),
                    place: format!("the added token {}", quoted(&token.content)),
                    found: listed.map_or("no id".into(), |id| format!("id {id}")),
                    expected: "its id in the vocabulary, or the next one after it",
                });
            }
        }
        let id_of = |token: &AddedToken| {
            engine.token_to_id(&token.content).ok_or_else(|| Error::Vocabulary {
                path: origin.to_owned(),
                place: format!("the token {}", quoted(&token.content)),
                found: "no id".into(),
                expected: "a token of the vocabulary",
            })
        };
        // What the bytes of a caption may turn into when a symbol is missing has to be in the model's own vocabulary.
        if !vocabulary.ids.contains_key(&settings.unk.content) {
            return Err(Error::Vocabulary {
                path: origin.to_owned(),
                place: format!("the unknown token {}", quoted(&settings.unk.content)),
                found: "no entry".into(),
                expected: "a token of the vocabulary",
            });
        }
        Ok(Self {
            bos_id: id_of(&settings.bos)?,
            eos_id: id_of(&settings.eos)?,
            pad_id: id_of(&settings.pad)?,
            spaced: tokens.iter().any(|(_, t)| t.content.contains(char::is_whitespace)),
            engine: Arc::new(engine),
            vocabulary: Arc::new(vocabulary),
            settings,
        })
    }

    /// The same tokenizer with another [`max_length`](Self::max_length): that of the text encoder it is to serve.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when `length` leaves no room for the two markers.
    pub fn with_max_length(mut self, length: usize) -> Result<Self> {
        if length < 2 {
            return Err(unclip_core::Error::invalid("max_length", length, "2 or more").into());
        }
        self.settings.max_length = length;
        Ok(self)
    }

    /// Encodes a caption; see [`Encoding`].
    ///
    /// A caption of more tokens than fit loses its last ones and keeps the end marker. Time and memory are linear in
    /// the caption's length.
    ///
    /// # Errors
    ///
    /// [`Error::CaptionTooLong`] above [`MAX_CAPTION_BYTES`].
    pub fn encode(&self, caption: &str) -> Result<Encoding> {
        if caption.len() > MAX_CAPTION_BYTES {
            return Err(Error::CaptionTooLong { bytes: caption.len(), limit: MAX_CAPTION_BYTES });
        }
        let length = self.max_length();
        let mut ids = Vec::with_capacity(length);
        ids.push(self.bos_id);
        let mut tokens = 2;
        let piece_bytes = if self.spaced { MAX_CAPTION_BYTES } else { PIECE_BYTES };
        for piece in pieces(caption, piece_bytes) {
            let encoded = self
                .engine
                .encode_fast(piece, false)
                .map_err(Error::tokenizer("encoding a caption"))?;
            tokens += encoded.len();
            ids.extend(encoded.get_ids().iter().take(length - 1 - ids.len()));
        }
        ids.push(self.eos_id);
        let mut mask = vec![true; ids.len()];
        ids.resize(length, self.pad_id);
        mask.resize(length, false);
        Ok(Encoding { ids, mask, tokens, dropped: tokens.saturating_sub(length) })
    }

    /// Encodes each caption.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    pub fn encode_many<S: AsRef<str>>(&self, captions: &[S]) -> Result<Vec<Encoding>> {
        captions.iter().map(|caption| self.encode(caption.as_ref())).collect()
    }

    /// Tokens of an encoded caption, markers and padding included.
    pub fn max_length(&self) -> usize {
        self.settings.max_length
    }

    /// One more than the largest id: the rows that a text encoder's table needs.
    pub fn vocabulary_size(&self) -> usize {
        self.engine.get_vocab_size(true)
    }

    /// The id of the padding token.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// The id of the start marker.
    pub fn bos_id(&self) -> u32 {
        self.bos_id
    }

    /// The id of the end marker.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// Writes `vocab.json`, `merges.txt`, `tokenizer_config.json` and `special_tokens_map.json` into `dir`, creating
    /// it: the layout that every version of transformers reads.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when a file cannot be written.
    pub fn write_dir(&self, dir: impl AsRef<Path>) -> Result<()> {
        save::write_dir(&self.vocabulary, &self.settings, dir.as_ref())
    }
}

/// `caption` in pieces of at least `least` bytes, cut in front of white space; the last one may be shorter.
fn pieces(caption: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = caption;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest
            .char_indices()
            .find(|&(at, character)| at >= least && character.is_whitespace())
            .map_or(rest.len(), |(at, _)| at);
        let (piece, remainder) = rest.split_at(cut);
        rest = remainder;
        Some(piece)
    })
}

fn normalizer() -> Result<Normalizers> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")
        .map_err(Error::tokenizer("being built"))?;
    Ok(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]))
}

fn pre_tokenizer() -> Result<PreTokenizers> {
    let words =
        Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)
            .map_err(Error::tokenizer("being built"))?;
    Ok(PreTokenizers::new(vec![
        PreTokenizerWrapper::Split(words),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ]))
}

fn found_token(token: &AddedToken) -> FoundToken {
    FoundToken {
        content: token.content.clone(),
        single_word: token.single_word,
        lstrip: token.lstrip,
        rstrip: token.rstrip,
        normalized: token.normalized,
        special: token.special,
    }
}
