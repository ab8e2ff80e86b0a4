//! Whole jobs: a base model is trained or loaded, pruned and trained again, and each run leaves a
//! [`Record`](crate::comparison::Record).
//!
//! A [`Pipeline`] holds what the runs of a comparison have in common: data, base recipe, retraining, ratios. Its
//! [`run`](Pipeline::run) takes a [`Method`] and a seed.

mod data;
mod hooks;
mod method;
mod recipe;
mod run;
#[cfg(test)]
mod tests;

pub use data::ImageSets;
pub use hooks::gradients;
pub use method::{Method, Pruner, ScratchEpochs};
pub use recipe::{Optimizer, Recipe};
pub use run::{Base, Outcome, Pipeline};
