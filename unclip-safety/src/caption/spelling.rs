//! Undoing tricks of spelling, where that gives a known word.

use super::{
    lookalike::substitutes,
    words::{Word, as_latin, is_one_word, is_sign},
};

/// The longest word that is worth reading in more than one way.
const LONGEST: usize = 48;
/// The most letters set apart that are joined to one word.
const LONGEST_APART: usize = 20;
/// The most readings of a word that are tried.
const MOST_READINGS: usize = 128;

/// What a reading is held against.
pub(super) trait Vocabulary {
    /// Whether some pattern has this word.
    fn knows(&self, word: &str) -> bool;
    /// Whether some known word or phrase begins with these three letters.
    fn begins(&self, letters: &str) -> bool;
    /// The words of the pattern that this is when written without spaces.
    fn parts(&self, glued: &str) -> Option<&[String]>;
}

/// Reads each word as the known word that it stands for, and leaves those that stand for none as they are.
///
/// Letters set apart are joined (`g o r e`, `g.o.r.e`), digits and signs read as letters (`g0re`), letters drawn out
/// shortened (`goooore`), words run together parted where the whole is a known phrase.
pub(super) fn decode(words: Vec<Word>, caption: &str, known: &impl Vocabulary) -> Vec<Word> {
    let mut decoded = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        let run = run_of_letters(&words[at..], caption);
        if run >= 3 {
            join(&words[at..at + run], known, &mut decoded);
        } else {
            read(&words[at], known, &mut decoded);
        }
        at += if run >= 3 { run } else { 1 };
    }
    decoded
}

/// How many single letters begin `words`, each apart from the next by the same characters.
fn run_of_letters(words: &[Word], caption: &str) -> usize {
    let single = |word: &Word| {
        let mut chars = word.text.chars();
        matches!((chars.next(), chars.next()), (Some(c), None) if !is_one_word(c))
    };
    let between = |k: usize| &caption[words[k - 1].end..words[k].start];
    if !words.first().is_some_and(single) {
        return 0;
    }
    let mut run = 1;
    while run < words.len()
        && single(&words[run])
        && (run == 1 || between(run) == between(1))
        && run < LONGEST
    {
        run += 1;
    }
    run
}

/// Joins single letters to the longest known words, and leaves the letters between them alone.
fn join(letters: &[Word], known: &impl Vocabulary, decoded: &mut Vec<Word>) {
    let mut at = 0;
    while at < letters.len() {
        let joined = |end: usize| -> String {
            letters[at..end].iter().map(|word| word.text.as_str()).collect()
        };
        let longest = letters.len().min(at + LONGEST_APART);
        // Most letters begin nothing: that is found out once, and not for every length.
        let begins = longest >= at + 3 && {
            let first = joined(at + 3);
            !first.bytes().all(|byte| byte.is_ascii_alphabetic()) || known.begins(&first)
        };
        let mut ends = if begins { at + 3..longest + 1 } else { 0..0 };
        let found = ends.rfind(|&end| find(&joined(end), known).is_some()).map(|end| {
            let mut words = Vec::new();
            let (start, last) = (letters[at].start, letters[end - 1].end);
            read(&Word { text: joined(end), start, end: last }, known, &mut words);
            (end, words)
        });
        match found {
            Some((end, words)) => {
                decoded.extend(words);
                at = end;
            }
            None => {
                decoded.push(letters[at].clone());
                at += 1;
            }
        }
    }
}

/// Adds what `word` stands for, and says whether that is known.
fn read(word: &Word, known: &impl Vocabulary, decoded: &mut Vec<Word>) -> bool {
    let Word { start, end, .. } = *word;
    if let Some(found) = find(&word.text, known) {
        match known.parts(&found) {
            Some(parts) => {
                decoded.extend(parts.iter().map(|part| Word { text: part.clone(), start, end }));
            }
            None => decoded.push(Word { text: found, start, end }),
        }
        return true;
    }
    // Signs that stand for no letters part words.
    if word.text.contains(is_sign) {
        let parts = word.text.split(is_sign).filter(|part| !part.is_empty());
        decoded.extend(parts.map(|part| Word { text: part.into(), start, end }));
    } else {
        decoded.push(word.clone());
    }
    false
}

/// The first reading of `text` that is known.
fn find(text: &str, known: &impl Vocabulary) -> Option<String> {
    let is_known = |reading: &str| known.knows(reading) || known.parts(reading).is_some();
    if is_known(text) {
        return Some(text.into());
    }
    let letters = text.chars().count();
    if !(3..=LONGEST).contains(&letters) {
        return None;
    }
    let latin = if text.is_ascii() { text.to_string() } else { as_latin(text) };
    if !latin.contains(char::is_alphabetic) {
        return None;
    }
    let chars: Vec<char> = latin.chars().collect();
    let plain =
        |pair: &[char]| pair[0] != pair[1] && pair.iter().all(|&c| substitutes(c).is_empty());
    if chars.windows(2).all(plain) {
        return (latin != text && is_known(&latin)).then_some(latin);
    }
    let mut readings = vec![String::with_capacity(text.len())];
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let run = chars[at..].iter().take_while(|&&next| next == c).count();
        let mut options: Vec<String> = Vec::new();
        // Letters are drawn out by three and more, vowels by two: `rapped` is no misspelling.
        let drawn_out = c.is_alphabetic() && (run > 2 || (run == 2 && "aeiou".contains(c)));
        for letter in
            std::iter::once(c).filter(|c| c.is_alphanumeric()).chain(substitutes(c).chars())
        {
            if drawn_out {
                options.push(letter.to_string());
                options.push([letter, letter].iter().collect());
            } else {
                options.push(std::iter::repeat_n(letter, run).collect());
            }
        }
        if readings.len() * options.len() > MOST_READINGS {
            options.truncate(MOST_READINGS / readings.len());
        }
        readings = match options.as_slice() {
            [] => return None,
            [only] => readings.into_iter().map(|reading| reading + only).collect(),
            several => readings
                .iter()
                .flat_map(|reading| several.iter().map(move |option| reading.clone() + option))
                .collect(),
        };
        at += run;
    }
    readings.into_iter().find(|reading| reading != text && reading.len() >= 3 && is_known(reading))
}

#[cfg(test)]
mod tests {
    use super::{super::words::words, *};

    struct Few;

    impl Vocabulary for Few {
        fn knows(&self, word: &str) -> bool {
            ["gore", "naked", "nude", "bitcoin", "trump", "loli"].contains(&word)
        }

        fn begins(&self, letters: &str) -> bool {
            ["gor", "nak", "nud", "bit", "tru", "lol", "don"].contains(&letters)
        }

        fn parts(&self, glued: &str) -> Option<&[String]> {
            static PARTS: std::sync::LazyLock<[String; 2]> =
                std::sync::LazyLock::new(|| ["donald".into(), "trump".into()]);
            (glued == "donaldtrump").then(|| PARTS.as_slice())
        }
    }

    fn decoded(caption: &str) -> String {
        let words = decode(words(caption), caption, &Few);
        words.into_iter().map(|word| word.text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tricks_are_undone_where_the_word_is_known() {
        for (caption, expected) in [
            ("g0re", "gore"),
            ("goooore", "gore"),
            ("g o r e", "gore"),
            ("G.O.R.E", "gore"),
            ("g-0-r-3", "gore"),
            ("g*re", "gore"),
            ("b1tco1n", "bitcoin"),
            ("l0l1", "loli"),
            ("a n u d e man", "a nude man"),
            ("a n.u.d.e g.o.r.e", "a nude gore"),
            ("d o n a l d  t r u m p", "d o n a l d trump"),
            ("DonaldTrump", "donald trump"),
            ("donald_trump", "donald trump"),
        ] {
            assert_eq!(decoded(caption), expected, "{caption}");
        }
    }

    #[test]
    fn other_words_stay_as_they_are() {
        for caption in
            ["a 4k photo of 3 cats", "mp3 player", "rapped", "i a m", "1920s", "the usa", "ab1"]
        {
            assert_eq!(decoded(caption), caption);
        }
        assert_eq!(decoded("rock+roll"), "rock roll");
    }

    #[test]
    fn a_word_of_many_readings_is_tried_a_bounded_number_of_times() {
        let hostile = "a1!|6".repeat(9);
        assert_eq!(hostile.len(), 45);
        assert_eq!(find(&hostile, &Few), None);
    }
}
