//! Runs from a seed alone, with the noise that PyTorch draws for it.
//!
//! A random network under guidance amplifies rounding without limit where the first step is not clipped, so nearly all
//! values have to agree here and not every one.

use unclip::{GenerateRequest, NoiseStream, Supplied, SuppliedNoise};
use unclip_core::noise::{NoiseSource, TorchNoise};
use unclip_testkit::{FixtureSet, Recorded, is_default_device};

use crate::{replay, report::bound};

/// The share of values that has to be within the bound.
const SHARE: f64 = 0.999;

/// What rounding to a byte may add.
const HALF_A_BYTE: f64 = 0.5 / 255.0;

/// The recorded settings, for some seed.
fn request(recorded: &Recorded, seed: u64, images: usize) -> GenerateRequest {
    let text = |key: &str| recorded.metadata(key).expect("the file says how it was made");
    let numbers = |key: &str| -> Vec<f64> {
        text(key).split(',').map(|number| number.parse().expect("a number")).collect()
    };
    let steps: Vec<usize> =
        text("steps").split(',').map(|count| count.parse().expect("a count")).collect();
    let guidance = numbers("guidance");
    GenerateRequest::new(text("prompt"))
        .images(images)
        .seed(seed)
        .noise(NoiseStream::Torch)
        .prior_steps(steps[0])
        .decoder_steps(steps[1])
        .upsample_steps(steps[2])
        .prior_guidance(guidance[0])
        .decoder_guidance(guidance[1])
}

/// The same request with all noise drawn beforehand, so that its stages can run one by one.
fn with_noise(mut request: GenerateRequest, set: &FixtureSet, seed: u64) -> GenerateRequest {
    let size = |key: &str, inner: &str| {
        let size = set.manifest["architecture"][key][inner].as_u64().expect("the manifest says");
        usize::try_from(size).expect("a small size")
    };
    let mut torch = TorchNoise::new(seed);
    let pictures = request.images_per_caption;
    let mut stage = |row: &[usize], steps: Option<usize>| {
        let shape: Vec<usize> = [pictures].iter().chain(row).copied().collect();
        let mut draw = || {
            let values = torch.draw(&shape).expect("a modest shape");
            unclip::HostTensor::new(shape.clone(), values).expect("as many as asked for")
        };
        let initial = Some(draw());
        let steps = (1..steps.expect("the steps are set")).map(|_| draw()).collect();
        Some(SuppliedNoise { initial, steps })
    };
    let (small, large) = (size("decoder", "size"), size("super_res", "size"));
    request.painting.supplied = Supplied {
        prior_noise: stage(&[size("text", "hidden")], request.prior.steps),
        decoder_noise: stage(&[3, small, small], request.painting.decoder.steps),
        upsample_noise: stage(&[3, large, large], request.painting.upsample.steps),
        ..Supplied::default()
    };
    request
}

/// The share of values within `bound` of the recorded ones, and the largest difference.
fn agreement(actual: &[f32], expected: &[f32], bound: f64) -> (f64, f64) {
    assert_eq!(actual.len(), expected.len(), "the number of values");
    let bound = bound * if is_default_device() { 1.0 } else { 10.0 };
    let differences =
        actual.iter().zip(expected).map(|(&a, &e)| (f64::from(a) - f64::from(e)).abs());
    let within = differences.clone().filter(|&difference| difference <= bound).count();
    (within as f64 / actual.len() as f64, differences.fold(0.0, f64::max))
}

#[test]
fn a_seed_gives_the_picture_that_it_gives_in_torch() {
    for set in unclip_testkit::fixture_sets() {
        if !set.path.join("torch_seed.safetensors").is_file() {
            continue;
        }
        let recorded = set.tensors("torch_seed");
        let pipeline = replay::open(&set);
        for pair in recorded.metadata("counts").expect("seeds are listed").split(',') {
            let (seed, images) = pair.split_once(':').expect("a seed and a count");
            let (seed, images): (u64, usize) =
                (seed.parse().expect("a seed"), images.parse().expect("a count"));
            let name = format!("image.{seed}");
            let expected = recorded.floats(&name);
            let request = request(&recorded, seed, images);

            let noisy = with_noise(request.clone(), &set, seed);
            let embeddings = pipeline.sample_prior(&noisy).expect("a valid request");
            let captions = [noisy.captions[0].as_str()];
            let stages = replay::paint(&pipeline, embeddings, &captions, &noisy.painting);
            let finished =
                stages.finished.to_data_as::<f32>().try_to_vec::<f32>().expect("32-bit floats");
            let (share, worst) = agreement(&finished, &expected, bound::RUN);

            let generation = pipeline.generate(&request).expect("a valid request");
            let bytes: Vec<f32> = generation
                .images
                .iter()
                .flat_map(|image| image.picture.as_raw().iter().map(|&b| f32::from(b) / 255.0))
                .collect();
            let (bytes_share, _) = agreement(&bytes, &expected, bound::RUN + HALF_A_BYTE);

            crate::report::line(&format!(
                "{} seed {seed}: {:.3} % of values within {:.0e}, the worst off by {worst:.1e}; as bytes {:.3} %",
                set.name(),
                100.0 * share,
                bound::RUN,
                100.0 * bytes_share
            ));
            assert!(share >= SHARE && bytes_share >= SHARE, "{} seed {seed} differs", set.name());
        }
    }
}
