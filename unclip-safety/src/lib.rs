//! What may be asked for, and what may be shown: the hooks through which a pipeline asks.
//!
//! A [`SafetyFilter`] is asked about every caption and every uploaded picture before anything is computed, and about
//! every finished picture; it answers with a [`Verdict`]. A [`Watermark`] marks every picture that leaves the pipeline,
//! after the last check. Neither trait knows the networks: they see words and pixels.
//!
//! ```
//! use unclip_safety::{Action, Category, Finding, SafetyFilter, Verdict};
//!
//! /// Refuses captions that name a forbidden word.
//! #[derive(Debug)]
//! struct Wordlist(Vec<String>);
//!
//! impl SafetyFilter for Wordlist {
//!     fn check_caption(&self, caption: &str) -> Verdict {
//!         match caption.split_whitespace().find(|word| self.0.iter().any(|w| w == word)) {
//!             Some(word) => Verdict::of(
//!                 Action::Refuse,
//!                 Finding { category: Category::Violence, score: 1.0, threshold: 0.5, check: "wordlist".into(), detail: word.into() },
//!             ),
//!             None => Verdict::allow(),
//!         }
//!     }
//! }
//!
//! let filter = Wordlist(vec!["bombing".into()]);
//! assert_eq!(filter.check_caption("a quiet lake").action, Action::Allow);
//! assert_eq!(filter.check_caption("a bombing").action, Action::Refuse);
//! ```

mod filter;
pub mod mark;
pub mod provenance;
mod verdict;
mod watermark;

pub use filter::{NoFilter, SafetyFilter};
pub use verdict::{Action, Category, Finding, Verdict};
pub use watermark::{MarkError, Watermark};
