//! MFT: mask fine-tuning of a well-tuned LLaMA.
//!
//! Zhang et al., "Boosting Large Language Models with Mask Fine-Tuning", 2025. A model that was fine-tuned in full is
//! taken as it is: its weights are frozen, and for the matrices of a few layers ([`Subnet`]) scores are learned, by the loss
//! of fine-tuning. In the forward pass the entries of the smallest scores are zero ([`Mask`]); backwards the gradient goes
//! straight through. Removing a tenth of four layers so lifts a model above the best point of its full fine-tuning.
//!
//! What is learned is a bit an entry ([`Masks`]): it is kept beside the model, for one task or for many, or multiplied into
//! the weights, and an ordinary checkpoint results ([`MaskedLlama::merged`]).
//!
//! ```
//! use burn_flex::Flex;
//! use leanburn_core::random::Generator;
//! use leanburn_language::{llama::LlamaConfig, mft::{MaskedLlama, ScoreInitial, Subnet}};
//!
//! let device = Default::default();
//! let mut generator = Generator::new(1);
//! let base = LlamaConfig::new(32, 16, 24, 4, 4).init::<Flex>(&mut generator, &device)?;
//! let subnet = Subnet::new([1, 2]).with_keep(0.9);
//! let masked = MaskedLlama::new(base, subnet, ScoreInitial::Normal(0.02), &mut generator)?;
//! assert!((masked.masks().kept_ratio() - 0.9).abs() < 0.01);
//! # Ok::<(), leanburn_core::Error>(())
//! ```

mod config;
mod mask;
mod masks;
mod model;
mod surface;
#[cfg(feature = "train")]
mod train;

pub use config::{MaskKind, ScoreInitial, Subnet, SubnetMode, percentile};
pub use mask::{Mask, removed_count};
pub use masks::Masks;
pub use model::MaskedLlama;
pub use surface::{Direction, loss_surface};
#[cfg(feature = "train")]
pub use train::{MaskHook, MaskReport, MaskReports, MaskStart};

#[cfg(test)]
mod tests;
