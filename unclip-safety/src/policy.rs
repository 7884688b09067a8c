//! What follows from a score.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    Action, Category, Evidence, Finding, Region, Signal, Verdict,
    error::{Error, Result},
};

/// What a signal was measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A caption.
    Caption,
    /// A picture that a caller gave, alone or with its caption.
    Upload,
    /// A finished picture.
    Output,
}

/// From which score on which action is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The lowest score that this rule is for, from 0 to 1.
    pub from: f32,
    /// What follows.
    pub action: Action,
}

/// The rules of one category, by rising score, each stricter than the one before.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(transparent)]
pub struct Ladder(Vec<Rule>);

impl Ladder {
    /// The rules, which must rise in score and in strictness.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] when a score is outside 0 to 1, or a rule does not rise above the one before it.
    pub fn new(rules: Vec<Rule>) -> Result<Self> {
        rules.into_iter().try_fold(Self::default(), Self::and)
    }

    /// One more rule.
    fn and(mut self, rule: Rule) -> Result<Self> {
        let Rule { from, action } = rule;
        let rises = self.0.last().is_none_or(|last| from > last.from && action > last.action);
        let expected = match (0.0..=1.0).contains(&from) {
            true if rises => {
                self.0.push(rule);
                return Ok(self);
            }
            true => "a rule that is stricter than the one before it, from a higher score on",
            false => "a score from 0 to 1",
        };
        let found = format!("{action} from {from}");
        Err(Error::InvalidInput { field: "rules", found, expected: expected.into() })
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// The strictest rule that `score` reaches.
    fn reached(&self, score: f32) -> Option<Rule> {
        self.0.iter().rev().find(|rule| score >= rule.from).copied()
    }
}

/// Each rule is checked as it is read, so that an error names its line.
impl<'de> Deserialize<'de> for Ladder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rising;
        impl<'de> de::Visitor<'de> for Rising {
            type Value = Ladder;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of rules")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut rules: A) -> Result<Ladder, A::Error> {
                let mut ladder = Ladder::default();
                while let Some(rule) = rules.next_element()? {
                    ladder = ladder.and(rule).map_err(de::Error::custom)?;
                }
                Ok(ladder)
            }
        }
        deserializer.deserialize_seq(Rising)
    }
}

/// What becomes of a given picture that shows a face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FacePolicy {
    /// Faces are not looked for.
    Allow,
    /// The request must state that the people shown have agreed; else it is refused.
    #[default]
    Consent,
    /// Faces are blurred before the picture is used, unless the request states consent.
    Blur,
    /// Refused, whatever the request states.
    Refuse,
}

/// Which score of which category leads to which action, for captions, given pictures and finished pictures.
///
/// A category that is not named is allowed. In a file:
///
/// ```
/// use unclip_safety::{Action, Category, Policy, Signal, Subject};
///
/// let policy = Policy::parse(
///     r#"{
///         "name": "mine",
///         "captions": { "violence": [{ "from": 0.3, "action": "flag" }, { "from": 0.9, "action": "refuse" }] },
///         "uploads": {},
///         "outputs": { "sexual": [{ "from": 0.8, "action": "withhold" }] },
///         "faces": "blur"
///     }"#,
///     "mine.json",
/// )?;
/// let verdict = policy.judge(Subject::Caption, [Signal::new(Category::Violence, 0.5, "words")]);
/// assert_eq!(verdict.action, Action::Flag);
/// # Ok::<(), unclip_safety::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What it is called in logs.
    pub name: String,
    /// The rules for captions. There is nothing to blur or withhold in words: what is above `flag` refuses.
    #[serde(deserialize_with = "each_once")]
    pub captions: BTreeMap<Category, Ladder>,
    /// The rules for pictures that callers give.
    #[serde(deserialize_with = "each_once")]
    pub uploads: BTreeMap<Category, Ladder>,
    /// The rules for finished pictures.
    #[serde(deserialize_with = "each_once")]
    pub outputs: BTreeMap<Category, Ladder>,
    /// What becomes of faces in given pictures.
    pub faces: FacePolicy,
}

impl Policy {
    /// DALL·E 2's content policy: captions and uploads of every category are refused from a score of 0.5 on and
    /// flagged from 0.25 on; finished pictures are withheld from 0.8 on and blurred from 0.5 on; faces in uploads need
    /// consent.
    pub fn standard() -> Self {
        let input = [(0.25, Action::Flag), (0.5, Action::Refuse)];
        let output = [(0.25, Action::Flag), (0.5, Action::Blur), (0.8, Action::Withhold)];
        Self::everywhere("standard", &input, &output, FacePolicy::Consent)
    }

    /// As [`standard`](Self::standard) with less trust: captions, uploads and finished pictures are refused from a
    /// score of 0.25 on, and so are faces in uploads.
    pub fn strict() -> Self {
        let rules = [(0.1, Action::Flag), (0.25, Action::Refuse)];
        Self::everywhere("strict", &rules, &rules, FacePolicy::Refuse)
    }

    /// Everything is allowed.
    pub fn off() -> Self {
        Self::everywhere("off", &[], &[], FacePolicy::Allow)
    }

    fn everywhere(
        name: &str,
        input: &[(f32, Action)],
        output: &[(f32, Action)],
        faces: FacePolicy,
    ) -> Self {
        let each = |rules: &[(f32, Action)]| -> BTreeMap<Category, Ladder> {
            if rules.is_empty() {
                return BTreeMap::new();
            }
            let ladder =
                Ladder(rules.iter().map(|&(from, action)| Rule { from, action }).collect());
            Category::ALL.into_iter().map(|category| (category, ladder.clone())).collect()
        };
        let (captions, uploads, outputs) = (each(input), each(input), each(output));
        Self { name: name.into(), captions, uploads, outputs, faces }
    }

    /// Whether nothing can follow from anything.
    pub fn is_off(&self) -> bool {
        let subjects = [Subject::Caption, Subject::Upload, Subject::Output];
        subjects.into_iter().all(|subject| self.is_idle(subject)) && self.faces == FacePolicy::Allow
    }

    /// Whether no score of any category leads to anything for `subject`; faces aside.
    pub fn is_idle(&self, subject: Subject) -> bool {
        let mut rules = self.rules(subject).values().flat_map(Ladder::rules);
        rules.all(|rule| rule.action == Action::Allow)
    }

    /// The rules for what `subject` is.
    pub fn rules(&self, subject: Subject) -> &BTreeMap<Category, Ladder> {
        match subject {
            Subject::Caption => &self.captions,
            Subject::Upload => &self.uploads,
            Subject::Output => &self.outputs,
        }
    }

    /// What follows from `signals` about one subject: a finding for each signal that reaches a rule.
    pub fn judge(&self, subject: Subject, signals: impl IntoIterator<Item = Signal>) -> Verdict {
        let rules = self.rules(subject);
        signals.into_iter().fold(Verdict::allow(), |verdict, signal| {
            match rules.get(&signal.category).and_then(|ladder| ladder.reached(signal.score)) {
                Some(Rule { from, action }) if action > Action::Allow => {
                    verdict.and(Verdict::of(Finding::new(signal, action, from)))
                }
                _ => verdict,
            }
        })
    }

    /// What follows when `check` could not be run on `subject`, which has then not passed: the strictest that any score of
    /// any category leads to.
    pub fn judge_failure(&self, subject: Subject, check: &str, reason: &str) -> Verdict {
        let last = |(category, ladder): (&Category, &Ladder)| {
            ladder.rules().last().map(|rule| (rule.action, *category))
        };
        // Of equal ones the first, which is the last that `max_by_key` sees.
        let worst =
            self.rules(subject).iter().rev().filter_map(last).max_by_key(|(action, _)| *action);
        let note = Evidence::Note(format!("the check failed: {reason}"));
        let signal = worst.map(|(_, category)| Signal::new(category, 1.0, check).evidence(note));
        self.judge(subject, signal)
    }

    /// What follows from faces in a given picture, found by `check`, where `consent` is what the request states.
    pub fn judge_faces(&self, check: &str, faces: &[(Region, f32)], consent: bool) -> Verdict {
        let action = match (self.faces, consent) {
            (FacePolicy::Allow, _) | (FacePolicy::Consent | FacePolicy::Blur, true) => {
                return Verdict::allow();
            }
            (FacePolicy::Blur, false) => Action::Blur,
            (FacePolicy::Consent, false) | (FacePolicy::Refuse, _) => Action::Refuse,
        };
        let Some(score) = faces.iter().map(|&(_, score)| score).reduce(f32::max) else {
            return Verdict::allow();
        };
        let mut signal = Signal::new(Category::PublicFigures, score, check);
        if self.faces == FacePolicy::Consent {
            let note = "a face, and the request states no consent of the people shown";
            signal = signal.evidence(Evidence::Note(note.into()));
        }
        signal.evidence.extend(faces.iter().map(|&(region, _)| Evidence::Region(region)));
        Verdict::of(Finding::new(signal, action, 0.0))
    }

    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Line`] as [`parse`](Self::parse).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a policy from JSON; `origin` names it in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Line`] with the line and the reason when it is not JSON, names an unknown key, category or action, or
    /// holds rules that do not rise.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::Line {
            origin: origin.into(),
            line: error.line().max(1),
            reason: error.to_string(),
        })
    }

    /// The policy as a file holds it.
    #[expect(clippy::missing_panics_doc, reason = "what it is made of can be written as JSON")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a policy is strings, numbers and names")
    }
}

/// A map whose keys are each given once: of two ladders for one category, neither can be the one that was meant.
fn each_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Category, Ladder>, D::Error> {
    struct EachOnce;
    impl<'de> de::Visitor<'de> for EachOnce {
        type Value = BTreeMap<Category, Ladder>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a map from categories to rules")
        }

        fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut rules = BTreeMap::new();
            while let Some(category) = map.next_key::<Category>()? {
                if rules.contains_key(&category) {
                    return Err(de::Error::custom(format!("`{category}` is given twice")));
                }
                rules.insert(category, map.next_value::<Ladder>()?);
            }
            Ok(rules)
        }
    }
    deserializer.deserialize_map(EachOnce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(policy: &Policy, subject: Subject, score: f32) -> Action {
        policy.judge(subject, [Signal::new(Category::Violence, score, "test")]).action
    }

    #[test]
    fn presets_treat_the_same_score_differently() {
        for (score, standard, strict) in [
            (0.0, Action::Allow, Action::Allow),
            (0.3, Action::Flag, Action::Refuse),
            (0.6, Action::Refuse, Action::Refuse),
        ] {
            assert_eq!(action(&Policy::standard(), Subject::Caption, score), standard, "{score}");
            assert_eq!(action(&Policy::strict(), Subject::Caption, score), strict, "{score}");
            assert_eq!(action(&Policy::off(), Subject::Caption, score), Action::Allow, "{score}");
        }
        assert_eq!(action(&Policy::standard(), Subject::Output, 0.6), Action::Blur);
        assert_eq!(action(&Policy::standard(), Subject::Output, 0.9), Action::Withhold);
    }

    #[test]
    fn presets_survive_their_file() {
        for policy in [Policy::standard(), Policy::strict(), Policy::off()] {
            assert_eq!(Policy::parse(&policy.to_json(), "preset").expect("our own JSON"), policy);
            assert_eq!(policy.is_off(), policy.name == "off");
            assert_eq!(policy.is_idle(Subject::Output), policy.name == "off");
        }
    }

    #[test]
    fn rules_that_lead_to_nothing_are_idle() {
        let mut policy = Policy::off();
        policy.outputs.insert(Category::Hate, Ladder::default());
        let allow = Rule { from: 0.5, action: Action::Allow };
        policy.outputs.insert(Category::Sexual, Ladder::new(vec![allow]).expect("one rule"));
        assert!(policy.is_idle(Subject::Output) && policy.is_off(), "{policy:?}");
        let flag = Rule { from: 0.5, action: Action::Flag };
        policy.outputs.insert(Category::Spam, Ladder::new(vec![flag]).expect("one rule"));
        assert!(!policy.is_idle(Subject::Output) && !policy.is_off(), "{policy:?}");
        assert!(policy.is_idle(Subject::Caption), "{policy:?}");
    }

    #[test]
    fn a_check_that_fails_leads_to_the_strictest_action_of_any_category() {
        let rules = |action| Ladder::new(vec![Rule { from: 0.9, action }]).expect("one rule");
        let mut policy = Policy::off();
        assert_eq!(policy.judge_failure(Subject::Upload, "mine", "why"), Verdict::allow());
        policy.uploads.insert(Category::Hate, rules(Action::Flag));
        policy.uploads.insert(Category::Violence, rules(Action::Refuse));
        policy.uploads.insert(Category::Spam, rules(Action::Refuse));
        let verdict = policy.judge_failure(Subject::Upload, "mine", "no weights");
        let said = "refuse; violence 1.00 (from 0.90) by mine: the check failed: no weights";
        assert_eq!(verdict.to_string(), said);
    }

    #[test]
    fn a_finding_states_the_rule_that_was_reached() {
        let verdict =
            Policy::standard().judge(Subject::Caption, [Signal::new(Category::Hate, 0.7, "words")]);
        let finding = verdict.gravest().expect("a finding");
        assert_eq!((finding.threshold, finding.action), (0.5, Action::Refuse));
    }

    #[test]
    fn faces_need_consent_unless_the_policy_says_otherwise() {
        let face = [(Region { x: 1, y: 1, width: 9, height: 9 }, 0.9)];
        let act = |faces, consent| {
            let policy = Policy { faces, ..Policy::standard() };
            policy.judge_faces("faces", &face, consent).action
        };
        assert_eq!(act(FacePolicy::Consent, false), Action::Refuse);
        assert_eq!(act(FacePolicy::Consent, true), Action::Allow);
        assert_eq!(act(FacePolicy::Blur, false), Action::Blur);
        assert_eq!(act(FacePolicy::Blur, true), Action::Allow);
        assert_eq!(act(FacePolicy::Refuse, true), Action::Refuse);
        assert_eq!(act(FacePolicy::Allow, false), Action::Allow);
        assert_eq!(Policy::standard().judge_faces("faces", &[], false), Verdict::allow());
    }

    #[test]
    fn a_malformed_policy_is_answered_with_its_line_and_the_reason() {
        let file = |rules: &str| {
            format!(
                "{{\n\"name\": \"x\",\n\"captions\": {{\n{rules}\n}},\n\"uploads\": {{}},\n\"outputs\": {{}},\n\"faces\": \"blur\"\n}}"
            )
        };
        for (text, line, reason) in [
            (String::new(), 1, "EOF"),
            ("{\n\"name\": 7".into(), 2, "expected a string"),
            (file("\"violent\": []"), 4, "unknown variant `violent`"),
            (file("\"hate\": [{\"from\": 0.5, \"action\": \"ban\"}]"), 4, "unknown variant `ban`"),
            (file("\"hate\": [{\"from\": 0.5, \"action\": \"flag\", \"a\": 1}]"), 4, "`a`"),
            (file("\"hate\": [{\"from\": 1.5, \"action\": \"flag\"}]"), 4, "flag from 1.5"),
            (
                file(
                    "\"hate\": [{\"from\": 0.5, \"action\": \"flag\"}, {\"from\": 0.4, \"action\": \"refuse\"}]",
                ),
                4,
                "stricter",
            ),
            (file("\"hate\": [],\n\"hate\": []"), 5, "`hate` is given twice"),
            (file("").replace("\"uploads\": {},\n", ""), 8, "missing field `uploads`"),
        ] {
            let error = Policy::parse(&text, "mine.json").expect_err("malformed").to_string();
            assert!(error.contains(&format!("mine.json, line {line}:")), "{text}: {error}");
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
