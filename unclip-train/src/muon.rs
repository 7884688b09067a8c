//! Muon's directions: the momentum of every matrix within a network with all its singular values brought near to 1.
//!
//! Matrices of one shape go through the iteration together, and it is taken on their Gram matrices: every step multiplies
//! `X` by a polynomial of `X Xᵀ`, polynomials of one matrix commute, so the steps' product is found among small square
//! matrices and meets the wide ones twice in place of ten times.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

use crate::{optimizer::scaled, parameters::Beside};

/// Muon (Jordan et al. 2024): momentum, whose singular values are all brought near to 1.
///
/// It has the weights of linear layers and convolutions (as `[out, in · height · width]`), but for the first and last
/// layers of a network and for tables of embeddings, which stay with AdamW, as do all vectors. A step is scaled by
/// `0.2 √max(rows, columns)` (Liu et al. 2025, §2.2), which gives it the size of a step of AdamW, so both go by one
/// learning rate and one weight decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuonSettings {
    /// The share that the sum of gradients keeps in a step.
    #[serde(default = "nineteen_twentieths")]
    pub momentum: f64,
}

fn nineteen_twentieths() -> f64 {
    0.95
}

/// The layers at a network's ends, and tables of embeddings, by the names that checkpoints have for them.
const ENDS: [&str; 10] = [
    "conv_in",
    "conv_out",
    "linear_1",
    "patch_embedding",
    "position_embedding",
    "proj_in",
    "proj_to_clip_embeddings",
    "text_projection",
    "token_embedding",
    "visual_projection",
];

/// What an iteration makes of a singular value: `a x + b x³ + c x⁵` (Jordan et al. 2024).
const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];
const ITERATIONS: usize = 5;
/// What a norm is taken to be at least, as PyTorch takes it.
const SMALLEST_NORM: f32 = 1e-7;

/// A momentum that waits for others of its shape, `[rows, columns]` with no more rows than columns.
struct Waiting {
    id: ParamId,
    matrix: Tensor<2>,
    transposed: bool,
}

/// Takes the matrices' gradients out of `gradients`, times `scale`, adds them to the sums in `first`, and gives every
/// matrix's direction, `[out, in · height · width]`, under its parameter.
pub(crate) fn directions<M: Module>(
    module: &M,
    gradients: &mut GradientsParams,
    scale: f64,
    settings: MuonSettings,
    first: &mut Beside,
) -> Beside {
    let mut momenta = Momenta {
        path: Vec::new(),
        gradients,
        scale,
        share: settings.momentum,
        first,
        waiting: BTreeMap::new(),
    };
    module.visit(&mut momenta);
    let mut directions = Beside::default();
    for waiting in momenta.waiting.into_values() {
        let matrices = waiting.iter().map(|waiting| waiting.matrix.clone()).collect();
        let near_one = orthogonalise(Tensor::stack(matrices, 0));
        for (index, Waiting { id, transposed, .. }) in waiting.into_iter().enumerate() {
            let direction = near_one.clone().slice_dim(0, index..=index).squeeze_dim::<2>(0);
            let direction = if transposed { direction.transpose() } else { direction };
            directions.put(id, direction);
        }
    }
    directions
}

/// How much a step along a direction of this shape is longer than the learning rate says (Liu et al. 2025, §2.2).
pub(crate) fn stretch([rows, columns]: [usize; 2]) -> f64 {
    0.2 * (rows.max(columns) as f64).sqrt()
}

struct Momenta<'a> {
    path: Vec<String>,
    gradients: &'a mut GradientsParams,
    scale: f64,
    share: f64,
    first: &'a mut Beside,
    waiting: BTreeMap<[usize; 2], Vec<Waiting>>,
}

impl Momenta<'_> {
    /// Whether the parameter at this place is the matrix of a layer within the network.
    fn is_within(&self, dims: usize) -> bool {
        let mut names = self.path.iter().rev().map(String::as_str);
        let is_weight = names.next() == Some("weight");
        dims > 1 && is_weight && names.next().is_some_and(|layer| !ENDS.contains(&layer))
    }
}

impl ModuleVisitor for Momenta<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.is_within(D) {
            return;
        }
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        let gradient = scaled(gradient, self.scale);
        let sum = match self.first.take::<D>(param.id) {
            Some(sum) => sum * self.share + gradient.clone(),
            None => gradient.clone(),
        };
        self.first.put(param.id, sum.clone());
        let ahead = sum * self.share + gradient;
        let dims = ahead.dims();
        let [rows, columns] = [dims[0], dims[1..].iter().product()];
        let matrix = ahead.reshape([rows, columns]);
        let transposed = rows > columns;
        let matrix = if transposed { matrix.transpose() } else { matrix };
        let waiting = Waiting { id: param.id, matrix, transposed };
        self.waiting.entry([rows.min(columns), rows.max(columns)]).or_default().push(waiting);
    }
}

/// Matrices with their singular values brought near to 1, `[matrices, rows, columns]` with no more rows than columns.
fn orthogonalise(matrices: Tensor<3>) -> Tensor<3> {
    let [_, rows, _] = matrices.dims();
    let [a, b, c] = QUINTIC;
    let norms = matrices.clone().square().sum_dim(2).sum_dim(1).sqrt().clamp_min(SMALLEST_NORM);
    let matrices = matrices / norms;
    let identity = Tensor::<2>::eye(rows, &matrices.device()).unsqueeze::<3>() * a;
    let mut gram = matrices.clone().matmul(matrices.clone().swap_dims(1, 2));
    let polynomial = |gram: &Tensor<3>| {
        let square = gram.clone().matmul(gram.clone());
        square * c + gram.clone() * b + identity.clone()
    };
    let mut product = polynomial(&gram);
    let mut last = product.clone();
    for _ in 1..ITERATIONS {
        gram = last.clone().matmul(gram).matmul(last);
        last = polynomial(&gram);
        product = last.clone().matmul(product);
    }
    product.matmul(matrices)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use unclip_testkit::device;

    use super::*;

    /// Two matrices, the second a hundred times as large, so that no norm can be shared.
    fn matrices() -> Tensor<3> {
        let values = (0..24u8).map(|i| {
            let size = if i < 12 { 1.0 } else { 100.0 };
            libm::sinf(f32::from(i * i) * 0.7) * size
        });
        Tensor::from_data(TensorData::new::<f32, _>(values.collect(), [2, 3, 4]), &device())
    }

    #[test]
    fn matrices_of_one_shape_go_through_each_by_itself() {
        let together = orthogonalise(matrices());
        for index in 0..2 {
            let alone = orthogonalise(matrices().slice_dim(0, index..=index));
            let off = together.clone().slice_dim(0, index..=index) - alone.clone();
            assert!(off.abs().max().into_scalar::<f32>() < 1e-5, "matrix {index}");
            // The iterations leave singular values near 1, and these three are not small enough to be left behind.
            let square = alone.square().sum().into_scalar::<f32>();
            assert!((3.0 * 0.4..3.0 * 1.5).contains(&square), "matrix {index}: {square}");
        }
    }

    #[test]
    fn every_parameter_gets_the_direction_of_its_own_momentum() {
        #[derive(Module, Debug)]
        struct Layer {
            weight: Param<Tensor<2>>,
        }
        #[derive(Module, Debug)]
        struct Layers {
            wide: Layer,
            tall: Layer,
        }

        let device = device().autodiff();
        let part = |index: usize| matrices().slice_dim(0, index..=index).squeeze_dim::<2>(0);
        let layer = |value: Tensor<2>| {
            let value = Tensor::from_data(value.into_data(), &device);
            Layer { weight: Param::from_tensor(value) }
        };
        let layers = Layers { wide: layer(part(0)), tall: layer(part(1).transpose()) };
        let loss = (layers.wide.weight.val().square() / 2.0).sum()
            + (layers.tall.weight.val().square() / 2.0).sum();
        let mut gradients = GradientsParams::from_grads(loss.backward(), &layers);
        let settings = MuonSettings { momentum: 0.0 };
        let mut first = Beside::default();
        let mut found = directions(&layers, &mut gradients, 1.0, settings, &mut first);
        let expected = orthogonalise(matrices());
        let expected = |index: usize| expected.clone().slice_dim(0, index..=index).squeeze_dim(0);
        for (id, expected) in
            [(layers.wide.weight.id, expected(0)), (layers.tall.weight.id, expected(1).transpose())]
        {
            let off = found.take::<2>(id).expect("a direction") - expected;
            assert!(off.abs().max().into_scalar::<f32>() < 1e-5);
        }
    }
}
