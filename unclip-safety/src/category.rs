//! What a finding is about.

use std::{fmt, str::FromStr};

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
    /// The likeness of a public figure, or of a person who has not agreed.
    PublicFigures,
    /// Treatment, prevention, diagnosis or transmission of diseases.
    Health,
    /// Unsolicited bulk content.
    Spam,
    /// Sexualised or endangered minors.
    Minors,
}

impl Category {
    /// Every category, in the order of their declaration.
    pub const ALL: [Self; 13] = [
        Self::Hate,
        Self::Harassment,
        Self::Violence,
        Self::SelfHarm,
        Self::Sexual,
        Self::Shocking,
        Self::IllegalActivity,
        Self::Deception,
        Self::Political,
        Self::PublicFigures,
        Self::Health,
        Self::Spam,
        Self::Minors,
    ];

    /// The name that policies, lists and logs use: `self_harm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hate => "hate",
            Self::Harassment => "harassment",
            Self::Violence => "violence",
            Self::SelfHarm => "self_harm",
            Self::Sexual => "sexual",
            Self::Shocking => "shocking",
            Self::IllegalActivity => "illegal_activity",
            Self::Deception => "deception",
            Self::Political => "political",
            Self::PublicFigures => "public_figures",
            Self::Health => "health",
            Self::Spam => "spam",
            Self::Minors => "minors",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no category's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is no category, expected one of {}", Category::ALL.map(Category::name).join(", "))]
pub struct UnknownCategory {
    /// The name, shortened when long.
    pub name: String,
}

impl FromStr for Category {
    type Err = UnknownCategory;

    fn from_str(name: &str) -> Result<Self, UnknownCategory> {
        Self::ALL
            .into_iter()
            .find(|category| category.name() == name)
            .ok_or_else(|| UnknownCategory { name: name.chars().take(60).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        for category in Category::ALL {
            let json = serde_json::to_string(&category).expect("plain data");
            assert_eq!(json, format!("\"{category}\""));
            assert_eq!(category.name().parse(), Ok(category));
        }
        let error = "violent".parse::<Category>().expect_err("no category");
        assert!(error.to_string().contains("`violent`") && error.to_string().contains("self_harm"));
    }
}
