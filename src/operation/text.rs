//! Captions to embeddings.

use burn::tensor::Tensor;
use unclip_core::{Stage, nn::TextConditioning};

use super::run::Run;
use crate::{Warning, error::Result};

/// What CLIP's text encoder says of captions.
#[derive(Debug, Clone)]
pub struct TextEmbedding {
    /// The captions' embeddings, hidden states and masks, one row a caption.
    pub captions: TextConditioning,
    /// Captions that were cut, and empty ones.
    pub warnings: Vec<Warning>,
}

impl Run<'_> {
    /// Encodes each caption by itself, so that no row depends on its neighbours.
    pub(super) fn encode_text(&mut self, captions: &[&str]) -> Result<TextEmbedding> {
        let inner = self.inner;
        let encoder = inner.text_encoder()?;
        let timer = self.start(Stage::Encode, encoder.loading);
        let mut embeddings = Vec::with_capacity(captions.len());
        let mut states = Vec::with_capacity(captions.len());
        let mut mask = Vec::with_capacity(captions.len());
        let mut warnings = Vec::new();
        for (caption, text) in captions.iter().enumerate() {
            let encoding = inner.specs.tokenizer.encode(text)?;
            if encoding.dropped > 0 {
                let kept = encoding.tokens - encoding.dropped;
                warnings.push(Warning::CaptionTruncated {
                    caption: Some(caption),
                    kept,
                    dropped: encoding.dropped,
                });
            }
            if text.trim().is_empty() {
                warnings.push(Warning::EmptyCaption { caption });
            }
            let output = encoder.part.forward(std::slice::from_ref(&encoding.ids));
            embeddings.push(output.text_embeds);
            states.push(output.last_hidden_state);
            mask.push(encoding.mask);
        }
        self.stop(timer, 0)?;
        let captions = TextConditioning {
            embedding: Tensor::cat(embeddings, 0),
            states: Tensor::cat(states, 0),
            mask,
        };
        Ok(TextEmbedding { captions, warnings })
    }
}
