//! The filter hook.

use std::fmt::Debug;

use image::RgbImage;

use crate::{Subject, Verdict};

/// A picture that a caller gave.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Upload<'a> {
    /// The picture.
    pub picture: &'a RgbImage,
    /// The caption that goes with it, where the operation has one.
    pub caption: Option<&'a str>,
    /// Whether the request states that the people in the picture have agreed.
    pub consent: bool,
}

impl<'a> Upload<'a> {
    /// A picture without a caption, and without a statement about the people in it.
    pub fn new(picture: &'a RgbImage) -> Self {
        Self { picture, caption: None, consent: false }
    }

    /// Sets the caption that goes with it.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<Option<&'a str>>) -> Self {
        self.caption = caption.into();
        self
    }

    /// Sets whether the people in the picture have agreed.
    #[must_use]
    pub fn consent(mut self, consent: bool) -> Self {
        self.consent = consent;
        self
    }
}

/// A finished picture.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Output<'a> {
    /// The picture.
    pub picture: &'a RgbImage,
    /// The caption that it was made from, where there is one.
    pub caption: Option<&'a str>,
}

impl<'a> Output<'a> {
    /// A picture that was made without a caption.
    pub fn new(picture: &'a RgbImage) -> Self {
        Self { picture, caption: None }
    }

    /// Sets the caption that it was made from.
    #[must_use]
    pub fn caption(mut self, caption: impl Into<Option<&'a str>>) -> Self {
        self.caption = caption.into();
        self
    }
}

/// A caption, a picture, or both, as the pipeline's own CLIP sees them: embeddings of one width, of any length.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Embedded<'a> {
    /// The caption's embedding.
    pub caption: Option<&'a [f32]>,
    /// The picture's embedding.
    pub picture: Option<&'a [f32]>,
    /// Whether the picture is finished; else it was given, or stands for one yet to be painted.
    pub finished: bool,
}

impl<'a> Embedded<'a> {
    /// A caption alone.
    pub fn caption(embedding: &'a [f32]) -> Self {
        Self { caption: Some(embedding), ..Self::default() }
    }

    /// A picture alone.
    pub fn picture(embedding: &'a [f32]) -> Self {
        Self { picture: Some(embedding), ..Self::default() }
    }

    /// A caption and the picture that it goes with.
    pub fn pair(caption: &'a [f32], picture: &'a [f32]) -> Self {
        Self { caption: Some(caption), picture: Some(picture), finished: false }
    }

    /// Says that the picture is finished.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.finished = true;
        self
    }
}

/// Checks on what goes into a pipeline and on what comes out.
///
/// Every method allows by default, so that a filter implements the checks it has. Filters are shared between threads
/// and must not keep a caller waiting on another's check.
pub trait SafetyFilter: Debug + Send + Sync {
    /// Judges a caption, a negative caption included, before anything is computed.
    ///
    /// An action above [`Flag`](crate::Action::Flag) refuses the whole request.
    fn check_caption(&self, caption: &str) -> Verdict {
        let _ = caption;
        Verdict::allow()
    }

    /// Judges a picture that the caller gave, before anything is computed.
    ///
    /// [`Blur`](crate::Action::Blur) blurs the regions that the verdict names and goes on; where a finding to blur names none
    /// it refuses the whole request, as the stricter actions do.
    fn check_upload(&self, upload: &Upload<'_>) -> Verdict {
        let _ = upload;
        Verdict::allow()
    }

    /// Judges a finished picture.
    fn check_output(&self, output: &Output<'_>) -> Verdict {
        let _ = output;
        Verdict::allow()
    }

    /// Whether [`check_embedded`](Self::check_embedded) has anything to say; a pipeline skips it otherwise.
    fn wants_embeddings(&self) -> bool {
        false
    }

    /// Judges embeddings as soon as the pipeline has computed them: of captions and of given pictures before anything
    /// is painted, and of each [finished](Embedded::finished) picture together with its caption where the model has an
    /// image encoder.
    fn check_embedded(&self, embedded: &Embedded<'_>) -> Verdict {
        let _ = embedded;
        Verdict::allow()
    }

    /// What this filter lets pass without looking at it, so that a pipeline can warn of it; nothing by default.
    fn unchecked(&self) -> Vec<Subject> {
        Vec::new()
    }
}

/// The filter that allows everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFilter;

impl SafetyFilter for NoFilter {
    fn unchecked(&self) -> Vec<Subject> {
        vec![Subject::Caption, Subject::Upload, Subject::Output]
    }
}
