//! What PyTorch's CPU generator draws, for small and large tensors and large seeds.

use unclip_core::noise::{NoiseSource, TorchNoise};
use unclip_testkit::{Recorded, fixtures_root};

use crate::report::check;

/// A last bit of the 32-bit sine, cosine or logarithm, times the largest radius.
const LAST_BIT: f64 = 1e-6;

#[test]
fn a_seed_draws_what_torch_draws() {
    let recorded = Recorded::open(fixtures_root().join("torch_randn.safetensors"));
    let mut seeds: Vec<u64> =
        recorded.names().filter_map(|name| name.split('.').nth(1)?.parse().ok()).collect();
    seeds.sort_unstable();
    seeds.dedup();
    check("torch's randn", |report| {
        for seed in seeds {
            let mut noise = TorchNoise::new(seed);
            for draw in 0.. {
                let name = format!("draw.{seed}.{draw}");
                if !recorded.has(&name) {
                    break;
                }
                let drawn = noise.draw(recorded.shape(&name)).expect("the shape is modest");
                let label = format!("seed {seed}");
                report.values(&label, &drawn, &recorded.floats(&name), None, LAST_BIT);
            }
        }
    });
}
