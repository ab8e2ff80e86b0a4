//! Data for trying and checking [leanburn](https://docs.rs/leanburn)'s methods: small tables that need no file,
//! generators, and a catalogue of larger sets with a downloader.
//!
//! | what | where | feature |
//! |---|---|---|
//! | Wisconsin breast cancer, 569 x 30, 2 classes | [`breast_cancer`] | `tables` |
//! | wine, 178 x 13, 3 classes | [`wine`] | `tables` |
//! | handwritten digits, 1797 x 64, 10 classes | [`digits`] | `tables` |
//! | anomalies that differ in direction, 440 x 32, 40 anomalies | [`angular`] | |
//! | an anomaly set made of any labelled table | [`anomaly_set`], [`contaminated_set`] | |
//! | videos of moving digits, whose label is the direction of the motion | [`MovingDigits`] | `tables` |
//! | sequences of an affine map of tokens, with noise | [`affine_tokens`] | |
//! | KDD Cup 1999 from its published files | [`kddcup99()`] | `kddcup99` |
//! | the generator of reproducible numbers behind the reference values | [`recipe`] | |
//! | what can be downloaded, with licence and checksum | [`catalogue`], [`find`] | |
//! | downloading it: resumed, limited, checked | [`download()`] | `download` |
//!
//! Every table is a [`Table`](leanburn_core::table::Table) of `f64` with column names and one label a row.
//! The embedded tables are licensed under CC BY 4.0; the crate's folder `data` says whom to cite.
//!
#![cfg_attr(feature = "tables", doc = "```")]
#![cfg_attr(not(feature = "tables"), doc = "```ignore")]
//! let table = leanburn_datasets::wine();
//! assert_eq!((table.rows(), table.columns()), (178, 13));
//! assert_eq!(table.names().unwrap()[0], "alcohol");
//!
//! // Wines of the third cultivar, ten of them, as anomalies among the others.
//! let set = leanburn_datasets::anomaly_set(&table, 2, 10)?;
//! assert_eq!(set.rows(), 59 + 71 + 10);
//! assert_eq!(set.labels().unwrap().iter().sum::<i64>(), 10);
//! # Ok::<(), leanburn_core::Error>(())
//! ```
//!
//! # Features
//!
//! None is on by default.
//!
//! - `kddcup99`: the reader of that set's files.
//! - `tables`: the embedded tables (190 kB in the program), and the moving digits made of them.
//! - `download`: the downloader, which brings an HTTP client and TLS.
// The table above links to what the features hold, also where they are off.
#![cfg_attr(
    not(all(feature = "tables", feature = "download", feature = "kddcup99")),
    allow(rustdoc::broken_intra_doc_links)
)]

mod catalogue;
#[cfg(feature = "download")]
mod download;
mod generate;
#[cfg(feature = "kddcup99")]
mod kddcup99;
#[cfg(feature = "tables")]
mod moving_digits;
pub mod recipe;
#[cfg(feature = "tables")]
mod tables;

pub use catalogue::{Entry, catalogue, find};
#[cfg(feature = "download")]
pub use download::download;
pub use generate::{affine_tokens, angular, anomaly_set, contaminated_set};
#[cfg(feature = "kddcup99")]
pub use kddcup99::kddcup99;
#[cfg(feature = "tables")]
pub use moving_digits::{Hue, MovingDigits};
#[cfg(feature = "tables")]
pub use tables::{breast_cancer, digit_images, digits, wine};
