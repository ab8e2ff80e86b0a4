//! Fair comparison of pruning methods, by Wang et al., "Why is the State of Neural Network Pruning so Confusing?" (2023).
//!
//! A method's advantage must come from its pruning, not from the network it began with or from its retraining. Each run is
//! a [`Record`]; [`compare`] says what two of them have in common, up to which [`Level`] of the paper's ladder, and
//! which [`Flag`]s speak against the comparison; a [`Table`] does so for all runs, and a [`CrossValidation`] tells a
//! method from its retraining. Records are JSON, written by a pipeline (feature `train`) or typed in from
//! papers; [`published::retraining_details`] has some.

mod cross_validation;
mod fairness;
pub mod published;
mod record;
mod table;

pub use cross_validation::{CrossValidation, Verdict};
pub use fairness::{Agreement, Comparison, Flag, Item, Level, Setup, Total, compare, still_rising};
pub use record::{
    Accuracies, BaseRecord, DataSet, Granularity, PruningRecord, Record, Scratch, TrainingRecord,
};
pub use table::{Row, Table};
