//! Marks on pictures: one that is seen, one that is not.

mod code;
mod detect;
mod invisible;
mod pattern;
mod signature;

pub use detect::{Detection, Detector, Reading};
pub use invisible::{InvisibleMark, Payload, PayloadError};
pub use signature::{DALL_E_2_COLOURS, ForeignColours, Signature, is_signed_by_dall_e_2};
