//! Node classification when features and a few labels are given, and no graph is. A part of
//! [leanburn](https://docs.rs/leanburn).
//!
//! | module | what it holds |
//! |---|---|
//! | [`lgi`] | LGI-LS: starved nodes, restored connections, GCN on a kNN graph, trials and searches |
//! | [`learners`] | models that learn their graph: SLAPS, GRCN, IDGL |
//! | [`knn`] | exact nearest neighbours in blocks |
//! | [`gcn`] | graph convolutional networks |
//! | [`sparse`] | sparse products on any backend, and how gradients pass through them |
//! | [`planetoid`], [`ogb`] | Cora, Citeseer and Pubmed, and ogbn-arxiv, as they are published |
//! | [`protocol`] | how models are trained, selected and reported |
//!
//! A [`NodeSet`] holds [`Features`], labels and a [`Split`]; a [`Graph`] is made of it.

mod checks;
mod csr;
mod dataset;
mod features;
pub mod gcn;
mod graph;
pub mod knn;
pub mod learners;
pub mod lgi;
pub mod ogb;
pub mod planetoid;
pub mod protocol;
pub mod sparse;
mod storage;

pub use csr::Csr;
pub use dataset::{NodeSet, Split, UNKNOWN};
pub use features::Features;
pub use graph::{Graph, Normalization};
pub use protocol::{Accuracy, History};
