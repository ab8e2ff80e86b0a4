//! Layers that Burn has not, or has otherwise than PyTorch.

mod batch_norm;
mod contiguous;
mod conv;
mod dropout;
mod gelu;
mod linear;

pub use batch_norm::{BatchNorm, BatchNormConfig, scale_channels, scale_samples};
pub use contiguous::contiguous;
pub use conv::{ConvConfig, Initial, forward_pointwise, picked};
pub use dropout::dropout;
pub use gelu::gelu;
pub use linear::linear;
