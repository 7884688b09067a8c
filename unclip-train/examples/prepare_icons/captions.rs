//! Captions of an icon, in several phrasings.

use rand::{Rng, RngExt, seq::IndexedRandom};

use crate::names::Concept;

/// How a set of icons is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// The word after a comma: `a fox, flat`.
    pub(crate) word: &'static str,
    /// The noun with its article: `a flat icon of a fox`.
    pub(crate) noun: &'static str,
}

/// A caption ends with the background's name this often, where it is coloured and where it is white.
const COLOURED: f64 = 0.75;
const WHITE: f64 = 0.1;

/// The captions of one icon on a background.
pub(crate) fn of_icon(
    concept: &Concept,
    style: Style,
    background: &str,
    rng: &mut impl Rng,
) -> Vec<String> {
    let name = &concept.name;
    let with_article = with_article(name);
    let Style { word, noun } = style;
    let mut captions = vec![
        format!("{with_article}, {word}"),
        format!("{name}, {word}"),
        format!("{noun} of {with_article}"),
        with_article,
    ];
    if let Some(keyword) = concept.keywords.choose(rng) {
        captions.push(format!("{name}, {keyword}, {word}"));
    }
    for synonym in concept.synonyms.sample(rng, 2) {
        captions.push(format!("{synonym}, {word}"));
    }
    captions.into_iter().map(|caption| on(caption, background, rng)).collect()
}

/// Where the second of two icons is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrangement {
    /// To the right of the first.
    Beside,
    /// Below the first.
    Below,
}

/// The captions of two icons.
pub(crate) fn of_pair(
    [first, second]: [&Concept; 2],
    arrangement: Arrangement,
    style: Style,
    background: &str,
    rng: &mut impl Rng,
) -> Vec<String> {
    let [a, b] = [first, second].map(|concept| with_article(&concept.name));
    let Style { word, noun } = style;
    let placed = match arrangement {
        Arrangement::Beside => [
            format!("{a} next to {b}"),
            format!("{b} next to {a}"),
            format!("{a} to the left of {b}"),
            format!("{b} to the right of {a}"),
        ],
        Arrangement::Below => [
            format!("{a} above {b}"),
            format!("{b} below {a}"),
            format!("{a} over {b}"),
            format!("{b} under {a}"),
        ],
    };
    let together = [format!("{a} and {b}, {word}"), format!("{noun} of {a} and {b}")];
    let captions = placed.into_iter().map(|placed| format!("{placed}, {word}")).chain(together);
    captions.map(|caption| on(caption, background, rng)).collect()
}

/// A caption, now and then with its background.
fn on(caption: String, background: &str, rng: &mut impl Rng) -> String {
    let often = if background == "white" { WHITE } else { COLOURED };
    match rng.random_bool(often) {
        true => format!("{caption} on {} background", with_article(background)),
        false => caption,
    }
}

/// `a fox`, `an apple`, and what takes no article as it is: plurals, and names that begin with a number or a letter.
fn with_article(name: &str) -> String {
    let first = name.split([' ', ',', '-']).next().unwrap_or_default();
    // Names such as "man dancing" end in what he does: the noun is the first word of people, else the last.
    let head = name.split(',').next().unwrap_or(name).split(" with ").next().unwrap_or(name);
    let head = head.split(" of ").next().unwrap_or(head).split(' ').next_back().unwrap_or(head);
    let plural = head.ends_with('s')
        && !["ss", "us", "is", "as"].iter().any(|ending| head.ends_with(ending));
    let people = ["people", "men", "women", "two"].contains(&first);
    if plural || people || first.len() < 2 || first.starts_with(|c: char| c.is_ascii_digit()) {
        return name.to_owned();
    }
    // A "u" as in unicorn and university, and "one", begin with a consonant's sound.
    let soft = ["uni", "use", "eu", "one-", "ute"].iter().any(|start| name.starts_with(start));
    match name.starts_with(['a', 'e', 'i', 'o', 'u']) && !soft {
        true => format!("an {name}"),
        false => format!("a {name}"),
    }
}
