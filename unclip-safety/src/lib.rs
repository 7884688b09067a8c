//! What may be asked for, and what may be shown: policies, checks, and the hooks through which a pipeline asks.
//!
//! A check measures: a [`Signal`] has a [`Category`], a score and what was seen. A [`Policy`] says what follows: a
//! [`Verdict`] has an [`Action`] and the findings that led to it. A [`SafetyFilter`] does both for a pipeline: it is
//! asked about every caption and every given picture before anything is computed, and about every finished picture;
//! [`Guard`] is the one that a pipeline has unless told otherwise. A [`Watermark`] marks every picture that leaves the
//! pipeline, after the last check.
//!
//! ```
//! use unclip_safety::{Action, Category, Evidence, Policy, SafetyFilter, Signal, Subject, Verdict};
//!
//! /// Refuses captions that name a forbidden word.
//! #[derive(Debug)]
//! struct Words(Vec<String>, Policy);
//!
//! impl SafetyFilter for Words {
//!     fn check_caption(&self, caption: &str) -> Verdict {
//!         let found = caption.split_whitespace().find(|word| self.0.iter().any(|w| w == word));
//!         let signal = found.map(|word| {
//!             Signal::new(Category::Violence, 1.0, "my words").evidence(Evidence::Note(word.into()))
//!         });
//!         self.1.judge(Subject::Caption, signal)
//!     }
//! }
//!
//! let filter = Words(vec!["bombing".into()], Policy::standard());
//! assert_eq!(filter.check_caption("a quiet lake").action, Action::Allow);
//! assert_eq!(filter.check_caption("a bombing").action, Action::Refuse);
//! ```

mod audit;
mod caption;
mod category;
mod concepts;
mod error;
mod filter;
mod guard;
mod limiter;
pub mod mark;
pub mod picture;
mod policy;
pub mod provenance;
mod region;
mod verdict;
mod watermark;

pub use audit::{AuditEntry, AuditSink, JsonLines, Outcome};
pub use caption::{CaptionCheck, Lexicon, Word, words};
pub use category::{Category, UnknownCategory};
pub use concepts::Concepts;
pub use error::{Error, Result};
pub use filter::{Embedded, NoFilter, Output, SafetyFilter, Upload};
pub use guard::{Guard, PictureCheck};
pub use limiter::{Limited, Limiter};
pub use policy::{FacePolicy, Ladder, Policy, Rule, Subject};
pub use region::Region;
pub use verdict::{Action, Evidence, Finding, Signal, Verdict};
pub use watermark::{MarkError, Watermark};
