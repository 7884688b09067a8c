//! One sample.

use image::RgbImage;

use crate::{Error, Result};

/// A picture, or the embeddings of one, with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What names the sample in its data set: a file name without its ending, or the number of a row.
    pub key: String,
    /// What is to be learned from.
    pub content: Content,
    /// What the picture shows, in different words; empty only where captions are not required.
    pub captions: Vec<String>,
    /// The thing it shows, the same word in every style; splits are made by it.
    pub concept: Option<String>,
    /// The group of concepts that look nearly alike, such as one gesture in every skin tone.
    pub family: Option<String>,
    /// How it is drawn.
    pub style: Option<String>,
}

/// What a [`Sample`] holds beside its captions.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A picture. Where it was transparent, it lies on white.
    Picture(RgbImage),
    /// Embeddings that were computed before, as they were stored: normalised or not.
    Embeddings {
        /// The picture's embedding.
        image: Vec<f32>,
        /// The caption's embedding, where the data holds one.
        text: Option<Vec<f32>>,
    },
}

impl Sample {
    /// The picture.
    ///
    /// # Errors
    ///
    /// [`Error::WrongContent`] when the data holds embeddings.
    pub fn picture(&self) -> Result<&RgbImage> {
        match &self.content {
            Content::Picture(picture) => Ok(picture),
            Content::Embeddings { .. } => Err(self.wrong("embeddings", "a picture")),
        }
    }

    /// The picture's embedding.
    ///
    /// # Errors
    ///
    /// [`Error::WrongContent`] when the data holds pictures.
    pub fn image_embedding(&self) -> Result<&[f32]> {
        match &self.content {
            Content::Embeddings { image, .. } => Ok(image),
            Content::Picture(_) => Err(self.wrong("a picture", "embeddings")),
        }
    }

    fn wrong(&self, found: &'static str, expected: &'static str) -> Error {
        Error::WrongContent { key: self.key.clone(), found, expected }
    }
}
