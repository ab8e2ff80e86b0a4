use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::{
    backend::Autodiff,
    module::{AutodiffModule, Module},
    nn::Linear,
    optim::{GradientsParams, Sgd, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig},
    tensor::{
        Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
    train::{
        ClassificationOutput, InferenceStep, Interrupter, MetricEarlyStoppingStrategy, StoppingCondition,
        TrainOutput, TrainStep,
        metric::{
            AccuracyMetric, LossMetric,
            store::{Aggregate, Direction, Split},
        },
    },
};
use burn_flex::Flex;

use super::*;
use crate::{
    checkpoint,
    loss::cross_entropy,
    nn::{BatchNorm, BatchNormConfig, linear},
    random::Generator,
    schedule::{Decay, Schedule},
};

type B = Autodiff<Flex>;

/// Two classes of points in the plane.
struct Points(usize);

type Point = ([f32; 2], i64);

impl Dataset for Points {
    type Item = Point;

    fn len(&self) -> usize {
        self.0
    }

    fn get(&self, index: usize, generator: &mut Generator) -> Result<Point> {
        let label = (index % 2) as i64;
        let noise = generator.normals(2);
        Ok(([noise[0] + 2.0 * label as f32, noise[1] - label as f32], label))
    }
}

#[derive(Debug, Clone)]
struct Points2<B: Backend> {
    points: Tensor<B, 2>,
    labels: Tensor<B, 1, Int>,
}

fn collate<B: Backend>(points: Vec<Point>) -> Points2<B> {
    let device = Default::default();
    let values: Vec<f32> = points.iter().flat_map(|(point, _)| *point).collect();
    let labels: Vec<i64> = points.iter().map(|(_, label)| *label).collect();
    Points2 {
        points: Tensor::from_data(TensorData::new(values, [points.len(), 2]), &device),
        labels: Tensor::from_data(TensorData::new(labels, [points.len()]), &device),
    }
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    first: Linear<B>,
    norm: Option<BatchNorm<B>>,
    last: Linear<B>,
}

impl<B: Backend> Net<B> {
    fn new(norm: bool) -> Self {
        let mut generator = Generator::new(5);
        let device = Default::default();
        Self {
            first: linear(2, 4, &mut generator, &device),
            norm: norm.then(|| BatchNormConfig::new(4).init(&device)),
            last: linear(4, 2, &mut generator, &device),
        }
    }

    fn classify(&self, batch: Points2<B>) -> ClassificationOutput<B> {
        let x = self.first.forward(batch.points);
        let x = match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let logits = self.last.forward(burn::tensor::activation::relu(x));
        let loss = cross_entropy(logits.clone(), batch.labels.clone());
        ClassificationOutput::new(loss, logits, batch.labels)
    }
}

impl<B: AutodiffBackend> TrainStep for Net<B> {
    type Input = Points2<B>;
    type Output = ClassificationOutput<B>;

    fn step(&self, batch: Points2<B>) -> TrainOutput<ClassificationOutput<B>> {
        let output = self.classify(batch);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl<B: Backend> InferenceStep for Net<B> {
    type Input = Points2<B>;
    type Output = ClassificationOutput<B>;

    fn step(&self, batch: Points2<B>) -> ClassificationOutput<B> {
        self.classify(batch)
    }
}

fn momentum() -> Sgd<Flex> {
    let momentum = MomentumConfig::new().with_dampening(0.0);
    SgdConfig::new()
        .with_momentum(Some(momentum))
        .with_weight_decay(Some(WeightDecayConfig::new(1e-3)))
        .build()
}

type Groups = ParameterGroups<Sgd<Flex>, Net<B>, B>;

fn training(config: TrainingConfig, optimizer: Groups) -> Training<B, Net<B>, Sgd<Flex>> {
    let decay = Decay::Cosine { minimum: 0.0 };
    let schedule = Schedule::new(0.1, 40, 3, decay).unwrap();
    Training::new(config, optimizer, schedule).unwrap().with(|training| {
        training
            .metric_train_numeric(LossMetric::new())
            .metric_valid_numeric(LossMetric::new())
            .metric_valid_numeric(AccuracyMetric::new())
    })
}

type Pair = (Arc<dyn Batches<Points2<B>>>, Arc<dyn Batches<Points2<Flex>>>);

fn loaders(samples: usize, batch: usize) -> Pair {
    let train = Loader::new(Points(samples), batch, |points| Ok(collate::<B>(points)))
        .unwrap()
        .shuffled(3)
        .with_workers(2);
    let valid = Loader::new(Points(20), 7, |points| Ok(collate::<Flex>(points))).unwrap();
    (Arc::new(train), Arc::new(valid))
}

fn run(training: Training<B, Net<B>, Sgd<Flex>>, folder: Option<&Path>) -> Result<Trained<B, Net<B>>> {
    let (train, valid) = loaders(42, 8);
    training.run(folder, Net::new(true), &Default::default(), train, valid)
}

fn weights<B: Backend>(net: &Net<B>) -> Vec<(String, TensorData)> {
    checkpoint::tensors(net, str::to_owned).unwrap()
}

/// Interrupts after some steps, and keeps how many it has seen.
struct Stop {
    after: usize,
    seen: Arc<AtomicUsize>,
    interrupter: Interrupter,
}

impl Hook<B, Net<B>> for Stop {
    fn stepped(&mut self, _step: usize, model: Net<B>) -> Result<Net<B>> {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == self.after {
            self.interrupter.stop(None);
        }
        Ok(model)
    }

    fn state(&self) -> serde_json::Value {
        self.seen.load(Ordering::Relaxed).into()
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        self.seen.store(state.as_u64().unwrap() as usize, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let config =
        TrainingConfig::new(5).with_average(Some(0.9)).with_clip_norm(Some(0.5)).with_accumulation(2);
    let groups = || Groups::new(momentum()).with_group(|path| path.starts_with("last"), 3.0, momentum());
    let whole = run(training(config.clone(), groups()), None).unwrap();
    // Six batches of an epoch make three steps.
    assert_eq!((whole.steps, whole.epochs, whole.interrupted), (15, 5, false));
    let accuracy = whole.history.curve("valid", "Accuracy");
    assert!(accuracy.len() == 5 && accuracy[4].1 > 80.0, "{accuracy:?}");

    for cuts in [vec![1], vec![3], vec![4, 5, 11], vec![2, 14]] {
        let folder = tempfile::tempdir().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        for after in cuts.iter().copied().chain([usize::MAX]) {
            let part = training(config.clone(), groups()).resumed();
            let stop = Stop { after, seen: seen.clone(), interrupter: part.interrupter() };
            let part = run(part.with_hook(stop), Some(folder.path())).unwrap();
            assert_eq!(part.interrupted, after != usize::MAX, "after {after}");
            assert_eq!(part.steps, after.min(15));
            if after == usize::MAX {
                assert_eq!(weights(&part.model), weights(&whole.model));
                assert_eq!(weights(&part.average.unwrap()), weights(whole.average.as_ref().unwrap()));
                assert_eq!(part.history.curve("valid", "Loss"), whole.history.curve("valid", "Loss"));
            }
        }
        assert_eq!(seen.load(Ordering::Relaxed), 15);
        // A run that has ended stays as it is.
        let again = run(training(config.clone(), groups()).resumed(), Some(folder.path())).unwrap();
        assert_eq!(weights(&again.model), weights(&whole.model));
    }
}

#[test]
fn the_weights_of_the_best_epoch_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let fit = |epochs: usize, after: usize| {
        // Rates at which the loss does not fall to the end.
        let groups = Groups::new(momentum()).with_group(|_| true, 12.0, momentum());
        let training = training(TrainingConfig::new(epochs), groups).resumed();
        let stop = Stop { after, seen: Arc::default(), interrupter: training.interrupter() };
        let best = BestEpoch::new(folder.path(), "Loss");
        let folder = (after > 0).then(|| folder.path());
        run(training.with_hook(stop).with_hook(best), folder).unwrap()
    };
    assert!(fit(6, 20).interrupted);
    let whole = fit(6, usize::MAX);
    let curve = whole.history.curve("valid", "Loss");
    let lowest = curve.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert!((1..6).contains(&lowest), "{curve:?}");
    let (best, epoch) = BestEpoch::load(folder.path(), Net::<B>::new(true)).unwrap();
    assert_eq!(epoch, lowest);
    let until = fit(lowest, 0);
    assert_eq!(weights(&best), weights(&until.model));
    let empty = tempfile::tempdir().unwrap();
    assert!(
        BestEpoch::load(empty.path(), Net::<B>::new(true))
            .unwrap_err()
            .to_string()
            .contains("best.safetensors")
    );
}

#[test]
fn accumulated_batches_are_the_large_batch() {
    let fit = |batch: usize, accumulation: usize| {
        let training =
            training(TrainingConfig::new(3).with_accumulation(accumulation), Groups::new(momentum()));
        let (train, valid) = loaders(42, batch);
        // Without batch norm, which sees each batch alone.
        training.run(None, Net::new(false), &Default::default(), train, valid).unwrap()
    };
    let (small, large) = (fit(4, 4), fit(16, 1));
    assert_eq!(small.steps, large.steps);
    for ((name, small), (_, large)) in weights(&small.model).into_iter().zip(weights(&large.model)) {
        for (small, large) in small.iter::<f32>().zip(large.iter::<f32>()) {
            assert!((small - large).abs() < 1e-5, "{name}: {small} and {large}");
        }
    }
}

#[test]
fn groups_have_their_rates_and_frozen_ones_stay() {
    let plain = || SgdConfig::new().build();
    let step = |groups: Groups| {
        let config = TrainingConfig::new(1).with_accumulation(100);
        let (train, valid) = loaders(42, 8);
        let model = Net::new(false);
        training(config, groups).run(None, model, &Default::default(), train, valid).unwrap().model
    };
    let start = weights(&Net::<B>::new(false));
    let once = weights(&step(Groups::new(plain())));
    let grouped = weights(&step(
        Groups::new(plain())
            .with_group(|path| path == "last.weight", 4.0, plain())
            .with_frozen(|path| path.starts_with("first")),
    ));
    for ((start, once), grouped) in start.iter().zip(&once).zip(&grouped) {
        let factor = match start.0.as_str() {
            "last.weight" => 4.0,
            name if name.starts_with("first") => {
                assert_eq!(grouped.1, start.1);
                continue;
            }
            _ => 1.0,
        };
        let values = start.1.iter::<f32>().zip(once.1.iter::<f32>()).zip(grouped.1.iter::<f32>());
        for ((start, once), grouped) in values {
            assert!(((grouped - start) - factor * (once - start)).abs() < 1e-6, "{}", grouped - start);
        }
    }
}

/// Keeps the largest norm that it sees.
struct Norms(Arc<std::sync::Mutex<Vec<f64>>>);

impl Hook<B, Net<B>> for Norms {
    fn gradients(
        &mut self,
        _step: usize,
        model: &Net<B>,
        gradients: GradientsParams,
    ) -> Result<GradientsParams> {
        self.0.lock().unwrap().push(gradient_norm::<B, _>(model, &gradients));
        Ok(gradients)
    }
}

#[test]
fn gradients_are_clipped_by_their_common_norm() {
    let norms = Arc::default();
    let step = |clip| {
        let config = TrainingConfig::new(1).with_accumulation(100).with_clip_norm(clip);
        let training = training(config, Groups::new(SgdConfig::new().build()));
        run(training.with_hook(Norms(Arc::clone(&norms))), None).unwrap().model
    };
    let start = weights(&Net::<B>::new(true));
    let moved = |net: &Net<B>| {
        let moved = weights(net).into_iter().zip(&start).filter(|((name, _), _)| !name.contains("running"));
        let squares = moved.flat_map(|((_, end), (_, start))| {
            let pairs: Vec<(f32, f32)> = end.iter::<f32>().zip(start.iter::<f32>()).collect();
            pairs.into_iter().map(|(end, start)| f64::from(end - start).powi(2))
        });
        squares.sum::<f64>().sqrt()
    };
    let rate = 0.1 / 3.0;
    let free = step(None);
    let norm = norms.lock().unwrap()[0];
    assert!(norm > 0.1 && (moved(&free) / rate - norm).abs() < 1e-3 * norm, "{norm}");
    assert!((moved(&step(Some(0.1))) / rate - 0.1).abs() < 1e-4);
    assert!((moved(&step(Some(100.0))) / rate - norm).abs() < 1e-3 * norm);
}

#[test]
fn training_stops_early_and_stays_stopped() {
    // The rule never sees an improvement after the first epoch.
    let rule = || {
        MetricEarlyStoppingStrategy::new(
            &LossMetric::<Flex>::new(),
            Aggregate::Mean,
            Direction::Highest,
            Split::Valid,
            StoppingCondition::NoImprovementSince { n_epochs: 3 },
        )
    };
    let folder = tempfile::tempdir().unwrap();
    let fit = |after: usize| {
        let training = training(TrainingConfig::new(20), Groups::new(momentum())).resumed();
        let stop = Stop { after, seen: Arc::default(), interrupter: training.interrupter() };
        run(training.with_early_stopping(rule()).with_hook(stop), Some(folder.path())).unwrap()
    };
    // Interrupted in the third epoch: what the rule has seen must not be forgotten.
    assert!(fit(14).interrupted);
    assert_eq!(fit(usize::MAX).epochs, 4);
    assert_eq!(fit(usize::MAX).steps, 24);
}

#[test]
fn a_failed_save_is_an_error_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = folder.path().join("checkpoints");
    let first = training(TrainingConfig::new(1), Groups::new(momentum()));
    run(first, Some(folder.path())).unwrap();
    let names = || {
        let entries = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["step-00000006"]);
    // Without asking for it, nothing is continued and nothing overwritten.
    let again = run(training(TrainingConfig::new(3), Groups::new(momentum())), Some(folder.path()));
    assert!(matches!(again.unwrap_err(), crate::Error::Exists { .. }));

    // What takes the next checkpoint's place cannot be removed: the write fails as on a full disk.
    let position = checkpoints.join("step-00000006/position.json");
    let text = fs::read_to_string(&position).unwrap().replace("\"finished\": true", "\"finished\": false");
    fs::write(&position, text).unwrap();
    fs::write(checkpoints.join("step-00000012"), b"in the way").unwrap();
    let resumed = training(TrainingConfig::new(3), Groups::new(momentum())).resumed();
    let broken = run(resumed, Some(folder.path())).unwrap_err().to_string();
    assert!(broken.contains("step-00000012"), "{broken}");
    fs::remove_file(checkpoints.join("step-00000012")).unwrap();
    assert_eq!(names(), ["step-00000006"]);
    let resumed = training(TrainingConfig::new(3), Groups::new(momentum())).resumed();
    assert_eq!(run(resumed, Some(folder.path())).unwrap().steps, 18);
    // The two newest are kept.
    let mut kept = names();
    kept.sort();
    assert_eq!(kept, ["step-00000012", "step-00000018"]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(training(TrainingConfig::new(1), Groups::new(momentum())), Some(folder.path())).unwrap();
    // Other data.
    let (train, valid) = loaders(50, 8);
    let resumed = training(TrainingConfig::new(3), Groups::new(momentum())).resumed();
    let error = resumed.run(Some(folder.path()), Net::new(true), &Default::default(), train, valid);
    assert!(error.unwrap_err().to_string().contains("batches"));
    // Another model.
    let (train, valid) = loaders(42, 8);
    let resumed = training(TrainingConfig::new(3), Groups::new(momentum())).resumed();
    let error = resumed.run(Some(folder.path()), Net::new(false), &Default::default(), train, valid);
    assert!(error.unwrap_err().to_string().contains("norm"));
    for config in [
        TrainingConfig::new(0),
        TrainingConfig::new(1).with_accumulation(0),
        TrainingConfig::new(1).with_clip_norm(Some(0.0)),
        TrainingConfig::new(1).with_average(Some(1.0)),
        TrainingConfig::new(1).with_save_every(Some(0)),
    ] {
        let schedule = Schedule::new(0.1, 10, 0, Decay::Constant).unwrap();
        assert!(Training::<B, Net<B>, _>::new(config, Groups::new(momentum()), schedule).is_err());
    }
}

#[test]
fn diverged_weights_are_not_saved() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = Schedule::new(1e30, 10, 0, Decay::Constant).unwrap();
    let training =
        Training::new(TrainingConfig::new(2), Groups::new(SgdConfig::new().build()), schedule).unwrap();
    let (train, valid) = loaders(42, 8);
    let error = training.run(Some(folder.path()), Net::new(false), &Default::default(), train, valid);
    assert!(error.unwrap_err().to_string().contains("diverged"));
    assert!(!folder.path().join("checkpoints/step-00000006").exists());
}

#[test]
fn the_average_is_what_it_says() {
    let config = TrainingConfig::new(1).with_accumulation(100).with_average(Some(0.75));
    let trained = run(training(config, Groups::new(momentum())), None).unwrap();
    let start = weights(&Net::<Flex>::new(true));
    let average = weights(&trained.average.unwrap());
    for ((start, end), average) in start.iter().zip(weights(&trained.model.valid())).zip(average) {
        let values = start.1.iter::<f32>().zip(end.1.iter::<f32>()).zip(average.1.iter::<f32>());
        for ((start, end), average) in values {
            assert!((average - (0.75 * start + 0.25 * end)).abs() < 1e-6);
        }
    }
}
