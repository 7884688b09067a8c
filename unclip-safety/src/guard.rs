//! The filter that a pipeline has unless told otherwise.

use std::{
    fmt::Debug,
    sync::{Arc, LazyLock},
};

use image::RgbImage;

use crate::{
    CaptionCheck, Concepts, Embedded, FacePolicy, Output, Policy, Region, SafetyFilter, Signal,
    Subject, Upload, Verdict, error::Result, picture::FaceDetector,
};

/// A check of pictures.
pub trait PictureCheck: Debug + Send + Sync {
    /// A short name, for verdicts.
    fn name(&self) -> &str;

    /// What the picture scores; nothing for a category that this check does not know.
    ///
    /// # Errors
    ///
    /// When the check cannot be run; a [`Guard`] then takes the picture for the worst of its kind.
    fn signals(&self, picture: &RgbImage) -> Result<Vec<Signal>>;
}

/// The checks of this crate under one [`Policy`].
///
/// ```
/// use unclip_safety::{Action, Guard, Policy, SafetyFilter};
///
/// let guard = Guard::new(Policy::standard());
/// assert_eq!(guard.check_caption("a corgi playing a trumpet").action, Action::Allow);
/// let verdict = guard.check_caption("a photo of D0nald Trump");
/// assert_eq!(verdict.action, Action::Refuse);
/// assert_eq!(verdict.to_string(), "refuse; public_figures 1.00 (from 0.50) by names: \"D0nald Trump\", \"Trump\"");
/// ```
#[derive(Debug, Clone)]
pub struct Guard {
    policy: Policy,
    captions: CaptionCheck,
    pictures: Vec<Arc<dyn PictureCheck>>,
    faces: Option<Arc<dyn FaceDetector>>,
    concepts: Option<Arc<Concepts>>,
}

impl Guard {
    /// The built-in check of captions under `policy`.
    pub fn new(policy: Policy) -> Self {
        static CAPTIONS: LazyLock<CaptionCheck> = LazyLock::new(CaptionCheck::builtin);
        Self {
            policy,
            captions: CAPTIONS.clone(),
            pictures: Vec::new(),
            faces: None,
            concepts: None,
        }
    }

    /// Replaces the check of captions, for lists of the caller's.
    #[must_use]
    pub fn captions(mut self, captions: CaptionCheck) -> Self {
        self.captions = captions;
        self
    }

    /// Adds a check of given and finished pictures.
    #[must_use]
    pub fn pictures(mut self, check: impl PictureCheck + 'static) -> Self {
        self.pictures.push(Arc::new(check));
        self
    }

    /// Sets what looks for faces in given pictures; the policy says what becomes of them. None by default.
    #[must_use]
    pub fn faces(mut self, detector: impl FaceDetector + 'static) -> Self {
        self.faces = Some(Arc::new(detector));
        self
    }

    /// Sets the phrases that embeddings are held against.
    #[must_use]
    pub fn concepts(mut self, concepts: impl Into<Arc<Concepts>>) -> Self {
        self.concepts = Some(concepts.into());
        self
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    fn judge_faces(&self, upload: &Upload<'_>) -> Verdict {
        let Some(detector) = &self.faces else { return Verdict::allow() };
        if self.policy.faces == FacePolicy::Allow {
            return Verdict::allow();
        }
        let found = detector.faces(upload.picture).unwrap_or_else(|_| {
            // A detector that cannot be run may have missed a face anywhere.
            let (width, height) = upload.picture.dimensions();
            vec![(Region { x: 0, y: 0, width, height }, 1.0)]
        });
        self.policy.judge_faces(detector.name(), &found, upload.consent)
    }

    fn judge_picture(&self, subject: Subject, picture: &RgbImage) -> Verdict {
        if self.policy.is_idle(subject) {
            return Verdict::allow();
        }
        self.pictures.iter().fold(Verdict::allow(), |verdict, check| {
            verdict.and(match check.signals(picture) {
                Ok(signals) => self.policy.judge(subject, signals),
                Err(error) => self.policy.judge_failure(subject, check.name(), &error.to_string()),
            })
        })
    }
}

impl SafetyFilter for Guard {
    fn check_caption(&self, caption: &str) -> Verdict {
        if self.policy.is_idle(Subject::Caption) {
            return Verdict::allow();
        }
        self.policy.judge(Subject::Caption, self.captions.signals(caption))
    }

    fn check_upload(&self, upload: &Upload<'_>) -> Verdict {
        self.judge_picture(Subject::Upload, upload.picture).and(self.judge_faces(upload))
    }

    fn check_output(&self, output: &Output<'_>) -> Verdict {
        self.judge_picture(Subject::Output, output.picture)
    }

    fn wants_embeddings(&self) -> bool {
        self.concepts.is_some() && !self.policy.is_off()
    }

    fn check_embedded(&self, embedded: &Embedded<'_>) -> Verdict {
        let subject = match embedded {
            Embedded { finished: true, .. } => Subject::Output,
            Embedded { picture: Some(_), .. } => Subject::Upload,
            _ => Subject::Caption,
        };
        let signals = self.concepts.iter().flat_map(|concepts| concepts.signals(embedded));
        self.policy.judge(subject, signals)
    }

    fn unchecked(&self) -> Vec<Subject> {
        let faces = self.faces.is_some() && self.policy.faces != FacePolicy::Allow;
        let looks = |subject: Subject| {
            let ruled = !self.policy.is_idle(subject);
            match subject {
                Subject::Caption => ruled,
                Subject::Upload => faces || ruled && !self.pictures.is_empty(),
                Subject::Output => ruled && !self.pictures.is_empty(),
            }
        };
        let subjects = [Subject::Caption, Subject::Upload, Subject::Output];
        subjects.into_iter().filter(|&subject| !looks(subject)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, Category, Error, Ladder, Rule};

    #[derive(Debug)]
    struct Broken;

    impl PictureCheck for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        fn signals(&self, _picture: &RgbImage) -> Result<Vec<Signal>> {
            let (found, expected) = ("nothing".into(), "weights".into());
            Err(Error::InvalidInput { field: "weights", found, expected })
        }
    }

    #[test]
    fn a_check_that_fails_does_not_let_the_picture_through() {
        let picture = RgbImage::new(4, 4);
        let guard = Guard::new(Policy::standard()).pictures(Broken);
        assert_eq!(guard.check_upload(&Upload::new(&picture)).action, Action::Refuse);
        assert_eq!(guard.check_output(&Output::new(&picture)).action, Action::Withhold);
        let off = Guard::new(Policy::off()).pictures(Broken);
        assert_eq!(off.check_upload(&Upload::new(&picture)), Verdict::allow());
        // Nor where the policy has no rule for what the check is about.
        let refuse = Ladder::new(vec![Rule { from: 0.9, action: Action::Refuse }]);
        let mut policy = Policy::off();
        policy.uploads.insert(Category::Violence, refuse.expect("one rule"));
        let violence = Guard::new(policy).pictures(Broken);
        assert_eq!(violence.check_upload(&Upload::new(&picture)).action, Action::Refuse);
    }

    #[test]
    fn a_guard_says_what_it_does_not_look_at() {
        use Subject::{Caption, Output, Upload};
        let whole = Guard::new(Policy::standard()).pictures(Broken);
        assert_eq!(whole.unchecked(), []);
        assert_eq!(Guard::new(Policy::standard()).unchecked(), [Upload, Output]);
        assert_eq!(Guard::new(Policy::standard()).faces(OneFace).unchecked(), [Output]);
        let off = Guard::new(Policy::off()).pictures(Broken);
        assert_eq!(off.unchecked(), [Caption, Upload, Output]);
        let words = Policy { captions: Policy::standard().captions, ..Policy::off() };
        assert_eq!(Guard::new(words).pictures(Broken).unchecked(), [Upload, Output]);
        let mut idle = Policy::standard();
        idle.outputs = [(Category::Sexual, Ladder::default())].into();
        assert_eq!(Guard::new(idle).pictures(Broken).unchecked(), [Output]);
    }

    #[test]
    fn an_edit_is_judged_as_a_pair_before_and_after() {
        // Two axes: harm, and everything else. Either half alone comes near to harm and not to it.
        let embed = |_: &[&str]| Ok::<_, Error>(vec![vec![1.0, 0.0]]);
        let phrases = vec![(Category::Violence, "harm".to_string())];
        let mut concepts = Concepts::embed(phrases, embed).expect("one embedding");
        let harmless: Vec<Vec<f32>> =
            (0..200).map(|k| vec![(k % 20) as f32 / 100.0, 1.0]).collect();
        concepts.calibrate_captions(&harmless, 0.01).expect("200 examples");
        concepts.calibrate_pictures(&harmless, 0.01).expect("200 examples");
        let mut policy = Policy::off();
        let rule = |action| Ladder::new(vec![Rule { from: 0.5, action }]).expect("one rule");
        policy.captions.insert(Category::Violence, rule(Action::Refuse));
        policy.uploads.insert(Category::Violence, rule(Action::Refuse));
        policy.outputs.insert(Category::Violence, rule(Action::Withhold));
        let guard = Guard::new(policy).concepts(concepts);
        assert!(guard.wants_embeddings(), "there are phrases");
        let half = [0.19, 1.0];
        assert_eq!(guard.check_embedded(&Embedded::caption(&half)), Verdict::allow());
        assert_eq!(guard.check_embedded(&Embedded::picture(&half)), Verdict::allow());
        let asked = guard.check_embedded(&Embedded::pair(&half, &half));
        assert_eq!(asked.action, Action::Refuse, "{asked}");
        assert_eq!(asked.findings[0].check, "concepts of caption and picture");
        let painted = guard.check_embedded(&Embedded::pair(&half, &half).finished());
        assert_eq!(painted.action, Action::Withhold, "{painted}");
    }

    #[derive(Debug)]
    struct OneFace;

    impl FaceDetector for OneFace {
        fn name(&self) -> &str {
            "one"
        }

        fn faces(&self, _: &RgbImage) -> Result<Vec<(Region, f32)>, crate::picture::PictureError> {
            Ok(vec![(Region { x: 1, y: 1, width: 2, height: 2 }, 0.9)])
        }
    }

    #[test]
    fn faces_in_given_pictures_need_what_the_policy_asks_for() {
        let picture = RgbImage::new(4, 4);
        for (faces, without, with) in [
            (FacePolicy::Allow, Action::Allow, Action::Allow),
            (FacePolicy::Consent, Action::Refuse, Action::Allow),
            (FacePolicy::Blur, Action::Blur, Action::Allow),
            (FacePolicy::Refuse, Action::Refuse, Action::Refuse),
        ] {
            let guard = Guard::new(Policy { faces, ..Policy::standard() }).faces(OneFace);
            let judged =
                |consent| guard.check_upload(&Upload::new(&picture).consent(consent)).action;
            assert_eq!((judged(false), judged(true)), (without, with), "{faces:?}");
            assert_eq!(guard.check_output(&Output::new(&picture)).action, Action::Allow);
        }
    }

    #[test]
    fn the_policy_decides_about_captions() {
        let caption = "a man stabbing another man";
        assert_eq!(Guard::new(Policy::standard()).check_caption(caption).action, Action::Refuse);
        assert_eq!(Guard::new(Policy::off()).check_caption(caption), Verdict::allow());
    }
}
