//! Against the definition, in 64 bits.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::{cpu::Path, testing::values};

/// The output and the gradients, `[batch, rows, heads, width]`.
struct Expected {
    out: Vec<f64>,
    query: Vec<f64>,
    key: Vec<f64>,
    value: Vec<f64>,
}

struct Case {
    shape: AttentionShape,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    bias: Option<Vec<f32>>,
    gradient: Vec<f32>,
    scale: f32,
}

impl Case {
    fn new(shape: AttentionShape, masked: bool, seed: u64) -> Self {
        let AttentionShape { batch, heads, queries, keys, width } = shape;
        let tokens = batch * heads * width;
        // Every third key is masked for every query, and the others get a nudge.
        let bias = masked.then(|| {
            let nudges = values(batch * queries * keys, seed + 5);
            let mask = |(i, nudge): (usize, &f32)| {
                if i % keys % 3 == 2 { -10_000.0 } else { *nudge }
            };
            nudges.iter().enumerate().map(mask).collect()
        });
        Self {
            shape,
            query: values(queries * tokens, seed),
            key: values(keys * tokens, seed + 1),
            value: values(keys * tokens, seed + 2),
            gradient: values(queries * tokens, seed + 3),
            bias,
            scale: (width as f32).powf(-0.5),
        }
    }

    fn rounded(mut self) -> Self {
        for values in [&mut self.query, &mut self.key, &mut self.value, &mut self.gradient] {
            for value in values {
                *value = bf16::from_f32(*value).to_f32();
            }
        }
        self
    }

    fn input(&self) -> AttentionInput<'_, f32> {
        let AttentionShape { batch, heads, queries, keys, width } = self.shape;
        AttentionInput {
            shape: self.shape,
            query: Heads::beside(&self.query, batch, heads, queries, width),
            key: Heads::beside(&self.key, batch, heads, keys, width),
            value: Heads::beside(&self.value, batch, heads, keys, width),
            bias: self
                .bias
                .as_deref()
                .map(|bias| ScoreBias::new(bias, [batch, queries, keys], [queries * keys, keys])),
            scale: self.scale,
        }
    }

    fn expected(&self) -> Expected {
        let AttentionShape { batch, heads, queries, keys, width } = self.shape;
        let mut expected = Expected {
            out: vec![0.0; self.query.len()],
            query: vec![0.0; self.query.len()],
            key: vec![0.0; self.key.len()],
            value: vec![0.0; self.key.len()],
        };
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            let q = |row: usize| ((b * queries + row) * heads + h) * width;
            let k = |row: usize| ((b * keys + row) * heads + h) * width;
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
            };
            for query in 0..queries {
                let own = &self.query[q(query)..][..width];
                let gradient = &self.gradient[q(query)..][..width];
                let scores: Vec<f64> = (0..keys)
                    .map(|key| {
                        let at = (b * queries + query) * keys + key;
                        let bias = self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[at]));
                        dot(own, &self.key[k(key)..][..width]) * f64::from(self.scale) + bias
                    })
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                let slopes: Vec<f64> =
                    (0..keys).map(|key| dot(gradient, &self.value[k(key)..][..width])).collect();
                let inner: f64 =
                    powers.iter().zip(&slopes).map(|(power, slope)| power / sum * slope).sum();
                for key in 0..keys {
                    let weight = powers[key] / sum;
                    let slope = weight * (slopes[key] - inner) * f64::from(self.scale);
                    for i in 0..width {
                        let (q, k) = (q(query) + i, k(key) + i);
                        expected.out[q] += weight * f64::from(self.value[k]);
                        expected.query[q] += slope * f64::from(self.key[k]);
                        expected.key[k] += slope * f64::from(self.query[q]);
                        expected.value[k] += weight * f64::from(self.gradient[q]);
                    }
                }
            }
        }
        expected
    }
}

fn worst(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values");
    let size = expected.iter().fold(1f64, |size, x| size.max(x.abs()));
    found
        .iter()
        .zip(expected)
        .map(|(&found, expected)| (f64::from(found) - expected).abs())
        .fold(0.0, |worst, error| if error > worst || error.is_nan() { error } else { worst })
        / size
}

fn shapes() -> impl Strategy<Value = AttentionShape> {
    (1usize..4, 1usize..4, 1usize..75, 1usize..300, 1usize..70).prop_map(
        |(batch, heads, queries, keys, width)| AttentionShape {
            batch,
            heads,
            queries,
            keys,
            width,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn outputs_and_gradients_agree_with_the_definition(
        shape in shapes(),
        masked: bool,
        seed in 0u64..1000,
    ) {
        let case = Case::new(shape, masked, seed);
        let expected = case.expected();
        for path in Path::available() {
            let mut out = vec![0f32; case.query.len()];
            let mut sums = vec![0f32; shape.batch * shape.heads * shape.queries];
            attention(path, &case.input(), Products::F32, &mut out, Some(&mut sums));
            prop_assert!(worst(&out, &expected.out) < 3e-6, "{}", path);
            let found = attention_backward(path, &case.input(), Products::F32, &out, &sums, &case.gradient);
            prop_assert!(worst(&found.query, &expected.query) < 1e-5, "query, {}", path);
            prop_assert!(worst(&found.key, &expected.key) < 1e-5, "key, {}", path);
            prop_assert!(worst(&found.value, &expected.value) < 1e-5, "value, {}", path);
        }
    }

    /// Inputs are 16-bit values here, so what is lost is lost in the weights, which are rounded once: half a unit of
    /// 8 bits, of an average of values. Sums of 16 bits would lose that at every one of up to 300 additions.
    #[test]
    fn sixteen_bit_products_keep_their_sums(shape in shapes(), masked: bool, seed in 0u64..1000) {
        let case = Case::new(shape, masked, seed).rounded();
        let expected = case.expected();
        for path in Path::available() {
            let mut out = vec![0f32; case.query.len()];
            let mut sums = vec![0f32; shape.batch * shape.heads * shape.queries];
            attention(path, &case.input(), Products::Bf16, &mut out, Some(&mut sums));
            prop_assert!(worst(&out, &expected.out) < 4e-3, "{}", path);
            let found = attention_backward(
                path, &case.input(), Products::Bf16, &out, &sums, &case.gradient,
            );
            prop_assert!(worst(&found.query, &expected.query) < 8e-3, "query, {}", path);
            prop_assert!(worst(&found.key, &expected.key) < 8e-3, "key, {}", path);
            prop_assert!(worst(&found.value, &expected.value) < 8e-3, "value, {}", path);
        }
    }
}

#[test]
fn a_masked_key_is_as_good_as_absent() {
    let shape = AttentionShape { batch: 1, heads: 2, queries: 5, keys: 7, width: 4 };
    let mut case = Case::new(shape, false, 1);
    case.bias = Some((0..35).map(|i| if i % 7 == 6 { -10_000.0 } else { 0.0 }).collect());
    let path = Path::best();
    for products in [Products::F32, Products::Bf16] {
        let mut run = |last: f32| {
            case.value[6 * 8..].fill(last);
            let mut out = vec![0f32; case.query.len()];
            attention(path, &case.input(), products, &mut out, None);
            out
        };
        assert_eq!(run(1.0), run(-1000.0), "{products:?}");
    }
}

#[test]
fn tokens_may_lie_anywhere() {
    let shape = AttentionShape { batch: 2, heads: 3, queries: 4, keys: 5, width: 6 };
    let case = Case::new(shape, false, 3);
    let path = Path::best();
    let mut beside = vec![0f32; case.query.len()];
    attention(path, &case.input(), Products::F32, &mut beside, None);
    // The same keys, a head's rows in one run.
    let mut apart = vec![0f32; case.key.len()];
    for (i, &value) in case.key.iter().enumerate() {
        let (width, head, row, batch) = (i % 6, i / 6 % 3, i / 18 % 5, i / 90);
        apart[((batch * 3 + head) * 5 + row) * 6 + width] = value;
    }
    let key = Heads::new(&apart, [2, 3, 5, 6], [90, 30, 6]);
    let mut found = vec![0f32; case.query.len()];
    attention(path, &AttentionInput { key, ..case.input() }, Products::F32, &mut found, None);
    assert_eq!(found, beside);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let shape = AttentionShape { batch: 2, heads: 3, queries: 40, keys: 70, width: 16 };
    let case = Case::new(shape, true, 9);
    let path = Path::best();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| {
            let mut out = vec![0f32; case.query.len()];
            let mut sums = vec![0f32; 2 * 3 * 40];
            attention(path, &case.input(), Products::F32, &mut out, Some(&mut sums));
            (
                attention_backward(path, &case.input(), Products::F32, &out, &sums, &case.gradient),
                out,
            )
        })
    };
    assert!(run(1) == run(3), "one thread and three differ");
}

#[test]
#[should_panic(expected = "end behind")]
fn a_view_that_ends_behind_its_values_is_refused() {
    let _ = Heads::new(&[0f32; 23], [1, 2, 3, 4], [24, 4, 8]);
}
