//! Fine-tuning: all weights, adapters or masks, through [`leanburn_core::train`].

use std::{marker::PhantomData, sync::Arc};

use burn::{
    config::Config,
    module::{AutodiffModule, Module, ModuleDisplay},
    optim::{AdamW, AdamWConfig, GradientsAccumulator, GradientsParams, SimpleOptimizer},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
    train::{
        InferenceStep, ItemLazy, TrainOutput, TrainStep,
        metric::{
            Adaptor, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes,
            NumericEntry, SerializedEntry,
            state::{FormatOptions, NumericMetricState},
        },
    },
};
use leanburn_core::{
    Error, Result, at_least_one,
    random::Generator,
    schedule::{Decay, Schedule},
    train::{Dataset, Loader, ParameterGroups, Training, contiguous_gradients},
};
use serde::{Deserialize, Serialize};

use crate::causal::{CausalLm, Encoded, TokenBatch, Trainable};

/// How long, how fast and on how much at once a model is fine-tuned.
#[derive(Config, Debug, PartialEq)]
pub struct Recipe {
    /// Passes over the data. Default: 2
    #[config(default = 2)]
    pub epochs: usize,
    /// The learning rate after the warm-up. Default: 2e-5
    #[config(default = 2e-5)]
    pub learning_rate: f64,
    /// The share of all steps in which the rate rises from 0. Default: 0.03
    #[config(default = 0.03)]
    pub warmup_ratio: f64,
    /// How the rate falls to 0. Default: linearly
    #[config(default = "RateDecay::Linear")]
    pub decay: RateDecay,
    /// Rows of a batch. Default: 1
    #[config(default = 1)]
    pub batch_size: usize,
    /// Batches of a step. Default: 16
    #[config(default = 16)]
    pub accumulation: usize,
    /// Devices of the published run, whose batches together are a step. Default: 1
    #[config(default = 1)]
    pub devices: usize,
    /// Tokens of a text, at most. Default: 4096
    #[config(default = 4096)]
    pub max_length: usize,
    /// The largest norm of all gradients together. Default: 1
    #[config(default = "Some(1.0)")]
    pub clip_norm: Option<f64>,
    /// How much of a weight decays at a step, times the rate; norms and biases do not. Default: 0
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Of the order of texts, new parameters, and what steps draw. Default: 42
    #[config(default = 42)]
    pub seed: u64,
}

/// How a learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateDecay {
    /// Along a line.
    Linear,
    /// Along half a cosine.
    Cosine,
}

impl Recipe {
    /// The published one, of full and of mask fine-tuning alike: 8 devices of a text each, and 16 batches a step. On one
    /// device a step takes the [batches](Self::batches_of_step) of all.
    pub fn published() -> Self {
        Self::new().with_devices(8)
    }

    fn check(&self) -> Result<()> {
        at_least_one([
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("accumulation", self.accumulation),
            ("devices", self.devices),
            ("max_length", self.max_length),
        ])?;
        if !(0.0..1.0).contains(&self.warmup_ratio) {
            return Err(Error::setting("warmup_ratio", "from 0 to below 1", self.warmup_ratio));
        }
        Ok(())
    }

    /// How many batches a step takes on one device.
    pub fn batches_of_step(&self) -> usize {
        self.accumulation * self.devices
    }

    /// Steps of a training.
    ///
    /// - rows: texts, or rows of packed texts, of an epoch
    ///
    /// # Panics
    ///
    /// When a size or a number of batches is 0.
    pub fn steps(&self, rows: usize) -> usize {
        self.epochs * rows.div_ceil(self.batch_size * self.devices).div_ceil(self.accumulation)
    }

    /// The learning rate by step, as the published program computes it: its schedule counts the steps that one device alone
    /// would take, and each step of all devices moves it on by their number. The first step has rate 0.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn schedule(&self, rows: usize) -> Result<Schedule> {
        self.check()?;
        let steps = self.steps(rows);
        let ticks = self.epochs * rows.div_ceil(self.batch_size).div_ceil(self.accumulation);
        let warmup = (self.warmup_ratio * ticks as f64) as usize;
        let rate = |step: usize| {
            let tick = step * self.devices;
            let share = if tick < warmup {
                tick as f64 / warmup as f64
            } else {
                let progress = (tick - warmup) as f64 / (ticks - warmup).max(1) as f64;
                match self.decay {
                    RateDecay::Linear => (1.0 - progress).max(0.0),
                    RateDecay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()),
                }
            };
            self.learning_rate * share
        };
        let rates = (0..steps).map(|step| (step, rate(step))).collect();
        Schedule::new(self.learning_rate, steps, 0, Decay::Stages { rates })
    }
}

/// How the losses of a batch's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Their mean.
    Mean,
    /// Their sum.
    Sum,
}

/// How batches of a step are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// Each batch counts the same, as published: with one text a batch, so does each text.
    Batches,
    /// Each token counts the same, as in one large batch.
    Tokens,
}

/// A network with the objective of fine-tuning: the cross-entropy of the tokens that are learned.
#[derive(Module, Debug)]
pub struct FineTuning<B: Backend, N: Module<B>> {
    /// The network.
    pub network: N,
    /// Whether the inputs of layers alone are kept for the backward pass, which then computes each layer once more: less
    /// memory, for a third more time.
    pub checkpointing: bool,
    #[module(skip)]
    reduction: Reduction,
    backend: PhantomData<B>,
}

impl<B: Backend, N: Module<B> + CausalLm<B>> FineTuning<B, N> {
    /// Without gradient checkpointing.
    pub fn new(network: N, reduction: Reduction) -> Self {
        Self { network, checkpointing: false, reduction, backend: PhantomData }
    }

    /// With gradient checkpointing.
    #[must_use]
    pub fn with_checkpointing(self) -> Self {
        Self { checkpointing: true, ..self }
    }

    /// The mean loss, and what the step is taken by.
    ///
    /// - hidden: what the output layer gets
    fn losses(&self, batch: &TokenBatch<B>, hidden: Tensor<B, 3>) -> [Tensor<B, 1>; 2] {
        let mean = batch.cross_entropy(self.network.logits(batch.at_places(hidden)));
        let objective = match self.reduction {
            Reduction::Mean => mean.clone(),
            Reduction::Sum => mean.clone() * batch.target_count() as f64,
        };
        [mean, objective]
    }
}

impl<B, N> FineTuning<B, N>
where
    B: AutodiffBackend,
    N: Trainable<B>,
    N::InnerModule: CausalLm<B::InnerBackend> + ModuleDisplay,
{
    /// The mean loss of a batch, and the gradients of the step's objective.
    pub fn gradients(&self, batch: &TokenBatch<B>) -> (Tensor<B, 1>, GradientsParams) {
        if self.checkpointing {
            return self.gradients_by_layers(batch);
        }
        let noise = Some(batch.noise);
        let hidden = self.network.pass(batch.tokens.clone(), &batch.sequences, noise, None);
        let [mean, objective] = self.losses(batch, hidden);
        (mean, self.of_parameters(&mut objective.backward()))
    }

    fn of_parameters(&self, gradients: &mut B::Gradients) -> GradientsParams {
        contiguous_gradients::<B, N>(&self.network, self.network.gradients(gradients))
    }

    /// [`gradients`](Self::gradients) of one layer after the other, from the last to the lowest that training changes.
    fn gradients_by_layers(&self, batch: &TokenBatch<B>) -> (Tensor<B, 1>, GradientsParams) {
        let Self { network, .. } = self;
        let noise = Some(batch.noise);
        network.prepare();
        let plain = network.valid();
        let first = network.trained_from();
        let tokens = batch.tokens.clone();
        let surroundings = plain.surroundings(&batch.sequences, 0);
        let mut x = plain.embedded(tokens.clone().inner());
        let mut inputs = Vec::new();
        for layer in 0..network.llama().model.layers.len() {
            if layer >= first.unwrap_or(0) {
                inputs.push((layer, x.clone()));
            }
            x = plain.layer(layer, x, &surroundings, noise, None);
        }
        let mut all = GradientsAccumulator::<N>::new();
        let leaf = Tensor::<B, 3>::from_inner(x).require_grad();
        let [mean, objective] = self.losses(batch, network.llama().model.norm.forward(leaf.clone()));
        let mut gradients = objective.backward();
        let of = |leaf: &Tensor<B, 3>, gradients: &mut B::Gradients| {
            Tensor::<B, 3>::from_inner(leaf.grad_remove(gradients).expect("the loss depends on it"))
        };
        let mut gradient = of(&leaf, &mut gradients);
        all.accumulate(network, self.of_parameters(&mut gradients));
        let surroundings = network.surroundings(&batch.sequences, 0);
        for (layer, input) in inputs.into_iter().rev() {
            let leaf = Tensor::<B, 3>::from_inner(input).require_grad();
            let output = network.layer(layer, leaf.clone(), &surroundings, noise, None);
            let mut gradients = (output * gradient).sum().backward();
            gradient = of(&leaf, &mut gradients);
            all.accumulate(network, self.of_parameters(&mut gradients));
        }
        if first.is_none() {
            let mut gradients = (network.embedded(tokens) * gradient).sum().backward();
            all.accumulate(network, self.of_parameters(&mut gradients));
        }
        (mean, all.grads())
    }
}

impl<B, N> TrainStep for FineTuning<B, N>
where
    B: AutodiffBackend,
    N: Trainable<B>,
    N::InnerModule: CausalLm<B::InnerBackend> + ModuleDisplay,
{
    type Input = TokenBatch<B>;
    type Output = TokenLoss<B>;

    fn step(&self, batch: TokenBatch<B>) -> TrainOutput<TokenLoss<B>> {
        let targets = batch.target_count();
        let (loss, grads) = self.gradients(&batch);
        TrainOutput { grads, item: TokenLoss { loss, targets } }
    }
}

impl<B: Backend, N: Module<B> + CausalLm<B>> InferenceStep for FineTuning<B, N> {
    type Input = TokenBatch<B>;
    type Output = TokenLoss<B>;

    fn step(&self, batch: TokenBatch<B>) -> TokenLoss<B> {
        TokenLoss { loss: crate::loss(&self.network, &batch), targets: batch.target_count() }
    }
}

/// The mean loss of a batch's tokens.
#[derive(Debug, Clone)]
pub struct TokenLoss<B: Backend> {
    /// `[1]`
    pub loss: Tensor<B, 1>,
    /// How many tokens they are.
    pub targets: usize,
}

/// A [`TokenLoss`] as numbers.
#[derive(Debug, Clone)]
pub struct Measure {
    loss: f64,
    targets: usize,
}

impl<B: Backend> ItemLazy for TokenLoss<B> {
    type ItemSync = Measure;

    fn sync(self) -> Measure {
        Measure { loss: self.loss.into_data().iter::<f64>().sum(), targets: self.targets }
    }
}

impl Adaptor<Self> for Measure {
    fn adapt(&self) -> Self {
        self.clone()
    }
}

/// The mean loss of all tokens as a metric of burn-train's, under the name `Loss`.
#[derive(Clone)]
pub struct TokenLossMetric {
    name: MetricName,
    state: NumericMetricState,
}

impl Default for TokenLossMetric {
    fn default() -> Self {
        Self { name: Arc::new("Loss".to_owned()), state: NumericMetricState::default() }
    }
}

impl Metric for TokenLossMetric {
    type Input = Measure;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: false }.into()
    }

    fn update(&mut self, measure: &Measure, _metadata: &MetricMetadata) -> SerializedEntry {
        let format = FormatOptions::new(self.name()).precision(4);
        self.state.update(measure.loss, measure.targets, format)
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for TokenLossMetric {
    fn value(&self) -> NumericEntry {
        self.state.current_value()
    }

    fn running_value(&self) -> NumericEntry {
        self.state.running_value()
    }
}

/// A training with the mean loss of all tokens as its metric.
#[must_use]
pub fn with_loss_metric<B, N, S>(
    training: Training<B, FineTuning<B, N>, S>,
) -> Training<B, FineTuning<B, N>, S>
where
    B: AutodiffBackend,
    N: Trainable<B>,
    N::InnerModule: CausalLm<B::InnerBackend> + ModuleDisplay,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    training.with(|training| {
        training
            .metric_train_numeric(TokenLossMetric::default())
            .metric_valid_numeric(TokenLossMetric::default())
    })
}

/// `AdamW` as the published program sets it: no decay for norms and biases.
pub fn adamw<B: AutodiffBackend, M: AutodiffModule<B>>(weight_decay: f64) -> ParameterGroups<AdamW, M, B> {
    let config = AdamWConfig::new().with_beta_2(0.999).with_epsilon(1e-8);
    let decayed = config.clone().with_weight_decay(weight_decay as f32).build();
    let plain = config.with_weight_decay(0.0).build();
    ParameterGroups::new(decayed).with_group(
        |path| path.contains("norm") || path.ends_with("bias"),
        1.0,
        plain,
    )
}

/// Rows of texts; one text each, or several that were [packed](crate::data::pack).
#[derive(Debug, Clone)]
pub struct Rows(Vec<Vec<Encoded>>);

impl Rows {
    /// Rows of one text each.
    pub fn of_texts(texts: Vec<Encoded>) -> Self {
        Self(texts.into_iter().map(|text| vec![text]).collect())
    }

    /// Rows of packed texts.
    pub fn packed(rows: Vec<Vec<Encoded>>) -> Self {
        Self(rows)
    }
}

impl Dataset for Rows {
    type Item = (Vec<Encoded>, u64);

    fn len(&self) -> usize {
        self.0.len()
    }

    fn description(&self) -> serde_json::Value {
        let texts = || self.0.iter().flatten();
        let tokens: usize = texts().map(|text| text.tokens.len()).sum();
        let targets: usize = texts().map(Encoded::targets).sum();
        serde_json::json!({ "texts": texts().count(), "tokens": tokens, "targets": targets })
    }

    fn get(&self, index: usize, generator: &mut Generator) -> Result<(Vec<Encoded>, u64)> {
        Ok((self.0[index].clone(), generator.below(usize::MAX) as u64))
    }
}

/// Batches of rows on a device.
///
/// - pad: the token of the padding, which nothing depends on
///
/// # Errors
///
/// When there is no row, or the batch size is 0.
pub fn token_loader<B: Backend>(
    rows: Rows,
    batch_size: usize,
    pad: u32,
    weighting: Weighting,
    device: &B::Device,
) -> Result<Loader<Rows, TokenBatch<B>>> {
    let device = device.clone();
    let loader = Loader::new(rows, batch_size, move |rows: Vec<(Vec<Encoded>, u64)>| {
        let texts: Vec<Vec<&Encoded>> = rows.iter().map(|(row, _)| row.iter().collect()).collect();
        let noise = rows.iter().fold(0_u64, |noise, (_, drawn)| noise.rotate_left(1) ^ drawn);
        Ok(TokenBatch { noise, ..TokenBatch::packed(&texts, pad, &device)? })
    })?;
    Ok(match weighting {
        Weighting::Batches => loader.weighted(|_| 1.0),
        Weighting::Tokens => loader.weighted(|batch| batch.target_count() as f64),
    })
}

#[cfg(test)]
mod tests;
