//! SLA2P: self-supervised anomaly detection with adversarial perturbation (Wang, Qin, Wei, Xu, Bai and Fu,
//! "Self-supervision Meets Adversarial Perturbation: A Novel Framework for Anomaly Detection", CIKM 2022).
//!
//! Every row is projected by K random matrices, and a classifier learns which matrix was used: K pseudo-labels from no
//! label at all. Normal rows dominate and are alike, so the classifier learns them first, and training stops early.
//! Each projected row is then moved a step along the gradient that lowers the probability of the label the classifier
//! predicts, and the score is how well the pseudo-labels are still recognised. Without that step the method is SLA.
//!
//! ```
//! use burn::backend::Autodiff;
//! use burn_flex::Flex;
//! use leanburn_anomaly::sla2p::Sla2pConfig;
//!
//! # fn main() -> leanburn_core::Result<()> {
//! let table = leanburn_datasets::angular(7);
//! let config = Sla2pConfig::new().with_projections(16).with_width(16).with_epsilon(10.0);
//! let detector = config.fit::<Autodiff<Flex>>(&table, &Default::default())?;
//! let scores = detector.score(&table)?;
//! println!("the most anomalous rows: {:?}", &scores.rank()[..5]);
//! assert!(scores.evaluate(table.labels().unwrap())?.auroc > 0.85);
//! # Ok(())
//! # }
//! ```

mod classifier;
mod config;
mod detector;
mod perturbation;
mod projection;
mod score;
mod train;

pub use classifier::{Architecture, Classifier, ClassifierConfig, LayerOutputs};
pub use config::Sla2pConfig;
pub use detector::Sla2p;
pub use perturbation::{FrozenClassifier, Step};
pub use projection::Projections;
pub use score::ScoreKind;
pub use train::{FitReport, Progress, RunningAccuracy, StopReason};
