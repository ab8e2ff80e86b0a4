//! FFN: one video network for any number of frames.
//!
//! Zhang et al., "Frame Flexible Network", CVPR 2023. A network that is trained at one frame count collapses at others,
//! above all because the statistics of its norms are those of one frame count (temporal frequency deviation). FFN trains
//! one network at several frame counts at once:
//!
//! - **Multi-frequency alignment** ([`Alignment`]): all frame counts share the weights; the most frames learn from the
//!   labels, and the others from what the most frames give.
//! - **Multi-frequency adaptation** ([`Branches::ffn`](crate::Branches::ffn)): each frame count has norms of its own, and
//!   a depthwise convolution before each block that alters the shared weights.
//!
//! Any architecture of this crate takes part, with any ascending list of frame counts. A clip of any number of frames goes
//! through the branch that is [nearest](crate::Branches::nearest). An ordinary network's weights become an FFN's by
//! [`VideoArchitecture::import`](crate::VideoArchitecture::import), a branch becomes an ordinary network by
//! [`ClipClassifier::into_branch`](crate::ClipClassifier::into_branch), and [`within_budget`] chooses frames by what they
//! cost.
//!
//! ```
//! use burn::tensor::Tensor;
//! use burn_flex::Flex;
//! use leanburn_core::random::Generator;
//! use leanburn_video::{Branches, ClipClassifier, VideoArchitecture, ffn, resnet::FrameResNetConfig};
//!
//! let device = Default::default();
//! let config = FrameResNetConfig::tsm(18, 5, Branches::ffn(&[2, 4]))?.with_width(8);
//! let network = config.init::<Flex>(&mut Generator::new(1), &device)?;
//! // Five frames go through the branch of four.
//! let logits = network.forward(Tensor::zeros([1, 5, 3, 32, 32], &device));
//! assert_eq!(logits.dims(), [1, 5]);
//! let choice = ffn::within_budget(&config, 5_000_000, [32, 32], 8).unwrap();
//! assert_eq!((choice.frames, choice.branch), (5, 4));
//! # Ok::<(), leanburn_core::Error>(())
//! ```

mod alignment;
mod config;
#[cfg(feature = "train")]
mod experiment;
#[cfg(feature = "train")]
mod train;

pub use alignment::{Alignment, Labelled, Teacher, Terms};
pub use config::{Choice, Recipe, within_budget};
#[cfg(feature = "train")]
pub use experiment::{Experiment, Method, Outcome};
#[cfg(feature = "train")]
pub use train::{FrameFlexible, Frequencies};
