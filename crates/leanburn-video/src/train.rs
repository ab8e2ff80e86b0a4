//! Training of video networks with [`leanburn_core::train`].

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use burn::{
    module::{AutodiffModule, Module},
    optim::{AdamW, AdamWConfig, Sgd, SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig},
    tensor::{
        Int, Tensor, TensorData,
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
    train::{
        InferenceStep, TrainOutput, TrainStep,
        metric::{
            Adaptor, ItemLazy, Metric, MetricAttributes, MetricMetadata, MetricName, Numeric,
            NumericAttributes, NumericEntry, SerializedEntry,
            state::{FormatOptions, NumericMetricState},
        },
    },
};
use leanburn_core::{
    Error, Result,
    loss::{cross_entropy_smoothed, cross_entropy_soft},
    metrics,
    random::Generator,
    train::{Dataset, Loader, ParameterGroups, Training},
};

use crate::{
    branches::Branches,
    evaluate::stack,
    mixing::Mixing,
    model::ClipClassifier,
    sampling::Sampling,
    transform::{Clip, ClipPreprocessing},
    videos::{VideoSource, in_video},
};

/// Videos as a training sees them: sampled, decoded, changed at random and normalised by the loader's workers, at one or
/// several frame counts.
#[derive(Debug)]
pub struct Clips<S> {
    source: Arc<S>,
    counts: Vec<usize>,
    preprocessing: ClipPreprocessing,
    sampling: Sampling,
    training: bool,
    copies: usize,
    decoded: Arc<AtomicUsize>,
}

/// A video's clips.
#[derive(Debug, Clone)]
pub struct ClipSample {
    /// By frame count, ascending. They went through the same crop and flip.
    pub clips: Vec<Clip>,
    /// From what is drawn that belongs to the video: dropout, say.
    pub noise: u64,
}

impl<S: VideoSource> Clips<S> {
    /// Clips for training, drawn anew each time.
    ///
    /// - counts: frames of each clip of a video, ascending
    ///
    /// # Errors
    ///
    /// When frame counts do not ascend from above 0, a setting of the preprocessing is out of its range, or it makes
    /// several clips of one.
    pub fn train(source: Arc<S>, counts: &[usize], preprocessing: ClipPreprocessing) -> Result<Self> {
        let counts = counts.to_vec();
        Branches { counts: counts.clone(), ..Branches::single(1) }.check()?;
        preprocessing.check()?;
        if preprocessing.views() > 1 {
            return Err(Error::setting(
                "crop",
                "one part of the frames",
                format!("{:?}", preprocessing.crop),
            ));
        }
        let sampling = Sampling::Segments;
        let decoded = Arc::default();
        Ok(Self { source, counts, preprocessing, sampling, training: true, copies: 1, decoded })
    }

    /// Clips for validation, the same each time: those of [`Sampling::validation`].
    ///
    /// # Errors
    ///
    /// As [`train`](Self::train).
    pub fn validation(source: Arc<S>, counts: &[usize], preprocessing: ClipPreprocessing) -> Result<Self> {
        Ok(Self { training: false, ..Self::train(source, counts, preprocessing)? })
    }

    /// With frames chosen by another rule than [`Sampling::Segments`].
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// With several draws of each video in its batch (repeated augmentation).
    #[must_use]
    pub fn with_copies(self, copies: usize) -> Self {
        Self { copies: copies.max(1), ..self }
    }

    /// How many frames were asked for until now; over the seconds between two calls it is the loader's speed.
    pub fn frames_read(&self) -> usize {
        self.decoded.load(Ordering::Relaxed)
    }

    /// The count of [`frames_read`](Self::frames_read), for when a loader has taken the clips.
    pub(crate) fn counter(&self) -> Arc<AtomicUsize> {
        self.decoded.clone()
    }

    fn sample(&self, index: usize, generator: &mut Generator) -> Result<ClipSample> {
        let frames = self.source.frames(index);
        let modality = self.preprocessing.modality;
        let mut segments = Vec::new();
        let mut places: Vec<usize> = vec![0; self.counts.len()];
        for place in self.sampling.draw_order(self.counts.len()) {
            places[place] = segments.len();
            let count = self.counts[place];
            let draw = &mut |bound| generator.below(bound);
            segments.extend(if self.training {
                self.sampling.train(frames, count, modality.new_length(), draw)
            } else {
                self.sampling.validation(frames, count, modality.new_length(), draw)
            });
        }
        let indices = modality.frames(&segments, frames);
        self.decoded.fetch_add(indices.len(), Ordering::Relaxed);
        let images = self.source.read(index, &indices)?;
        let all = self.preprocessing.apply(&images, self.source.label(index), generator);
        let all = all.map_err(in_video(&self.source, index))?.swap_remove(0);
        let frame = all.channels * all.size[0] * all.size[1];
        let clips = places.into_iter().zip(&self.counts).map(|(first, &count)| Clip {
            frames: count,
            values: all.values[first * frame..][..count * frame].to_vec(),
            ..all
        });
        Ok(ClipSample { clips: clips.collect(), noise: generator.below(usize::MAX) as u64 })
    }
}

impl<S: VideoSource> Dataset for Clips<S> {
    type Item = Vec<ClipSample>;

    fn len(&self) -> usize {
        self.source.len()
    }

    fn description(&self) -> serde_json::Value {
        serde_json::json!({
            "counts": self.counts,
            "sampling": self.sampling,
            "preprocessing": self.preprocessing,
            "copies": self.copies,
        })
    }

    fn get(&self, index: usize, generator: &mut Generator) -> Result<Vec<ClipSample>> {
        (0..self.copies).map(|_| self.sample(index, generator)).collect()
    }
}

/// A batch of clips.
#[derive(Debug, Clone)]
pub struct ClipBatch<B: Backend> {
    /// By frame count, ascending: `[batch, frames, channels, height, width]` each.
    pub clips: Vec<Tensor<B, 5>>,
    /// `[batch]`
    pub labels: Tensor<B, 1, Int>,
    /// Distributions over classes that take the labels' place, `[batch, classes]`.
    pub targets: Option<Tensor<B, 2>>,
    /// From what dropout is drawn.
    pub seed: u64,
}

impl<B: Backend> ClipBatch<B> {
    /// The batch on a device.
    pub fn to_device(self, device: &B::Device) -> Self {
        Self {
            clips: self.clips.into_iter().map(|clips| clips.to_device(device)).collect(),
            // `Dispatch` moves numbers to no device that records gradients.
            labels: self.labels.to_device(device.inner()),
            targets: self.targets.map(|targets| targets.to_device(device)),
            seed: self.seed,
        }
    }
}

/// A loader of batches on a device.
///
/// - mixing: what is done to whole batches, if anything
///
/// # Errors
///
/// When there is no video, the batch size is 0, or a setting is out of its range.
pub fn clip_loader<B: Backend, D: Dataset<Item = Vec<ClipSample>>>(
    dataset: D,
    batch_size: usize,
    mixing: Option<Mixing>,
    device: &B::Device,
) -> Result<Loader<D, ClipBatch<B>>> {
    if let Some(mixing) = &mixing {
        mixing.check()?;
    }
    let device = device.clone();
    Loader::new(dataset, batch_size, move |samples: Vec<Vec<ClipSample>>| {
        // Copies of one video do not lie side by side, so that mixing pairs different ones.
        let copies = samples.first().map_or(0, Vec::len);
        let samples: Vec<&ClipSample> =
            (0..copies).flat_map(|copy| samples.iter().map(move |video| &video[copy])).collect();
        let counts = samples.first().map_or(0, |sample| sample.clips.len());
        let clips = (0..counts).map(|place| {
            let clips: Vec<&Clip> = samples.iter().map(|sample| &sample.clips[place]).collect();
            stack(&clips, &device)
        });
        let mut clips = clips.collect::<Result<Vec<Tensor<B, 5>>>>()?;
        let labels: Vec<i64> = samples.iter().map(|sample| sample.clips[0].label as i64).collect();
        let seed = samples.iter().fold(0_u64, |seed, sample| seed.rotate_left(1) ^ sample.noise);
        let targets = match &mixing {
            Some(mixing) => Some(mixing.mix(&mut clips, &labels, &mut Generator::new(seed), &device)?),
            None => None,
        };
        let count = labels.len();
        let labels = Tensor::from_data(TensorData::new(labels, [count]), &device);
        Ok(ClipBatch { clips, labels, targets, seed })
    })
}

/// The loss of labels, or of the distributions that take their place.
pub(crate) fn label_loss<B: Backend>(
    logits: Tensor<B, 2>,
    batch: &ClipBatch<B>,
    smoothing: f64,
) -> Tensor<B, 1> {
    match &batch.targets {
        Some(targets) => cross_entropy_soft(logits, targets.clone()),
        None => cross_entropy_smoothed(logits, batch.labels.clone(), smoothing),
    }
}

/// A video network with the ordinary objective: the cross-entropy of labels, summed over the frame counts.
#[derive(Module, Debug)]
pub struct SupervisedClips<B: Backend, N: Module<B>> {
    /// The network.
    pub network: N,
    /// How much of the target is spread over all classes; 0 for none. Targets of mixed batches have their own.
    pub label_smoothing: f64,
    backend: PhantomData<B>,
}

impl<B: Backend, N: ClipClassifier<B>> SupervisedClips<B, N> {
    /// Without label smoothing.
    pub fn new(network: N) -> Self {
        Self { network, label_smoothing: 0.0, backend: PhantomData }
    }

    fn output(&self, batch: &ClipBatch<B>, logits: Vec<Tensor<B, 2>>) -> ClipOutput<B> {
        let losses = logits.iter().map(|logits| label_loss(logits.clone(), batch, self.label_smoothing));
        let loss = losses.reduce(|a, b| a + b).expect("a batch has clips");
        ClipOutput::new(loss, batch, logits)
    }
}

impl<B: AutodiffBackend, N: ClipClassifier<B> + AutodiffModule<B>> TrainStep for SupervisedClips<B, N>
where
    N::InnerModule: ClipClassifier<B::InnerBackend>,
{
    type Input = ClipBatch<B>;
    type Output = ClipOutput<B>;

    fn step(&self, batch: ClipBatch<B>) -> TrainOutput<ClipOutput<B>> {
        // Of several devices, Burn's strategies move the network to each, and leave the batch where it is.
        let batch = batch.to_device(&self.devices()[0]);
        let mut generator = Generator::new(batch.seed);
        let forward = |clips: &Tensor<B, 5>| self.network.forward_train(clips.clone(), &mut generator);
        let logits = batch.clips.iter().map(forward).collect();
        let output = self.output(&batch, logits);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl<B: Backend, N: ClipClassifier<B>> InferenceStep for SupervisedClips<B, N> {
    type Input = ClipBatch<B>;
    type Output = ClipOutput<B>;

    fn step(&self, batch: ClipBatch<B>) -> ClipOutput<B> {
        let logits = batch.clips.iter().map(|clips| self.network.forward(clips.clone())).collect();
        self.output(&batch, logits)
    }
}

/// What a step on clips gives, from which [`ClipMetric`]s are computed.
#[derive(Debug, Clone)]
pub struct ClipOutput<B: Backend> {
    /// The loss.
    pub loss: Tensor<B, 1>,
    /// Frames of a clip with the logits, `[batch, classes]`.
    pub logits: Vec<(usize, Tensor<B, 2>)>,
    /// `[batch]`
    pub labels: Tensor<B, 1, Int>,
}

impl<B: Backend> ClipOutput<B> {
    /// - logits: of each of the batch's clips
    pub fn new(loss: Tensor<B, 1>, batch: &ClipBatch<B>, logits: Vec<Tensor<B, 2>>) -> Self {
        let frames = batch.clips.iter().map(|clips| clips.dims()[1]);
        Self { loss, logits: frames.zip(logits).collect(), labels: batch.labels.clone() }
    }
}

/// A [`ClipOutput`] as numbers.
#[derive(Debug, Clone)]
pub struct Measures {
    loss: f64,
    logits: Vec<(usize, Vec<f32>)>,
    labels: Vec<i64>,
}

impl<B: Backend> ItemLazy for ClipOutput<B> {
    type ItemSync = Measures;

    fn sync(self) -> Measures {
        let values = |logits: Tensor<B, 2>| logits.into_data().iter::<f32>().collect();
        Measures {
            loss: self.loss.into_data().iter::<f64>().sum(),
            logits: self.logits.into_iter().map(|(frames, logits)| (frames, values(logits))).collect(),
            labels: self.labels.into_data().iter::<i64>().collect(),
        }
    }
}

impl Adaptor<Self> for Measures {
    fn adapt(&self) -> Self {
        self.clone()
    }
}

/// A metric of burn-train's over clips: the loss, or the accuracy at a frame count.
#[derive(Clone)]
pub struct ClipMetric {
    name: MetricName,
    state: NumericMetricState,
    /// The frame count whose accuracy it is.
    frames: Option<usize>,
}

impl ClipMetric {
    /// The loss, under the name `Loss`.
    pub fn loss() -> Self {
        Self { name: Arc::new("Loss".to_owned()), state: NumericMetricState::default(), frames: None }
    }

    /// The percentage of clips of a number of frames that get their label, under the name `Accuracy at 8 frames`.
    pub fn accuracy(frames: usize) -> Self {
        let name = Arc::new(format!("Accuracy at {frames} frames"));
        Self { name, state: NumericMetricState::default(), frames: Some(frames) }
    }
}

impl Metric for ClipMetric {
    type Input = Measures;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        let unit = self.frames.map(|_| "%".to_owned());
        NumericAttributes { unit, higher_is_better: self.frames.is_some() }.into()
    }

    fn update(&mut self, measures: &Measures, _metadata: &MetricMetadata) -> SerializedEntry {
        let count = measures.labels.len();
        let value = match self.frames {
            None => Some(measures.loss),
            Some(frames) => measures
                .logits
                .iter()
                .find(|(found, _)| *found == frames)
                .and_then(|(_, logits)| metrics::accuracy(logits, &measures.labels).ok())
                .map(|accuracy| 100.0 * accuracy),
        };
        let format = FormatOptions::new(self.name()).precision(2);
        let format = if self.frames.is_some() { format.unit("%") } else { format };
        match value {
            Some(value) => self.state.update(value, count, format),
            // A batch without this frame count counts nothing.
            None => self.state.update(0.0, 0, format),
        }
    }

    fn clear(&mut self) {
        self.state.reset();
    }
}

impl Numeric for ClipMetric {
    fn value(&self) -> NumericEntry {
        self.state.current_value()
    }

    fn running_value(&self) -> NumericEntry {
        self.state.running_value()
    }
}

/// A training with the loss and the accuracies at frame counts as metrics, of training and of validation.
#[must_use]
pub fn with_clip_metrics<B, M, S>(mut training: Training<B, M, S>, counts: &[usize]) -> Training<B, M, S>
where
    B: AutodiffBackend,
    M: TrainStep<Output = ClipOutput<B>> + AutodiffModule<B> + core::fmt::Display + 'static,
    M::InnerModule: InferenceStep<Output = ClipOutput<B::InnerBackend>> + Send,
    M::Input: Send,
    <M::InnerModule as InferenceStep>::Input: Send,
    S: burn::optim::SimpleOptimizer<B::InnerBackend> + 'static,
{
    let all =
        std::iter::once(ClipMetric::loss()).chain(counts.iter().map(|&frames| ClipMetric::accuracy(frames)));
    for metric in all {
        training = training
            .with(move |training| training.metric_train_numeric(metric.clone()).metric_valid_numeric(metric));
    }
    training
}

/// The settings of stochastic gradient descent that the video recipes share.
fn sgd<B: Backend>(momentum: f64, weight_decay: f64, nesterov: bool) -> Sgd<B> {
    let momentum = MomentumConfig { momentum, dampening: 0.0, nesterov };
    let config = SgdConfig::new().with_momentum(Some(momentum));
    let decay = (weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay as f32));
    config.with_weight_decay(decay).build()
}

fn is_norm(path: &str) -> bool {
    path.ends_with("gamma") || path.ends_with("beta")
}

/// The parameter groups of TSN, TSM and TEA: no decay for norms and biases, biases at twice the rate, and the classifier
/// at five times (its bias at ten times) the rate, unless it is fine-tuned with its weights.
///
/// - flow: whether frames are optical flow, whose first convolution learns at five times the rate
pub fn tsn_groups<B: AutodiffBackend, M: AutodiffModule<B>>(
    momentum: f64,
    weight_decay: f64,
    new_classifier: bool,
    flow: bool,
) -> ParameterGroups<Sgd<B::InnerBackend>, M, B> {
    let decayed = sgd::<B::InnerBackend>(momentum, weight_decay, false);
    let plain = sgd::<B::InnerBackend>(momentum, 0.0, false);
    let is_stem = |path: &str| path == "conv1.weight" || path == "network.conv1.weight";
    ParameterGroups::new(decayed.clone())
        .with_group(is_norm, 1.0, plain.clone())
        .with_group(|path| path.ends_with("bias"), 2.0, plain.clone())
        .with_group(is_stem, if flow { 5.0 } else { 1.0 }, decayed.clone())
        .with_group(|path| path.ends_with("fc.weight"), if new_classifier { 5.0 } else { 1.0 }, decayed)
        .with_group(|path| path.ends_with("fc.bias"), if new_classifier { 10.0 } else { 2.0 }, plain)
}

/// The parameter groups of SlowFast: Nesterov's momentum, and no decay for norms.
pub fn slowfast_groups<B: AutodiffBackend, M: AutodiffModule<B>>(
    momentum: f64,
    weight_decay: f64,
) -> ParameterGroups<Sgd<B::InnerBackend>, M, B> {
    ParameterGroups::new(sgd(momentum, weight_decay, true)).with_group(is_norm, 1.0, sgd(momentum, 0.0, true))
}

/// The parameter groups of UniFormer: `AdamW` with decay for weights, and none for norms and biases.
pub fn uniformer_groups<B: AutodiffBackend, M: AutodiffModule<B>>(
    weight_decay: f64,
) -> ParameterGroups<AdamW, M, B> {
    let config = AdamWConfig::new().with_beta_2(0.999).with_epsilon(1e-8);
    let decayed = config.clone().with_weight_decay(weight_decay as f32).build();
    let plain = config.with_weight_decay(0.0).build();
    ParameterGroups::new(decayed).with_group(|path| !path.ends_with("weight"), 1.0, plain)
}

#[cfg(test)]
mod tests {
    use burn::{
        backend::Autodiff,
        optim::{GradientsParams, Optimizer},
        train::{
            ExecutionStrategy, Learner, MultiDeviceOptim, SupervisedTraining, renderer::CliMetricsRenderer,
        },
    };
    use burn_flex::Flex;
    use leanburn_core::{
        checkpoint,
        train::{Batches, BurnLoader},
    };
    use leanburn_vision::image::Image;

    use super::*;
    use crate::{
        VideoArchitecture,
        ffn::{Alignment, FrameFlexible},
        resnet::FrameResNetConfig,
        slowfast::SlowFastConfig,
        transform::Crop,
        uniformer::UniFormerConfig,
        videos::MemoryVideos,
    };

    /// Videos whose frames are as bright as their numbers, at each place as bright as the place is far right.
    fn videos(count: usize) -> Arc<MemoryVideos> {
        let frame = |frame: usize| {
            let values = (0..16 * 16 * 3).map(|value| (8 * frame + value / 3 % 16) as u8).collect();
            Image::new([16, 16], 3, values).unwrap()
        };
        let videos = (0..count).map(|video| ((0..12).map(frame).collect(), video % 2));
        Arc::new(MemoryVideos::new(videos, vec!["a".to_owned(), "b".to_owned()]).unwrap())
    }

    fn preprocessing() -> ClipPreprocessing {
        let scales = vec![1.0, 0.75, 0.5];
        let crop = Crop::MultiScale { side: 8, scales, max_distort: 1, more_fixed: true };
        ClipPreprocessing { crop, ..ClipPreprocessing::tsn_train(8) }
    }

    #[test]
    fn clips_of_a_video_are_cut_and_flipped_alike() {
        let clips = Clips::train(videos(1), &[2, 4], preprocessing()).unwrap();
        for seed in 0..20 {
            let sample = clips.get(0, &mut Generator::new(seed)).unwrap().swap_remove(0);
            assert_eq!(sample.clips.iter().map(|clip| clip.frames).collect::<Vec<_>>(), [2, 4]);
            // Within a row values differ by what the crop and the flip are, whatever the frame is.
            let slope = |clip: &Clip, frame: usize| {
                let row = &clip.values[frame * 3 * 64..][..8];
                row.iter().map(|value| ((value - row[0]) * 1e4).round() as i32).collect::<Vec<_>>()
            };
            let first = slope(&sample.clips[0], 0);
            for clip in &sample.clips {
                for frame in 0..clip.frames {
                    for (a, b) in slope(clip, frame).iter().zip(&first) {
                        assert!((a - b).abs() <= 180, "{seed}: {a} {b}");
                    }
                }
            }
        }
        assert_eq!(clips.frames_read(), 20 * 6);
    }

    #[test]
    fn batches_hold_copies_and_depend_on_the_seed_alone() {
        let load = |workers: usize| {
            let clips = Clips::train(videos(6), &[2, 4], preprocessing()).unwrap().with_copies(2);
            let loader = clip_loader::<Flex, _>(clips, 3, None, &Default::default()).unwrap();
            let loader = loader.shuffled(7).with_workers(workers);
            loader.epoch(1, 0).map(|batch| batch.unwrap().value).collect::<Vec<_>>()
        };
        let (one, three) = (load(1), load(3));
        assert_eq!(one.len(), 2);
        for (a, b) in one.iter().zip(&three) {
            assert_eq!(a.clips[1].dims(), [6, 4, 3, 8, 8]);
            assert_eq!(a.clips[1].to_data(), b.clips[1].to_data());
            assert_eq!((a.labels.to_data(), a.seed), (b.labels.to_data(), b.seed));
            // A video's copies stand three places apart, and differ.
            let copy = |first: usize| a.clips[0].clone().narrow(0, first, 1).into_data();
            assert_ne!(copy(0), copy(3));
            let labels: Vec<i64> = a.labels.to_data().iter::<i64>().collect();
            assert_eq!(labels[..3], labels[3..]);
        }
        let error = Clips::train(videos(1), &[4, 2], preprocessing()).unwrap_err();
        assert!(error.to_string().contains("counts"));
        let views = ClipPreprocessing { crop: Crop::OverSample { scale: 8, side: 8 }, ..preprocessing() };
        assert!(Clips::train(videos(1), &[2], views).unwrap_err().to_string().contains("crop"));
    }

    #[test]
    fn segments_of_several_frames_are_stacked() {
        let whole = ClipPreprocessing { crop: Crop::Center { scale: 16, side: 16 }, ..preprocessing() };
        let clips = Clips::train(videos(2), &[2, 3], whole.for_differences(2)).unwrap();
        let loader = clip_loader::<Flex, _>(clips, 2, None, &Default::default()).unwrap();
        let batch = loader.epoch(1, 0).next().unwrap().unwrap().value;
        assert_eq!(batch.clips[1].dims(), [2, 3, 6, 16, 16]);
        // Each frame is brighter by 8 than the one before.
        let steps = batch.clips[0].clone() * 255.0 - 8.0;
        let others = steps.abs().greater_elem(1e-3).int().sum().into_scalar();
        assert_eq!(others, 0);
    }

    /// Here the same device twice.
    #[test]
    fn several_devices_train_by_burns_strategies() {
        type B = Autodiff<Flex>;
        let device = Default::default();
        let config = FrameResNetConfig::tsm(18, 2, Branches::ffn(&[2, 4])).unwrap();
        let config = FrameResNetConfig { blocks: vec![1], ..config.with_width(8) };
        let network = config.init::<B>(&mut Generator::new(1), &device).unwrap();
        let names = |path: &str| config.published_name(path);
        let before = checkpoint::tensors(&network, names).unwrap();
        let model = FrameFlexible::new(network, Alignment::new()).unwrap();
        let clips = || Clips::train(videos(8), &[2, 4], preprocessing()).unwrap();
        let train = clip_loader::<B, _>(clips(), 2, None, &device).unwrap();
        let valid = clip_loader::<Flex, _>(clips(), 2, None, &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let strategy = ExecutionStrategy::MultiDevice(vec![device; 2], MultiDeviceOptim::OptimMainDevice);
        let trained = SupervisedTraining::new(
            folder.path(),
            Arc::new(BurnLoader::new(Arc::new(train.shuffled(1)))),
            Arc::new(BurnLoader::new(Arc::new(valid))),
        )
        .with_training_strategy(strategy.into())
        .renderer(CliMetricsRenderer::new())
        .with_application_logger(None)
        .num_epochs(2)
        .launch(Learner::new(model, tsn_groups(0.9, 5e-4, true, false), 0.01));
        let after = checkpoint::tensors(&trained.model.network, names).unwrap();
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            assert!(before != after || name.contains("num_batches"), "{name}");
        }
    }

    /// Without gradients a step is what decay does: the parameters that it changes.
    fn decayed<A: VideoArchitecture, O>(
        config: &A,
        mut groups: ParameterGroups<O, A::Network<Autodiff<Flex>>, Autodiff<Flex>>,
    ) -> Vec<String>
    where
        A::Network<Autodiff<Flex>>: AutodiffModule<Autodiff<Flex>>,
        O: burn::optim::SimpleOptimizer<Flex>,
    {
        let device = Default::default();
        let network = config.init::<Autodiff<Flex>>(&mut Generator::new(1), &device).unwrap();
        let names = |path: &str| config.published_name(path);
        let before = checkpoint::tensors(&network, names).unwrap();
        let clips = Generator::new(2).normal([2, 4, 3, 32, 32], &device);
        let loss = (network.forward(clips) * 0.0).sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        let network = groups.step(0.1, network, gradients);
        let after = checkpoint::tensors(&network, names).unwrap();
        let changed = before.into_iter().zip(after).filter(|(a, b)| a != b);
        changed.map(|((name, _), _)| name).filter(|name| !name.contains("running_")).collect()
    }

    #[test]
    fn norms_and_where_the_recipe_says_so_biases_are_not_decayed() {
        let slow = SlowFastConfig::new(3, Branches::ffn(&[4, 8])).with_width(16).with_blocks(vec![1, 1]);
        let changed = decayed(&slow, slowfast_groups(0.9, 0.1));
        assert!(changed.iter().any(|name| name == "s1.pathway0_stem.conv.weight"));
        assert!(changed.iter().all(|name| !name.contains("bn")), "{changed:?}");
        let uniformer = UniFormerConfig::new(3, Branches::ffn(&[4, 8]))
            .with_embed_dims([8, 8, 16, 16])
            .with_depths([1, 1, 1, 1])
            .with_head_dim(8);
        let changed = decayed(&uniformer, uniformer_groups(0.1));
        assert!(changed.iter().any(|name| name == "blocks3.0.attn.qkv.weight"));
        assert!(changed.iter().any(|name| name == "blocks1.0.pos_embed.weight"));
        assert!(changed.iter().all(|name| !name.contains("bias") && !name.contains("norm")), "{changed:?}");
    }

    #[test]
    fn partial_norms_leave_all_but_the_first() {
        let device = Default::default();
        let config = crate::resnet::FrameResNetConfig::tsm(18, 3, Branches::single(2)).unwrap().with_width(8);
        let network = config.init::<Autodiff<Flex>>(&mut Generator::new(1), &device).unwrap();
        let network = network.with_partial_norms();
        let names = |path: &str| config.published_name(path);
        let before = checkpoint::tensors(&network, names).unwrap();
        network.forward(Generator::new(2).normal([2, 2, 3, 32, 32], &device));
        let after = checkpoint::tensors(&network, names).unwrap();
        let changed = before.into_iter().zip(after).filter(|(a, b)| a != b).map(|((name, _), _)| name);
        assert_eq!(
            changed.collect::<Vec<_>>(),
            ["base_model.bn1.running_mean", "base_model.bn1.running_var"]
        );
        // Scales and offsets neither: no optimiser sees them.
        let gradients =
            network.forward(Generator::new(2).normal([2, 2, 3, 32, 32], &device)).sum().backward();
        let gradients = GradientsParams::from_grads(gradients, &network);
        let learned = leanburn_core::train::parameter_paths::<Autodiff<Flex>, _>(&network);
        let norms = learned.into_iter().filter(|(path, _)| is_norm(path));
        let learned = norms.filter(|(_, id)| gradients.get::<Flex, 1>(*id).is_some());
        let learned: Vec<String> = learned.map(|(path, _)| path).collect();
        assert_eq!(learned, ["bn1.branches.0.gamma", "bn1.branches.0.beta"]);
    }

    #[test]
    fn a_run_goes_on_with_the_clips_that_it_began_with() {
        let order = |counts: &[usize]| {
            let clips = Clips::train(videos(4), counts, preprocessing()).unwrap();
            clip_loader::<Flex, _>(clips, 2, None, &Default::default()).unwrap().order()
        };
        assert_eq!(order(&[2, 4]), order(&[2, 4]));
        assert_ne!(order(&[2, 4]), order(&[2, 8]));
    }

    #[test]
    fn frames_of_other_sizes_name_their_video() {
        let frame = |side: usize| Image::new([side, side], 3, vec![0; side * side * 3]).unwrap();
        let source = MemoryVideos::new([(vec![frame(16), frame(12)], 0)], vec!["a".to_owned()]).unwrap();
        let clips = Clips::train(Arc::new(source), &[2], preprocessing()).unwrap();
        let error = clips.get(0, &mut Generator::new(1)).unwrap_err().to_string();
        assert!(error.contains("video 0"), "{error}");
    }
}
