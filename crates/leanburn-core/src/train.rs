//! What every training loop asks of its device and of its losses.

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
