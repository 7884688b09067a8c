//! What can go wrong in the upsamplers.

/// A result whose error is this crate's [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while an upsampler is opened, sampled and saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a configuration, an input or the device.
    #[error(transparent)]
    Core(#[from] unclip_core::Error),
}

impl From<Error> for unclip_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Core(error) => error,
        }
    }
}
