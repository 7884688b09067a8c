//! What a check says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a finding is about: the categories of DALL·E 2's content policy, and minors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Category {
    /// Hateful symbols, stereotypes, comparisons of groups to animals or objects.
    Hate,
    /// Mocking, threatening or bullying a person.
    Harassment,
    /// Violent acts and suffering.
    Violence,
    /// Suicide, cutting, eating disorders.
    SelfHarm,
    /// Nudity and sexual acts.
    Sexual,
    /// Bodily fluids, obscene gestures, other things that shock.
    Shocking,
    /// Drug use, theft, vandalism and other crimes.
    IllegalActivity,
    /// Major conspiracies and events that did not happen.
    Deception,
    /// Politicians, ballots, protests, campaigns.
    Political,
    /// The likeness of a public figure.
    PublicFigures,
    /// Treatment, prevention, diagnosis or transmission of diseases.
    Health,
    /// Unsolicited bulk content.
    Spam,
    /// Sexualised or endangered minors.
    Minors,
}

/// What follows from a check, from the mildest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Go on.
    Allow,
    /// Go on, and keep the verdict beside the picture.
    Flag,
    /// Return the picture blurred beyond recognition.
    Blur,
    /// Return a blank picture in its place.
    Withhold,
    /// Return no picture but an error that holds the verdict.
    Refuse,
}

/// One thing that a check found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub category: Category,
    /// How sure the check is, from 0 to 1.
    pub score: f32,
    /// The score from which on the check acts.
    pub threshold: f32,
    /// Which check found it.
    pub check: String,
    /// The words or the place that it found.
    pub detail: String,
}

/// What a check says: an action and the findings that led to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What follows.
    pub action: Action,
    /// Why; empty when nothing was found.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Nothing was found.
    pub fn allow() -> Self {
        Self { action: Action::Allow, findings: Vec::new() }
    }

    /// One finding and what follows from it.
    pub fn of(action: Action, finding: Finding) -> Self {
        Self { action, findings: vec![finding] }
    }

    /// Both verdicts as one: the stricter action, all findings.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.action = self.action.max(other.action);
        self.findings.extend(other.findings);
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.action)?;
        for Finding { category, score, threshold, check, detail } in &self.findings {
            write!(f, "; {category:?} {score:.2} (from {threshold:.2}) by {check}: {detail}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(category: Category) -> Finding {
        Finding {
            category,
            score: 0.9,
            threshold: 0.5,
            check: "test".into(),
            detail: "a word".into(),
        }
    }

    #[test]
    fn the_stricter_of_two_verdicts_wins_and_no_finding_is_lost() {
        let flagged = Verdict::of(Action::Flag, finding(Category::Political));
        let refused = Verdict::of(Action::Refuse, finding(Category::Violence));
        let both = flagged.clone().and(refused.clone());
        assert_eq!((both.action, both.findings.len()), (Action::Refuse, 2));
        assert_eq!(refused.and(flagged).action, Action::Refuse);
    }

    #[test]
    fn a_verdict_survives_json() {
        let verdict = Verdict::of(Action::Blur, finding(Category::SelfHarm));
        let json = serde_json::to_string(&verdict).expect("plain data");
        assert!(json.contains("\"self_harm\"") && json.contains("\"blur\""), "{json}");
        assert_eq!(serde_json::from_str::<Verdict>(&json).expect("our own JSON"), verdict);
    }
}
