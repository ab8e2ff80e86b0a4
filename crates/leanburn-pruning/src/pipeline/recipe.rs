use burn::{
    config::Config,
    optim::{Sgd, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig},
    tensor::backend::Backend,
};
use leanburn_core::{Error, Result};

use crate::{comparison::TrainingRecord, orthogonality::Penalty, schedules::Rates};

/// How a network is trained: stochastic gradient descent on the cross-entropy.
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
    /// How much of the last step goes on. Default: 0.9
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

    pub(super) fn optimizer<B: Backend>(&self) -> Sgd<B> {
        let momentum = (self.momentum > 0.0)
            .then(|| MomentumConfig::new().with_momentum(self.momentum).with_dampening(0.0));
        SgdConfig::new()
            .with_momentum(momentum)
            .with_weight_decay(Some(WeightDecayConfig::new(self.weight_decay)))
            .build()
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
            optimizer: Some("SGD".to_owned()),
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
