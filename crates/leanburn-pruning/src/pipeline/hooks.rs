use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::{AutodiffModule, Module, ModuleMapper, Param},
    optim::{GradientsAccumulator, GradientsParams},
    tensor::{Tensor, backend::AutodiffBackend},
};
use leanburn_core::{
    Error, Result,
    loss::cross_entropy,
    train::{Batch, EpochReport, Hook},
};
use leanburn_vision::{
    Architecture, Classifier,
    train::{ImageBatch, Supervised},
};

use crate::State;

/// Tells each epoch's test accuracy.
pub(super) struct Tell(pub(super) Arc<dyn Fn(usize, f64) + Send + Sync>);

impl<B: AutodiffBackend, M: AutodiffModule<B>> Hook<B, M> for Tell {
    fn epoch_ended(&mut self, report: &EpochReport, _model: &M) -> Result<()> {
        let accuracy = report.measured.iter().find(|m| m.split == "valid" && m.metric == "Accuracy");
        self.0(report.epoch, accuracy.map_or(f64::NAN, |measured| measured.value));
        Ok(())
    }
}

/// The file of the weights after an epoch.
pub(super) fn kept_file(folder: &Path, epoch: usize) -> PathBuf {
    folder.join(format!("epoch-{epoch}.safetensors"))
}

/// Keeps the weights after some epochs, in memory and, where trainings keep checkpoints, in files.
pub(super) struct Keep<A> {
    pub(super) config: A,
    pub(super) epochs: Vec<usize>,
    pub(super) folder: Option<PathBuf>,
    pub(super) states: Arc<Mutex<BTreeMap<usize, State>>>,
}

impl<A: Architecture, B: AutodiffBackend> Hook<B, Supervised<B, A::Network<B>>> for Keep<A>
where
    A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
{
    fn epoch_ended(&mut self, report: &EpochReport, model: &Supervised<B, A::Network<B>>) -> Result<()> {
        if self.epochs.contains(&report.epoch) {
            let state = State::of::<A, B>(&self.config, &model.network)?;
            if let Some(folder) = &self.folder {
                std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
                let file = kept_file(folder, report.epoch);
                // An epoch that is trained again ends with the same weights.
                if !file.exists() {
                    self.config.save(&model.network, file)?;
                }
            }
            self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(report.epoch, state);
        }
        Ok(())
    }
}

/// A hook that can be asked after the training what it has become.
pub(super) struct Follow<H>(Arc<Mutex<H>>);

impl<H> Clone for Follow<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H> Follow<H> {
    pub(super) fn new(hook: H) -> Self {
        Self(Arc::new(Mutex::new(hook)))
    }

    pub(super) fn with<T>(&self, ask: impl FnOnce(&mut H) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: AutodiffBackend, M: AutodiffModule<B>, H: Hook<B, M>> Hook<B, M> for Follow<H> {
    fn gradients(&mut self, step: usize, model: &M, gradients: GradientsParams) -> Result<GradientsParams> {
        self.with(|hook| hook.gradients(step, model, gradients))
    }

    fn stepped(&mut self, step: usize, model: M) -> Result<M> {
        self.with(|hook| hook.stepped(step, model))
    }

    fn finished(&self) -> bool {
        self.with(|hook| hook.finished())
    }

    fn state(&self) -> serde_json::Value {
        self.with(|hook| hook.state())
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        self.with(|hook| hook.restore(state))
    }
}

/// The sum of the gradients of all batches' mean cross-entropies, under the names of their parameters; batch norms
/// compute by their running statistics. Criteria that use gradients ask for it.
///
/// # Errors
///
/// When there is no batch, or one cannot be read.
pub fn gradients<A, B>(
    config: &A,
    network: A::Network<B>,
    batches: impl Iterator<Item = Result<Batch<ImageBatch<B>>>>,
) -> Result<State>
where
    A: Architecture,
    B: AutodiffBackend,
    A::Network<B>: AutodiffModule<B>,
{
    /// Puts gradients in place of the values.
    struct Replace(GradientsParams);
    impl<B: AutodiffBackend> ModuleMapper<B> for Replace {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let gradient = self.0.remove::<B::InnerBackend, D>(param.id);
            let (id, tensor, mapper) = param.consume();
            let gradient = gradient.map_or_else(|| tensor.zeros_like(), Tensor::from_inner);
            Param::from_mapped_value(id, gradient, mapper)
        }
    }
    let mut sum = GradientsAccumulator::new();
    // By the running statistics, so that no batch moves them.
    let network = network.with_frozen_norms(true);
    let mut any = false;
    for batch in batches {
        let batch = batch?.value;
        let loss = cross_entropy(network.forward(batch.images), batch.labels);
        sum.accumulate::<B>(&network, GradientsParams::from_grads(loss.backward(), &network));
        any = true;
    }
    if !any {
        return Err(Error::data("training samples", "at least one", "none"));
    }
    let gradients = network.map(&mut Replace(sum.grads()));
    State::of::<A, B>(config, &gradients)
}
