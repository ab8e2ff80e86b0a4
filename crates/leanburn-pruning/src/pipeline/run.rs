use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    module::AutodiffModule,
    tensor::{
        ElementConversion,
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
    train::metric::{AccuracyMetric, LossMetric},
};
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer},
    checkpoint::Checkpoint,
    loss::cross_entropy,
    metrics,
    random::{Generator, streams},
    report,
    schedule::{Decay, Schedule},
    train::{Batches, Dataset, Hook, ParameterGroups, Training, TrainingConfig},
};
use leanburn_vision::{
    Classifier,
    train::{Supervised, image_loader},
    transform::Sample,
};

use sha2::{Digest, Sha256};

use super::{
    ImageSets, Method, Optimizer, Pruner, Recipe, ScratchEpochs,
    hooks::{Follow, Keep, Tell, gradients, kept_file},
    recipe::Descent,
};
use crate::{
    Kept, Prunable, Ratios, Selection, State,
    analysis::Removal,
    comparison::{Accuracies, BaseRecord, Granularity, PruningRecord, Record, Scratch, TrainingRecord},
    latency::Latency,
    oracle::oracle,
    schedules::scratch_b,
    selection::{Criterion, Scope, removals},
    state::hexadecimal,
    surgery,
    trainability::{Curve, Mode, SingularValues},
    unstructured::{WeightMasks, WeightSelection},
};

/// What the runs of a comparison have in common.
#[derive(Debug)]
pub struct Pipeline<A, D> {
    /// What records call the dense network.
    pub name: String,
    /// The dense network.
    pub architecture: A,
    /// Training and test images.
    pub data: ImageSets<D>,
    /// How much of each layer goes.
    pub ratios: Ratios,
    /// How base models, and small networks from scratch, are trained.
    pub base: Recipe,
    /// How pruned networks are trained again.
    pub retraining: Recipe,
    /// Of how many test images singular values are measured; of none with 0.
    pub jsv_images: usize,
    /// Every how many epochs of retraining singular values are measured; not at all with 0.
    pub jsv_every: usize,
    /// For which batch latency is measured: 10 passes, and 50 that count; not at all with 0.
    pub latency_batch: usize,
    /// Whether burn-train's dashboard is shown, if the program runs in a terminal.
    pub dashboard: bool,
    /// Where trainings keep checkpoints, from which a run that was interrupted goes on.
    pub checkpoints: Option<PathBuf>,
}

/// A network before pruning.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its weights.
    pub state: State,
    /// What a record says of it.
    pub record: BaseRecord,
    /// Its test accuracy after each epoch, in percent; of a loaded one, none.
    pub accuracies: Vec<f64>,
    /// Its weights after some epochs of its training, for methods that go back to them.
    pub snapshots: BTreeMap<usize, State>,
}

/// What a run leaves.
#[derive(Debug, Clone)]
pub struct Outcome<A> {
    /// What is known of it.
    pub record: Record,
    /// The configuration of the network, which is smaller where filters went.
    pub config: A,
    /// Its weights.
    pub state: State,
    /// Which weights stayed, where single ones went.
    pub masks: Option<WeightMasks>,
    /// The filters that are gone: outputs of the dense network's layers, by name.
    pub removed: BTreeMap<String, Vec<usize>>,
}

impl<A: Prunable> Outcome<A> {
    /// Writes `config.json`, `weights.safetensors`, `removed.json` and `record.json` into a folder, which is made.
    ///
    /// # Errors
    ///
    /// When one of them exists or cannot be written.
    pub fn save<B: Backend>(&self, folder: impl AsRef<Path>, device: &B::Device) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        report::write_json(folder.join("config.json"), &self.config)?;
        let network = self.state.network::<A, B>(&self.config, device)?;
        self.config.save(&network, folder.join("weights.safetensors"))?;
        report::write_json(folder.join("removed.json"), &self.removed)?;
        report::write_json(folder.join("record.json"), &self.record)
    }
}

/// A training of a network, before it runs.
type Run<A, B> = Training<
    B,
    Supervised<B, <A as leanburn_vision::Architecture>::Network<B>>,
    Descent<<B as AutodiffBackend>::InnerBackend>,
>;

/// Told of each epoch, counted from 1, with its test accuracy in percent.
type Progress = Arc<dyn Fn(usize, f64) + Send + Sync>;

/// A run of a method.
struct Job<'a, B: Backend> {
    base: &'a Base,
    method: &'a Method,
    seed: u64,
    /// Height and width of the images.
    size: [usize; 2],
    progress: Progress,
    device: &'a B::Device,
}

impl<B: Backend> Job<'_, B> {
    /// A state whose weights were made anew, if the method says so.
    fn renewed(&self, graph: &Graph, state: State) -> Result<State> {
        match &self.method.reinit {
            Some((reinit, activation)) => {
                let mut generator = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
                reinit.apply::<B>(graph, state, *activation, &mut generator, self.device)
            }
            None => Ok(state),
        }
    }
}

/// How a training runs.
struct Plan<'a> {
    recipe: &'a Recipe,
    seed: u64,
    /// Of its checkpoints, where they are kept.
    path: String,
}

/// A network on its way through a pipeline.
#[derive(Clone)]
struct Stage<A> {
    config: A,
    state: State,
    masks: Option<WeightMasks>,
    /// Its weights at an earlier epoch, to which it goes back.
    early: Option<State>,
    /// The outputs of the dense network that it has, by layer.
    outputs: BTreeMap<String, Vec<usize>>,
    /// How many times larger what stayed was than what went, by layer, when it went.
    magnitude_ratios: BTreeMap<String, f64>,
}

impl<A: Prunable> Stage<A> {
    /// The filters of the dense network that are gone, by layer.
    fn removed(&self, dense: &Graph) -> BTreeMap<String, Vec<usize>> {
        let of_layer = |layer: &Layer| {
            let left = self.outputs.get(layer.name())?;
            let gone: Vec<usize> =
                (0..layer.outputs().len()).filter(|output| left.binary_search(output).is_err()).collect();
            (!gone.is_empty()).then(|| (layer.name().to_owned(), gone))
        };
        dense.learnable().filter_map(of_layer).collect()
    }
}

/// All outputs of a network's layers.
fn all_outputs(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    graph.learnable().map(|layer| (layer.name().to_owned(), (0..layer.outputs().len()).collect())).collect()
}

/// What a training gave.
struct Trained {
    state: State,
    accuracies: Vec<f64>,
    /// Epochs, with parts of one.
    epochs: f64,
}

impl<A, D> Pipeline<A, D>
where
    A: Prunable + 'static,
    D: Dataset<Item = (Sample, usize)>,
{
    /// Trains a base model.
    ///
    /// - rewinds: the epochs after which its weights are kept; 0 for the initial ones
    /// - progress: is told each epoch, counted from 1, with its test accuracy in percent
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, a sample cannot be read, or training diverges.
    pub fn train_base<B>(
        &self,
        seed: u64,
        rewinds: &[usize],
        device: &B::Device,
        progress: impl Fn(usize, f64) + Send + Sync + 'static,
    ) -> Result<Base>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        self.check()?;
        let mut generator = Generator::stream(seed, streams::INITIAL_WEIGHTS);
        let network = self.architecture.init::<B>(&mut generator, device)?;
        let snapshots = Arc::new(Mutex::new(BTreeMap::new()));
        if rewinds.contains(&0) {
            let state = State::of::<A, B>(&self.architecture, &network)?;
            snapshots.lock().unwrap_or_else(PoisonError::into_inner).insert(0, state);
        }
        let folder = self.checkpoints.as_ref().map(|folder| folder.join(format!("base-{seed}-kept")));
        let keep = Keep {
            config: self.architecture.clone(),
            epochs: rewinds.to_vec(),
            folder: folder.clone(),
            states: snapshots.clone(),
        };
        let training = self.training::<B>(&self.base, Arc::new(progress))?.with_hook(keep);
        let plan = Plan { recipe: &self.base, seed, path: format!("base-{seed}") };
        let trained = self.train::<B>(training, &self.architecture, network, plan, device)?;
        let mut snapshots = std::mem::take(&mut *snapshots.lock().unwrap_or_else(PoisonError::into_inner));
        // Those of a run that was interrupted after them.
        for &epoch in rewinds {
            let file = folder.as_ref().map(|folder| kept_file(folder, epoch)).filter(|file| file.is_file());
            if let (Some(file), Entry::Vacant(place)) = (file, snapshots.entry(epoch)) {
                let network = self.architecture.load::<B>(&Checkpoint::open(file)?, device)?;
                place.insert(State::of::<A, B>(&self.architecture, &network)?);
            }
        }
        let record = BaseRecord {
            hash: Some(trained.state.hash()),
            accuracy: trained.accuracies.last().copied(),
            training: self.base.record(&self.data.augmentation),
        };
        Ok(Base { state: trained.state, record, accuracies: trained.accuracies, snapshots })
    }

    /// A base model that is there already.
    ///
    /// - training: how it was trained, as far as it is known
    ///
    /// # Errors
    ///
    /// When it does not fit the architecture, or a test sample cannot be read.
    pub fn loaded_base<B: Backend>(
        &self,
        state: State,
        training: TrainingRecord,
        device: &B::Device,
    ) -> Result<Base> {
        self.check()?;
        let accuracy = self.evaluate::<B>(&self.architecture, &state, device)?;
        let record = BaseRecord { hash: Some(state.hash()), accuracy: Some(accuracy), training };
        Ok(Base { state, record, accuracies: Vec::new(), snapshots: BTreeMap::new() })
    }

    /// Checks what all runs have in common, before any of them takes its time.
    ///
    /// # Errors
    ///
    /// When the images are not those of the network, ratios are not of its layers, or a recipe is out of its range.
    pub fn check(&self) -> Result<()> {
        let [channels, height, width] = self.data.shape()?;
        let graph = self.architecture.graph([height, width])?;
        let inputs = graph.learnable().next().map_or(0, |layer| layer.inputs().len());
        if ![channels, channels * height * width].contains(&inputs) {
            let expected = format!("images for the {inputs} inputs of the network's first layer");
            return Err(Error::data("images", expected, format!("{channels} x {height} x {width}")));
        }
        self.ratios.resolve(&graph, &[])?;
        self.base.check()?;
        self.retraining.check()
    }

    /// The accuracy of a network on the test images, in percent.
    ///
    /// # Errors
    ///
    /// When the state is of another network, or a sample cannot be read.
    pub fn evaluate<B: Backend>(&self, config: &A, state: &State, device: &B::Device) -> Result<f64> {
        let (logits, labels) = self.test_logits::<B>(config, state, device)?;
        Ok(100.0 * metrics::accuracy(&logits, &labels)?)
    }

    /// The logits of the test images, row by row, and their classes.
    fn test_logits<B: Backend>(
        &self,
        config: &A,
        state: &State,
        device: &B::Device,
    ) -> Result<(Vec<f32>, Vec<i64>)> {
        let network = state.network::<A, B>(config, device)?.fuse();
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for batch in image_loader::<B, _>(self.data.test.clone(), TEST_BATCH, device)?.epoch(0, 0) {
            let batch = batch?.value;
            logits.extend(network.forward(batch.images).into_data().iter::<f32>());
            labels.extend(batch.labels.into_data().iter::<i64>());
        }
        Ok((logits, labels))
    }

    /// The mean cross-entropy of the training images.
    fn loss<B: Backend>(&self, config: &A, state: &State, device: &B::Device) -> Result<f64> {
        let network = state.network::<A, B>(config, device)?.fuse();
        let (mut sum, mut count) = (0.0, 0);
        for batch in image_loader::<B, _>(self.data.train.clone(), TEST_BATCH, device)?.epoch(0, 0) {
            let batch = batch?;
            let loss = cross_entropy(network.forward(batch.value.images), batch.value.labels);
            sum += loss.into_scalar().elem::<f64>() * batch.items as f64;
            count += batch.items;
        }
        Ok(sum / count as f64)
    }

    /// Prunes a base model by a method and trains it again, or trains a small network from scratch.
    ///
    /// - progress: is told each epoch of the last training, counted from 1, with its test accuracy in percent
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, the base model lacks what the method goes back to, a layer would be empty, a
    /// sample cannot be read, or training diverges.
    pub fn run<B>(
        &self,
        base: &Base,
        method: &Method,
        seed: u64,
        device: &B::Device,
        progress: impl Fn(usize, f64) + Send + Sync + 'static,
    ) -> Result<Outcome<A>>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        let [channels, height, width] = self.data.shape()?;
        let job = Job { base, method, seed, size: [height, width], progress: Arc::new(progress), device };
        let mut record = self.record(&job)?;
        let (stage, trained) = match method.pruner {
            Pruner::Scratch(_) | Pruner::SparseScratch(..) => self.scratch::<B>(&job, &mut record)?,
            _ => self.prune_and_retrain::<B>(&job, &mut record)?,
        };
        record.pruned = Some(stage.config.graph(job.size)?.cost());
        record.sparsity = stage.masks.as_ref().map(WeightMasks::sparsity);
        self.measure_jacobian::<B>(&mut record, 2, &stage.config, &trained.state, device)?;
        record.weight_bytes = Some(trained.state.bytes());
        record.accuracy.last = trained.accuracies.last().copied();
        let (logits, labels) =
            self.test_logits::<B::InnerBackend>(&stage.config, &trained.state, device.inner())?;
        if logits.len() > 5 * labels.len() {
            record.accuracy.top5 = Some(100.0 * metrics::top_k_accuracy(&logits, &labels, 5)?);
        }
        record.accuracy.best = trained.accuracies.iter().copied().reduce(f64::max);
        record.accuracy.by_epoch = trained.accuracies;
        if self.latency_batch > 0 {
            let inner = device.inner();
            let shape = [self.latency_batch, channels, height, width];
            let large = base.state.network::<A, B::InnerBackend>(&self.architecture, inner)?;
            let small = trained.state.network::<A, B::InnerBackend>(&stage.config, inner)?;
            let times =
                Latency::measure_all::<B::InnerBackend, _>(&[&large, &small], shape, [10, 50], inner)?;
            (record.dense_latency, record.latency) = (Some(times[0]), Some(times[1]));
        }
        let removed = stage.removed(&self.architecture.graph(job.size)?);
        let Stage { config, masks, .. } = stage;
        Ok(Outcome { record, config, state: trained.state, masks, removed })
    }

    /// Prunes a base model by a method in one round, and leaves it at that.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and when the method has more rounds, or prunes nothing.
    pub fn prune_only<B>(
        &self,
        base: &Base,
        method: &Method,
        seed: u64,
        device: &B::Device,
    ) -> Result<Outcome<A>>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        if method.rounds != 1 || matches!(method.pruner, Pruner::Scratch(_) | Pruner::SparseScratch(..)) {
            let found = format!("{} in {} rounds", method.name, method.rounds);
            return Err(Error::setting("method", "one that prunes in one round", found));
        }
        let [_, height, width] = self.data.shape()?;
        let job = Job { base, method, seed, size: [height, width], progress: Arc::new(|_, _| ()), device };
        let mut record = self.record(&job)?;
        let dense = self.architecture.graph(job.size)?;
        let (ratios, granularity) = self.resolved(method, &dense)?;
        let current = self.begin(&job)?;
        let (stage, _) = self.prune::<B>(&job, current, &ratios, 1, &method.name)?;
        let removed = stage.removed(&dense);
        record.pruning = self.pruning_record(&job, &stage, ratios, granularity)?;
        let Stage { config, state, masks, .. } = stage;
        record.base = base.record.clone();
        self.measure_pruned::<B>(&mut record, &config, &state, device)?;
        record.pruned = Some(config.graph(job.size)?.cost());
        record.sparsity = masks.as_ref().map(WeightMasks::sparsity);
        Ok(Outcome { record, config, state, masks, removed })
    }

    /// What is known of a run before it has begun.
    fn record<B: Backend>(&self, job: &Job<'_, B>) -> Result<Record> {
        Ok(Record {
            name: job.method.name.clone(),
            seed: Some(job.seed),
            data: self.data.description.clone(),
            architecture: Some(self.name.clone()),
            dense: Some(self.architecture.graph(job.size)?.cost()),
            hardware: Some(format!("{:?}", job.device)),
            ..Record::default()
        })
    }

    /// The ratio of each layer of the dense network, and of what.
    fn resolved(&self, method: &Method, dense: &Graph) -> Result<(Vec<f64>, Granularity)> {
        Ok(match &method.pruner {
            Pruner::Weights(selection)
            | Pruner::SparseScratch(selection, _)
            | Pruner::GregWeights { selection, .. } => {
                (self.ratios.resolve_weights(dense, &selection.skip)?, Granularity::Weight)
            }
            Pruner::Blocks { removed, block, skip } => {
                let part = *removed as f64 / *block as f64;
                (Ratios::Uniform(part).resolve_weights(dense, skip)?, Granularity::Block)
            }
            Pruner::Inherited(removed) => {
                let kept = Kept::without(dense, removed)?;
                let ratio = |layer: &Layer| {
                    let whole = layer.outputs().len();
                    Ok((whole - kept.width(layer.name())?) as f64 / whole as f64)
                };
                (dense.learnable().map(ratio).collect::<Result<_>>()?, Granularity::Filter)
            }
            _ => (self.ratios.resolve(dense, method.skip())?, Granularity::Filter),
        })
    }

    /// The base model, before the first round.
    fn begin<B: Backend>(&self, job: &Job<'_, B>) -> Result<Stage<A>> {
        let Job { base, method, .. } = *job;
        let early = match method.rewind {
            Some(epoch) => Some(base.snapshots.get(&epoch).cloned().ok_or_else(|| {
                let kept = base.snapshots.keys().map(usize::to_string).collect::<Vec<_>>().join(", ");
                Error::setting("rewind", format!("an epoch whose weights were kept ({kept})"), epoch)
            })?),
            None => None,
        };
        let outputs = all_outputs(&self.architecture.graph(job.size)?);
        let state = base.state.clone();
        let config = self.architecture.clone();
        Ok(Stage { config, state, masks: None, early, outputs, magnitude_ratios: BTreeMap::new() })
    }

    /// What pruning has done.
    fn measure_pruned<B>(
        &self,
        record: &mut Record,
        config: &A,
        state: &State,
        device: &B::Device,
    ) -> Result<()>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B>,
    {
        self.measure_jacobian::<B>(record, 1, config, state, device)?;
        let after = self.evaluate::<B::InnerBackend>(config, state, device.inner())?;
        record.accuracy =
            Accuracies { after_pruning: Some(after), best_on_test: Some(false), ..Accuracies::default() };
        Ok(())
    }

    /// What is known of a pruning, but how long it took.
    fn pruning_record<B: Backend>(
        &self,
        job: &Job<'_, B>,
        pruned: &Stage<A>,
        ratios: Vec<f64>,
        granularity: Granularity,
    ) -> Result<PruningRecord> {
        let dense = self.architecture.graph(job.size)?;
        let state = &job.base.state;
        let overlap = if let Some(masks) = &pruned.masks {
            let by_magnitude = Ratios::Layers(ratios.clone());
            let l1 = WeightSelection::default().select(&dense, state, &by_magnitude)?;
            masks.overlap(&l1, &dense, state)?
        } else {
            // As many of each layer as really went: a ratio may be rounded otherwise.
            let as_many = Ratios::of(&dense, &pruned.config.graph(job.size)?)?;
            let l1 = Selection::new().with_at_most(Some(0.995)).select(&dense, state, None, &as_many)?;
            Kept::without(&dense, &pruned.removed(&dense))?.overlap(&l1, &dense, state)?
        };
        Ok(PruningRecord {
            granularity: Some(granularity),
            ratios: Some(by_name(&dense, ratios)),
            criterion: Some(job.method.criterion()),
            overlap_with_l1: overlap,
            magnitude_ratios: Some(pruned.magnitude_ratios.clone()),
            ..PruningRecord::default()
        })
    }

    fn scratch<B>(&self, job: &Job<'_, B>, record: &mut Record) -> Result<(Stage<A>, Trained)>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        let graph = self.architecture.graph(job.size)?;
        let (ratios, granularity) = self.resolved(job.method, &graph)?;
        let mut masks = None;
        let (config, epochs) = match &job.method.pruner {
            Pruner::SparseScratch(selection, epochs) => {
                masks = Some(selection.select(&graph, &job.base.state, &self.ratios)?);
                (self.architecture.clone(), *epochs)
            }
            Pruner::Scratch(epochs) => {
                // Of which filters a layer is made does not matter, but of how many.
                let selection = Selection::new().with_at_most(Some(0.995));
                let kept = selection.select(&graph, &job.base.state, None, &self.ratios)?;
                (self.architecture.pruned(&kept)?, *epochs)
            }
            _ => unreachable!("the others prune"),
        };
        let (first, second) = (self.base.epochs, self.retraining.epochs);
        let recipe = self.base.stretched(match epochs {
            ScratchEpochs::Base => first,
            ScratchEpochs::Equal => first + second,
            ScratchEpochs::Budget => {
                let speedup = graph.cost().macs as f64 / config.graph(job.size)?.cost().macs as f64;
                scratch_b(first, second, speedup).round() as usize
            }
        })?;
        let mut generator = Generator::stream(job.seed, streams::INITIAL_WEIGHTS);
        let mut network = config.init::<B>(&mut generator, job.device)?;
        let mut state = State::of::<A, B>(&config, &network)?;
        record.pruning = PruningRecord {
            granularity: Some(granularity),
            ratios: Some(by_name(&graph, ratios)),
            criterion: Some(job.method.criterion()),
            scratch: Some(if masks.is_some() { Scratch::LargeSparse } else { Scratch::SmallDense }),
            ..PruningRecord::default()
        };
        record.accuracy.best_on_test = Some(false);
        record.retraining = recipe.record(&self.data.augmentation);
        let mut training = self.training::<B>(&recipe, job.progress.clone())?;
        if let Some(masks) = &masks {
            state = masks.apply(state)?;
            network = state.network::<A, B>(&config, job.device)?;
            training = training.with_hook(masks.hook::<A, B>(&config, &network)?);
        }
        let path = format!("{}-{}", job.method.name, job.seed);
        let plan = Plan { recipe: &recipe, seed: job.seed, path };
        let trained = self.train::<B>(training, &config, network, plan, job.device)?;
        let outputs = all_outputs(&graph);
        let magnitude_ratios = BTreeMap::new();
        Ok((Stage { config, state, masks, early: None, outputs, magnitude_ratios }, trained))
    }

    fn prune_and_retrain<B>(&self, job: &Job<'_, B>, record: &mut Record) -> Result<(Stage<A>, Trained)>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        let Job { base, method, seed, device, .. } = *job;
        let mut current = self.begin(job)?;
        let once = matches!(method.pruner, Pruner::Inherited(_));
        if method.rounds == 0 || (once && method.rounds > 1) {
            let expected = if once { "1 for inherited filters" } else { "at least 1" };
            return Err(Error::setting("rounds", expected, method.rounds));
        }
        let dense = self.architecture.graph(job.size)?;
        let (ratios, granularity) = self.resolved(method, &dense)?;
        record.base = base.record.clone();
        record.retraining = self.retraining.record(&self.data.augmentation);
        self.measure_jacobian::<B>(record, 0, &self.architecture, &base.state, device)?;
        let mut trained = Trained { state: base.state.clone(), accuracies: Vec::new(), epochs: 0.0 };
        let (mut epochs, mut computation) = (0.0, 0.0);
        for round in 1..=method.rounds {
            let share = current.config.graph(job.size)?.cost().macs as f64 / dense.cost().macs as f64;
            let path = format!("{}-{seed}/round-{round}", method.name);
            current.state = trained.state;
            let (next, growth) = self.prune::<B>(job, current, &ratios, round, &path)?;
            // The retraining of the rounds before is part of the pruning.
            epochs += trained.epochs + growth;
            computation += (trained.epochs + growth) * share;
            current = next;
            self.measure_pruned::<B>(record, &current.config, &current.state, device)?;
            let seed = seed.wrapping_add((round as u64) << 32);
            let network = current.state.network::<A, B>(&current.config, device)?;
            let mut training = self.training::<B>(&self.retraining, job.progress.clone())?;
            if let Some(masks) = &current.masks {
                training = training.with_hook(masks.hook::<A, B>(&current.config, &network)?);
            }
            let curve = match (self.jsv_every, self.jsv_images) {
                (0, _) | (_, 0) => None,
                (every, images) => {
                    Some(Curve::new(self.data.test_images::<B>(images, device)?, Mode::Eval, every)?)
                }
            };
            if let Some(curve) = &curve {
                training = training.with_hook(curve.clone());
            }
            let plan = Plan { recipe: &self.retraining, seed, path: format!("{path}/retraining") };
            trained = self.train::<B>(training, &current.config, network, plan, device)?;
            let measured = curve.iter().flat_map(Curve::measured);
            record.mean_jsv_by_epoch = measured.map(|(epoch, summary)| (epoch, summary.mean)).collect();
        }
        record.pruning = PruningRecord {
            epochs: Some(epochs),
            computation: Some(computation),
            rates: Some(match &method.pruner {
                Pruner::Greg { rate, .. } | Pruner::GregWeights { rate, .. } | Pruner::Tpp { rate, .. } => {
                    format!("0:{rate}")
                }
                _ if method.rounds > 1 => self.retraining.rates.to_string(),
                _ => "none".to_owned(),
            }),
            rounds: Some(method.rounds),
            ..self.pruning_record(job, &current, ratios, granularity)?
        };
        Ok((current, trained))
    }

    /// A round's pruning, with the epochs that the method itself took.
    ///
    /// - ratios: of the dense network's layers, after the last round
    fn prune<B>(
        &self,
        job: &Job<'_, B>,
        current: Stage<A>,
        ratios: &[f64],
        round: usize,
        path: &str,
    ) -> Result<(Stage<A>, f64)>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        match &job.method.pruner {
            Pruner::Blocks { .. } | Pruner::Weights(_) | Pruner::GregWeights { .. } => {
                self.mask_weights::<B>(job, current, ratios, round, path)
            }
            _ => self.remove_filters::<B>(job, current, ratios, round, path),
        }
    }

    /// A round's pruning of single weights.
    fn mask_weights<B>(
        &self,
        job: &Job<'_, B>,
        current: Stage<A>,
        ratios: &[f64],
        round: usize,
        path: &str,
    ) -> Result<(Stage<A>, f64)>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        let Stage { config, mut state, early, outputs, .. } = current;
        let Job { method, size, device, .. } = *job;
        let graph = config.graph(size)?;
        let ratios = Ratios::Layers(ratios.iter().map(|ratio| method.until(round, *ratio)).collect());
        let (masks, growth) = match &method.pruner {
            Pruner::Blocks { removed, block, skip } => {
                (WeightMasks::blockwise(&graph, &state, *removed, *block, skip)?, 0.0)
            }
            Pruner::Weights(selection) => (selection.select(&graph, &state, &ratios)?, 0.0),
            Pruner::GregWeights { config: greg, selection, rate } => {
                let network = state.network::<A, B>(&config, device)?;
                let hook = greg.init_weights::<A, B>(&config, &network, size, &ratios, selection)?;
                let (greg, grown) = self.grow::<B, _>(job, hook, &config, network, *rate, path)?;
                state = grown.state;
                (greg.with(|greg| greg.masks().clone()), grown.epochs)
            }
            _ => unreachable!("they mask no weights here"),
        };
        let magnitude_ratios = masks.magnitude_ratios(&graph, &state)?;
        state = masks.apply(early.clone().unwrap_or(state))?;
        // Weights that are drawn anew are none that are gone.
        state = masks.apply(job.renewed(&graph, state)?)?;
        Ok((Stage { config, state, masks: Some(masks), early, outputs, magnitude_ratios }, growth))
    }

    /// A round's removal of filters.
    fn remove_filters<B>(
        &self,
        job: &Job<'_, B>,
        current: Stage<A>,
        ratios: &[f64],
        round: usize,
        path: &str,
    ) -> Result<(Stage<A>, f64)>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        let Stage { config, mut state, early, mut outputs, .. } = current;
        let Job { method, size, device, .. } = *job;
        let graph = config.graph(size)?;
        let until = |ratio: f64| method.until(round, ratio);
        let dense = self.architecture.graph(size)?;
        let of_layer = |((before, now), ratio): ((&Layer, &Layer), &f64)| {
            let (whole, left) = (before.outputs().len(), now.outputs().len());
            let removed = match method.pruner {
                Pruner::Oracle { .. } => (until(*ratio) * whole as f64).floor() as usize,
                _ => removals(until(*ratio), whole, whole),
            };
            let goes = left.saturating_sub(whole - removed);
            // Half a filter beside the number that is meant, whichever way it is rounded.
            let half = if matches!(method.pruner, Pruner::Oracle { .. }) { 0.5 } else { -0.5 };
            if goes == 0 { 0.0 } else { (goes as f64 + half) / left as f64 }
        };
        let global = matches!(&method.pruner, Pruner::Filters(selection) if selection.scope == Scope::Global);
        let ratios = if global {
            // One ratio for all: the part of what the rounds before have left.
            let before = (round - 1) as f64 / method.rounds as f64;
            let of_round = |ratio: &f64| {
                let left = (1.0 - ratio).powf(before);
                if *ratio == 0.0 { 0.0 } else { 1.0 - (1.0 - until(*ratio)) / left }
            };
            Ratios::Layers(ratios.iter().map(of_round).collect())
        } else {
            Ratios::Layers(dense.learnable().zip(graph.learnable()).zip(ratios).map(of_layer).collect())
        };
        let mut growth = 0.0;
        let kept = match &method.pruner {
            Pruner::Filters(selection) => {
                let gradients = match selection.criterion {
                    Criterion::Gradient | Criterion::Taylor => {
                        let network = state.network::<A, B>(&config, device)?;
                        let train = image_loader::<B, _>(
                            self.data.train.clone(),
                            self.retraining.batch_size,
                            device,
                        )?;
                        Some(gradients::<A, B>(&config, network, train.epoch(0, 0))?)
                    }
                    _ => None,
                };
                selection.select(&graph, &state, gradients.as_ref(), &ratios)?
            }
            Pruner::Greg { config: greg, selection, rate } => {
                let network = state.network::<A, B>(&config, device)?;
                let hook = greg.init::<A, B>(&config, &network, size, &ratios, selection)?;
                let (greg, grown) = self.grow::<B, _>(job, hook, &config, network, *rate, path)?;
                (state, growth) = (grown.state, grown.epochs);
                greg.with(|greg| greg.kept(&graph))?
            }
            Pruner::Tpp { config: tpp, selection, rate } => {
                let network = state.network::<A, B>(&config, device)?;
                let hook = tpp.init::<A, B>(&config, &network, size, &ratios, selection)?;
                let (tpp, grown) = self.grow::<B, _>(job, hook, &config, network, *rate, path)?;
                (state, growth) = (grown.state, grown.epochs);
                tpp.with(|tpp| tpp.kept(&graph))?
            }
            Pruner::Oracle { skip, most } => {
                let loss = |kept: &Kept| {
                    let state = surgery::removed(&graph, &state, kept)?;
                    self.loss::<B::InnerBackend>(&config.pruned(kept)?, &state, device.inner())
                };
                oracle(&graph, &ratios, skip, *most, loss)?
            }
            Pruner::Inherited(removed) => Kept::without(&graph, removed)?,
            _ => unreachable!("they remove no filters here"),
        };
        let magnitude_ratios = kept.magnitude_ratios(&graph, &state)?;
        for (layer, outputs) in &mut outputs {
            *outputs = kept.outputs(layer)?.iter().map(|&place| outputs[place]).collect();
        }
        let early = early.map(|early| surgery::removed(&graph, &early, &kept)).transpose()?;
        if let Some(activation) = method.absorb {
            state = surgery::absorbed(&graph, state, &kept, activation)?;
        }
        state = early.clone().map_or_else(|| surgery::removed(&graph, &state, &kept), Ok)?;
        let config = config.pruned(&kept)?;
        state = job.renewed(&config.graph(size)?, state)?;
        Ok((Stage { config, state, masks: None, early, outputs, magnitude_ratios }, growth))
    }

    fn training<B>(&self, recipe: &Recipe, progress: Progress) -> Result<Run<A, B>>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        recipe.check()?;
        let steps = self.data.train.len().div_ceil(recipe.batch_size.max(1));
        let schedule = if recipe.epochs == ENDLESS {
            Schedule::new(recipe.rates.by_epoch(1)[0], ENDLESS, 0, Decay::Constant)?
        } else {
            recipe.rates.by_step(recipe.epochs, steps, recipe.warm_up)?
        };
        let config =
            TrainingConfig::new(recipe.epochs).with_average(recipe.average).with_dashboard(self.dashboard);
        let groups = ParameterGroups::new(recipe.descent::<B::InnerBackend>());
        let mut training = Training::new(config, groups, schedule)?
            .with(|training| {
                training
                    .metric_train_numeric(LossMetric::new())
                    .metric_valid_numeric(LossMetric::new())
                    .metric_valid_numeric(AccuracyMetric::new())
            })
            .with_hook(Tell(progress));
        if let Some(penalty) = recipe.penalty {
            training = training.with_hook(penalty);
        }
        Ok(training)
    }

    /// Runs a training.
    fn train<B>(
        &self,
        training: Run<A, B>,
        config: &A,
        network: A::Network<B>,
        plan: Plan<'_>,
        device: &B::Device,
    ) -> Result<Trained>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
    {
        let Plan { recipe, seed, path } = plan;
        let train = image_loader::<B, _>(self.data.train.clone(), recipe.batch_size, device)?.shuffled(seed);
        let steps = train.batches();
        let test = image_loader::<B::InnerBackend, _>(self.data.test.clone(), TEST_BATCH, device.inner())?;
        let mut model = Supervised::new(network);
        model.label_smoothing = recipe.label_smoothing;
        // Another recipe, or another network, is another training.
        let identity = serde_json::to_string(&(recipe, config)).expect("configurations are JSON");
        let folder = self.checkpoints.as_ref().map(|folder| folder.join(path).join(fingerprint(&identity)));
        let trained =
            training.resumed().run(folder.as_deref(), model, device, Arc::new(train), Arc::new(test))?;
        let state = match &trained.average {
            Some(average) => State::of::<A, B::InnerBackend>(config, &average.network)?,
            None => State::of::<A, B>(config, &trained.model.network)?,
        };
        let accuracies = trained.history.curve("valid", "Accuracy").into_iter().map(|(_, value)| value);
        Ok(Trained { state, accuracies: accuracies.collect(), epochs: trained.steps as f64 / steps as f64 })
    }

    /// Trains for as long as a method's penalty grows.
    fn grow<B, H>(
        &self,
        job: &Job<'_, B>,
        hook: H,
        config: &A,
        network: A::Network<B>,
        rate: f64,
        path: &str,
    ) -> Result<(Follow<H>, Trained)>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
        H: Hook<B, Supervised<B, A::Network<B>>> + 'static,
    {
        let recipe = Recipe {
            // The method ends it.
            epochs: ENDLESS,
            rates: format!("0:{rate}").parse()?,
            average: None,
            warm_up: 0,
            // The penalty's growth is measured against plain steps.
            optimizer: Optimizer::Sgd,
            ..self.retraining.clone()
        };
        let followed = Follow::new(hook);
        let training = self.training::<B>(&recipe, Arc::new(|_, _| ()))?.with_hook(followed.clone());
        let plan = Plan { recipe: &recipe, seed: job.seed, path: format!("{path}/growth") };
        let trained = self.train::<B>(training, config, network, plan, job.device)?;
        Ok((followed, trained))
    }

    /// Enters the singular values of a network's Jacobian.
    ///
    /// - place: in the record's fields
    fn measure_jacobian<B>(
        &self,
        record: &mut Record,
        place: usize,
        config: &A,
        state: &State,
        device: &B::Device,
    ) -> Result<()>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B>,
    {
        if self.jsv_images == 0 {
            return Ok(());
        }
        let network = state.network::<A, B>(config, device)?;
        let images = self.data.test_images::<B>(self.jsv_images, device)?;
        let summary = SingularValues::measure(&network, images, Mode::Eval)?.summary();
        record.mean_jsv[place] = Some(summary.mean);
        record.condition_number[place] = Some(summary.condition).filter(|number| number.is_finite());
        Ok(())
    }
}

/// Epochs of a training that a method ends.
const ENDLESS: usize = u32::MAX as usize;

/// Images of a test batch; it has no influence on what is measured.
const TEST_BATCH: usize = 256;

/// A short name for a text.
fn fingerprint(text: &str) -> String {
    hexadecimal(&Sha256::digest(text.as_bytes())[..6])
}

/// Ratios by the names of layers, but 0.
fn by_name(graph: &Graph, ratios: Vec<f64>) -> BTreeMap<String, f64> {
    let named = graph.learnable().map(|layer| layer.name().to_owned()).zip(ratios);
    named.filter(|(_, ratio)| *ratio > 0.0).collect()
}
