use leanburn::{
    burn::{
        module::{AutodiffModule, ModuleDisplay},
        optim::Optimizer,
    },
    language::{
        CausalLm, Encoded, TokenBatch, Trainable, loss,
        train::{FineTuning, Reduction, adamw},
    },
    prelude::*,
};
use leanburn_datasets::affine_tokens;

/// A task for small language models: to continue sequences of an affine map of tokens, learned from 48 rows of 24 tokens of
/// which a tenth are wrong, and measured on 64 clean ones.
pub struct AffineTask {
    train: Vec<Encoded>,
    valid: Vec<Encoded>,
    device: DispatchDevice,
}

impl AffineTask {
    /// - device: one that records gradients
    pub fn new(device: DispatchDevice) -> Self {
        let texts = |set: &str, rows: usize, noise: f64| {
            affine_tokens(set, [5, 7], rows, 24, noise).into_iter().map(Encoded::whole).collect()
        };
        Self { train: texts("N.train", 48, 0.1), valid: texts("N.eval", 64, 0.0), device }
    }

    /// The losses on the rows that are trained on and on the others.
    ///
    /// # Errors
    ///
    /// When the network cannot be evaluated.
    pub fn losses<N: AutodiffModule<Dispatch>>(&self, network: &N) -> Result<[f64; 2]>
    where
        N::InnerModule: CausalLm<Dispatch>,
    {
        let network = network.valid();
        let of = |texts: &[Encoded]| -> Result<f64> {
            let batch = TokenBatch::padded(texts, 0, &self.device)?;
            Ok(loss(&network, &batch).into_data().iter::<f64>().sum())
        };
        Ok([of(&self.train)?, of(&self.valid)?])
    }

    /// Trains for some steps, by `AdamW` on 16 rows after the other.
    ///
    /// - rate: the learning rate of a step
    /// - seen: gets the network after each step, counted from 1
    ///
    /// # Errors
    ///
    /// What `seen` gives.
    pub fn train<N>(
        &self,
        mut network: N,
        steps: usize,
        rate: impl Fn(usize) -> f64,
        mut seen: impl FnMut(usize, &N) -> Result<()>,
    ) -> Result<N>
    where
        N: Trainable<Dispatch>,
        N::InnerModule: CausalLm<Dispatch> + ModuleDisplay,
    {
        const BATCH: usize = 16;
        let mut optimizer = adamw(0.0);
        for step in 0..steps {
            let first = step * BATCH % self.train.len();
            let batch = TokenBatch::padded(&self.train[first..first + BATCH], 0, &self.device)?;
            let (_, gradients) = FineTuning::new(network.clone(), Reduction::Mean).gradients(&batch);
            network = optimizer.step(rate(step), network, gradients);
            seen(step + 1, &network)?;
        }
        Ok(network)
    }
}
