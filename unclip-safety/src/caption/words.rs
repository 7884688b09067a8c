//! A caption's words, read through case, lookalikes and invisible characters.

use unicode_normalization::char::{decompose_compatible, is_combining_mark};

use super::lookalike::{is_invisible, latin};

/// A word of a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Lower case, without accents, with lookalikes read as the letters they pass for. It may hold digits and signs
    /// that stand for letters.
    pub text: String,
    /// The byte of the caption where it begins.
    pub start: usize,
    /// The byte of the caption after its end.
    pub end: usize,
}

/// The words of `caption`, in order.
///
/// Compatibility forms are decomposed (`ⓝ`, `𝓷` and `ｎ` are `n`), accents and invisible characters dropped, case
/// folded. A word that mixes Latin letters with lookalikes of other scripts is read as Latin; a word all in another
/// script stays. An apostrophe is dropped, with an `s` after it that ends the word. Ideographs and kana are words of
/// one character each. The signs `@ $ ! | + * € £ ¢` belong to a word where they stand within it, and `@ $ €` also
/// where they begin or end it. The time taken grows linearly with the caption.
///
/// ```
/// let words = unclip_safety::words("Café-Ｂａｒ, the dog\u{2019}s b\u{200B}ed");
/// let text: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
/// assert_eq!(text, ["cafe", "bar", "the", "dog", "bed"]);
/// ```
pub fn words(caption: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut open: Option<Word> = None;
    let mut rest = caption.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let end = rest.peek().map_or(caption.len(), |&(next, _)| next);
        if is_invisible(c) || is_combining_mark(c) {
            continue;
        }
        if is_apostrophe(c) {
            if open.is_some() && ends_with_s(&caption[end..]) {
                close(&mut open, &mut words);
                rest.next();
            }
            continue;
        }
        if is_one_word(c) {
            close(&mut open, &mut words);
            words.push(Word { text: c.to_string(), start: at, end });
            continue;
        }
        let mut folded = String::new();
        decompose_compatible(c, |part| {
            if !is_combining_mark(part) {
                folded.extend(part.to_lowercase());
            }
        });
        let letters = folded.chars().any(char::is_alphanumeric);
        if letters || is_sign(c) || latin(c).is_some() {
            let word = open.get_or_insert_with(|| Word { text: String::new(), start: at, end });
            let inner = |part: &char| part.is_alphanumeric() || is_sign(*part) || !letters;
            word.text.extend(folded.chars().filter(inner));
            word.end = end;
        } else {
            close(&mut open, &mut words);
        }
    }
    close(&mut open, &mut words);
    words
}

/// Ends the open word: signs that only punctuate it go, and lookalikes within a Latin word are read as Latin.
fn close(open: &mut Option<Word>, words: &mut Vec<Word>) {
    let Some(mut word) = open.take() else { return };
    let punctuation = |c: char| matches!(c, '!' | '|' | '+' | '*');
    let kept = word.text.trim_end_matches(punctuation);
    word.end -= word.text.len() - kept.len();
    let begun = kept.trim_start_matches(punctuation);
    word.start += kept.len() - begun.len();
    word.text = begun.to_string();
    if !word.text.chars().any(|c| c.is_alphanumeric() || latin(c).is_some()) {
        return;
    }
    if word.text.bytes().any(|byte| byte.is_ascii_alphabetic()) && !word.text.is_ascii() {
        word.text = as_latin(&word.text);
    }
    words.push(word);
}

/// `text` with every lookalike read as the Latin letter it passes for.
pub(super) fn as_latin(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c } else { latin(c).unwrap_or(c) }).collect()
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '\u{2019}' | '\u{2018}' | '\u{2BC}' | '`' | '\u{B4}')
}

/// Whether `rest` is an `s` that ends a word.
fn ends_with_s(rest: &str) -> bool {
    let mut chars = rest.chars();
    matches!(chars.next(), Some('s' | 'S')) && !chars.next().is_some_and(char::is_alphanumeric)
}

/// Signs that may stand for a letter.
pub(super) fn is_sign(c: char) -> bool {
    matches!(c, '@' | '$' | '!' | '|' | '+' | '*' | '€' | '£' | '¢')
}

/// Whether `c` is of a script that sets no spaces: an ideograph or kana.
pub(super) fn is_one_word(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{20000}'..='\u{323AF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(caption: &str) -> Vec<String> {
        words(caption).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn the_same_word_in_disguise_is_the_same_word() {
        for disguised in [
            "Naked",
            "NAKED",
            "ｎａｋｅｄ",
            "ⓝⓐⓚⓔⓓ",
            "𝓷𝓪𝓴𝓮𝓭",
            "na\u{200B}ked",
            "n\u{AD}aked",
            "nákèd",
            "n\u{430}k\u{435}d",
            "na\u{301}ked",
            "ɴᴀᴋᴇd",
        ] {
            assert_eq!(texts(disguised), ["naked"], "{disguised}");
        }
    }

    #[test]
    fn words_end_at_spaces_and_punctuation() {
        assert_eq!(
            texts("a cat, (two) dogs/birds - and: \"x\"!"),
            ["a", "cat", "two", "dogs", "birds", "and", "x"]
        );
        assert_eq!(texts("Obama's dog's, don't it\u{2019}s"), ["obama", "dog", "dont", "it"]);
        assert_eq!(
            texts("ca$ino bonu$ w!n! C++ **bold**"),
            ["ca$ino", "bonu$", "w!n", "c", "bold"]
        );
    }

    #[test]
    fn words_of_other_scripts_stay() {
        assert_eq!(texts("красная площадь"), ["красная", "площадь"]);
        assert_eq!(texts("赤い本"), ["赤", "い", "本"]);
    }

    #[test]
    fn a_word_knows_its_place() {
        let caption = "the Ｄｏｇ's bo\u{200B}ne!";
        let places: Vec<&str> =
            words(caption).iter().map(|word| &caption[word.start..word.end]).collect();
        assert_eq!(places, ["the", "Ｄｏｇ", "bo\u{200B}ne"]);
    }

    #[test]
    fn nothing_gives_no_words() {
        for nothing in ["", "   ", "\u{200B}\u{200B}", "!!! --- ***", "\u{301}\u{301}", "'s"] {
            assert!(texts(nothing).len() <= 1, "{nothing:?}");
        }
    }
}
