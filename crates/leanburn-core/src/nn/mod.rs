//! Layers that Burn has not, or has otherwise than PyTorch.

mod batch_norm;
mod dropout;
mod linear;

pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use dropout::dropout;
pub use linear::linear;
