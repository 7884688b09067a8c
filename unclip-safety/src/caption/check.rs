//! The check of captions.

use std::sync::Arc;

use rustrict::{Censor, Type};

use super::Lexicon;
use crate::{Category, Evidence, Signal};

/// What a caption's words score: the lists of a [`Lexicon`], and the profanity filter of `rustrict`.
///
/// ```
/// use unclip_safety::{CaptionCheck, Category};
///
/// let check = CaptionCheck::builtin();
/// assert!(check.signals("a killer whale under a shooting star").is_empty());
/// assert_eq!(check.signals("a m4ssacre of villagers")[0].category, Category::Violence);
/// ```
#[derive(Debug, Clone)]
pub struct CaptionCheck {
    lexicon: Arc<Lexicon>,
    profanity: bool,
}

impl CaptionCheck {
    /// The built-in lists and the profanity filter.
    pub fn builtin() -> Self {
        Self { lexicon: Lexicon::builtin().clone(), profanity: true }
    }

    /// Lists of the caller's, and the profanity filter.
    pub fn new(lexicon: impl Into<Arc<Lexicon>>) -> Self {
        Self { lexicon: lexicon.into(), profanity: true }
    }

    /// Sets whether the profanity filter is asked as well.
    #[must_use]
    pub fn profanity(mut self, profanity: bool) -> Self {
        self.profanity = profanity;
        self
    }

    /// What the caption scores. The time taken grows linearly with the caption.
    pub fn signals(&self, caption: &str) -> Vec<Signal> {
        let mut signals = self.lexicon.signals(caption);
        if self.profanity {
            signals.extend(profanity(caption));
        }
        signals
    }
}

/// Bytes that are handed to `rustrict` at once, cut between words: its time grows with the square of a text that is all
/// disguised letters.
const AT_ONCE: usize = 200;

/// What `rustrict` says. It judges letters without the words around them (a booby is no bird to it, and Niger a slur), so
/// that its word alone is kept below what the standard policy refuses; the lists refuse what they know.
fn profanity(caption: &str) -> impl Iterator<Item = Signal> {
    let found: Vec<Type> = pieces(caption).map(|piece| Censor::from_str(piece).analyze()).collect();
    [
        (Category::Hate, Type::OFFENSIVE),
        (Category::Shocking, Type::PROFANE),
        (Category::Harassment, Type::MEAN),
        (Category::Sexual, Type::SEXUAL),
    ]
    .into_iter()
    .filter_map(move |(category, kind)| {
        let has = |degree: Type| found.iter().any(|found| found.is(kind & degree));
        let score = match (has(Type::SEVERE), has(Type::MODERATE)) {
            (true, _) => 0.4,
            (false, true) => 0.25,
            (false, false) => return None,
        };
        let note = Evidence::Note("a word that is offensive in itself".into());
        Some(Signal::new(category, score, "profanity").evidence(note))
    })
}

/// `text` in pieces of at most [`AT_ONCE`] bytes, cut after white space where there is some.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let limit = rest.floor_char_boundary(AT_ONCE);
        let cut = if limit == rest.len() {
            limit
        } else {
            let last = rest[..limit].char_indices().rev().find(|(_, c)| c.is_whitespace());
            last.map_or(limit, |(at, c)| at + c.len_utf8())
        };
        let (piece, after) = rest.split_at(cut);
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_short_and_lose_nothing() {
        for text in ["", "a b", &"long words here ".repeat(50), &"x".repeat(999), &"語".repeat(300)]
        {
            let pieces: Vec<&str> = pieces(text).collect();
            assert_eq!(pieces.concat(), *text);
            assert!(pieces.iter().all(|piece| (1..=AT_ONCE).contains(&piece.len())), "{pieces:?}");
        }
    }

    #[test]
    fn swearing_is_found_and_can_be_left_alone() {
        let check = CaptionCheck::new(Lexicon::parse(&[]).expect("no lists"));
        let swearing = format!("{}motherfucker", "a quiet lake ".repeat(40));
        assert!(check.signals(&swearing).iter().any(|s| s.category == Category::Shocking), "found");
        assert!(check.profanity(false).signals(&swearing).is_empty(), "not asked");
    }
}
