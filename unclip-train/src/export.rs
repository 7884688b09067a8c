//! A model directory that grows stage by stage, and what networks of pictures start from.

use std::path::Path;

use unclip_core::{
    checkpoint::{ModelIndex, write_json_atomic},
    sampler::SamplerConfig,
};

use crate::{Result, parameters::Fill, task::layer};

/// Folders of a model directory, with the library and the class that diffusers' index names.
const PARTS: [(&str, &str, &str); 12] = [
    ("text_encoder", "transformers", "CLIPTextModelWithProjection"),
    ("tokenizer", "transformers", "CLIPTokenizer"),
    ("image_encoder", "transformers", "CLIPVisionModelWithProjection"),
    ("feature_extractor", "transformers", "CLIPImageProcessor"),
    ("prior", "diffusers", "PriorTransformer"),
    ("prior_scheduler", "diffusers", "UnCLIPScheduler"),
    ("text_proj", "unclip", "UnCLIPTextProjModel"),
    ("decoder", "diffusers", "UNet2DConditionModel"),
    ("decoder_scheduler", "diffusers", "UnCLIPScheduler"),
    ("super_res_first", "diffusers", "UNet2DModel"),
    ("super_res_last", "diffusers", "UNet2DModel"),
    ("super_res_scheduler", "diffusers", "UnCLIPScheduler"),
];

/// Writes the index of `model`, which names the parts that are there.
///
/// # Errors
///
/// [`unclip_core::Error::Io`].
pub fn write_index(model: impl AsRef<Path>) -> Result<()> {
    let model = model.as_ref();
    let class = if model.join("prior").is_dir() {
        "UnCLIPPipeline"
    } else {
        "UnCLIPImageVariationPipeline"
    };
    let present = PARTS.iter().filter(|(name, ..)| model.join(name).is_dir());
    let index = present.fold(ModelIndex::new(class), |index, (name, library, class)| {
        index.part(name, library, class)
    });
    Ok(index.save(model)?)
}

/// Writes how a stage is sampled.
pub(crate) fn write_scheduler(model: &Path, name: &str, config: &SamplerConfig) -> Result<()> {
    let folder = model.join(name);
    std::fs::create_dir_all(&folder).map_err(unclip_core::Error::io("create", &folder))?;
    Ok(write_json_atomic(folder.join("scheduler_config.json"), &config.to_json())?)
}

/// What the weights of a decoder or an upsampler start from (Dhariwal & Nichol 2021): PyTorch's defaults, except that
/// every residual branch and the output begin at zero, so that the network does.
pub(crate) fn unet_fill(name: &str, shape: &[usize]) -> Fill {
    match layer(name) {
        // Zero already: the null embedding, and the weights of the mask channels.
        (_, "learned_classifier_free_guidance_embeddings") => Fill::Constant(0.0),
        _ if name.starts_with("mask.") => Fill::Constant(0.0),
        (norm, kind) if norm.contains("norm") => {
            Fill::Constant(if kind == "weight" { 1.0 } else { 0.0 })
        }
        ("conv2" | "to_out" | "conv_out", _) => Fill::Constant(0.0),
        (_, "bias") => Fill::Constant(0.0),
        _ => Fill::fan_in(shape[1..].iter().product()),
    }
}
