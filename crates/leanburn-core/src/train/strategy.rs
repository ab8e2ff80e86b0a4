use std::{
    io::IsTerminal,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use burn::{
    data::dataloader::Progress,
    module::AutodiffModule,
    optim::{GradientsAccumulator, Optimizer, SimpleOptimizer},
    tensor::backend::AutodiffBackend,
    train::{
        EventProcessorTraining, InferenceStep, Learner, LearnerEvent, SupervisedLearningStrategy,
        SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader, TrainStep, TrainingComponents,
        TrainingItem, TrainingModel, TrainingStrategy, ValidLoader,
        metric::{MetricDefinition, store::Split},
        renderer::{
            EvaluationName, EvaluationProgress, MetricState, MetricsRenderer, MetricsRendererEvaluation,
            MetricsRendererTraining, ProgressType, TrainingProgress, tui::TuiMetricsRendererWrapper,
        },
    },
};

use super::{
    Batches, BurnLoader, EpochReport, History, Trained, Training,
    average::moved,
    config::Components,
    parameters::{clipped, scaled},
    snapshot::{Position, Snapshots, check_finite},
};
use crate::{Error, Result};

/// What the loop needs, and what it leaves behind.
struct Loop<B, M, S>
where
    B: AutodiffBackend,
    M: TrainStep + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    training: Training<B, M, S>,
    model: M,
    average: Option<M::InnerModule>,
    position: Position,
    history: History,
    snapshots: Option<Snapshots>,
    train: Arc<dyn Batches<M::Input>>,
    valid: Arc<dyn Batches<<M::InnerModule as InferenceStep>::Input>>,
}

/// burn-train calls its strategies by reference, and takes no error from them: `L` is the loop before it has run, and `T`
/// what it gave.
struct Strategy<L, T>(Mutex<Slot<L, T>>);

enum Slot<L, T> {
    Before(Box<L>),
    After(Result<T>),
    Empty,
}

impl<L, T> Strategy<L, T> {
    fn take(&self) -> Slot<L, T> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Slot::Empty)
    }
}

pub(super) fn run<B, M, S>(
    mut training: Training<B, M, S>,
    folder: Option<&Path>,
    mut model: M,
    device: &B::Device,
    train: Arc<dyn Batches<M::Input>>,
    valid: Arc<dyn Batches<<M::InnerModule as InferenceStep>::Input>>,
) -> Result<Trained<B, M>>
where
    B: AutodiffBackend,
    M: TrainStep + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep + Send,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    let config = training.config.clone();
    let snapshots = folder.map(|folder| Snapshots::new(folder, config.keep));
    let mut average = config.average.map(|_| model.valid());
    let mut position = Position::start(train.order());
    if let Some(newest) = snapshots.as_ref().map(Snapshots::newest).transpose()?.flatten() {
        if !training.resume {
            return Err(Error::Exists { path: newest });
        }
        (position, model, average) =
            Snapshots::load(&newest, model, average, &mut training.optimizer, device)?;
        if position.order != train.order() {
            let expected = format!("the run's data and batches, {}", position.order);
            return Err(Error::data(newest.display(), expected, train.order()));
        }
        for (hook, state) in training.hooks.iter_mut().zip(position.hooks.clone()) {
            hook.restore(state)?;
        }
    }
    let history = History::default();
    history.restore(position.measured.clone());
    if position.finished {
        let Position { step, epoch, .. } = position;
        return Ok(Trained { model, average, steps: step, epochs: epoch, interrupted: false, history });
    }

    let interrupter = training.interrupter.clone();
    let burn = SupervisedTraining::new(
        // Where burn-train's own loggers and checkpoints would write; there are none.
        folder.unwrap_or(Path::new("")),
        Arc::new(BurnLoader::new(train.clone())),
        Arc::new(BurnLoader::new(valid.clone())),
    )
    .with_application_logger(None)
    .with_metric_logger(history.clone())
    .with_interrupter(interrupter.clone())
    .num_epochs(config.epochs);
    let burn = if config.dashboard && std::io::stdout().is_terminal() {
        burn.renderer(TuiMetricsRendererWrapper::new(interrupter, Some(position.epoch)))
    } else {
        burn.renderer(Quiet)
    };
    // The loop has the real ones; burn-train's learner only carries the types.
    let learner = Learner::new(model.clone(), training.optimizer.clone(), 0.0);
    let burn =
        std::mem::take(&mut training.customise).into_iter().fold(burn, |burn, customise| customise(burn));
    let run = Loop { training, model, average, position, history, snapshots, train, valid };
    let strategy = Arc::new(Strategy(Mutex::new(Slot::Before(Box::new(run)))));
    burn.with_training_strategy(TrainingStrategy::Custom(strategy.clone())).launch(learner);
    match strategy.take() {
        Slot::After(result) => result,
        _ => unreachable!("burn-train runs the strategy it is given"),
    }
}

impl<B, M, S> SupervisedLearningStrategy<Components<B, M, S>> for Strategy<Loop<B, M, S>, Trained<B, M>>
where
    B: AutodiffBackend,
    M: TrainStep + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    fn fit(
        &self,
        mut components: TrainingComponents<Components<B, M, S>>,
        _learner: Learner<Components<B, M, S>>,
        _train: TrainLoader<Components<B, M, S>>,
        _valid: ValidLoader<Components<B, M, S>>,
        _starting_epoch: usize,
    ) -> (TrainingModel<Components<B, M, S>>, SupervisedTrainingEventProcessor<Components<B, M, S>>) {
        let Slot::Before(mut run) = self.take() else { unreachable!("a strategy runs once") };
        let result = run.fit(&mut components);
        let model = run.model.clone();
        let result = result.map(|interrupted| Trained {
            model: run.model,
            average: run.average,
            steps: run.position.step,
            epochs: run.position.epoch,
            interrupted,
            history: run.history,
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Slot::After(result);
        (model, components.event_processor)
    }
}

impl<B, M, S> Loop<B, M, S>
where
    B: AutodiffBackend,
    M: TrainStep + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep,
    S: SimpleOptimizer<B::InnerBackend> + 'static,
{
    /// Trains to the end; tells whether somebody interrupted it.
    fn fit(&mut self, components: &mut TrainingComponents<Components<B, M, S>>) -> Result<bool> {
        let start = self.position.epoch;
        if start > 0 {
            // burn-train counts epochs by the ends it has seen.
            components.event_processor.process_train(LearnerEvent::EndEpoch(start));
            components.event_processor.process_valid(LearnerEvent::EndEpoch(start));
            self.history.wait(start, &Split::Valid)?;
            // What the rule has seen before.
            for epoch in 1..=start {
                if let Some(rule) = &mut components.early_stopping {
                    rule.should_stop(epoch, &components.event_store);
                }
            }
        }
        while self.position.epoch < self.training.config.epochs && !self.position.finished {
            if self.train_epoch(components)? {
                self.save()?;
                return Ok(true);
            }
            self.validate(components)?;
            self.position.epoch += 1;
            self.position.batch = 0;
            self.end_epoch(components)?;
            if !self.position.finished && components.interrupter.should_stop() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rest of an epoch; tells whether somebody interrupted it.
    fn train_epoch(&mut self, components: &mut TrainingComponents<Components<B, M, S>>) -> Result<bool> {
        let Position { epoch, batch: first, .. } = self.position;
        let (count, samples) = (self.train.batches(), self.train.samples());
        let accumulation = self.training.config.accumulation;
        let whole = Progress::new(epoch + 1, self.training.config.epochs);
        let mut seen = first * samples.div_ceil(count);
        let mut accumulator = GradientsAccumulator::<M>::new();
        let mut accumulated = 0.0;
        for (index, batch) in (first..count).zip(self.train.epoch(epoch, first)) {
            let batch = batch?;
            seen += batch.items;
            let output = self.model.step(batch.value);
            let last = index + 1 == count;
            let steps = (index + 1).is_multiple_of(accumulation) || last;
            let rate = self.training.schedule.rate(self.position.step);
            if accumulation == 1 {
                self.step(output.grads, rate)?;
            } else {
                let weighted = scaled::<B, M>(&self.model, output.grads, batch.weight);
                accumulator.accumulate::<B>(&self.model, weighted);
                accumulated += batch.weight;
                if steps {
                    let mean = scaled::<B, M>(&self.model, accumulator.grads(), 1.0 / accumulated);
                    accumulated = 0.0;
                    self.step(mean, rate)?;
                }
            }
            let progress = Progress::new(seen, samples);
            let item = TrainingItem::new(output.item, progress, whole.clone(), Some(index + 1), Some(rate));
            components.event_processor.process_train(LearnerEvent::ProcessedItem(item));
            if !steps {
                continue;
            }
            self.position.batch = index + 1;
            if self.training.hooks.iter().any(|hook| hook.finished()) {
                self.position.finished = true;
                break;
            }
            // The end of the epoch saves in any case, and after validation.
            if last {
                break;
            }
            if components.interrupter.should_stop() {
                return Ok(true);
            }
            if self.training.config.save_every.is_some_and(|every| self.position.step.is_multiple_of(every)) {
                self.save()?;
            }
        }
        components.event_processor.process_train(LearnerEvent::EndEpoch(epoch + 1));
        Ok(false)
    }

    /// One step of the optimiser.
    fn step(&mut self, mut gradients: burn::optim::GradientsParams, rate: f64) -> Result<()> {
        let step = self.position.step;
        for hook in &mut self.training.hooks {
            gradients = hook.gradients(step, &self.model, gradients)?;
        }
        if let Some(largest) = self.training.config.clip_norm {
            let norm;
            (gradients, norm) = clipped::<B, M>(&self.model, gradients, largest);
            if !norm.is_finite() {
                let expected = "a finite number; lower the learning rate or rescale the data";
                return Err(Error::data(
                    format!("norm of the gradients of step {}", step + 1),
                    expected,
                    norm,
                ));
            }
        }
        let mut model = self.training.optimizer.step(rate, self.model.clone(), gradients);
        for hook in &mut self.training.hooks {
            model = hook.stepped(step, model)?;
        }
        if let (Some(decay), Some(average)) = (self.training.config.average, self.average.take()) {
            self.average = Some(moved(average, &model.valid(), decay));
        }
        self.model = model;
        self.position.step += 1;
        Ok(())
    }

    fn validate(&mut self, components: &mut TrainingComponents<Components<B, M, S>>) -> Result<()> {
        let epoch = self.position.epoch;
        let model = self.average.clone().unwrap_or_else(|| self.model.valid());
        let whole = Progress::new(epoch + 1, self.training.config.epochs);
        let mut seen = 0;
        for (index, batch) in self.valid.epoch(0, 0).enumerate() {
            let batch = batch?;
            seen += batch.items;
            let item = TrainingItem::new(
                model.step(batch.value),
                Progress::new(seen, self.valid.samples()),
                whole.clone(),
                Some(index + 1),
                None,
            );
            components.event_processor.process_valid(LearnerEvent::ProcessedItem(item));
        }
        components.event_processor.process_valid(LearnerEvent::EndEpoch(epoch + 1));
        self.history.wait(epoch + 1, &Split::Valid)
    }

    fn end_epoch(&mut self, components: &mut TrainingComponents<Components<B, M, S>>) -> Result<()> {
        let epoch = self.position.epoch;
        self.position.measured = self.history.measured();
        let measured = self.position.measured.iter().filter(|m| m.epoch == epoch).cloned().collect();
        let report = EpochReport { epoch, steps: self.position.step, measured };
        for hook in &mut self.training.hooks {
            hook.epoch_ended(&report, &self.model)?;
        }
        let stops = components
            .early_stopping
            .as_mut()
            .is_some_and(|rule| rule.should_stop(epoch, &components.event_store));
        self.position.finished |= stops || epoch == self.training.config.epochs;
        self.save()
    }

    fn save(&mut self) -> Result<()> {
        let Some(snapshots) = &self.snapshots else {
            return check_finite::<B::InnerBackend, _>(self.position.step, &self.model.valid());
        };
        self.position.hooks = self.training.hooks.iter().map(|hook| hook.state()).collect();
        snapshots.save(&mut self.position, &self.model, self.average.as_ref(), &self.training.optimizer)
    }
}

/// Shows nothing.
struct Quiet;

impl MetricsRendererTraining for Quiet {
    fn update_train(&mut self, _state: MetricState) {}
    fn update_valid(&mut self, _state: MetricState) {}
    fn render_train(&mut self, _item: TrainingProgress, _indicators: Vec<ProgressType>) {}
    fn render_valid(&mut self, _item: TrainingProgress, _indicators: Vec<ProgressType>) {}
}

impl MetricsRendererEvaluation for Quiet {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}
    fn render_test(&mut self, _item: EvaluationProgress, _indicators: Vec<ProgressType>) {}
}

impl MetricsRenderer for Quiet {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _definition: MetricDefinition) {}
}
