use std::{path::Path, sync::Arc};

use burn::{
    config::Config,
    module::AutodiffModule,
    optim::{GradientsParams, SimpleOptimizer},
    tensor::backend::AutodiffBackend,
    train::{
        EarlyStoppingStrategy, InferenceStep, Interrupter, LearningComponentsMarker, SupervisedTraining,
        TrainStep,
    },
};

use super::{Batches, History, ParameterGroups, check_records_gradients, history::Measured, strategy};
use crate::{Error, Result, at_least_one, schedule::Schedule};

/// How long and how a model is trained.
#[derive(Config, Debug)]
pub struct TrainingConfig {
    /// Passes over the training data.
    pub epochs: usize,
    /// How many batches make a step: their gradients' mean, by what each [counts](super::Batch::weight), is that of one
    /// large batch. Default: 1
    #[config(default = 1)]
    pub accumulation: usize,
    /// The largest norm of all gradients together; larger ones are scaled to it. Default: none
    #[config(default = "None")]
    pub clip_norm: Option<f64>,
    /// How much of the moving average of the weights stays at each step, below 1. With it, validation is the
    /// average's. Default: no average
    #[config(default = "None")]
    pub average: Option<f64>,
    /// Steps from checkpoint to checkpoint, beside those at the end of each epoch. Default: none
    #[config(default = "None")]
    pub save_every: Option<usize>,
    /// How many checkpoints are kept. Default: 2
    #[config(default = 2)]
    pub keep: usize,
    /// Whether burn-train's dashboard is shown, if the program runs in a terminal. Default: false
    #[config(default = false)]
    pub dashboard: bool,
}

impl TrainingConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// When one is out of its range.
    pub fn check(&self) -> Result<()> {
        at_least_one([
            ("epochs", self.epochs),
            ("accumulation", self.accumulation),
            ("save_every", self.save_every.unwrap_or(1)),
        ])?;
        if let Some(norm) = self.clip_norm
            && !(norm.is_finite() && norm > 0.0)
        {
            return Err(Error::setting("clip_norm", "a positive number", norm));
        }
        if let Some(decay) = self.average
            && !(0.0..1.0).contains(&decay)
        {
            return Err(Error::setting("average", "from 0 to below 1", decay));
        }
        Ok(())
    }
}

/// What an epoch gave.
#[derive(Debug, Clone)]
pub struct EpochReport {
    /// The epoch, counted from 1.
    pub epoch: usize,
    /// Steps so far.
    pub steps: usize,
    /// The epoch's metrics.
    pub measured: Vec<Measured>,
}

/// What a method does at each step. What it keeps from step to step it hands out as JSON, so that a resumed run is the
/// uninterrupted one.
pub trait Hook<B: AutodiffBackend, M: AutodiffModule<B>>: Send {
    /// After the backward pass, before clipping and the optimiser's step.
    ///
    /// - step: counted from 0
    ///
    /// # Errors
    ///
    /// What stops the training.
    fn gradients(&mut self, step: usize, model: &M, gradients: GradientsParams) -> Result<GradientsParams> {
        let _ = (step, model);
        Ok(gradients)
    }

    /// After the optimiser's step; gives the model that training goes on with.
    ///
    /// # Errors
    ///
    /// What stops the training.
    fn stepped(&mut self, step: usize, model: M) -> Result<M> {
        let _ = step;
        Ok(model)
    }

    /// After the epoch's validation.
    ///
    /// # Errors
    ///
    /// What stops the training.
    fn epoch_ended(&mut self, report: &EpochReport, model: &M) -> Result<()> {
        let _ = (report, model);
        Ok(())
    }

    /// Whether nothing is left to do, asked after each step.
    fn finished(&self) -> bool {
        false
    }

    /// What the hook keeps.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Goes back to what [`state`](Self::state) gave.
    ///
    /// # Errors
    ///
    /// When it is not a state of this hook.
    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// burn-train's components with this loop's optimiser.
pub(super) type Components<B, M, S> = LearningComponentsMarker<B, f64, M, ParameterGroups<S, M, B>>;
/// What is done to burn-train's builder before it is launched.
type Customise<B, M, S> =
    Box<dyn FnOnce(SupervisedTraining<Components<B, M, S>>) -> SupervisedTraining<Components<B, M, S>>>;

/// A training to be run.
pub struct Training<B, M, S>
where
    B: AutodiffBackend,
    M: TrainStep + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    pub(super) config: TrainingConfig,
    pub(super) optimizer: ParameterGroups<S, M, B>,
    pub(super) schedule: Schedule,
    pub(super) hooks: Vec<Box<dyn Hook<B, M>>>,
    pub(super) interrupter: Interrupter,
    pub(super) resume: bool,
    pub(super) customise: Vec<Customise<B, M, S>>,
}

/// What a training gave.
#[derive(Debug)]
pub struct Trained<B: AutodiffBackend, M: AutodiffModule<B>> {
    /// The model after the last step.
    pub model: M,
    /// The moving average of its weights, if it was asked for.
    pub average: Option<M::InnerModule>,
    /// Steps taken, in all.
    pub steps: usize,
    /// Epochs ended.
    pub epochs: usize,
    /// Whether somebody interrupted it: `resume` goes on.
    pub interrupted: bool,
    /// The metrics.
    pub history: History,
}

impl<B, M, S> Training<B, M, S>
where
    B: AutodiffBackend,
    M: TrainStep + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep + Send,
    M::Input: Send,
    <M::InnerModule as InferenceStep>::Input: Send,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    /// - schedule: the learning rate by step
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn new(
        config: TrainingConfig,
        optimizer: ParameterGroups<S, M, B>,
        schedule: Schedule,
    ) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            optimizer,
            schedule,
            hooks: Vec::new(),
            interrupter: Interrupter::new(),
            resume: false,
            customise: Vec::new(),
        })
    }

    /// With a hook, which runs after those before it.
    #[must_use]
    pub fn with_hook(mut self, hook: impl Hook<B, M> + 'static) -> Self {
        self.hooks.push(Box::new(hook));
        self
    }

    /// With metrics, or whatever else of burn-train's builder.
    #[must_use]
    pub fn with(
        mut self,
        customise: impl FnOnce(SupervisedTraining<Components<B, M, S>>) -> SupervisedTraining<Components<B, M, S>>
        + 'static,
    ) -> Self {
        self.customise.push(Box::new(customise));
        self
    }

    /// With a rule by which training stops early.
    #[must_use]
    pub fn with_early_stopping(self, rule: impl EarlyStoppingStrategy + Clone + Sync + 'static) -> Self {
        self.with(|training| training.early_stopping(rule))
    }

    /// Goes on from the folder's newest checkpoint, if it has one.
    #[must_use]
    pub fn resumed(mut self) -> Self {
        self.resume = true;
        self
    }

    /// A handle that stops the training after the step under way, with a checkpoint.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Trains a model.
    ///
    /// - folder: for `checkpoints/`; with `None` nothing is written
    ///
    /// # Errors
    ///
    /// When the device does not record gradients, the folder has checkpoints and the run is not
    /// [resumed](Self::resumed), the checkpoint is of other data or another model, a sample cannot be read, a hook
    /// fails, the weights are not finite, or a checkpoint cannot be written; those written before stay.
    pub fn run(
        self,
        folder: Option<&Path>,
        model: M,
        device: &B::Device,
        train: Arc<dyn Batches<M::Input>>,
        valid: Arc<dyn Batches<<M::InnerModule as InferenceStep>::Input>>,
    ) -> Result<Trained<B, M>> {
        check_records_gradients::<B>(device)?;
        strategy::run(self, folder, model, device, train, valid)
    }
}
