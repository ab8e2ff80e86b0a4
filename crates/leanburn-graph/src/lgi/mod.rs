//! LGI-LS: latent graph inference with limited supervision (Lu, Xu, Wang, Bai and Fu, NeurIPS 2023).
//!
//! Only a feature matrix and a few labels are given; a graph is inferred and a network classifies the nodes along it. To
//! keep the graph sparse, each node keeps its k nearest neighbours, and that cuts most nodes off from the few labelled
//! ones: the weights of their edges take part in no supervised message. The method finds those starved nodes and adds a
//! regularisation graph `B` that ties nodes to the labelled nodes most like them: `A + alpha B`.
//!
//! ```
//! use burn::backend::Autodiff;
//! use burn_flex::Flex;
//! use leanburn_graph::{Features, NodeSet, Split, lgi::{LgiConfig, RestorationConfig, Strength}};
//!
//! # fn main() -> leanburn_core::Result<()> {
//! let table = leanburn_datasets::wine();
//! let labels = table.labels().unwrap().to_vec();
//! // Five labels of each class are known; the others only evaluate.
//! let split = Split::random(&labels, 5, 30, 0)?;
//! let set = NodeSet::with_split(Features::from_table(&table)?.standardised(), labels, split)?;
//! let restoration = RestorationConfig::new().with_tau(5).with_strength(Strength::Rho(1.0));
//! let config = LgiConfig::new().with_epochs(50).with_restoration(Some(restoration));
//! let model = config.fit::<Autodiff<Flex>>(&set, &Default::default())?;
//! println!("classes of all nodes: {:?}", model.predict(&set.features)?);
//! assert!(model.history().accuracy().unwrap().selected > 0.9);
//! # Ok(())
//! # }
//! ```

mod config;
mod experiment;
mod restoration;
mod starvation;
mod train;

pub use config::{LgiConfig, Source};
pub use experiment::{Experiment, Grid, Point, Trials, Varied};
pub use restoration::{Block, RestorationConfig, Restored, Rows, Strength, Weight};
pub(crate) use restoration::{mask, warning};
pub use starvation::{Starvation, two_hop_starved, walk_counts};
pub use train::Lgi;
pub(crate) use train::{labelled_loss, targets, targets_of};
