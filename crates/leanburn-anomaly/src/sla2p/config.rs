use burn::config::Config;
use leanburn_core::{Error, Result};

use super::{Architecture, ClassifierConfig, ScoreKind, Step};
use crate::preprocessing::PreprocessingConfig;

/// Largest of the counts and widths below: beyond it no memory holds what they describe.
const LARGEST: usize = 1 << 24;

/// Hyper-parameters of SLA2P. The defaults are those of the official scripts, with the clean perturbation step; the
/// named constructors are the published settings of each data set.
#[derive(Config, Debug)]
pub struct Sla2pConfig {
    /// Number of random projections K, which is the number of pseudo-labels (`n_rots`). Default: 256
    #[config(default = 256)]
    pub projections: usize,
    /// Width D of a projected row (`d_out`). Default: 256
    #[config(default = 256)]
    pub width: usize,
    /// The classifier's depth. Default: `Architecture::Fcn`
    #[config(default = "Architecture::Fcn")]
    pub architecture: Architecture,
    /// Training stops when the running accuracy of the pseudo-labels since its start exceeds this (`acc_thres`).
    /// Default: 0.6
    #[config(default = 0.6)]
    pub accuracy_threshold: f64,
    /// Size of the perturbation, in units of the gradient of a mean over `batch_size` rows. Default: 1000
    #[config(default = 1000.0)]
    pub epsilon: f64,
    /// How the perturbation is taken; `Step::None` is SLA. Default: `Step::PerSample`
    #[config(default = "Step::PerSample")]
    pub step: Step,
    /// What the score aggregates. Default: `ScoreKind::Brier`
    #[config(default = "ScoreKind::Brier")]
    pub score: ScoreKind,
    /// Training stops after this many passes over all projected rows. Default: none
    pub max_epochs: Option<usize>,
    /// Training stops after this many steps, since the threshold may be out of reach. Default: 5000
    #[config(default = 5000)]
    pub max_steps: usize,
    /// Projected rows a training step, and the rows that the official scoring takes together. Default: 128
    #[config(default = 128)]
    pub batch_size: usize,
    /// Adam's learning rate. Default: 1e-3
    #[config(default = 1e-3)]
    pub learning_rate: f64,
    /// Adam's epsilon. Default: 1e-7
    #[config(default = 1e-7)]
    pub adam_epsilon: f32,
    /// L2 penalty added to the gradient. Default: 5e-4
    #[config(default = 5e-4)]
    pub weight_decay: f32,
    /// What happens to the rows first. Default: rows of unit length, no more
    #[config(default = "PreprocessingConfig::new()")]
    pub preprocessing: PreprocessingConfig,
    /// Seed of the projections, the initial weights, the order of training and dropout. Default: 0
    #[config(default = 0)]
    pub seed: u64,
}

impl Sla2pConfig {
    /// CIFAR-10, on ResNet features.
    pub fn cifar10() -> Self {
        Self::new().with_max_epochs(Some(1))
    }

    /// CIFAR-100, on ResNet features.
    pub fn cifar100() -> Self {
        Self::cifar10().with_epsilon(10_000.0)
    }

    /// Caltech 101, on ResNet features.
    pub fn caltech101() -> Self {
        Self::cifar10()
    }

    /// 20 Newsgroups, on TF-IDF rows as they come.
    pub fn newsgroups20() -> Self {
        Self::new()
            .with_accuracy_threshold(0.75)
            .with_epsilon(10.0)
            .with_preprocessing(PreprocessingConfig::new().with_unit_rows(false))
    }

    /// Reuters-21578, on TF-IDF rows as they come.
    pub fn reuters() -> Self {
        Self::newsgroups20()
            .with_projections(512)
            .with_width(128)
            .with_accuracy_threshold(0.3)
            .with_epsilon(100.0)
            .with_adam_epsilon(1e-8)
            .with_weight_decay(0.0)
    }

    /// Arrhythmia.
    pub fn arrhythmia() -> Self {
        Self::new()
    }

    /// KDDCUP99, 10 %.
    pub fn kddcup99() -> Self {
        Self::new().with_projections(64).with_width(128)
    }

    /// Thyroid, for which nothing was published: the setting of KDDCUP99.
    pub fn thyroid() -> Self {
        Self::kddcup99()
    }

    /// The method without perturbation, SLA, with its script's default threshold of 0.8.
    pub fn sla(self) -> Self {
        self.with_step(Step::None).with_accuracy_threshold(0.8)
    }

    /// The classifier that these settings describe.
    pub fn classifier(&self) -> ClassifierConfig {
        ClassifierConfig::new(self.width, self.projections, self.architecture.clone())
    }

    /// Checks the settings' ranges.
    pub(super) fn validate(&self) -> Result<()> {
        let at_least = |field, value: usize, least: usize| {
            if !(least..=LARGEST).contains(&value) {
                return Err(Error::setting(field, format!("{least} to {LARGEST}"), value));
            }
            Ok(())
        };
        at_least("projections", self.projections, 2)?;
        at_least("width", self.width, 1)?;
        at_least("batch_size", self.batch_size, 2)?;
        at_least("max_steps", self.max_steps, 1)?;
        at_least("max_epochs", self.max_epochs.unwrap_or(1), 1)?;
        if !(0.0..1.0).contains(&self.accuracy_threshold) {
            return Err(Error::setting("accuracy_threshold", "0 to below 1", self.accuracy_threshold));
        }
        check_epsilon(self.epsilon)?;
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::setting("weight_decay", "0 or a positive number", self.weight_decay));
        }
        if !(self.adam_epsilon.is_finite() && self.adam_epsilon > 0.0) {
            return Err(Error::setting("adam_epsilon", "a positive number", self.adam_epsilon));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(Error::setting("learning_rate", "a positive number", self.learning_rate));
        }
        Ok(())
    }
}

/// Checks the size of a perturbation.
pub(super) fn check_epsilon(epsilon: f64) -> Result<()> {
    if epsilon.is_finite() {
        return Ok(());
    }
    Err(Error::setting("epsilon", "a finite number", epsilon))
}
