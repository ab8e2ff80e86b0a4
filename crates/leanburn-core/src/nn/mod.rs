//! Layers that Burn has not, or has otherwise than PyTorch.

mod batch_norm;
mod conv;
mod dropout;
mod linear;

pub use batch_norm::{BatchNorm, BatchNormConfig};
pub use conv::{ConvConfig, Initial};
pub use dropout::dropout;
pub use linear::linear;
