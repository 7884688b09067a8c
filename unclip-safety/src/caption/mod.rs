//! What a caption says, however it is spelt.
//!
//! [`words`] reads words through case, lookalikes and invisible characters. A [`Lexicon`] undoes the remaining tricks
//! (digits for letters, letters drawn out or set apart) where that gives a word which its lists know, and matches the
//! lists' patterns. [`CaptionCheck`] puts the built-in lists and a profanity filter behind one call.

mod check;
mod lexicon;
mod list;
mod lookalike;
mod spelling;
mod words;

pub use check::CaptionCheck;
pub use lexicon::Lexicon;
pub use words::{Word, words};
