//! Word lists as text.
//!
//! ```text
//! # A comment.
//! [group person]            names a set of words, usable in every list as {person}
//! man, men, woman, women
//!
//! [violence 1.0]            patterns and the score of a caption that has them
//! behead*                   a word that begins so
//! severed head/heads        words in a row; a slash parts alternatives
//! stab* ... {person}        up to four words between
//! axe <> {person}           the same in either order
//!
//! [violence allow]          words that do not count within these patterns
//! killer whale/whales
//!
//! [public_figures unless]   places where a pattern of the category does not count; ~ stands for it
//! ~ monument
//! ```

use std::collections::BTreeMap;

use super::words::words;
use crate::{
    Category,
    error::{Error, Result},
};

/// Words between the two sides of `...`, at most.
pub(super) const GAP: usize = 4;
/// The most elements of a pattern.
const MOST_ELEMENTS: usize = 8;
/// The shortest beginning that `*` may follow.
const SHORTEST_STEM: usize = 3;

/// One place of a pattern: what may stand there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Element {
    /// Whole words.
    pub(super) exact: Vec<String>,
    /// Beginnings of words.
    pub(super) stems: Vec<String>,
    /// Whether it is nothing but a group: too common to look a pattern up by.
    pub(super) is_group: bool,
}

/// Places in a row, each with the number of words that may stand before it.
pub(super) type Sequence = Vec<(usize, Element)>;

/// What a pattern is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    /// A caption that has it scores this much.
    Term { score: f32, sequence: Sequence },
    /// Words within it do not count.
    Allow { sequence: Sequence },
    /// A term does not count between these.
    Unless { before: Sequence, after: Sequence },
}

/// A pattern and the category that it belongs to; `None` is every category.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) category: Option<Category>,
    pub(super) pattern: Pattern,
}

/// Words that patterns name together.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<String, Element>);

/// What the lines that follow a heading are.
enum Section {
    Group(String),
    Terms(Category, f32),
    Allow(Option<Category>),
    Unless(Category),
}

/// Reads lists, each with what it is called in errors. Groups hold across all of them.
pub(super) fn parse(lists: &[(&str, &str)]) -> Result<Vec<Entry>> {
    let mut groups = Groups::default();
    for &(origin, text) in lists {
        each_line(origin, text, |section, line| match section {
            Section::Group(name) => groups.add(name, line),
            _ => Ok(()),
        })?;
    }
    let mut entries = Vec::new();
    for &(origin, text) in lists {
        each_line(origin, text, |section, line| {
            match section {
                Section::Group(_) => {}
                Section::Terms(category, score) => {
                    for sequence in both_orders(line, &groups)? {
                        let pattern = Pattern::Term { score: *score, sequence };
                        entries.push(Entry { category: Some(*category), pattern });
                    }
                }
                Section::Allow(category) => {
                    for sequence in both_orders(line, &groups)? {
                        let pattern = Pattern::Allow { sequence };
                        entries.push(Entry { category: *category, pattern });
                    }
                }
                Section::Unless(category) => {
                    let (before, after) = line
                        .split_once('~')
                        .ok_or("a context needs `~` where the pattern stands")?;
                    if before.trim().is_empty() && after.trim().is_empty() {
                        return Err("a context needs words beside `~`".into());
                    }
                    let pattern = Pattern::Unless {
                        before: sequence_or_none(before, &groups)?,
                        after: sequence_or_none(after, &groups)?,
                    };
                    entries.push(Entry { category: Some(*category), pattern });
                }
            }
            Ok(())
        })?;
    }
    Ok(entries)
}

/// Calls `each` with every line that is neither empty nor a heading, and with its heading.
fn each_line<'t>(
    origin: &str,
    text: &'t str,
    mut each: impl FnMut(&Section, &'t str) -> Result<(), String>,
) -> Result<()> {
    let mut section = None;
    for (k, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let done = if let Some(heading) = line.strip_prefix('[') {
            heading
                .strip_suffix(']')
                .ok_or_else(|| "a heading ends with `]`".to_string())
                .and_then(parse_heading)
                .map(|heading| section = Some(heading))
        } else {
            match &section {
                Some(section) => each(section, line),
                None => Err("a heading such as `[violence 1.0]` must come first".into()),
            }
        };
        done.map_err(|reason| Error::Line { origin: origin.into(), line: k + 1, reason })?;
    }
    Ok(())
}

fn parse_heading(heading: &str) -> Result<Section, String> {
    let expected = "expected `group NAME`, `CATEGORY SCORE`, `CATEGORY allow` or `CATEGORY unless`";
    let mut parts = heading.split_whitespace();
    let (Some(first), Some(second), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(format!("`[{}]` is no heading, {expected}", shown(heading)));
    };
    if first == "group" {
        return Ok(Section::Group(second.into()));
    }
    if first == "all" && second == "allow" {
        return Ok(Section::Allow(None));
    }
    let category: Category = first.parse().map_err(|error| format!("{error}"))?;
    Ok(match second {
        "allow" => Section::Allow(Some(category)),
        "unless" => Section::Unless(category),
        score => match score.parse() {
            Ok(score) if score > 0.0 && score <= 1.0 => Section::Terms(category, score),
            _ => {
                return Err(format!(
                    "`{}` is no score above 0 and up to 1, and neither `allow` nor `unless`",
                    shown(score)
                ));
            }
        },
    })
}

/// The sequences that a line stands for: two where it says `<>`.
fn both_orders(line: &str, groups: &Groups) -> Result<Vec<Sequence>, String> {
    match line.split_once("<>") {
        None => Ok(vec![sequence(line, groups)?]),
        Some((left, right)) => {
            let (left, right) = (sequence(left, groups)?, sequence(right, groups)?);
            let joined = |first: &Sequence, second: &Sequence| {
                let mut joined = first.clone();
                joined.extend(second.clone());
                joined[first.len()].0 = GAP;
                joined
            };
            check_length(left.len() + right.len())?;
            Ok(vec![joined(&left, &right), joined(&right, &left)])
        }
    }
}

fn sequence_or_none(text: &str, groups: &Groups) -> Result<Sequence, String> {
    if text.trim().is_empty() { Ok(Sequence::new()) } else { sequence(text, groups) }
}

fn sequence(text: &str, groups: &Groups) -> Result<Sequence, String> {
    let mut sequence = Sequence::new();
    let mut gap = 0;
    for token in text.split_whitespace() {
        if token == "..." {
            if sequence.is_empty() || gap > 0 {
                return Err("`...` stands between two words".into());
            }
            gap = GAP;
        } else {
            sequence.push((gap, element(token, groups)?));
            gap = 0;
        }
    }
    if sequence.is_empty() || gap > 0 {
        return Err("a pattern begins and ends with a word".into());
    }
    check_length(sequence.len())?;
    Ok(sequence)
}

fn check_length(elements: usize) -> Result<(), String> {
    if elements > MOST_ELEMENTS {
        return Err(format!("a pattern of {elements} words, expected at most {MOST_ELEMENTS}"));
    }
    Ok(())
}

/// `word`, `stem*`, `{group}`, or several of them parted by slashes.
fn element(token: &str, groups: &Groups) -> Result<Element, String> {
    let mut element = Element::default();
    for part in token.split('/') {
        if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            let group =
                groups.0.get(name).ok_or_else(|| format!("there is no group `{}`", shown(name)))?;
            element.exact.extend(group.exact.iter().cloned());
            element.stems.extend(group.stems.iter().cloned());
            element.is_group |= !token.contains('/');
        } else {
            element.add(part)?;
        }
    }
    element.exact.sort();
    element.exact.dedup();
    element.stems.sort();
    element.stems.dedup();
    Ok(element)
}

impl Element {
    /// Adds one `word` or `stem*`.
    fn add(&mut self, part: &str) -> Result<(), String> {
        let (text, is_stem) = match part.strip_suffix('*') {
            Some(text) => (text, true),
            None => (part, false),
        };
        let word = match words(text).as_slice() {
            [word] if !word.text.contains(super::words::is_sign) => word.text.clone(),
            _ => return Err(format!("`{}` is not one word", shown(part))),
        };
        if is_stem && word.chars().count() < SHORTEST_STEM {
            return Err(format!(
                "`{}` is too short for `*`, expected at least {SHORTEST_STEM} letters",
                shown(part)
            ));
        }
        if is_stem {
            self.stems.push(word);
        } else {
            self.exact.push(word);
        }
        Ok(())
    }
}

impl Groups {
    /// Adds a line of members, parted by commas.
    fn add(&mut self, name: &str, line: &str) -> Result<(), String> {
        let group = self.0.entry(name.into()).or_default();
        line.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .try_for_each(|part| group.add(part))
    }
}

/// What an error quotes: a beginning of it when it is long.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Element {
        Element { exact: vec![text.into()], ..Element::default() }
    }

    #[test]
    fn every_kind_of_line_is_read() {
        let text = "[group thing]\ncup, plate*\n\n[violence 0.5] # heading\nAxe ... {thing}\nred/blue <> fish\n\
                    [all allow]\nshooting star\n[political unless]\n~ card\nstyle of ~";
        let entries = parse(&[("x", text)]).expect("a list");
        let thing =
            Element { exact: vec!["cup".into()], stems: vec!["plate".into()], is_group: true };
        let colours = Element { exact: vec!["blue".into(), "red".into()], ..Element::default() };
        let term = |sequence| Entry {
            category: Some(Category::Violence),
            pattern: Pattern::Term { score: 0.5, sequence },
        };
        assert_eq!(entries[0], term(vec![(0, word("axe")), (GAP, thing)]));
        assert_eq!(entries[1], term(vec![(0, colours.clone()), (GAP, word("fish"))]));
        assert_eq!(entries[2], term(vec![(0, word("fish")), (GAP, colours)]));
        assert_eq!(entries[3].category, None);
        let unless = |before, after| Pattern::Unless { before, after };
        assert_eq!(entries[4].pattern, unless(vec![], vec![(0, word("card"))]));
        assert_eq!(entries[5].pattern, unless(vec![(0, word("style")), (0, word("of"))], vec![]));
        assert_eq!(entries.len(), 6);
    }

    #[test]
    fn groups_hold_across_lists_in_any_order() {
        let entries = parse(&[("a", "[hate 1]\n{g}"), ("b", "[group g]\nx1, y1")]).expect("lists");
        assert_eq!(entries.len(), 1);
    }

    #[test]
    fn a_malformed_list_is_answered_with_its_line_and_the_reason() {
        for (text, line, reason) in [
            ("gore", 1, "a heading"),
            ("\n[violence", 2, "ends with `]`"),
            ("[violent 1.0]", 1, "`violent` is no category"),
            ("[violence 1.5]", 1, "`1.5` is no score"),
            ("[violence nan]", 1, "`nan` is no score"),
            ("[violence]", 1, "is no heading"),
            ("[violence 1.0 now]", 1, "is no heading"),
            ("[violence 1.0]\ngore\n... axe", 3, "between two words"),
            ("[violence 1.0]\naxe ...", 2, "begins and ends"),
            ("[violence 1.0]\naxe <>", 2, "begins and ends"),
            ("[violence 1.0]\n{people}", 2, "no group `people`"),
            ("[violence 1.0]\nax*", 2, "too short for `*`"),
            ("[violence 1.0]\na/", 2, "`` is not one word"),
            ("[violence 1.0]\nso-and-so", 2, "`so-and-so` is not one word"),
            ("[violence 1.0]\na b c d e f g h i", 2, "at most 8"),
            ("[violence 1.0]\na b c d e <> f g h i", 2, "at most 8"),
            ("[violence unless]\nmonument", 2, "needs `~`"),
            ("[violence unless]\n~", 2, "beside `~`"),
        ] {
            let error = parse(&[("mine.txt", text)]).expect_err(text).to_string();
            assert!(error.starts_with(&format!("mine.txt, line {line}: ")), "{text:?}: {error}");
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
