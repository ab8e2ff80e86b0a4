use burn::{
    config::Config,
    optim::{
        Adam, AdamConfig, AdamState, LearningRate, Sgd, SgdConfig, SgdState, SimpleOptimizer,
        decay::WeightDecayConfig, momentum::MomentumConfig,
    },
    record::Record,
    tensor::{Tensor, backend::Backend},
};
use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::{comparison::TrainingRecord, orthogonality::Penalty, schedules::Rates};

/// What moves the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd,
    /// Adam (Kingma and Ba, 2015), as `PyTorch` has it: the weight decay is added to the gradients.
    Adam,
}

/// How a network is trained, on the cross-entropy.
#[derive(Config, Debug)]
pub struct Recipe {
    /// Passes over the training data.
    pub epochs: usize,
    /// The learning rate by epoch.
    pub rates: Rates,
    /// Epochs in which the rate rises from 0. Default: 0
    #[config(default = 0)]
    pub warm_up: usize,
    /// Samples of a batch. Default: 128
    #[config(default = 128)]
    pub batch_size: usize,
    /// What moves the weights. Default: stochastic gradient descent
    #[config(default = "Optimizer::Sgd")]
    pub optimizer: Optimizer,
    /// How much of the last step goes on; of Adam, its first coefficient. Default: 0.9
    #[config(default = 0.9)]
    pub momentum: f64,
    /// The weight decay, of all parameters. Default: 5e-4
    #[config(default = 5e-4)]
    pub weight_decay: f32,
    /// How much of the targets is spread over all classes. Default: 0
    #[config(default = 0.0)]
    pub label_smoothing: f64,
    /// How much of a moving average of the weights stays at each step; the average is what is evaluated and kept.
    /// Default: no average
    #[config(default = "None")]
    pub average: Option<f64>,
    /// A penalty on the weights' orthogonality. Default: none
    #[config(default = "None")]
    pub penalty: Option<Penalty>,
}

impl Recipe {
    /// The base models of CIFAR in the papers: 200 epochs, 0.1, 0.01 and 0.001, batches of 128.
    ///
    /// # Errors
    ///
    /// Never: the schedule is one.
    pub fn cifar_base() -> Result<Self> {
        Ok(Self::new(200, "0:0.1,100:0.01,150:0.001".parse()?))
    }

    /// Their retraining: 120 epochs from a rate on, 0.01 or 0.001.
    ///
    /// # Errors
    ///
    /// When the rate is not positive.
    pub fn cifar_retraining(rate: f64) -> Result<Self> {
        let stages = vec![(0, rate), (60, rate * 0.1), (90, rate * 0.01)];
        Ok(Self::new(120, Rates::Stages(crate::Stages::new(stages)?)))
    }

    /// Retraining on `ImageNet` in the papers: 90 epochs from 0.01 on, batches of 256, decay 1e-4.
    ///
    /// # Errors
    ///
    /// Never: the schedule is one.
    pub fn imagenet_retraining() -> Result<Self> {
        let recipe = Self::new(90, "0:0.01,30:0.001,60:0.0001,75:0.00001".parse()?);
        Ok(recipe.with_batch_size(256).with_weight_decay(1e-4))
    }

    pub(super) fn descent<B: Backend>(&self) -> Descent<B> {
        let decay = Some(WeightDecayConfig::new(self.weight_decay));
        match self.optimizer {
            Optimizer::Sgd => {
                let momentum = (self.momentum > 0.0)
                    .then(|| MomentumConfig::new().with_momentum(self.momentum).with_dampening(0.0));
                Descent::Sgd(SgdConfig::new().with_momentum(momentum).with_weight_decay(decay).build())
            }
            Optimizer::Adam => {
                let adam = AdamConfig::new().with_beta_1(self.momentum as f32).with_epsilon(1e-8);
                Descent::Adam(adam.with_weight_decay(decay).build())
            }
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.warm_up > self.epochs {
            return Err(Error::setting(
                "warm_up",
                format!("at most the {} epochs", self.epochs),
                self.warm_up,
            ));
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(Error::setting("momentum", "from 0 to below 1", self.momentum));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::setting("label_smoothing", "from 0 to below 1", self.label_smoothing));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::setting("weight_decay", "0 or a positive number", self.weight_decay));
        }
        Ok(())
    }

    /// The recipe with another number of epochs, over which its rates are stretched.
    pub(super) fn stretched(&self, epochs: usize) -> Result<Self> {
        let rates = match &self.rates {
            Rates::Stages(stages) => Rates::Stages(stages.stretched(epochs as f64 / self.epochs as f64)?),
            cosine @ Rates::Cosine { .. } => cosine.clone(),
        };
        Ok(Self { epochs, rates, ..self.clone() })
    }

    /// What a record says of it.
    ///
    /// - augmentation: how samples are changed at random
    pub fn record(&self, augmentation: &str) -> TrainingRecord {
        TrainingRecord {
            epochs: Some(self.epochs),
            rates: Some(self.rates.clone()),
            warm_up: Some(self.warm_up),
            optimizer: Some(
                match self.optimizer {
                    Optimizer::Sgd => "SGD",
                    Optimizer::Adam => "Adam",
                }
                .to_owned(),
            ),
            momentum: Some(self.momentum),
            weight_decay: Some(f64::from(self.weight_decay)),
            batch_size: Some(self.batch_size),
            augmentation: Some(augmentation.to_owned()),
            label_smoothing: Some(self.label_smoothing),
            distillation: Some("none".to_owned()),
            average: Some(self.average.unwrap_or(0.0)),
        }
    }
}

/// The optimiser that a recipe names.
#[derive(Clone)]
pub(super) enum Descent<B: Backend> {
    Sgd(Sgd<B>),
    Adam(Adam),
}

/// What [`Descent`] knows of a parameter.
#[derive(Record, Clone)]
pub(super) enum DescentState<B: Backend, const D: usize> {
    Sgd(SgdState<B, D>),
    Adam(AdamState<B, D>),
}

impl<B: Backend> SimpleOptimizer<B> for Descent<B> {
    type State<const D: usize> = DescentState<B, D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<B, D>,
        gradient: Tensor<B, D>,
        state: Option<DescentState<B, D>>,
    ) -> (Tensor<B, D>, Option<DescentState<B, D>>) {
        match self {
            Self::Sgd(sgd) => {
                let own =
                    state.and_then(|state| if let DescentState::Sgd(own) = state { Some(own) } else { None });
                let (tensor, state) = sgd.step(rate, tensor, gradient, own);
                (tensor, state.map(DescentState::Sgd))
            }
            Self::Adam(adam) => {
                let own = state
                    .and_then(|state| if let DescentState::Adam(own) = state { Some(own) } else { None });
                let (tensor, state) = adam.step(rate, tensor, gradient, own);
                (tensor, state.map(DescentState::Adam))
            }
        }
    }

    fn to_device<const D: usize>(state: DescentState<B, D>, device: &B::Device) -> DescentState<B, D> {
        match state {
            DescentState::Sgd(state) => DescentState::Sgd(Sgd::<B>::to_device(state, device)),
            DescentState::Adam(state) => {
                DescentState::Adam(<Adam as SimpleOptimizer<B>>::to_device(state, device))
            }
        }
    }
}
