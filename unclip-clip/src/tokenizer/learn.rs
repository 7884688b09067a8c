//! A vocabulary of one's own.

use std::path::Path;

use super::{
    Tokenizer, normalizer, pre_tokenizer,
    settings::Settings,
    vocabulary::{END_OF_WORD, Merge, Place, Vocabulary, base_tokens},
};
use crate::{Error, Result};
use serde::Deserialize;
use tokenizers::{
    AddedToken as FoundToken, NormalizedString, Normalizer, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, Trainer,
    models::bpe::{BPE, BpeTrainer},
};

/// What is read of a learned model: its fields are private, and this is its stable form.
#[derive(Debug, Deserialize)]
struct Learned {
    merges: Vec<(String, String)>,
}

impl Tokenizer {
    /// A tokenizer whose merge list is learned from `captions`: at most `merges` merges, fewer where no pair of tokens is
    /// left that occurs twice. Its markers and padding are as those of [`from_merges`](Self::from_merges).
    ///
    /// Byte-pair encoding (Sennrich et al. 2016): the most frequent pair of neighbouring tokens becomes a token, again
    /// and again. Equal captions make equal lists, in whatever order they come.
    ///
    /// ```
    /// # fn main() -> Result<(), unclip_clip::Error> {
    /// let captions = ["a red apple", "a green apple", "Apples"];
    /// let tokenizer = unclip_clip::Tokenizer::learn(captions, 20, "<|endoftext|>")?;
    /// // Both markers, and one token for the word that was seen twice.
    /// assert_eq!(tokenizer.encode("APPLE")?.tokens, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the engine fails; [`Error::Vocabulary`] when `pad` is no token.
    pub fn learn<S: AsRef<str>>(
        captions: impl IntoIterator<Item = S>,
        merges: usize,
        pad: &str,
    ) -> Result<Self> {
        let failed = || Error::tokenizer("learning a vocabulary");
        let (normalizer, splitter) = (normalizer()?, pre_tokenizer()?);
        let mut words = Vec::new();
        for caption in captions {
            let mut caption = NormalizedString::from(caption.as_ref());
            normalizer.normalize(&mut caption).map_err(failed())?;
            let mut caption = PreTokenizedString::from(caption);
            splitter.pre_tokenize(&mut caption).map_err(failed())?;
            let found = caption.get_splits(OffsetReferential::Original, OffsetType::Byte);
            words.extend(found.into_iter().map(|(word, _, _)| word.to_owned()));
        }
        let base = base_tokens();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(base.len() + merges)
            .min_frequency(2)
            .end_of_word_suffix(END_OF_WORD.into())
            // Named before any word, they have the same ids whatever the order of words, and ids decide ties.
            .special_tokens(base.into_iter().map(|token| FoundToken::from(token, true)).collect())
            .show_progress(false)
            .build();
        trainer.feed(words.into_iter(), |word| Ok(vec![word.to_owned()])).map_err(failed())?;
        let mut model = BPE::default();
        trainer.train(&mut model).map_err(failed())?;
        let learned: Learned = serde_json::to_value(&model)
            .and_then(serde_json::from_value)
            .map_err(|error| failed()(error.into()))?;
        let merge = |(index, (left, right))| Merge { place: Place::Entry(index), left, right };
        let merges = learned.merges.into_iter().enumerate().map(merge).collect();
        let origin = Path::new("merges.txt");
        Self::build(Vocabulary::from_merges(merges, origin)?, Settings::clip(pad), origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::vocabulary::END;

    const CAPTIONS: [&str; 4] =
        ["A red fox, flat", "two red foxes", "a fox's den", "¡un zorro rojo!"];

    fn learn<'a>(captions: impl IntoIterator<Item = &'a str>, merges: usize) -> Tokenizer {
        Tokenizer::learn(captions, merges, END).expect("learns")
    }

    #[test]
    fn frequent_words_become_one_token_and_any_text_can_be_written() {
        let tokenizer = learn(CAPTIONS, 1000);
        let tokens = |text: &str| tokenizer.encode(text).expect("short").tokens - 2;
        assert_eq!(tokens("red RED fox"), 3);
        assert_eq!(tokens("den"), 3, "seen once: no pair of it is merged");
        assert_eq!(tokens("飛 7"), 4, "any byte has a token");
        assert!(tokenizer.vocabulary_size() < 560, "{}", tokenizer.vocabulary_size());
        assert_eq!(learn(CAPTIONS, 3).vocabulary_size(), 512 + 3 + 2);
        assert_eq!(learn(CAPTIONS, 0).vocabulary_size(), 512 + 2);
        assert_eq!(learn([], 9).vocabulary_size(), 512 + 2);
    }

    #[test]
    fn the_order_of_captions_does_not_matter_and_a_folder_reads_back() {
        let tokenizer = learn(CAPTIONS, 26).with_max_length(16).expect("room for the markers");
        let again = learn(CAPTIONS.into_iter().rev(), 26).with_max_length(16).expect("room");
        let dir = tempfile::tempdir().expect("a temporary folder");
        tokenizer.write_dir(dir.path()).expect("is written");
        let read = Tokenizer::from_dir(dir.path()).expect("reads back");
        for caption in CAPTIONS {
            let expected = tokenizer.encode(caption).expect("short");
            assert_eq!(again.encode(caption).expect("short"), expected);
            assert_eq!(read.encode(caption).expect("short"), expected);
        }
    }
}
