//! What a pipeline does, one file an operation.

mod alone;
mod audit;
mod finish;
mod generate;
mod run;
mod size;
mod stages;
mod text;
mod variation;

pub use text::TextEmbedding;
