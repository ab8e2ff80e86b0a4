//! Pruning for [leanburn](https://docs.rs/leanburn): which weights go, and networks that are smaller without them.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ratios`] | how much of each layer goes |
//! | [`selection`] | which filters go: criteria, local and global, and what is coupled to them |
//! | [`oracle`] | the best filters to remove from tiny networks, by trying all |
//! | [`surgery`] | networks with filters masked, or really without them |
//! | [`unstructured`] | masks of single weights |
//! | [`trainability`] | singular values of the Jacobian, which tell how well a network can be trained again |
//! | [`reinit`], [`orthogonality`] | isometry recovered after pruning, or kept by penalties |
#![cfg_attr(
    feature = "train",
    doc = "| [`regularised`] | GReg and TPP, which push filters to zero while the network trains |
| [`pipeline`] | whole jobs: train or load, prune, train again, and keep a record |"
)]
//! | [`schedules`] | learning rates of retraining, and how long pipelines may be compared |
//! | [`comparison`] | records of runs, and whether they can be compared fairly |
//! | [`accounting`] | what each layer costs, before and after |
//! | [`analysis`] | statistics of weights, and how far selections agree |
//! | [`latency`] | how long networks really take |
//!
//! A network can be pruned when its configuration is [`Prunable`].

pub mod accounting;
pub mod analysis;
pub mod comparison;
pub mod latency;
mod numpy;
pub mod oracle;
pub mod orthogonality;
#[cfg(feature = "train")]
pub mod pipeline;
mod prunable;
pub mod ratios;
#[cfg(feature = "train")]
pub mod regularised;
pub mod reinit;
pub mod schedules;
pub mod selection;
mod state;
pub mod surgery;
pub mod trainability;
pub mod unstructured;

pub use prunable::Prunable;
pub use ratios::Ratios;
pub use schedules::Stages;
pub use selection::{Criterion, Kept, Selection};
pub use state::State;
