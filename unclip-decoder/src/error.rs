//! What can go wrong in the decoder.

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while the decoder is opened, sampled and saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a configuration, an input or the device.
    #[error(transparent)]
    Core(#[from] unclip_core::Error),
    /// The projection and the network do not belong together.
    #[error("the text projection's `{key}` is {found}, expected the decoder's {expected}")]
    PartsDiffer {
        /// The size that differs, under the projection's name for it.
        key: &'static str,
        /// The projection's.
        found: usize,
        /// The network's.
        expected: usize,
    },
}
