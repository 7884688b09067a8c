//! Training a network that keeps little: gradient checkpointing (Chen et al. 2016), block by block.
//!
//! A pass forward records nothing but the features between the blocks; on the way back, each block is computed again with
//! its gradients. The memory of what happens inside of blocks is that of one block then, and time is that of a second
//! pass forward. Burn's own strategy computes cheap operations again, one by one; those are parts of others in the
//! kernels for a processor, where it saves nothing.

use burn::{
    module::Module,
    tensor::{Gradients, Tensor},
};

use super::{Conditions, UNet, UNetInput, Unit};
use crate::{device::release_unused_memory, ops};

/// A pass of a [`UNet`] forward, and what its way back needs.
#[derive(Debug)]
pub struct Checkpointed {
    unet: UNet,
    /// What the first unit was given, as it is recorded.
    first: Tensor<4>,
    conditions: Conditions,
    /// What each unit was given, and in the end the output; without gradients.
    features: Vec<Tensor<4>>,
    output: Tensor<4>,
}

impl UNet {
    /// As [`forward`](Self::forward) on a device that records gradients, where only the features between blocks are kept.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and when the context is cached: its gradient would not be found.
    pub fn forward_checkpointed(&self, input: UNetInput<'_>) -> Checkpointed {
        let (first, conditions) = self.begin(input);
        assert!(conditions.context_cache.is_none(), "a context that is to have gradients");
        let (plain, told) = (self.valid(), conditions.inner());
        let mut features = vec![first.clone().without_autodiff()];
        let units = self.units();
        for (&unit, skip) in units.iter().zip(skips(&units)) {
            let h = features[features.len() - 1].clone();
            let skip = skip.map(|place| features[place].clone());
            features.push(plain.apply(unit, h, skip, &told));
        }
        // What the blocks have left is no use to the way back, whose results are kept.
        release_unused_memory();
        let output = recorded(features[units.len()].clone(), &first).require_grad();
        Checkpointed { unet: self.clone(), first, conditions, features, output }
    }
}

impl Checkpointed {
    /// The network's output, to take a loss of.
    pub fn output(&self) -> Tensor<4> {
        self.output.clone()
    }

    /// The way back: takes the output's gradient out of `gradients`, which the loss gave, and hands out those of the
    /// network's parameters and of what its inputs were computed from, a few at a time: their sums are the gradients.
    pub fn backward(self, gradients: &mut Gradients, mut sink: impl FnMut(Gradients)) {
        let Self { unet, first, conditions, mut features, output } = self;
        let units = unet.units();
        let mut of_features: Vec<Option<Tensor<4>>> = vec![None; features.len()];
        of_features[units.len()] = output.grad_remove(gradients);
        let told = conditions.inner();
        let (mut of_time, mut of_context) = (None, None);
        for ((place, &unit), skip) in units.iter().enumerate().zip(skips(&units)).rev() {
            features.truncate(place + 1);
            release_unused_memory();
            let Some(gradient) = of_features[place + 1].take() else { continue };
            let leaf = |place: usize| recorded(features[place].clone(), &first).require_grad();
            let (h, skipped) = (leaf(place), skip.map(leaf));
            let told = told.leaves(&first);
            let out = unet.apply(unit, h.clone(), skipped.clone(), &told);
            let mut found = (out * recorded(gradient, &first)).sum().backward();
            join(&mut of_features[place], h.grad_remove(&mut found), ops::add);
            if let (Some(place), Some(skipped)) = (skip, skipped) {
                join(&mut of_features[place], skipped.grad_remove(&mut found), ops::add);
            }
            join(&mut of_time, told.time.grad_remove(&mut found), |a, b| a + b);
            let of_this = told.context.and_then(|context| context.grad_remove(&mut found));
            join(&mut of_context, of_this, |a, b| a + b);
            sink(found);
        }
        let Conditions { time, context, .. } = conditions;
        let terms = [
            of_features[0]
                .take()
                .map(|gradient| (first.clone() * recorded(gradient, &first)).sum()),
            of_time.map(|gradient| (time * recorded(gradient, &first)).sum()),
            context.zip(of_context).map(|(c, gradient)| (c * recorded(gradient, &first)).sum()),
        ];
        // In one go, since a way back uses up the steps that all of them share.
        let sum = terms.into_iter().flatten().filter(Tensor::is_tracked).reduce(|sum, x| sum + x);
        if let Some(sum) = sum {
            sink(sum.backward());
        }
    }
}

impl Conditions {
    /// The same without gradients.
    fn inner(&self) -> Self {
        Self {
            time: self.time.clone().without_autodiff(),
            context: self.context.clone().map(Tensor::without_autodiff),
            context_cache: None,
            context_bias: self.context_bias.clone().map(Tensor::without_autodiff),
            given: self.given,
        }
    }

    /// The same, each with a gradient of its own, but for the bias: nothing is learned from that.
    fn leaves(&self, like: &Tensor<4>) -> Self {
        Self {
            time: recorded(self.time.clone(), like).require_grad(),
            context: self.context.clone().map(|context| recorded(context, like).require_grad()),
            context_cache: None,
            context_bias: self.context_bias.clone().map(|bias| recorded(bias, like)),
            given: self.given,
        }
    }
}

/// For each unit, the place among the features of those that it takes from the way down.
fn skips(units: &[Unit]) -> Vec<Option<usize>> {
    let mut kept = vec![0];
    let skip = |(place, unit): (usize, &Unit)| {
        let taken = if unit.takes_skip() { kept.pop() } else { None };
        if unit.leaves_skip() {
            kept.push(place + 1);
        }
        taken
    };
    units.iter().enumerate().map(skip).collect()
}

/// `x` on the recording device of `like`.
fn recorded<const D: usize>(x: Tensor<D>, like: &Tensor<4>) -> Tensor<D> {
    match like.gradient_checkpointing_strategy() {
        Some(strategy) => x.autodiff().with_gradient_checkpointing_strategy(strategy),
        None => x,
    }
}

/// Adds a gradient to those that are there.
fn join<const D: usize>(
    sum: &mut Option<Tensor<D>>,
    found: Option<Tensor<D>>,
    add: impl FnOnce(Tensor<D>, Tensor<D>) -> Tensor<D>,
) {
    *sum = match (sum.take(), found) {
        (Some(sum), Some(found)) => Some(add(sum, found)),
        (sum, found) => sum.or(found),
    };
}
