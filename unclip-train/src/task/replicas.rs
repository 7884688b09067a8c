//! A step on several devices at once.
//!
//! Burn's own way with them (`ExecutionStrategy::MultiDevice` of burn-train, with the optimiser on the first device): each
//! device has a fork of the network and a share of the batch, and the gradients meet on the first. They are added in the
//! order of the devices, so that the same devices give the same bits.

use std::{panic::resume_unwind, thread};

use burn::{
    module::Module,
    optim::{GradientsAccumulator, GradientsParams},
};

use unclip_core::device::among_workers;

use super::Task;
use crate::Result;

/// A stage with its network, on one device.
pub(crate) struct Replica<'a, T: Task> {
    pub(crate) task: &'a T,
    pub(crate) model: T::Model,
}

/// Does `work` on every device at the same time, with a share for each, and returns what came of it in their order.
pub(crate) fn on_each<T: Task, S: Send, R: Send>(
    replicas: &[Replica<'_, T>],
    shares: Vec<S>,
    work: impl Fn(&Replica<'_, T>, S) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let pairs = replicas.iter().zip(shares);
    // Each thread by itself, and not all of them from one of those workers: that would wait, and not work, meanwhile.
    let work = |replica: &Replica<'_, T>, share: S| {
        among_workers(&replica.model.devices()[0], || work(replica, share))
    };
    if replicas.len() == 1 {
        return pairs.map(|(replica, share)| work(replica, share)).collect();
    }
    let work = &work;
    thread::scope(|scope| {
        let started: Vec<_> =
            pairs.map(|(replica, share)| scope.spawn(move || work(replica, share))).collect();
        let joined = started.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// The sum of the gradients that every device found, where `model` is.
pub(crate) fn sum<M: Module>(
    model: &M,
    found: impl IntoIterator<Item = GradientsParams>,
) -> GradientsParams {
    let device = model.devices()[0].clone().inner();
    let mut accumulator = GradientsAccumulator::<M>::new();
    for gradients in found {
        accumulator.accumulate(model, gradients.to_device(&device, model));
    }
    accumulator.grads()
}
