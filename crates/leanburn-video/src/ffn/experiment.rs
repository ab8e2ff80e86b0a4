use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use burn::{
    module::AutodiffModule,
    optim::SimpleOptimizer,
    tensor::backend::{AutodiffBackend, DeviceOps},
    train::Interrupter,
};
use leanburn_core::{
    Result,
    checkpoint::Checkpoint,
    random::{Generator, streams},
    train::{Batches, EpochReport, History, Hook, ParameterGroups, Training, TrainingConfig},
};
use serde::{Deserialize, Serialize};

use super::{Alignment, FrameFlexible, Frequencies, Labelled};
use crate::{
    branches::Branches,
    mixing::Mixing,
    model::{ClipClassifier, Imported, VideoArchitecture},
    sampling::Sampling,
    schedule::EpochSchedule,
    train::{Clips, clip_loader, with_clip_metrics},
    transform::ClipPreprocessing,
    videos::VideoSource,
};

/// What is trained: FFN, a part of it, or what it is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// FFN, with branches of one's own choice.
    Ffn(Branches),
    /// Alignment alone: shared norms, and no alteration.
    Distillation,
    /// Alignment, and norms of each branch.
    SpecialisedNorms,
    /// All frame counts learn from the labels, with everything shared.
    Sharing,
    /// One frame count: the network whose deviation at others is to be seen, and with each count in turn separated
    /// training.
    Single(usize),
    /// A plain network; each batch has one frame count, each as likely.
    Mixed,
    /// A plain network; each batch has one frame count, as likely as it has frames.
    Proportional,
}

impl Method {
    /// The branches of the network that it trains.
    ///
    /// - counts: the frame counts that clips are drawn at
    pub fn branches(&self, counts: &[usize]) -> Branches {
        let shared = Branches { counts: counts.to_vec(), private_norms: false, alteration: None };
        match self {
            Self::Ffn(branches) => branches.clone(),
            Self::SpecialisedNorms => Branches { private_norms: true, ..shared },
            Self::Distillation | Self::Sharing | Self::Mixed | Self::Proportional => shared,
            Self::Single(frames) => Branches::single(*frames),
        }
    }
}

/// Trainings of one architecture on one set of videos, by one [`Method`] or by several.
#[derive(Debug)]
pub struct Experiment<A, S> {
    /// The architecture; its branches are the method's.
    pub architecture: A,
    /// The frame counts, ascending.
    pub counts: Vec<usize>,
    /// Videos for training.
    pub train: Arc<S>,
    /// Videos for validation.
    pub valid: Arc<S>,
    /// How frames are chosen.
    pub sampling: Sampling,
    /// What is done to the frames of both.
    pub preprocessing: [ClipPreprocessing; 2],
    /// The learning rate; its epochs are the training's.
    pub schedule: EpochSchedule,
    /// Videos of a batch.
    pub batch_size: usize,
    /// How many draws of each video a batch has (repeated augmentation); 1 for none more.
    pub copies: usize,
    /// Who learns from whom.
    pub alignment: Alignment,
    /// How batches are mixed, if they are.
    pub mixing: Option<Mixing>,
    /// Whether all batch norms but the first stay as they are, TSN's partial batch norm.
    pub partial_norms: bool,
    /// Clipping, accumulation, checkpoints; its epochs are the schedule's.
    pub training: TrainingConfig,
    /// Of initial weights, the order of videos, and what is drawn.
    pub seed: u64,
    /// The weights to start from, of an image network, of a plain video network, or of one with the same branches; random
    /// ones when absent.
    pub start: Option<PathBuf>,
}

/// What a training gave.
#[derive(Debug)]
pub struct Outcome<A, N> {
    /// The network's configuration.
    pub architecture: A,
    /// The network.
    pub network: N,
    /// The metrics by epoch.
    pub history: History,
    /// Steps taken.
    pub steps: usize,
    /// Whether somebody interrupted it: running it again goes on.
    pub interrupted: bool,
    /// Names of parameters that the weights to start from did not have.
    pub kept: Vec<String>,
    /// Names in them that the network has no use for.
    pub unused: Vec<String>,
    /// How many frames a second were read for training, which is at most what the training used.
    pub frames_per_second: f64,
}

/// Tells what an epoch gave.
struct Shown<F>(F);

impl<B, M, F> Hook<B, M> for Shown<F>
where
    B: AutodiffBackend,
    M: AutodiffModule<B>,
    F: FnMut(&EpochReport) + Send,
{
    fn epoch_ended(&mut self, report: &EpochReport, _model: &M) -> Result<()> {
        (self.0)(report);
        Ok(())
    }
}

/// What is trained of an architecture.
type Trainee<A, B> = FrameFlexible<B, <A as VideoArchitecture>::Network<B>>;

impl<A: VideoArchitecture, S: VideoSource> Experiment<A, S> {
    /// Trains a network.
    ///
    /// - optimizer: of [`tsn_groups`](crate::train::tsn_groups), [`slowfast_groups`](crate::train::slowfast_groups),
    ///   [`uniformer_groups`](crate::train::uniformer_groups), or of your own
    /// - folder: for checkpoints, from which the training goes on when it was interrupted; with `None` nothing is written
    /// - interrupt: gets a handle that stops the training after the step under way
    /// - show: gets what each epoch gave
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, the weights to start from do not fit, a frame cannot be read, or a checkpoint
    /// cannot be read or written.
    pub fn run<B, O>(
        &self,
        method: &Method,
        optimizer: ParameterGroups<O, Trainee<A, B>, B>,
        folder: Option<&Path>,
        device: &B::Device,
        interrupt: impl FnOnce(Interrupter),
        show: impl FnMut(&EpochReport) + Send + 'static,
    ) -> Result<Outcome<A, A::Network<B>>>
    where
        B: AutodiffBackend,
        A::Network<B>: AutodiffModule<B, InnerModule = A::Network<B::InnerBackend>>,
        O: SimpleOptimizer<B::InnerBackend> + 'static,
    {
        let architecture = self.architecture.clone().with_branches(method.branches(&self.counts));
        let counts = &architecture.branches().counts;
        architecture.check_batch(self.batch_size.min(self.train.len()) * self.copies)?;
        let Imported { network, kept, unused } = self.initial::<B>(&architecture, device)?;
        let model = self.trainee(method, network)?;
        let [train, valid] = &self.preprocessing;
        let train = Clips::train(self.train.clone(), counts, train.clone())?
            .with_sampling(self.sampling)
            .with_copies(self.copies);
        let read = train.counter();
        let valid =
            Clips::validation(self.valid.clone(), counts, valid.clone())?.with_sampling(self.sampling);
        let train = clip_loader::<B, _>(train, self.batch_size, self.mixing.clone(), device)?;
        let train = Arc::new(train.shuffled(self.seed).drop_last());
        let valid = clip_loader::<B::InnerBackend, _>(valid, self.batch_size, None, device.inner())?;
        let accumulation = self.training.accumulation.max(1);
        let schedule = self.schedule.by_step(train.batches().div_ceil(accumulation))?;
        let config = TrainingConfig { epochs: self.schedule.epochs, ..self.training.clone() };
        let training = with_clip_metrics(Training::new(config, optimizer, schedule)?, counts);
        let training = training.with_hook(Shown(show)).resumed();
        interrupt(training.interrupter());
        let started = Instant::now();
        let trained = training.run(folder, model, device, train, Arc::new(valid))?;
        let frames_per_second = read.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        Ok(Outcome {
            architecture,
            network: trained.model.network,
            history: trained.history,
            steps: trained.steps,
            interrupted: trained.interrupted,
            kept,
            unused,
            frames_per_second,
        })
    }

    /// The network as training starts with it.
    fn initial<B: AutodiffBackend>(
        &self,
        architecture: &A,
        device: &B::Device,
    ) -> Result<Imported<A::Network<B>>> {
        let mut generator = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
        let initial = if let Some(path) = &self.start {
            architecture.import(Checkpoint::open(path)?, &mut generator, device)?
        } else {
            let network = architecture.init(&mut generator, device)?;
            Imported { network, kept: Vec::new(), unused: Vec::new() }
        };
        let partial = self.partial_norms;
        let network = if partial { initial.network.with_partial_norms() } else { initial.network };
        Ok(Imported { network, ..initial })
    }

    fn trainee<B: AutodiffBackend>(&self, method: &Method, network: A::Network<B>) -> Result<Trainee<A, B>> {
        let alignment = match method {
            Method::Sharing => self.alignment.clone().with_weight(0.0).with_labelled(Labelled::All),
            _ => self.alignment.clone(),
        };
        let mut trainee = FrameFlexible::new(network, alignment)?;
        trainee.frequencies = match method {
            Method::Mixed => Frequencies::Uniform,
            Method::Proportional => Frequencies::Proportional,
            _ => Frequencies::All,
        };
        Ok(trainee)
    }
}

#[cfg(test)]
mod tests {
    use burn::{backend::Autodiff, tensor::Tensor};
    use burn_flex::Flex;
    use leanburn_core::{checkpoint, loss::cross_entropy};
    use leanburn_vision::image::Image;

    use super::*;
    use crate::{
        resnet::FrameResNetConfig,
        train::{ClipBatch, tsn_groups},
        transform::Crop,
        videos::MemoryVideos,
    };

    type Training = Autodiff<Flex>;

    fn videos() -> Arc<MemoryVideos> {
        let frame = |value: usize| {
            let values = (0..16 * 16 * 3).map(|place| (value * place % 256) as u8).collect();
            Image::new([16, 16], 3, values).unwrap()
        };
        let videos = (0..4).map(|video| ((0..6).map(|at| frame(at + video)).collect(), video % 2));
        Arc::new(MemoryVideos::new(videos, vec!["a".to_owned(), "b".to_owned()]).unwrap())
    }

    fn experiment() -> Experiment<FrameResNetConfig, MemoryVideos> {
        let crop = Crop::Center { scale: 16, side: 16 };
        let preprocessing = ClipPreprocessing { crop, ..ClipPreprocessing::tsn_valid(16) };
        let config = FrameResNetConfig::tsm(18, 2, Branches::single(1)).unwrap().with_width(8);
        Experiment {
            architecture: FrameResNetConfig { blocks: vec![1], ..config },
            counts: vec![2, 4],
            train: videos(),
            valid: videos(),
            sampling: Sampling::Segments,
            preprocessing: [preprocessing.clone(), preprocessing],
            schedule: EpochSchedule::cosine(0.01, 1),
            batch_size: 2,
            copies: 1,
            alignment: Alignment::new(),
            mixing: None,
            partial_norms: false,
            training: TrainingConfig::new(1),
            seed: 0,
            start: None,
        }
    }

    #[test]
    fn methods_differ_in_what_each_frame_count_has() {
        for (method, norms, alterations, counts) in [
            (Method::Ffn(Branches::ffn(&[2, 4])), true, true, 2),
            (Method::SpecialisedNorms, true, false, 2),
            (Method::Distillation, false, false, 2),
            (Method::Sharing, false, false, 2),
            (Method::Mixed, false, false, 2),
            (Method::Proportional, false, false, 2),
            (Method::Single(4), false, false, 1),
        ] {
            let groups = tsn_groups(0.9, 5e-4, true, false);
            let trained = experiment()
                .run::<Training, _>(&method, groups, None, &Default::default(), |_| {}, |_| {})
                .unwrap();
            let names = |path: &str| trained.architecture.published_name(path);
            let tensors = checkpoint::tensors(&trained.network, names).unwrap();
            let has = |part: &str| tensors.iter().any(|(name, _)| name.contains(part));
            assert_eq!(has("bn1_2."), norms, "{method:?}");
            assert_eq!(has("adaconv_2."), alterations, "{method:?}");
            let measured = |count: &usize| {
                !trained.history.curve("valid", &format!("Accuracy at {count} frames")).is_empty()
            };
            assert_eq!([2, 4].iter().filter(|count| measured(count)).count(), counts, "{method:?}");
        }
    }

    #[test]
    fn methods_differ_in_what_they_learn_from() {
        let device = Default::default();
        let mut generator = Generator::new(2);
        let labels = Tensor::from_data([0, 1, 1], &device);
        let logits = [1, 2].map(|_| generator.normal::<Training, 2>([3, 2], &device));
        let cross_entropies =
            logits.clone().map(|logits| cross_entropy(logits, labels.clone()).into_scalar());
        let batch = ClipBatch { clips: Vec::new(), labels, targets: None, seed: 0 };
        let experiment = experiment();
        for (method, labelled, taught, frequencies) in [
            (Method::Distillation, cross_entropies[1], 1, Frequencies::All),
            (Method::Sharing, cross_entropies.iter().sum(), 0, Frequencies::All),
            (Method::Mixed, cross_entropies[1], 1, Frequencies::Uniform),
            (Method::Proportional, cross_entropies[1], 1, Frequencies::Proportional),
        ] {
            let architecture = experiment.architecture.clone().with_branches(method.branches(&[2, 4]));
            let network = architecture.init::<Training>(&mut generator, &device).unwrap();
            let trainee = experiment.trainee::<Training>(&method, network).unwrap();
            assert_eq!(trainee.frequencies, frequencies);
            let terms = trainee.terms(&batch, &logits);
            assert!((terms.labels.into_scalar() - labelled).abs() < 1e-5, "{method:?}");
            assert_eq!(terms.divergences.len(), taught, "{method:?}");
        }
    }
}
