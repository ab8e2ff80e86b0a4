//! Training in batches: one loop for every method, on [`burn::train`].
//!
//! Metrics, the terminal dashboard, early stopping and their events are burn-train's; models implement its `TrainStep`
//! and `InferenceStep`. The loop is a learning strategy of burn-train's that adds what it has not:
//!
//! - [checkpoints](Training::run) from which a run continues exactly as if it had not been interrupted: model,
//!   optimiser, moving average, hooks, and the position in the data, at the end of each epoch and every so many steps;
//! - [parameter groups](ParameterGroups) with a learning rate and a decay of their own;
//! - clipping by the norm of all gradients together, accumulation as a mean, a [`Schedule`](crate::schedule::Schedule)
//!   by step, a moving average of the weights;
//! - [hooks](Hook) on gradients and on weights, for methods that work on them, and one that keeps the [best
//!   epoch](BestEpoch)'s weights;
//! - [loaders](Loader) whose order, and whose augmentation, depend on the seed, the epoch and the index alone,
//!   whatever the number of workers.
//!
//! [`Training::run`] has an example. The functions here are what every training loop checks, with the feature `train` or
//! without.

#[cfg(feature = "train")]
mod average;
#[cfg(feature = "train")]
mod best;
#[cfg(feature = "train")]
mod config;
#[cfg(feature = "train")]
mod history;
#[cfg(feature = "train")]
mod loader;
#[cfg(feature = "train")]
mod parameters;
#[cfg(feature = "train")]
mod snapshot;
#[cfg(feature = "train")]
mod strategy;
#[cfg(all(test, feature = "train"))]
mod tests;

#[cfg(feature = "train")]
pub use {
    best::BestEpoch,
    config::{EpochReport, Hook, Trained, Training, TrainingConfig},
    history::{History, Measured},
    loader::{Batch, Batches, BurnLoader, Dataset, Loader},
    parameters::{ParameterGroups, clipped, contiguous_gradients, gradient_norm, parameter_paths},
};

use burn::tensor::backend::AutodiffBackend;

use crate::{Error, Result};

/// Checks that `device` records gradients.
///
/// # Errors
///
/// When it does not.
pub fn check_records_gradients<B: AutodiffBackend>(device: &B::Device) -> Result<()> {
    if B::ad_enabled(device) {
        return Ok(());
    }
    Err(Error::setting("device", "one that records gradients (`autodiff`)", format!("{device:?}")))
}

/// Checks that training has not diverged.
///
/// - step: the step of the loss, counted from 1
///
/// # Errors
///
/// When the loss is not finite.
pub fn check_loss(step: usize, loss: f32) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    let expected = "a finite number; lower the learning rate or rescale the data";
    Err(Error::data(format!("loss of step {step}"), expected, loss))
}
