//! What every character is called, and what it looks like another of.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::bail;
use serde::Deserialize;

use crate::packages::Packages;

/// A thing that icons show.
#[derive(Debug, Clone)]
pub(crate) struct Concept {
    /// Its name, in lower case.
    pub(crate) name: String,
    /// Its name without the tone of its skin: what splits are made by.
    pub(crate) base: String,
    /// Words that go with it, best first.
    pub(crate) keywords: Vec<String>,
    /// Keywords that mean hardly anything else.
    pub(crate) synonyms: Vec<String>,
    /// Things that look nearly the same.
    pub(crate) family: String,
    /// Whether it is a thing that can stand beside another one.
    pub(crate) is_thing: bool,
    /// Whether it is one of the [`COMMON`] things.
    pub(crate) is_common: bool,
    /// Whether it is a variant of another one with a tone of skin.
    pub(crate) has_tone: bool,
}

/// An entry of emojibase.
#[derive(Debug, Deserialize)]
struct Record {
    label: String,
    hexcode: String,
    #[serde(default)]
    tags: Vec<String>,
    emoji: String,
    group: Option<u32>,
    #[serde(default)]
    skins: Vec<Skin>,
}

#[derive(Debug, Deserialize)]
struct Skin {
    label: String,
    hexcode: String,
}

/// CLDR's file of names and keywords.
#[derive(Debug, Deserialize)]
struct Annotations {
    annotations: AnnotationsOfLocale,
}

#[derive(Debug, Deserialize)]
struct AnnotationsOfLocale {
    annotations: HashMap<String, Annotation>,
}

#[derive(Debug, Deserialize)]
struct Annotation {
    #[serde(default)]
    default: Vec<String>,
}

/// Emojibase's numbers of groups: parts of emoji, and flags, are left out.
const COMPONENTS: u32 = 2;
const FLAGS: u32 = 9;
/// Animals, food, travel, activities and objects.
const THINGS: [u32; 5] = [3, 4, 5, 6, 7];
/// What people ask for first, a name a line: what a decoder of few steps is to draw so that it is recognised.
const COMMON: &str = include_str!("common.txt");
/// A keyword of more concepts than this is a kind of thing, and no name for one.
const SYNONYM_OF: usize = 2;

/// Every concept by its code points, as the icon sets write them: lower-case, without variation selectors.
pub(crate) fn read(packages: &Packages) -> anyhow::Result<BTreeMap<String, Concept>> {
    let records: Vec<Record> = packages.read("emojibase-data", "en/data.json")?;
    let cldr: Annotations =
        packages.read("cldr-annotations-full", "annotations/en/annotations.json")?;
    let cldr = cldr.annotations.annotations;
    let mut common: HashSet<&str> = COMMON.lines().collect();
    let mut concepts = BTreeMap::new();
    for record in &records {
        let Some(group) = record.group.filter(|group| ![COMPONENTS, FLAGS].contains(group)) else {
            continue;
        };
        let name = plain(&record.label);
        let plain_emoji = record.emoji.replace('\u{fe0f}', "");
        let words = cldr.get(&plain_emoji).map_or(&[][..], |annotation| &annotation.default);
        let mut keywords: Vec<String> = Vec::new();
        for word in words.iter().chain(&record.tags).map(|word| plain(word)) {
            if word.len() > 2 && word.len() <= 24 && word != name && !keywords.contains(&word) {
                keywords.push(word);
            }
        }
        let concept = Concept {
            base: name.clone(),
            keywords,
            synonyms: Vec::new(),
            family: family(&record.hexcode, &name),
            is_thing: THINGS.contains(&group),
            is_common: common.remove(name.as_str()),
            has_tone: false,
            name,
        };
        for skin in record.skins.iter().filter(|skin| !skin.label.contains("tone,")) {
            let toned = Concept { name: plain(&skin.label), has_tone: true, ..concept.clone() };
            concepts.insert(code_points(&skin.hexcode), toned);
        }
        concepts.insert(code_points(&record.hexcode), concept);
    }
    if !common.is_empty() {
        bail!("common things that no character is called: {common:?}");
    }
    name_synonyms(&mut concepts);
    Ok(concepts)
}

/// Code points as the icon sets write them.
pub(crate) fn code_points(hexcode: &str) -> String {
    let parts: Vec<String> =
        hexcode.split('-').map(str::to_lowercase).filter(|part| part != "fe0f").collect();
    parts.join("-")
}

/// A name as a caption has it: lower case, without typographic marks.
fn plain(text: &str) -> String {
    let text = text.to_lowercase().replace('’', "'").replace(['“', '”', '!'], "").replace(':', ",");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Keywords that few families share and that are no part of the name.
fn name_synonyms(concepts: &mut BTreeMap<String, Concept>) {
    let mut families: HashMap<String, Vec<String>> = HashMap::new();
    for concept in concepts.values() {
        for word in &concept.keywords {
            let families = families.entry(word.clone()).or_default();
            if !families.contains(&concept.family) {
                families.push(concept.family.clone());
            }
        }
    }
    for concept in concepts.values_mut() {
        let names = |word: &&String| {
            families[*word].len() <= SYNONYM_OF
                && !concept.name.split(' ').any(|part| part == word.as_str())
        };
        concept.synonyms = concept.keywords.iter().filter(names).cloned().collect();
    }
}

/// The name of the things that look nearly the same: one person whatever the gender, hair and direction, all faces of
/// clocks, all keycaps, all families.
fn family(hexcode: &str, name: &str) -> String {
    const JOINER: &str = "200d";
    let code = code_points(hexcode);
    for (start, family) in [
        ("keycap,", "keycap"),
        ("family", "family"),
        ("couple", "couple"),
        ("kiss, ", "couple"),
        ("kiss", "kiss"),
        ("input latin", "input"),
        ("japanese", "japanese"),
    ] {
        // Japanese dolls, a castle and a post office are none of the buttons with one character.
        if name.starts_with(start) && (start != "japanese" || name.ends_with("button")) {
            return family.to_owned();
        }
    }
    let parts: Vec<&str> = code.split('-').collect();
    if let [single] = parts[..]
        && ("1f550"..="1f567").contains(&single)
    {
        return "clock face".to_owned();
    }
    let people = ["1f468", "1f469", "1f9d1"];
    // Signs of gender, direction and hair.
    let variant = ["2640", "2642", "27a1", "1f9b0", "1f9b1", "1f9b2", "1f9b3"];
    let kept: Vec<&str> = parts
        .iter()
        .filter(|part| **part != JOINER && !variant.contains(part))
        .map(|part| if people.contains(part) { "person" } else { part })
        .collect();
    kept.join("-")
}
