//! Every operation on every path against its definition in f64.

mod forward;
mod gradients;
mod reference;
mod refusals;
