//! Anomaly detection on unlabelled, contaminated data. A part of [leanburn](https://docs.rs/leanburn).
//!
//! | module | what it holds |
//! |---|---|
//! | [`sla2p`] | the method: random projections as pseudo-labels, a classifier, adversarial perturbation |
//! | [`baselines`] | isolation forest, LOF, one-class SVM, PCA, distance to the mean, GOAD |
//! | [`preprocessing`] | standardising, the bias column, rows of unit length |
//! | [`features`] | the trait by which images and other samples become feature rows |
#![cfg_attr(feature = "images", doc = "| [`images`] | features of images, by residual networks |")]
//!
//! A detector is fitted on a [`Table`](leanburn_core::table::Table) and gives [`Scores`].

pub mod baselines;
pub mod features;
#[cfg(feature = "images")]
pub mod images;
pub mod preprocessing;
mod scores;
pub mod sla2p;

pub use scores::{Evaluation, Scores};
