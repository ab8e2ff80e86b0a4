//! What the fields of [leanburn](https://docs.rs/leanburn) share. It knows no method.
//!
//! | module | what it holds |
//! |---|---|
//! | [`table`] | tables of numbers, read strictly from CSV, `.npy` and `.mat` |
//! | [`architecture`] | a network's layers and coupled channels, and what they cost |
//! | [`checkpoint`] | parameters under their published names: safetensors, sharded or not, and PyTorch files |
//! | [`nn`] | layers that Burn has not, or has otherwise than PyTorch |
//! | [`loss`], [`metrics`], [`schedule`] | objectives, evaluation, learning-rate schedules |
//! | [`train`] | training in batches (feature `train`), and what every training loop checks |
//! | [`pickle`] | Python pickles, read as data |
//! | [`parallel`] | how much is given to a backend at once |
//! | [`random`] | seeded draws on the host |
//! | [`report`] | run folders, JSON, CSV and (feature `plot`) SVG |
//! | [`Error`] | the vocabulary of errors |

pub mod architecture;
pub mod checkpoint;
mod error;
pub mod loss;
pub mod metrics;
pub mod nn;
pub mod parallel;
pub mod pickle;
pub mod random;
pub mod report;
pub mod schedule;
pub mod table;
pub mod train;

pub use error::{Error, Mismatch, Result, at_least_one};
