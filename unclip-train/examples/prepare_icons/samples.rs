//! Which samples there are, and how each is made.

use std::collections::HashSet;

use image::RgbImage;
use rand::{
    RngExt,
    seq::{IndexedRandom, SliceRandom},
};
use unclip_train::{
    data::{Content, Portion, Sample},
    hygiene::{Split, split},
};

use crate::{
    Arguments,
    captions::{self, Arrangement},
    draw::{self, Background, Place, WHITE},
    icons::{COMMON_SETS, Icon, Icons, SETS, Set, rng},
};

/// Pairs of icons for every icon on its own.
const PAIRS: f64 = 0.4;
/// The share of pairs of concepts that are held out.
const UNSEEN_PAIRS: f64 = 0.04;
/// Colours that a common thing is shown on, beside white.
const COMMON_COLOURS: u32 = 2;
/// The side of a crop out of a rendering at 1024.
const CROP: u32 = 256;
/// The share of slow drawings that crops are made of.
const SLOW: f64 = 0.2;

/// One sample to be made.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    key: String,
    icons: Vec<(usize, Place)>,
    background: Background,
    arrangement: Option<Arrangement>,
    side: u32,
    is_crop: bool,
    seed: u64,
}

impl Part {
    /// Renders and describes it.
    pub(crate) fn sample(&self, icons: &Icons) -> anyhow::Result<Sample> {
        let first = &icons.all[self.icons[0].0];
        let all = |field: fn(&Icon) -> &str| {
            let each: Vec<&str> =
                self.icons.iter().map(|(icon, _)| field(&icons.all[*icon])).collect();
            Some(each.join(" + "))
        };
        Ok(Sample {
            key: self.key.clone(),
            content: Content::Picture(self.picture(icons)?),
            captions: self.captions(icons),
            concept: all(|icon| &icon.concept.base),
            family: all(|icon| &icon.concept.family),
            style: Some(SETS[first.set].style.word.to_owned()),
        })
    }

    /// What it shows, in different words.
    pub(crate) fn captions(&self, icons: &Icons) -> Vec<String> {
        let mut rng = rng(self.seed, &["captions", &self.key]);
        let first = &icons.all[self.icons[0].0];
        let (style, background) = (SETS[first.set].style, self.background.name);
        match (self.arrangement, self.icons.get(1)) {
            (Some(arrangement), Some((second, _))) => {
                let both = [&first.concept, &icons.all[*second].concept];
                captions::of_pair(both, arrangement, style, background, &mut rng)
            }
            _ => captions::of_icon(&first.concept, style, background, &mut rng),
        }
    }

    fn picture(&self, icons: &Icons) -> anyhow::Result<RgbImage> {
        let drawings: Vec<_> =
            self.icons.iter().map(|(icon, place)| (&icons.all[*icon].drawing, *place)).collect();
        if !self.is_crop {
            return draw::scene(&drawings, self.background, self.side);
        }
        let mut rng = rng(self.seed, &["crop", &self.key]);
        let corner =
            draw::corner_at_an_edge(&drawings, self.background, self.side, CROP, &mut rng)?;
        draw::part(&drawings, self.background, self.side, CROP, corner)
    }
}

/// Every sample of every size.
#[derive(Debug)]
pub(crate) struct Plan {
    train: Vec<Part>,
    common: Vec<Part>,
    held_out: Vec<Part>,
    unseen_styles: Vec<Part>,
    pairs: Vec<Part>,
    unseen_pairs: Vec<Part>,
    large_train: Vec<Part>,
    large_held_out: Vec<Part>,
    crops_train: Vec<Part>,
    crops_held_out: Vec<Part>,
}

impl Plan {
    pub(crate) fn new(icons: &Icons, arguments: &Arguments) -> Self {
        let seed = arguments.seed;
        let mut plan = Self {
            train: Vec::new(),
            common: Vec::new(),
            held_out: Vec::new(),
            unseen_styles: Vec::new(),
            pairs: Vec::new(),
            unseen_pairs: Vec::new(),
            large_train: Vec::new(),
            large_held_out: Vec::new(),
            crops_train: Vec::new(),
            crops_held_out: Vec::new(),
        };
        for (index, icon) in icons.all.iter().enumerate() {
            let name = format!("{}-{}", SETS[icon.set].prefix, icon.name);
            let mut rng = rng(seed, &["icon", &name]);
            let part = |key: String, place, background, side, is_crop| Part {
                key,
                icons: vec![(index, place)],
                background,
                arrangement: None,
                side,
                is_crop,
                seed,
            };
            let on_white = part(format!("{name}-white"), Place::CENTRE, WHITE, 64, false);
            let colour = Background::behind(&[&icon.drawing], &mut rng);
            let place = Place::near_the_centre(&mut rng);
            let coloured = part(format!("{name}-colour"), place, colour, 64, false);
            let large = match rng.random_bool(0.5) {
                true => Part { side: 256, ..on_white.clone() },
                false => Part { side: 256, ..coloured.clone() },
            };
            let crop = |source: &Part| Part { side: 1024, is_crop: true, ..source.clone() };
            let crops = match !SETS[icon.set].is_slow || rng.random_bool(SLOW) {
                true => vec![crop(&on_white), crop(&coloured)],
                false => Vec::new(),
            };
            match (icon.split, icon.is_unseen_style) {
                (Split::Train, false) => {
                    if icon.concept.is_common && icon.set < COMMON_SETS {
                        plan.common.push(on_white.clone());
                        let mut rng = self::rng(seed, &["common", &name]);
                        plan.common.extend((1..=COMMON_COLOURS).map(|number| {
                            let colour = Background::behind(&[&icon.drawing], &mut rng);
                            part(
                                format!("{name}-colour-{number}"),
                                Place::CENTRE,
                                colour,
                                64,
                                false,
                            )
                        }));
                    }
                    plan.train.extend([on_white, coloured]);
                    plan.large_train.push(large);
                    plan.crops_train.extend(crops);
                }
                (Split::Train, true) => plan.unseen_styles.extend([on_white, coloured]),
                (Split::HeldOut, _) => {
                    plan.held_out.extend([on_white, coloured]);
                    plan.large_held_out.push(large);
                    plan.crops_held_out.extend(crops);
                }
            }
        }
        plan.add_pairs(icons, seed);
        plan
    }

    /// Puts two things of one style side by side, or one above the other.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a few thousand icons"
    )]
    fn add_pairs(&mut self, icons: &Icons, seed: u64) {
        let mut rng = rng(seed, &["pairs"]);
        for (set, Set { prefix, .. }) in SETS.iter().enumerate() {
            let is_part = |icon: &Icon| {
                icon.set == set
                    && icon.concept.is_thing
                    && icon.split == Split::Train
                    && !icon.is_unseen_style
            };
            let things: Vec<usize> =
                (0..icons.all.len()).filter(|&index| is_part(&icons.all[index])).collect();
            let mut known = HashSet::new();
            for _ in 0..(things.len() as f64 * PAIRS * 2.0) as usize {
                let Some([first, second]) = things.sample_array(&mut rng) else { break };
                let both = [&icons.all[first], &icons.all[second]];
                let key = format!("{prefix}-{}+{}", both[0].name, both[1].name);
                if !known.insert(key.clone()) {
                    continue;
                }
                let background = match rng.random_bool(0.5) {
                    true => WHITE,
                    false => Background::behind(&both.map(|icon| &icon.drawing), &mut rng),
                };
                let side = rng.random_range(0.42..0.49);
                let place = |middle| Place { side, middle };
                let across = rng.random_range(0.4..0.6);
                let (arrangement, places) = match rng.random_bool(0.7) {
                    true => (Arrangement::Beside, [place([0.26, across]), place([0.74, across])]),
                    false => (Arrangement::Below, [place([across, 0.26]), place([across, 0.74])]),
                };
                let part = Part {
                    key,
                    icons: vec![(first, places[0]), (second, places[1])],
                    background,
                    arrangement: Some(arrangement),
                    side: 64,
                    is_crop: false,
                    seed,
                };
                // In any order and style, so that the combination is new altogether.
                let mut names = both.map(|icon| icon.concept.base.as_str());
                names.sort_unstable();
                match split(&names.join(" + "), UNSEEN_PAIRS, seed) {
                    Split::Train => self.pairs.push(part),
                    Split::HeldOut => self.unseen_pairs.push(part),
                }
            }
        }
    }

    /// The folders of a size with their samples, shuffled; none for an unknown size.
    pub(crate) fn parts(&self, size: u32) -> Option<Vec<(Portion, Vec<Part>)>> {
        let folders = match size {
            64 => vec![
                (Portion::Train, [&self.train[..], &self.pairs].concat()),
                (Portion::Common, self.common.clone()),
                (Portion::HeldOut, self.held_out.clone()),
                (Portion::UnseenStyles, self.unseen_styles.clone()),
                (Portion::UnseenPairs, self.unseen_pairs.clone()),
            ],
            256 => {
                vec![
                    (Portion::Train, self.large_train.clone()),
                    (Portion::HeldOut, self.large_held_out.clone()),
                ]
            }
            1024 => {
                vec![
                    (Portion::Train, self.crops_train.clone()),
                    (Portion::HeldOut, self.crops_held_out.clone()),
                ]
            }
            _ => return None,
        };
        let shuffled = |(portion, mut parts): (Portion, Vec<Part>)| {
            parts.shuffle(&mut rng(0, &["order", portion.name()]));
            (portion, parts)
        };
        Some(folders.into_iter().map(shuffled).collect())
    }

    /// Every caption of the training split at 64 pixels.
    pub(crate) fn training_captions(&self, icons: &Icons) -> impl Iterator<Item = String> {
        self.train.iter().chain(&self.pairs).flat_map(|part| part.captions(icons))
    }
}
