//! Models that learn their graph together with the classifier, each with or without restored connections.
//!
//! | module | model |
//! |---|---|
//! | [`slaps`] | SLAPS: a generator, trained by a denoising autoencoder too |
//! | [`grcn`] | GRCN: a graph branch adds similar nodes to a given graph |
//! | [`idgl`] | IDGL: a graph is learned, and learned again from what was learned along it |

mod adjacency;
mod classifier;
pub mod grcn;
pub mod idgl;
mod model;
pub mod slaps;

pub use adjacency::Adjacency;
pub use classifier::{Input, SparseInput, classify, evaluate};
pub use model::{GraphModel, Learned, LearnedGraph, Sizes, Trained};
