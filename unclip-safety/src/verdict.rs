//! What a check says, and what a policy makes of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Category, Region};

/// What follows from a check, from the mildest to the strictest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Go on.
    #[default]
    Allow,
    /// Go on, and keep the verdict beside the picture.
    Flag,
    /// Return the picture blurred beyond recognition; of an upload, blur the [regions](Evidence::Region) found and go
    /// on.
    Blur,
    /// Return a blank picture in its place.
    Withhold,
    /// Return no picture but an error that holds the verdict.
    Refuse,
}

impl Action {
    /// The name that policies, lists and logs use: `withhold`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Flag => "flag",
            Self::Blur => "blur",
            Self::Withhold => "withhold",
            Self::Refuse => "refuse",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a check saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Evidence {
    /// Words of the caption.
    Words {
        /// As the caption has them.
        text: String,
        /// The byte where they begin.
        start: usize,
        /// The byte after their end.
        end: usize,
    },
    /// A part of the picture.
    Region(Region),
    /// A phrase that the caption, the picture, or both together come near to.
    Concept {
        /// The phrase.
        phrase: String,
        /// How much nearer than harmless ones, in standard deviations.
        deviations: f32,
    },
    /// Whatever else explains the score.
    Note(String),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words { text, .. } => write!(f, "\"{text}\""),
            Self::Region(region) => write!(f, "{region}"),
            Self::Concept { phrase, deviations } => {
                write!(f, "near \"{phrase}\" ({deviations:.1} deviations)")
            }
            Self::Note(note) => f.write_str(note),
        }
    }
}

/// What a check measured, before a [`Policy`](crate::Policy) says what follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// What it is about.
    pub category: Category,
    /// How sure the check is, from 0 to 1.
    pub score: f32,
    /// Which check measured it.
    pub check: String,
    /// What it saw.
    pub evidence: Vec<Evidence>,
}

impl Signal {
    /// A signal without evidence; `score` is held within 0 and 1, and what is no number counts as 1.
    pub fn new(category: Category, score: f32, check: impl Into<String>) -> Self {
        let score = if score.is_nan() { 1.0 } else { score.clamp(0.0, 1.0) };
        Self { category, score, check: check.into(), evidence: Vec::new() }
    }

    /// Adds what the check saw.
    #[must_use]
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }
}

/// One signal and what the policy makes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub category: Category,
    /// How sure the check is, from 0 to 1.
    pub score: f32,
    /// The score from which on the policy takes this action.
    pub threshold: f32,
    /// What the policy takes this finding for.
    pub action: Action,
    /// Which check found it.
    pub check: String,
    /// The words or places that it found.
    pub evidence: Vec<Evidence>,
}

impl Finding {
    /// What the policy's rule from `threshold` on makes of `signal`.
    pub fn new(signal: Signal, action: Action, threshold: f32) -> Self {
        let Signal { category, score, check, evidence } = signal;
        Self { category, score, threshold, action, check, evidence }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { category, score, threshold, check, evidence, .. } = self;
        write!(f, "{category} {score:.2} (from {threshold:.2}) by {check}")?;
        for (k, evidence) in evidence.iter().enumerate() {
            f.write_str(if k == 0 { ": " } else { ", " })?;
            write!(f, "{evidence}")?;
        }
        Ok(())
    }
}

/// What follows from the checks, and the findings that led to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// What follows: the strictest action of the findings.
    pub action: Action,
    /// Why; empty when nothing was found.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Nothing was found.
    pub fn allow() -> Self {
        Self::default()
    }

    /// One finding, and the action that it states.
    pub fn of(finding: Finding) -> Self {
        Self { action: finding.action, findings: vec![finding] }
    }

    /// Both verdicts as one: the stricter action, all findings.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.action = self.action.max(other.action);
        self.findings.extend(other.findings);
        self
    }

    /// The finding that weighs most: of the strictest action, the highest score.
    pub fn gravest(&self) -> Option<&Finding> {
        self.findings
            .iter()
            .max_by(|a, b| a.action.cmp(&b.action).then(a.score.total_cmp(&b.score)))
    }

    /// The regions to blur, where blurring them is all that the verdict asks for: its action is [`Action::Blur`], and every
    /// finding to blur says where.
    pub fn regions_to_blur(&self) -> Option<Vec<Region>> {
        let mut regions = Vec::new();
        for finding in self.findings.iter().filter(|finding| finding.action == Action::Blur) {
            let before = regions.len();
            regions.extend(finding.evidence.iter().filter_map(|evidence| match evidence {
                Evidence::Region(region) => Some(*region),
                _ => None,
            }));
            if regions.len() == before {
                return None;
            }
        }
        (self.action == Action::Blur && !regions.is_empty()).then_some(regions)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        for finding in &self.findings {
            write!(f, "; {finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(category: Category, action: Action) -> Finding {
        let words = Evidence::Words { text: "a word".into(), start: 3, end: 9 };
        Finding::new(Signal::new(category, 0.9, "test").evidence(words), action, 0.5)
    }

    #[test]
    fn the_stricter_of_two_verdicts_wins_and_no_finding_is_lost() {
        let flagged = Verdict::of(finding(Category::Political, Action::Flag));
        let refused = Verdict::of(finding(Category::Violence, Action::Refuse));
        let both = flagged.clone().and(refused.clone());
        assert_eq!((both.action, both.findings.len()), (Action::Refuse, 2));
        assert_eq!(both.gravest().map(|finding| finding.category), Some(Category::Violence));
        assert_eq!(refused.and(flagged).action, Action::Refuse);
    }

    #[test]
    fn a_verdict_survives_json_and_reads_as_a_sentence() {
        let verdict = Verdict::of(finding(Category::SelfHarm, Action::Blur));
        let json = serde_json::to_string(&verdict).expect("plain data");
        assert!(json.contains("\"self_harm\"") && json.contains("\"blur\""), "{json}");
        assert_eq!(serde_json::from_str::<Verdict>(&json).expect("our own JSON"), verdict);
        assert_eq!(verdict.to_string(), "blur; self_harm 0.90 (from 0.50) by test: \"a word\"");
    }

    #[test]
    fn a_score_that_is_no_number_is_taken_for_the_worst() {
        assert_eq!(Signal::new(Category::Hate, f32::NAN, "test").score, 1.0);
        assert_eq!(Signal::new(Category::Hate, 7.0, "test").score, 1.0);
        assert_eq!(Signal::new(Category::Hate, -7.0, "test").score, 0.0);
    }

    #[test]
    fn blurring_regions_is_enough_only_where_nothing_else_is_found() {
        let region = Region { x: 1, y: 2, width: 3, height: 4 };
        let signal =
            Signal::new(Category::PublicFigures, 1.0, "faces").evidence(Evidence::Region(region));
        let face = Verdict::of(Finding::new(signal, Action::Blur, 0.5));
        let with = |action| {
            face.clone().and(Verdict::of(finding(Category::Sexual, action))).regions_to_blur()
        };
        assert_eq!(face.regions_to_blur(), Some(vec![region]));
        assert_eq!(with(Action::Flag), Some(vec![region]));
        assert_eq!(with(Action::Blur), None, "the whole picture is to be blurred");
        assert_eq!(with(Action::Refuse), None);
        assert_eq!(Verdict::allow().regions_to_blur(), None);
        let bare = Verdict { action: Action::Blur, findings: Vec::new() };
        assert_eq!(bare.regions_to_blur(), None, "nothing says where");
    }
}
