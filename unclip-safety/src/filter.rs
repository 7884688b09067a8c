//! The filter hook.

use std::fmt::Debug;

use image::RgbImage;

use crate::Verdict;

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
    /// An action above [`Flag`](crate::Action::Flag) refuses the whole request.
    fn check_upload(&self, picture: &RgbImage) -> Verdict {
        let _ = picture;
        Verdict::allow()
    }

    /// Judges a finished picture, with the caption it was made from where there is one.
    fn check_output(&self, picture: &RgbImage, caption: Option<&str>) -> Verdict {
        let _ = (picture, caption);
        Verdict::allow()
    }
}

/// The filter that allows everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFilter;

impl SafetyFilter for NoFilter {}
