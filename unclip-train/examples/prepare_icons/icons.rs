//! The icons: joined with their concepts, without near-duplicates, capped by family, split.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
};

use anyhow::Context;
use image::RgbImage;
use rand::{SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use resvg::usvg;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use unclip_train::hygiene::{Fingerprint, Fingerprints, Split, cap, deduplicate, split};

use crate::{
    Arguments,
    captions::Style,
    draw::{self, Drawing},
    names::Concept,
    packages::Packages,
};

/// A set of icons and how it is drawn.
#[derive(Debug)]
pub(crate) struct Set {
    package: &'static str,
    /// Begins the keys of its samples.
    pub(crate) prefix: &'static str,
    pub(crate) style: Style,
    /// Whether a picture takes long to render, because of its filters.
    pub(crate) is_slow: bool,
}

/// The sets, those with the best pictures first: they stay where two sets have the same picture.
pub(crate) const SETS: [Set; 7] = [
    set("@iconify-json/fluent-emoji-flat", "flat", "flat", "a flat icon"),
    Set { is_slow: true, ..set("@iconify-json/fluent-emoji", "3d", "3d", "a 3d icon") },
    set("@iconify-json/noto", "cartoon", "cartoon", "a cartoon"),
    set(
        "@iconify-json/fluent-emoji-high-contrast",
        "bw",
        "black and white icon",
        "a black and white icon",
    ),
    set("@iconify-json/twemoji", "twemoji", "twemoji", "a twemoji icon"),
    set("@iconify-json/noto-v1", "retro", "retro cartoon", "a retro cartoon"),
    set("@iconify-json/fxemoji", "simple", "simple icon", "a simple icon"),
];

/// The first sets, whose common things are learned most: flat, 3d, cartoon, black and white.
pub(crate) const COMMON_SETS: usize = 4;

const fn set(
    package: &'static str,
    prefix: &'static str,
    word: &'static str,
    noun: &'static str,
) -> Set {
    Set { package, prefix, style: Style { word, noun }, is_slow: false }
}

/// An icon of a set.
#[derive(Debug)]
pub(crate) struct Icon {
    /// Its set's place in [`SETS`].
    pub(crate) set: usize,
    /// Its name in the set.
    pub(crate) name: String,
    pub(crate) concept: Concept,
    pub(crate) drawing: Drawing,
    /// What it is for; families are never divided.
    pub(crate) split: Split,
    /// Whether the concept is learned in other styles, and this one is held out.
    pub(crate) is_unseen_style: bool,
}

/// All icons, and what was left out.
#[derive(Debug)]
pub(crate) struct Icons {
    pub(crate) all: Vec<Icon>,
    counts: Counts,
}

/// How many icons there are, and why others were left out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counts {
    icons: usize,
    concepts: usize,
    without_a_name: usize,
    over_the_cap: usize,
    near_duplicates: usize,
    unreadable: usize,
    by_style: BTreeMap<&'static str, usize>,
    held_out_concepts: usize,
    unseen_styles: usize,
}

/// A file of an Iconify package.
#[derive(Debug, Deserialize)]
struct SetFile {
    icons: BTreeMap<String, IconBody>,
    width: Option<f32>,
    height: Option<f32>,
}

#[derive(Debug, Deserialize)]
struct IconBody {
    body: String,
    left: Option<f32>,
    top: Option<f32>,
    width: Option<f32>,
    height: Option<f32>,
    #[serde(default)]
    hidden: bool,
}

/// The side that pictures are compared at.
const COMPARED_AT: u32 = 64;
/// Pictures are near-duplicates up to this many of 64 gradients and grey levels of colour.
const GRADIENTS: u32 = 2;
const COLOURS: f64 = 2.5;
/// The share of icons whose style is held out for concepts that are learned in others.
const UNSEEN_STYLES: f64 = 0.03;

impl Icons {
    pub(crate) fn read(
        packages: &Packages,
        concepts: &BTreeMap<String, Concept>,
        arguments: &Arguments,
    ) -> anyhow::Result<Self> {
        let mut icons = Self { all: Vec::new(), counts: Counts::default() };
        let characters = by_name(packages)?;
        for number in 0..SETS.len() {
            icons.read_set(number, packages, &characters, concepts, arguments)?;
        }
        icons.drop_duplicates()?;
        icons.hold_out_styles(arguments.seed);
        icons.count();
        Ok(icons)
    }

    fn read_set(
        &mut self,
        number: usize,
        packages: &Packages,
        characters: &HashMap<String, String>,
        concepts: &BTreeMap<String, Concept>,
        arguments: &Arguments,
    ) -> anyhow::Result<()> {
        let set = &SETS[number];
        let file: SetFile = packages.read(set.package, "icons.json")?;
        let mut found: Vec<(&Concept, &str)> = Vec::new();
        for (name, icon) in &file.icons {
            let character = characters.get(name).or_else(|| characters.get(&squeezed(name)));
            match character.and_then(|character| concepts.get(character)) {
                Some(concept) if !icon.hidden && !concept.name.contains("facing right") => {
                    found.push((concept, name));
                }
                _ => self.counts.without_a_name += 1,
            }
        }
        // Whole names before variants, so that a cap leaves the former.
        found.sort_by_key(|(concept, name)| (concept.has_tone, concept.name.len(), *name));
        let (toned, plain): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(concept, _)| concept.has_tone);
        let families = plain.iter().map(|(concept, _)| Some(concept.family.as_str()));
        let mut kept: Vec<(&Concept, &str)> =
            cap(families, arguments.family).into_iter().map(|index| plain[index]).collect();
        self.counts.over_the_cap += plain.len() - kept.len();
        // One tone for every concept that has some.
        for (concept, _) in kept.clone() {
            let tones: Vec<_> = toned.iter().filter(|(t, _)| t.base == concept.base).collect();
            let mut rng = rng(arguments.seed, &["tone", set.prefix, &concept.base]);
            kept.extend(tones.choose(&mut rng).copied().copied());
        }
        for (concept, name) in kept {
            let svg = svg(&file, &file.icons[name]);
            let Ok(tree) = usvg::Tree::from_str(&svg, &usvg::Options::default()) else {
                self.counts.unreadable += 1;
                continue;
            };
            self.all.push(Icon {
                set: number,
                name: name.to_owned(),
                concept: concept.clone(),
                drawing: Drawing::new(tree).with_context(|| format!("drawing {name}"))?,
                split: split(&concept.family, arguments.held_out, arguments.seed),
                is_unseen_style: false,
            });
        }
        Ok(())
    }

    /// Drops pictures that look like an earlier one; where it had another name, that becomes a synonym.
    fn drop_duplicates(&mut self) -> anyhow::Result<()> {
        let prints: Vec<Fingerprint> = self
            .all
            .iter()
            .map(|icon| {
                let picture: RgbImage = draw::whole(&icon.drawing, COMPARED_AT)?;
                Ok(Fingerprint::of(&picture)?)
            })
            .collect::<anyhow::Result<_>>()?;
        let duplicates = deduplicate(&Fingerprints::new(prints, GRADIENTS, COLOURS));
        self.counts.near_duplicates = duplicates.len();
        for duplicate in &duplicates {
            let name = self.all[duplicate.index].concept.name.clone();
            let kept = &mut self.all[duplicate.of].concept;
            if kept.name != name && !kept.synonyms.contains(&name) {
                kept.synonyms.push(name);
            }
        }
        let mut index = 0;
        self.all.retain(|_| {
            index += 1;
            duplicates.binary_search_by_key(&(index - 1), |duplicate| duplicate.index).is_err()
        });
        Ok(())
    }

    /// Holds out one style in a while of concepts that stay in training in at least two others.
    fn hold_out_styles(&mut self, seed: u64) {
        let mut styles: HashMap<String, usize> = HashMap::new();
        for icon in &self.all {
            *styles.entry(icon.concept.name.clone()).or_default() += 1;
        }
        for icon in &mut self.all {
            let Some(left) = styles.get_mut(&icon.concept.name) else { continue };
            let pair = format!("{} {}", icon.concept.name, SETS[icon.set].prefix);
            let is_train = icon.split == Split::Train && !icon.concept.has_tone;
            if is_train && *left > 2 && split(&pair, UNSEEN_STYLES, seed) == Split::HeldOut {
                icon.is_unseen_style = true;
                *left -= 1;
            }
        }
    }

    fn count(&mut self) {
        let concepts = |split: Option<Split>| {
            let icons =
                self.all.iter().filter(|icon| split.is_none_or(|split| icon.split == split));
            icons.map(|icon| &icon.concept.base).collect::<std::collections::BTreeSet<_>>().len()
        };
        let (all, held_out) = (concepts(None), concepts(Some(Split::HeldOut)));
        let counts = &mut self.counts;
        (counts.icons, counts.concepts, counts.held_out_concepts) = (self.all.len(), all, held_out);
        for icon in &self.all {
            *counts.by_style.entry(SETS[icon.set].style.word).or_default() += 1;
            counts.unseen_styles += usize::from(icon.is_unseen_style);
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The counts, for people.
    pub(crate) fn summary(&self) -> String {
        let counts = &self.counts;
        let mut text = format!(
            "{} icons of {} concepts ({} held out; {} unseen styles); left out: {} without a name, {} over \
             the cap, {} near-duplicates, {} unreadable\n",
            counts.icons,
            counts.concepts,
            counts.held_out_concepts,
            counts.unseen_styles,
            counts.without_a_name,
            counts.over_the_cap,
            counts.near_duplicates,
            counts.unreadable
        );
        for (style, count) in &counts.by_style {
            _ = writeln!(text, "{count:6} {style}");
        }
        text
    }
}

/// The code points of every icon's name, also of names without hyphens.
fn by_name(packages: &Packages) -> anyhow::Result<HashMap<String, String>> {
    let mut characters = HashMap::new();
    for set in &SETS {
        // Two sets have none, and share their names with others.
        let Ok(file) = packages.read::<BTreeMap<String, String>>(set.package, "chars.json") else {
            continue;
        };
        for (code, name) in file {
            let code = crate::names::code_points(&code);
            characters.entry(squeezed(&name)).or_insert_with(|| code.clone());
            characters.entry(name).or_insert(code);
        }
    }
    Ok(characters)
}

fn squeezed(name: &str) -> String {
    name.replace('-', "")
}

fn svg(file: &SetFile, icon: &IconBody) -> String {
    let side = |own: Option<f32>, all: Option<f32>| own.or(all).unwrap_or(16.0);
    let (width, height) = (side(icon.width, file.width), side(icon.height, file.height));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"{} {} {width} {height}\">{}</svg>",
        icon.left.unwrap_or_default(),
        icon.top.unwrap_or_default(),
        icon.body
    )
}

/// Random numbers that depend on the seed and these words alone.
pub(crate) fn rng(seed: u64, words: &[&str]) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for word in words {
        hash.update(word.as_bytes());
        hash.update([0]);
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}
