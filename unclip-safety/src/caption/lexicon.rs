//! Patterns of words, and finding them in time that grows linearly with the caption.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    path::Path,
    sync::{Arc, LazyLock},
};

use super::{
    list::{self, Element, Pattern, Sequence},
    spelling::{self, Vocabulary},
    words::{Word, words},
};
use crate::{
    Category, Evidence, Signal,
    error::{Error, Result},
};

/// The places of a category that are shown as evidence, at most.
const MOST_SHOWN: usize = 3;
/// The shortest phrase that is also looked for when written without spaces.
const SHORTEST_GLUED: usize = 7;

/// The lists that the crate brings.
const BUILTIN: &[(&str, &str)] = &[
    ("groups.txt", include_str!("../../data/words/groups.txt")),
    ("allowed.txt", include_str!("../../data/words/allowed.txt")),
    ("hate.txt", include_str!("../../data/words/hate.txt")),
    ("harassment.txt", include_str!("../../data/words/harassment.txt")),
    ("violence.txt", include_str!("../../data/words/violence.txt")),
    ("self_harm.txt", include_str!("../../data/words/self_harm.txt")),
    ("sexual.txt", include_str!("../../data/words/sexual.txt")),
    ("shocking.txt", include_str!("../../data/words/shocking.txt")),
    ("illegal_activity.txt", include_str!("../../data/words/illegal_activity.txt")),
    ("deception.txt", include_str!("../../data/words/deception.txt")),
    ("political.txt", include_str!("../../data/words/political.txt")),
    ("health.txt", include_str!("../../data/words/health.txt")),
    ("spam.txt", include_str!("../../data/words/spam.txt")),
    ("minors.txt", include_str!("../../data/words/minors.txt")),
    ("languages.txt", include_str!("../../data/words/languages.txt")),
    ("namesakes.txt", include_str!("../../data/names/namesakes.txt")),
    ("modern.txt", include_str!("../../data/names/modern.txt")),
    ("entertainers.txt", include_str!("../../data/names/entertainers.txt")),
    ("historic.txt", include_str!("../../data/names/historic.txt")),
    ("profanity.txt", include_str!("../../data/words/profanity.txt")),
];

/// Lists of patterns, ready to be found in captions.
///
/// ```
/// use unclip_safety::{Category, Lexicon};
///
/// let lists = "[group artist]\npainter, sculptor\n[harassment 0.8]\nbad {artist}\n[harassment allow]\nbad painter hat";
/// let lexicon = Lexicon::parse(&[("mine.txt", lists)])?;
/// let signals = lexicon.signals("a B4D sculptor");
/// assert_eq!((signals[0].category, signals[0].score), (Category::Harassment, 0.8));
/// assert!(lexicon.signals("a bad painter hat").is_empty());
/// # Ok::<(), unclip_safety::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lexicon {
    /// The elements that a word satisfies.
    exact: HashMap<String, Vec<u32>>,
    /// The elements that a word with this beginning satisfies.
    stems: HashMap<String, Vec<u32>>,
    /// The shortest and longest beginnings, in bytes.
    stem_lengths: (usize, usize),
    /// The words of phrases, by the phrases without their spaces.
    glued: HashMap<String, Vec<String>>,
    /// The first three letters of every word, beginning and phrase.
    beginnings: HashSet<String>,
    terms: Vec<Term>,
    allowed: Vec<Allowed>,
    /// Contexts in which a category's terms do not count.
    contexts: BTreeMap<Category, Vec<(Places, Places)>>,
    /// Terms and allowed patterns by the element that they are looked up by.
    by_anchor: HashMap<u32, Vec<Anchored>>,
}

/// Elements in a row, each with the number of words that may stand before it.
type Places = Vec<(usize, u32)>;

#[derive(Debug, Clone)]
struct Term {
    category: Category,
    score: f32,
    places: Places,
}

#[derive(Debug, Clone)]
struct Allowed {
    category: Option<Category>,
    places: Places,
}

/// A pattern and which of its places it is looked up by.
#[derive(Debug, Clone, Copy)]
enum Anchored {
    Term(usize, usize),
    Allowed(usize, usize),
}

/// A word of the caption with the elements that it satisfies, in rising order.
struct Read {
    word: Word,
    elements: Vec<u32>,
}

/// Words `first..=last` of the caption that a term was found in, looked up by word `at`.
struct Match {
    term: usize,
    at: usize,
    first: usize,
    last: usize,
}

impl Lexicon {
    /// The lists that the crate brings, read once.
    pub fn builtin() -> &'static Arc<Self> {
        static BUILT: LazyLock<Arc<Lexicon>> = LazyLock::new(|| {
            Arc::new(Lexicon::parse(BUILTIN).expect("the crate's own lists are read by its tests"))
        });
        &BUILT
    }

    /// Reads lists from text, each with what it is called in errors; groups hold across all of them.
    ///
    /// # Errors
    ///
    /// [`Error::Line`] with the list, the line and the reason.
    pub fn parse(lists: &[(&str, &str)]) -> Result<Self> {
        let mut builder = Builder::default();
        for entry in list::parse(lists)? {
            builder.add(entry);
        }
        Ok(builder.finish())
    }

    /// Reads list files, with or without the built-in lists before them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be read, [`Error::Line`] as [`parse`](Self::parse).
    pub fn read<P: AsRef<Path>>(files: &[P], with_builtin: bool) -> Result<Self> {
        let mut lists = Vec::new();
        for file in files {
            let path = file.as_ref();
            let text = fs::read_to_string(path).map_err(|source| Error::Io {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            lists.push((path.display().to_string(), text));
        }
        let mut all: Vec<(&str, &str)> = if with_builtin { BUILTIN.to_vec() } else { Vec::new() };
        all.extend(lists.iter().map(|(origin, text)| (origin.as_str(), text.as_str())));
        Self::parse(&all)
    }

    /// How many patterns it looks for.
    pub fn len(&self) -> usize {
        self.terms.len()
    }

    /// Whether it looks for nothing.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The caption's words as this lexicon reads them: tricks of spelling are undone where that gives a word of its
    /// patterns.
    pub fn decode(&self, caption: &str) -> Vec<Word> {
        spelling::decode(words(caption), caption, self)
    }

    /// What the caption scores in each category that it scores in, with the words that made it so.
    pub fn signals(&self, caption: &str) -> Vec<Signal> {
        let read: Vec<Read> = self
            .decode(caption)
            .into_iter()
            .map(|word| Read { elements: self.elements(&word.text), word })
            .collect();
        let (matches, allowed) = self.find(&read);
        let mut found: BTreeMap<Category, Vec<Match>> = BTreeMap::new();
        for found_here in matches {
            let Term { category, score, .. } = self.terms[found_here.term];
            if self.is_excused(&found_here, category, &read, &allowed) {
                continue;
            }
            // The highest scores are kept, the earliest among equals.
            let kept = found.entry(category).or_default();
            let place = kept.partition_point(|other| self.terms[other.term].score >= score);
            let repeats = kept
                .iter()
                .any(|other| (other.first, other.last) == (found_here.first, found_here.last));
            if place < MOST_SHOWN && !repeats {
                kept.insert(place, found_here);
                kept.truncate(MOST_SHOWN);
            }
        }
        found
            .into_iter()
            .map(|(category, matches)| {
                let check = if category == Category::PublicFigures { "names" } else { "words" };
                let score = self.terms[matches[0].term].score;
                matches.iter().fold(Signal::new(category, score, check), |signal, found| {
                    let start = read[found.first].word.start;
                    let end = read[found.first..=found.last]
                        .iter()
                        .map(|read| read.word.end)
                        .fold(start, usize::max);
                    signal.evidence(words_at(caption, start, end))
                })
            })
            .collect()
    }

    /// Every term found, and for each word the categories in which it does not count.
    fn find(&self, read: &[Read]) -> (Vec<Match>, Vec<u16>) {
        let mut matches = Vec::new();
        let mut allowed = vec![0; read.len()];
        for (at, here) in read.iter().enumerate() {
            for element in &here.elements {
                for anchored in self.by_anchor.get(element).into_iter().flatten() {
                    match *anchored {
                        Anchored::Term(term, anchor) => {
                            if let Some((first, last)) =
                                around(&self.terms[term].places, anchor, at, read)
                            {
                                matches.push(Match { term, at, first, last });
                            }
                        }
                        Anchored::Allowed(pattern, anchor) => {
                            let Allowed { category, places } = &self.allowed[pattern];
                            if let Some((first, last)) = around(places, anchor, at, read) {
                                let mask = category.map_or(u16::MAX, bit);
                                allowed[first..=last].iter_mut().for_each(|word| *word |= mask);
                            }
                        }
                    }
                }
            }
        }
        (matches, allowed)
    }

    /// Whether a match lies in what is allowed, or in a context in which it does not count.
    fn is_excused(
        &self,
        found: &Match,
        category: Category,
        read: &[Read],
        allowed: &[u16],
    ) -> bool {
        let Match { at, first, last, .. } = *found;
        if allowed[at] & bit(category) != 0 {
            return true;
        }
        self.contexts.get(&category).into_iter().flatten().any(|(before, after)| {
            let precedes = before.is_empty()
                || (first > 0 && backward(before, before.len() - 1, first - 1, read).is_some());
            let follows = after.is_empty()
                || (last + 1 < read.len() && forward(after, 0, last + 1, read).is_some());
            precedes && follows
        })
    }

    /// The elements that each beginning of a word satisfies.
    fn stems_of<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a Vec<u32>> {
        let (shortest, longest) = self.stem_lengths;
        (shortest..=longest.min(word.len()))
            .filter_map(move |length| self.stems.get(word.get(..length)?))
    }

    /// The elements that a word satisfies, in rising order.
    fn elements(&self, word: &str) -> Vec<u32> {
        let exact = self.exact.get(word).into_iter();
        let mut elements: Vec<u32> = exact.chain(self.stems_of(word)).flatten().copied().collect();
        elements.sort_unstable();
        elements.dedup();
        elements
    }
}

impl Vocabulary for Lexicon {
    fn knows(&self, word: &str) -> bool {
        self.exact.contains_key(word) || self.stems_of(word).next().is_some()
    }

    fn begins(&self, letters: &str) -> bool {
        self.beginnings.contains(letters)
    }

    fn parts(&self, glued: &str) -> Option<&[String]> {
        self.glued.get(glued).map(Vec::as_slice)
    }
}

/// The first and last word of the pattern whose place `anchor` is word `at`.
fn around(places: &Places, anchor: usize, at: usize, read: &[Read]) -> Option<(usize, usize)> {
    Some((backward(places, anchor, at, read)?, forward(places, anchor, at, read)?))
}

/// The last word, when word `at` satisfies place `place` and words after it the places after it.
fn forward(places: &Places, place: usize, at: usize, read: &[Read]) -> Option<usize> {
    if read.get(at)?.elements.binary_search(&places[place].1).is_err() {
        return None;
    }
    match places.get(place + 1) {
        None => Some(at),
        Some(&(gap, _)) => {
            (at + 1..=at + 1 + gap).find_map(|next| forward(places, place + 1, next, read))
        }
    }
}

/// The first word, when word `at` satisfies place `place` and words before it the places before it.
fn backward(places: &Places, place: usize, at: usize, read: &[Read]) -> Option<usize> {
    if read[at].elements.binary_search(&places[place].1).is_err() {
        return None;
    }
    if place == 0 {
        return Some(at);
    }
    let gap = places[place].0;
    (at.saturating_sub(1 + gap)..at).rev().find_map(|next| backward(places, place - 1, next, read))
}

fn bit(category: Category) -> u16 {
    1 << category as u16
}

/// Words as evidence; a long stretch is shown by its beginning.
fn words_at(caption: &str, start: usize, end: usize) -> Evidence {
    Evidence::Words { text: caption[start..end].chars().take(80).collect(), start, end }
}

/// A lexicon being put together.
#[derive(Default)]
struct Builder {
    elements: BTreeMap<Element, u32>,
    exact: HashMap<String, Vec<u32>>,
    stems: HashMap<String, Vec<u32>>,
    glued: HashMap<String, Vec<String>>,
    terms: Vec<Term>,
    allowed: Vec<Allowed>,
    contexts: BTreeMap<Category, Vec<(Places, Places)>>,
    by_anchor: HashMap<u32, Vec<Anchored>>,
}

impl Builder {
    fn add(&mut self, entry: list::Entry) {
        match entry.pattern {
            Pattern::Term { score, sequence } => {
                let category = entry.category.expect("only allowed patterns are of all categories");
                self.glue(&sequence);
                let (places, anchor) = self.places(sequence);
                let term = Anchored::Term(self.terms.len(), anchor);
                self.by_anchor.entry(places[anchor].1).or_default().push(term);
                self.terms.push(Term { category, score, places });
            }
            Pattern::Allow { sequence } => {
                let (places, anchor) = self.places(sequence);
                let allowed = Anchored::Allowed(self.allowed.len(), anchor);
                self.by_anchor.entry(places[anchor].1).or_default().push(allowed);
                self.allowed.push(Allowed { category: entry.category, places });
            }
            Pattern::Unless { before, after } => {
                let category = entry.category.expect("contexts are of one category");
                let (before, after) = (self.places(before).0, self.places(after).0);
                self.contexts.entry(category).or_default().push((before, after));
            }
        }
    }

    /// The elements' numbers, and the place to look the pattern up by: the first that is no group.
    fn places(&mut self, sequence: Sequence) -> (Places, usize) {
        let anchor = sequence.iter().position(|(_, element)| !element.is_group).unwrap_or(0);
        let places =
            sequence.into_iter().map(|(gap, element)| (gap, self.number(element))).collect();
        (places, anchor)
    }

    fn number(&mut self, element: Element) -> u32 {
        let next = u32::try_from(self.elements.len()).expect("fewer elements than list bytes");
        if let Some(&number) = self.elements.get(&element) {
            return number;
        }
        for word in &element.exact {
            self.exact.entry(word.clone()).or_default().push(next);
        }
        for stem in &element.stems {
            self.stems.entry(stem.clone()).or_default().push(next);
        }
        self.elements.insert(element, next);
        next
    }

    /// Remembers a phrase of plain words as it reads without spaces.
    fn glue(&mut self, sequence: &Sequence) {
        let parts: Option<Vec<String>> = sequence
            .iter()
            .map(|(gap, element)| match element.exact.as_slice() {
                [word] if *gap == 0 && element.stems.is_empty() => Some(word.clone()),
                _ => None,
            })
            .collect();
        if let Some(parts) = parts
            && parts.len() > 1
        {
            let glued = parts.concat();
            if glued.len() >= SHORTEST_GLUED {
                self.glued.insert(glued, parts);
            }
        }
    }

    fn finish(self) -> Lexicon {
        let Self { exact, stems, glued, terms, allowed, contexts, by_anchor, .. } = self;
        let lengths = || stems.keys().map(String::len);
        let stem_lengths = (lengths().min().unwrap_or(1), lengths().max().unwrap_or(0));
        let known = exact.keys().chain(stems.keys()).chain(glued.keys());
        let beginnings = known.map(|word| word.chars().take(3).collect()).collect();
        Lexicon {
            beginnings,
            exact,
            stems,
            stem_lengths,
            glued,
            terms,
            allowed,
            contexts,
            by_anchor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTS: &str = "\
[group person]
man, woman, boy, dog*
[violence 1.0]
behead*
stab* ... {person}
axe <> {person}
severed head/heads
[violence 0.3]
knife
[violence allow]
stab* of humour
[public_figures 1.0]
donald duck
[public_figures unless]
~ monument
style of ~
[shocking 0.6]
куча
裸
";

    fn lexicon() -> Lexicon {
        Lexicon::parse(&[("test", LISTS)]).expect("a list")
    }

    fn scores(caption: &str) -> Vec<(Category, f32)> {
        lexicon().signals(caption).iter().map(|signal| (signal.category, signal.score)).collect()
    }

    #[test]
    fn patterns_match_at_word_boundaries() {
        let violence = |score| vec![(Category::Violence, score)];
        for (caption, expected) in [
            ("the beheading", violence(1.0)),
            ("a SEVERED  heads up", violence(1.0)),
            ("stabbing at an old man", violence(1.0)),
            ("stabbing at an old and very tired man", vec![]),
            ("a man with an axe", violence(1.0)),
            ("an axe and a dogs bed", violence(1.0)),
            ("an axe", vec![]),
            ("a knife", violence(0.3)),
            ("a knife beheading", violence(1.0)),
            ("penknives", vec![]),
            ("in severed headlines", vec![]),
        ] {
            assert_eq!(scores(caption), expected, "{caption}");
        }
    }

    #[test]
    fn allowed_words_and_contexts_do_not_count() {
        assert!(scores("a stab of humour for the man").is_empty(), "not even near a person");
        let figure = vec![(Category::PublicFigures, 1.0)];
        assert_eq!(scores("donald duck"), figure);
        assert_eq!(scores("DonaldDuck"), figure);
        assert!(scores("the donald duck monument").is_empty(), "a place");
        assert!(scores("in the style of donald duck").is_empty(), "a style");
        assert_eq!(scores("style of donald duck beside donald duck himself"), figure);
    }

    #[test]
    fn other_scripts_match() {
        assert_eq!(scores("куча"), [(Category::Shocking, 0.6)]);
        assert_eq!(scores("赤裸々"), [(Category::Shocking, 0.6)]);
    }

    #[test]
    fn evidence_is_the_caption_s_own_words() {
        let caption = "see: B3headings, and a knif\u{200B}e";
        let signals = lexicon().signals(caption);
        let shown: Vec<(&str, &str)> = signals[0]
            .evidence
            .iter()
            .map(|evidence| match evidence {
                Evidence::Words { text, start, end } => (text.as_str(), &caption[*start..*end]),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(shown, [("B3headings", "B3headings"), ("knif\u{200B}e", "knif\u{200B}e")]);
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = Lexicon::read(&["no/such.txt"], true).expect_err("no file").to_string();
        assert_eq!(error, "cannot read no/such.txt");
    }
}
