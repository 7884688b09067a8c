//! The upsampler's sampling loop.
//!
//! Paper §2.1: a small picture, enlarged by interpolation, is an upsampler's only condition. Follows the
//! super-resolution part of diffusers `pipelines/deprecated/unclip/pipeline_unclip.py`, `UnCLIPPipeline.__call__`,
//! which gives the last step to a network of its own.

use burn::tensor::Tensor;
use unclip_core::{
    Error, Stage,
    nn::{UNet, UNetInput},
    noise::NoiseSource,
    progress::{Observed, Observer},
    resize::resize_bicubic,
    sampler::{Sampler, denoise},
};

use crate::{Result, UpsamplerConfig};

/// Where the loop gets the network of a step.
///
/// Steps ask in order, so an implementation may drop the first network when the last is asked for.
pub trait Networks {
    /// The sizes that the networks share.
    fn config(&self) -> &UpsamplerConfig;

    /// The network of a step: the last one's, or that of all before.
    ///
    /// # Errors
    ///
    /// When a network has to be loaded and cannot be.
    fn network(&mut self, last: bool) -> Result<&UNet>;
}

/// What is enlarged.
#[derive(Debug, Clone)]
pub struct UpsampleInput {
    stage: Stage,
    small: Tensor<4>,
}

impl UpsampleInput {
    /// Small pictures `[batch, channels, height, width]` in `[-1, 1]`, of any size, to be enlarged as `stage`.
    pub fn new(stage: Stage, small: Tensor<4>) -> Self {
        Self { stage, small }
    }
}

/// Paints large pictures from small ones and `initial` noise.
///
/// # Shapes
///
/// - `initial`: `[batch, channels, height, width]` of the large pictures, standard Gaussian; the sides are multiples of
///   the network's [reduction](unclip_core::nn::UNetConfig::reduction)
/// - output: the same, in `[-1, 1]` where the sampler clips
///
/// # Errors
///
/// [`unclip_core::Error::InvalidInput`] when the pictures do not fit the network or each other;
/// [`unclip_core::Error::Cancelled`] when the observer breaks off; whatever `networks` and `noise` report.
pub fn sample(
    networks: &mut dyn Networks,
    input: &UpsampleInput,
    sampler: &Sampler,
    initial: Tensor<4>,
    noise: &mut dyn NoiseSource,
    observer: &mut dyn Observer,
) -> Result<Tensor<4>> {
    check(networks.config(), input, &initial)?;
    let [batch, _, height, width] = initial.dims();
    let enlarged = resize_bicubic(input.small.clone(), height, width)?;
    let steps = sampler.timesteps().len();
    let model = |noisy: &Tensor<4>, timestep: usize, index: usize| {
        let network = networks.network(index + 1 == steps)?;
        let timesteps = vec![timestep as f32; batch];
        let both = Tensor::cat(vec![noisy.clone(), enlarged.clone()], 1);
        Ok(network.forward(UNetInput::new(both, &timesteps)))
    };
    Ok(denoise(sampler, input.stage, initial, noise, model, observer, |clean| {
        Observed::Picture(clean)
    })?)
}

fn check(config: &UpsamplerConfig, input: &UpsampleInput, initial: &Tensor<4>) -> Result<()> {
    let channels = config.out_channels;
    let reduction = config.unet().reduction();
    let [batch, planes, height, width] = input.small.dims();
    if batch == 0 || planes != channels || height == 0 || width == 0 {
        let found = format!("of shape {:?}", input.small.dims());
        let expected = format!("[batch, {channels}, height, width]");
        return Err(Error::invalid("small", found, expected).into());
    }
    let [rows, planes, height, width] = initial.dims();
    let fits = |side: usize| side > 0 && side.is_multiple_of(reduction);
    if [rows, planes] != [batch, channels] || !fits(height) || !fits(width) {
        let found = format!("of shape {:?}", initial.dims());
        let expected =
            format!("[{batch}, {channels}, height, width], sides multiples of {reduction}");
        return Err(Error::invalid("initial", found, expected).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use unclip_core::{
        checkpoint::WeightPrecision, noise::RecordedNoise, progress::Unobserved,
        sampler::SamplerConfig,
    };
    use unclip_testkit::{FixtureSet, Recorded, assert_close, device, fixture_sets};

    use super::*;
    use crate::Upsampler;

    fn recorded_noise(run: &Recorded) -> RecordedNoise {
        RecordedNoise::new(run.sequence("super_res.noise")).expect("recorded noise is finite")
    }

    fn open(set: &FixtureSet) -> Upsampler {
        let [first, last] =
            ["super_res_first", "super_res_last"].map(|part| set.model_dir().join(part));
        Upsampler::from_dirs(first, Some(last.into()), None, WeightPrecision::F32, &device())
            .expect("the recorded upsampler loads")
    }

    /// Follows the super-resolution part of diffusers `UnCLIPPipeline.__call__`.
    #[test]
    fn a_recorded_run_is_reproduced() {
        for set in fixture_sets() {
            let upsampler = open(&set);
            let run = set.tensors("e2e_t2i_default");
            let steps = run.shape("super_res.timesteps")[0];
            let sampler = SamplerConfig::karlo_super_res().sampler(steps).expect("a valid number");
            let mut noise = recorded_noise(&run);
            assert_eq!(noise.remaining(), steps - 1);
            let small = run.tensor("decoder.out.image_small", &device());
            let large = sample(
                &mut &upsampler,
                &UpsampleInput::new(Stage::Upsample, small),
                &sampler,
                run.tensor("super_res.noise.init", &device()),
                &mut noise,
                &mut Unobserved,
            )
            .expect("the recorded run fits");
            assert_eq!(noise.remaining(), 0);
            let name = format!("super_res.prev.{}", steps - 1);
            let error = assert_close(&large, &run, &name, 5e-4);
            println!("{}: super-resolution run {:.1e}", set.name(), error.max_abs);
        }
    }

    /// Provides one network and notes which was asked for.
    struct Noting<'a> {
        upsampler: &'a Upsampler,
        asked: Vec<bool>,
    }

    impl Networks for Noting<'_> {
        fn config(&self) -> &UpsamplerConfig {
            self.upsampler.config()
        }

        fn network(&mut self, last: bool) -> Result<&UNet> {
            self.asked.push(last);
            Ok(self.upsampler.first())
        }
    }

    #[test]
    fn the_last_network_is_asked_for_once_and_last() {
        let set = fixture_sets().remove(0);
        let upsampler = open(&set);
        let run = set.tensors("e2e_t2i_default");
        let mut networks = Noting { upsampler: &upsampler, asked: Vec::new() };
        let sampler = SamplerConfig::karlo_super_res().sampler(4).expect("a valid number");
        let initial: Tensor<4> = run.tensor("super_res.noise.init", &device());
        let input = UpsampleInput::new(Stage::UpsampleLarge, initial.clone().narrow(2, 0, 7));
        let mut noise = recorded_noise(&run);
        let large = sample(&mut networks, &input, &sampler, initial, &mut noise, &mut Unobserved)
            .expect("a small picture of any size will do");
        assert_eq!(networks.asked, [false, false, false, true]);
        assert_eq!(large.dims().as_slice(), run.shape("super_res.noise.init"));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let set = fixture_sets().remove(0);
        let upsampler = open(&set);
        let run = set.tensors("e2e_t2i_default");
        let sampler = SamplerConfig::karlo_super_res().sampler(2).expect("a valid number");
        let refuse = |small: [usize; 4], initial: [usize; 4]| {
            let input = UpsampleInput::new(Stage::Upsample, Tensor::zeros(small, &device()));
            let mut noise = recorded_noise(&run);
            let initial = Tensor::zeros(initial, &device());
            sample(&mut &upsampler, &input, &sampler, initial, &mut noise, &mut Unobserved)
                .expect_err("the pictures do not fit")
                .to_string()
        };
        let text = refuse([1, 4, 16, 16], [1, 3, 32, 32]);
        assert!(text.starts_with("`small` is of shape [1, 4, 16, 16]"), "{text}");
        for initial in [[2, 3, 32, 32], [1, 6, 32, 32], [1, 3, 32, 33]] {
            let text = refuse([1, 3, 16, 16], initial);
            assert!(text.starts_with(&format!("`initial` is of shape {initial:?}")), "{text}");
        }
    }
}
