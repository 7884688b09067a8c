//! A vocabulary of one's own.

use std::path::Path;

use serde::Deserialize;
use tokenizers::{
    AddedToken as FoundToken, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, Trainer,
    models::bpe::{BPE, BpeTrainer},
    normalizer::NormalizedString,
};
use unclip_core::Error as CoreError;

use super::{
    Tokenizer, normalizer, pre_tokenizer,
    settings::Settings,
    vocabulary::{END, END_OF_WORD, Merge, Place, Vocabulary, base_tokens},
};
use crate::{Error, Result};

/// The markers of start and end, beside the tokens that merges make.
const MARKERS: usize = 2;

/// What is read of a trained model: its fields are private, and this is its stable form.
#[derive(Debug, Deserialize)]
struct Trained {
    merges: Vec<(String, String)>,
}

impl Tokenizer {
    /// Learns a vocabulary of at most `size` tokens from captions, in CLIP's layout: the bytes, the bytes that end a
    /// word, merges, the two markers. Padding is the end marker, as in CLIP's own.
    ///
    /// Byte-pair encoding (Sennrich et al. 2016) joins the most frequent pair of tokens again and again; pairs that
    /// occur once are left apart, so the vocabulary may be smaller than `size`. Equal captions make equal vocabularies,
    /// in whatever order they come.
    ///
    /// ```
    /// # fn main() -> Result<(), unclip_clip::Error> {
    /// let tokenizer = unclip_clip::Tokenizer::train(["a red fox", "a red apple"], 600, 8)?;
    /// // The start marker, "a", "red" in one piece.
    /// assert_eq!(tokenizer.encode("a red")?.tokens, 4);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when `size` has no room for the bytes and markers, 514 tokens, or `max_length` none for the
    /// markers.
    pub fn train<S: AsRef<str> + Send>(
        captions: impl IntoIterator<Item = S, IntoIter: Send>,
        size: usize,
        max_length: usize,
    ) -> Result<Self> {
        let base = base_tokens();
        let least = base.len() + MARKERS;
        if size < least {
            return Err(CoreError::invalid("size", size, format!("{least} or more")).into());
        }
        let failed = || Error::tokenizer("learning a vocabulary");
        let (normalizer, words) = (normalizer()?, pre_tokenizer()?);
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size - MARKERS)
            .min_frequency(2)
            .end_of_word_suffix(END_OF_WORD.into())
            // Named before any caption, they have the same ids whatever the order of captions, and ids decide ties.
            .special_tokens(base.into_iter().map(|token| FoundToken::from(token, true)).collect())
            .show_progress(false)
            .build();
        trainer
            .feed(captions.into_iter(), |caption| {
                let mut caption = NormalizedString::from(caption);
                normalizer.normalize(&mut caption)?;
                let mut caption = PreTokenizedString::from(caption);
                words.pre_tokenize(&mut caption)?;
                let words = caption.get_splits(OffsetReferential::Original, OffsetType::Byte);
                Ok(words.into_iter().map(|(word, _, _)| word.to_owned()).collect())
            })
            .map_err(failed())?;
        let mut model = BPE::default();
        trainer.train(&mut model).map_err(failed())?;
        let trained: Trained = serde_json::to_value(&model)
            .and_then(serde_json::from_value)
            .map_err(|error| failed()(error.into()))?;
        let merge = |(index, (left, right))| Merge { place: Place::Entry(index), left, right };
        let merges = trained.merges.into_iter().enumerate().map(merge).collect();
        let origin = Path::new("merges.txt");
        let vocabulary = Vocabulary::from_merges(merges, origin)?;
        Self::build(vocabulary, Settings::clip(END), origin)?.with_max_length(max_length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPTIONS: [&str; 4] =
        ["A red fox, flat", "two red foxes", "a fox's den", "¡un zorro rojo!"];

    #[test]
    fn frequent_words_become_one_token_and_any_text_can_be_written() {
        let tokenizer = Tokenizer::train(CAPTIONS, 1000, 16).expect("trains");
        // Between the markers: one token a word that occurs twice.
        assert_eq!(tokenizer.encode("red RED fox").expect("short").tokens, 5);
        assert!(tokenizer.vocabulary_size() < 560, "{}", tokenizer.vocabulary_size());
        let unseen = tokenizer.encode("飛 zebra 7").expect("short");
        assert_eq!(unseen.tokens, 2 + 3 + 5 + 1, "bytes where there is no merge: {unseen:?}");
        assert_eq!((tokenizer.max_length(), tokenizer.pad_id()), (16, tokenizer.eos_id()));
    }

    #[test]
    fn the_order_of_captions_does_not_matter_and_a_folder_reads_back() {
        let tokenizer = Tokenizer::train(CAPTIONS, 540, 16).expect("trains");
        let mut turned = CAPTIONS;
        turned.reverse();
        let again = Tokenizer::train(turned, 540, 16).expect("trains");
        let dir = tempfile::tempdir().expect("a temporary folder");
        tokenizer.write_dir(dir.path()).expect("is written");
        let read = Tokenizer::from_dir(dir.path()).expect("reads back");
        assert!(read.vocabulary_size() <= 540, "{}", read.vocabulary_size());
        for caption in CAPTIONS {
            let expected = tokenizer.encode(caption).expect("short");
            assert_eq!(again.encode(caption).expect("short"), expected);
            assert_eq!(read.encode(caption).expect("short"), expected);
        }
    }

    #[test]
    fn a_vocabulary_without_room_for_bytes_is_refused() {
        let error = Tokenizer::train(CAPTIONS, 513, 16).expect_err("514 are needed");
        assert!(error.to_string().contains("514 or more"), "{error}");
        assert_eq!(Tokenizer::train(CAPTIONS, 514, 16).expect("bytes").vocabulary_size(), 514);
        assert!(Tokenizer::train(CAPTIONS, 600, 1).is_err(), "no room for the markers");
    }
}
