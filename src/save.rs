//! Writing a whole model in the layout that diffusers reads.

use std::path::Path;

use unclip_core::{
    checkpoint::{ModelIndex, SaveOptions, WeightPrecision, write_json_atomic},
    diffusion::Prediction,
    sampler::SamplerKind,
};
use unclip_decoder::MaskChannels;

use crate::{
    Pipeline,
    error::{Error, Result, invalid},
    parts::{LARGE, Reading, UpsamplerSpec},
    resident::Part,
};

impl Pipeline {
    /// Writes every part of the model to `dir`, which must not exist or be empty: `UnCLIPPipeline` of diffusers opens
    /// it, or `UnCLIPImageVariationPipeline` when the model has no prior.
    ///
    /// The directory is written under a temporary name beside its place and renamed when it is whole.
    ///
    /// # Errors
    ///
    /// When `dir` holds something, or a file cannot be written; nothing half-written is left behind.
    pub fn save(&self, dir: impl AsRef<Path>, options: &SaveOptions<'_>) -> Result<()> {
        let dir = dir.as_ref();
        if dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file() {
            return Err(invalid(
                "dir",
                dir.display(),
                "a folder that does not exist yet, or an empty one",
            ));
        }
        let parent =
            dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(unclip_core::Error::io("create", parent))?;
        let whole = tempfile::Builder::new()
            .prefix(".unclip-save-")
            .tempdir_in(parent)
            .map_err(unclip_core::Error::io("create", parent))?;
        self.write_parts(whole.path(), options)?;
        if dir.is_dir() {
            std::fs::remove_dir(dir).map_err(unclip_core::Error::io("replace", dir))?;
        }
        std::fs::rename(whole.path(), dir).map_err(unclip_core::Error::io("rename to", dir))?;
        // The folder has moved; there is nothing left to delete.
        let _ = whole.keep();
        Ok(())
    }

    /// Writes the model to `dir` for `UnCLIPPipeline.from_pretrained` of diffusers, which paints the same pictures with
    /// it: as [`save`](Self::save), in 32 bits, once it is clear that every stage is one that diffusers knows.
    ///
    /// That pipeline ends with the first upsampler. What it has no name for, the weights of the mask channels and the
    /// second upsampler, lies beside the rest, and it does not look there.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when the model has no prior or no upsampler; [`unclip_core::Error::InvalidInput`] when a
    /// stage is sampled otherwise than `UnCLIPScheduler` does; and as [`save`](Self::save).
    pub fn save_diffusers(&self, dir: impl AsRef<Path>) -> Result<()> {
        const OPERATION: &str = "saving for diffusers";
        let specs = &self.inner.specs;
        let lacking = |part| Error::Unavailable { operation: OPERATION, part };
        let (_, prior) = specs.prior.as_ref().ok_or_else(|| lacking("prior"))?;
        let upsampler = specs.upsampler.as_ref().ok_or_else(|| lacking("super_res_first"))?;
        for (stage, sampler) in [
            ("prior", prior),
            ("decoder", &specs.decoder_sampler),
            ("upsampler", &upsampler.sampler),
        ] {
            if sampler.kind != SamplerKind::UnClip || sampler.prediction == Prediction::V {
                let found = format!("{stage}: {:?} of {:?}", sampler.kind, sampler.prediction);
                let expected = "UnClip of Epsilon or Sample, which diffusers' UnCLIPScheduler has";
                return Err(invalid("sampler", found, expected));
            }
        }
        self.save(dir, &SaveOptions { precision: WeightPrecision::F32, ..SaveOptions::default() })
    }

    fn write_parts(&self, dir: &Path, options: &SaveOptions<'_>) -> Result<()> {
        let inner = &self.inner;
        let specs = &inner.specs;
        let scheduler = |name: &str, json: &serde_json::Value| -> Result<()> {
            let folder = dir.join(name);
            std::fs::create_dir_all(&folder).map_err(unclip_core::Error::io("create", &folder))?;
            Ok(write_json_atomic(folder.join("scheduler_config.json"), json)?)
        };
        let class =
            if specs.prior.is_some() { "UnCLIPPipeline" } else { "UnCLIPImageVariationPipeline" };
        let mut index = ModelIndex::new(class)
            .part("decoder", "diffusers", "UNet2DConditionModel")
            .part("decoder_scheduler", "diffusers", "UnCLIPScheduler")
            .part("text_encoder", "transformers", "CLIPTextModelWithProjection")
            .part("text_proj", "unclip", "UnCLIPTextProjModel")
            .part("tokenizer", "transformers", "CLIPTokenizer");

        specs.tokenizer.write_dir(dir.join("tokenizer"))?;
        inner.text_encoder()?.part.save_dir(dir.join("text_encoder"), options)?;
        inner.decoder()?.part.save_dirs(dir.join("text_proj"), dir.join("decoder"), options)?;
        if let Some(from) = &specs.decoder.dir {
            let Reading { variant, precision, device, .. } = &inner.reading;
            let config = &specs.decoder.config;
            let mask = MaskChannels::find(from, config, variant.as_deref(), *precision, device)?;
            if let Some(mask) = mask {
                mask.save_dir(dir.join("decoder"), options)?;
            }
        }
        scheduler("decoder_scheduler", &specs.decoder_sampler.to_json())?;
        if let Some((_, sampler)) = &specs.prior {
            inner.prior("saving")?.part.save_dir(dir.join("prior"), options)?;
            scheduler("prior_scheduler", &sampler.to_json())?;
            index = index.part("prior", "diffusers", "PriorTransformer").part(
                "prior_scheduler",
                "diffusers",
                "UnCLIPScheduler",
            );
        }
        if let Some((_, preprocessor)) = &specs.image {
            inner.image_encoder("saving")?.part.save_dir(dir.join("image_encoder"), options)?;
            preprocessor.write_dir(dir.join("feature_extractor"))?;
            index = index
                .part("image_encoder", "transformers", "CLIPVisionModelWithProjection")
                .part("feature_extractor", "transformers", "CLIPImageProcessor");
        }
        if let Some(spec) = &specs.upsampler {
            self.write_upsampler(spec, Part::UpsampleFirst, &dir.join("super_res_first"), options)?;
            self.write_upsampler(spec, Part::UpsampleLast, &dir.join("super_res_last"), options)?;
            scheduler("super_res_scheduler", &spec.sampler.to_json())?;
            index = index
                .part("super_res_first", "diffusers", "UNet2DModel")
                .part("super_res_last", "diffusers", "UNet2DModel")
                .part("super_res_scheduler", "diffusers", "UnCLIPScheduler");
        }
        if let Some(spec) = &specs.upsampler_large {
            self.write_upsampler(spec, Part::UpsampleLarge, &dir.join(LARGE), options)?;
            scheduler(&format!("{LARGE}_scheduler"), &spec.sampler.to_json())?;
        }
        specs.guidance.write(dir)?;
        Ok(index.save(dir)?)
    }

    fn write_upsampler(
        &self,
        spec: &UpsamplerSpec,
        part: Part,
        dir: &Path,
        options: &SaveOptions<'_>,
    ) -> Result<()> {
        let network = self.inner.upsampler(part, spec)?.part;
        let config = match (&spec.last, part) {
            (Some(last), Part::UpsampleLast) => &last.config,
            _ => &spec.first.config,
        };
        Ok(config.save_dir(&network, dir, options)?)
    }
}
