//! CLIP as the stages after it see it: trained, and not to be changed.

use std::{fs::File, io::Read as _, path::Path};

use burn::tensor::{Device, Tensor};
use image::RgbImage;
use sha2::{Digest as _, Sha256};
use unclip_clip::Clip;
use unclip_core::{Error as CoreError, checkpoint::WeightPrecision, nn::TextConditioning};

use crate::{
    Result,
    data::{Content, Sample},
};

/// The files that decide what CLIP says.
const FILES: [&str; 4] = [
    "text_encoder/model.safetensors",
    "image_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
];

/// A trained CLIP.
#[derive(Debug)]
pub(crate) struct Frozen {
    clip: Clip,
    digest: String,
}

impl Frozen {
    /// Opens the CLIP of a model directory, without autodiff.
    pub(crate) fn open(model: &Path, device: &Device) -> Result<Self> {
        let device = device.clone().inner();
        let clip = Clip::from_dir(model, &device, WeightPrecision::F32)?;
        Ok(Self { clip, digest: digest(model)? })
    }

    /// What tells this CLIP from any other.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Width of the embeddings.
    pub(crate) fn embedding_width(&self) -> usize {
        self.clip.vision().config().embedding_width
    }

    /// Side of the pictures that it sees.
    pub(crate) fn side(&self) -> u32 {
        u32::try_from(self.clip.vision().config().image_size).unwrap_or(u32::MAX)
    }

    /// Tokens of a caption, padding included.
    pub(crate) fn tokens(&self) -> usize {
        self.clip.tokenizer().max_length()
    }

    /// Embeds pictures: `[pictures, width]`, not normalised.
    pub(crate) fn pictures(&self, pictures: &[RgbImage]) -> Result<Tensor<2>> {
        Ok(self.clip.embed_images(pictures)?)
    }

    /// What the stages are told of captions.
    pub(crate) fn captions<S: AsRef<str>>(&self, captions: &[S]) -> Result<TextConditioning> {
        let encoded = self.clip.tokenizer().encode_many(captions)?;
        let output = self.clip.text().forward(&encoded);
        Ok(TextConditioning {
            embedding: output.text_embeds,
            states: output.last_hidden_state,
            mask: encoded.into_iter().map(|encoding| encoding.mask).collect(),
        })
    }

    /// The image embeddings of samples: those that the data hold, or those of `views`, one a sample.
    pub(crate) fn embeddings(&self, samples: &[Sample], views: &[RgbImage]) -> Result<Tensor<2>> {
        let stored = samples.iter().any(|s| matches!(s.content, Content::Embeddings { .. }));
        if !stored {
            return self.pictures(views);
        }
        let width = self.embedding_width();
        let mut values = Vec::with_capacity(samples.len() * width);
        for sample in samples {
            let row = sample.image_embedding()?;
            if row.len() != width {
                let found = format!("{} numbers in sample {}", row.len(), sample.key);
                let expected = format!("CLIP's {width}");
                return Err(CoreError::invalid("image_embedding", found, expected).into());
            }
            values.extend_from_slice(row);
        }
        let data = burn::tensor::TensorData::new(values, [samples.len(), width]);
        Ok(Tensor::from_data(data, &self.clip.vision().device()))
    }
}

/// The SHA-256 of CLIP's files, in hexadecimal.
fn digest(model: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    for name in FILES {
        let path = model.join(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // A vocabulary may lie in another file; the tokens' weights are told apart by the others.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(CoreError::io("read", path)(error).into()),
        };
        hash.update(name.as_bytes());
        loop {
            let count = file.read(&mut buffer).map_err(CoreError::io("read", &path))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
