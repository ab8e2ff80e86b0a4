//! Evaluation of video networks: at one or several frame counts in one pass over the data, with one or several clips a
//! video.

use std::time::Instant;

use burn::{
    config::Config,
    tensor::{ElementConversion, Tensor, TensorData, activation::softmax, backend::Backend},
};
use leanburn_core::{Error, Result, metrics, random::Generator};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    model::ClipClassifier,
    sampling::Sampling,
    transform::{Clip, ClipPreprocessing},
    videos::{VideoSource, in_video},
};

/// Which clips of a video are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One clip, by [`Sampling::validation`]: what the published numbers of TSM and FFN come from.
    Validation,
    /// Those of [`Sampling::test`].
    Test {
        /// How many, where the sampling leaves it open.
        views: usize,
    },
}

/// What is averaged over the clips of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// Logits.
    Logits,
    /// Probabilities.
    Probabilities,
}

/// Configuration of an evaluation.
#[derive(Config, Debug)]
pub struct EvaluationConfig {
    /// Frame counts, at least one.
    pub frames: Vec<usize>,
    /// What is done to frames; of several crops all are scored.
    pub preprocessing: ClipPreprocessing,
    /// How frames are chosen. Default: from equal segments
    #[config(default = "Sampling::Segments")]
    pub sampling: Sampling,
    /// Which clips are scored. Default: validation's
    #[config(default = "Protocol::Validation")]
    pub protocol: Protocol,
    /// What is averaged over clips. Default: probabilities
    #[config(default = "Average::Probabilities")]
    pub average: Average,
    /// Videos that are scored together. Default: 16
    #[config(default = 16)]
    pub batch_size: usize,
    /// Of [`Sampling::Dense`], which draws in validation, too. Default: 0
    #[config(default = 0)]
    pub seed: u64,
}

/// The scores of videos, from a network or from several.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Frames of a clip.
    pub frames: usize,
    /// Classes.
    pub classes: usize,
    /// Logits, or logarithms of probabilities, video by video.
    pub logits: Vec<f32>,
    /// The class of each video.
    pub labels: Vec<i64>,
    /// Seconds that the network took for a video, decoding not counted.
    pub seconds: f64,
}

impl Scores {
    /// The percentage of videos whose class is among the `k` of the highest scores; of equal scores the lower class is
    /// the higher.
    ///
    /// # Errors
    ///
    /// When there is no video, or a label is no class.
    pub fn accuracy(&self, k: usize) -> Result<f64> {
        Ok(100.0 * metrics::top_k_accuracy(&self.logits, &self.labels, k)?)
    }

    /// The mean cross-entropy.
    pub fn loss(&self) -> f64 {
        let rows = self.logits.chunks(self.classes).zip(&self.labels);
        let losses = rows.map(|(row, &label)| -log_probabilities(row)[label as usize]);
        losses.sum::<f64>() / self.labels.len() as f64
    }

    /// How often a video of a class (row) was taken for another (column).
    pub fn confusion(&self) -> Vec<Vec<usize>> {
        let mut confusion = vec![vec![0; self.classes]; self.classes];
        for (row, &label) in self.logits.chunks(self.classes).zip(&self.labels) {
            let best = (0..self.classes).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
            confusion[label as usize][best] += 1;
        }
        confusion
    }

    /// The mean of several networks' probabilities, at the same frame count on the same videos.
    ///
    /// # Errors
    ///
    /// When there is none, or they are of other videos, classes or frame counts.
    pub fn ensemble(members: &[Self]) -> Result<Self> {
        let first = members.first().ok_or_else(|| Error::data("ensemble", "at least one member", "none"))?;
        let mut sums = vec![0.0; first.logits.len()];
        for (number, member) in members.iter().enumerate() {
            if (member.frames, member.classes, &member.labels) != (first.frames, first.classes, &first.labels)
            {
                let expected = format!(
                    "{} videos, {} classes and {} frames, as the first",
                    first.labels.len(),
                    first.classes,
                    first.frames
                );
                let found = format!("{}, {} and {}", member.labels.len(), member.classes, member.frames);
                return Err(Error::data(format!("member {number} of an ensemble"), expected, found));
            }
            let probabilities = member
                .logits
                .chunks(member.classes)
                .flat_map(|row| log_probabilities(row).into_iter().map(f64::exp));
            sums.iter_mut().zip(probabilities).for_each(|(sum, probability)| *sum += probability);
        }
        let logits = sums.into_iter().map(|sum| (sum / members.len() as f64).ln() as f32).collect();
        let seconds = members.iter().map(|member| member.seconds).sum();
        Ok(Self { logits, seconds, ..first.clone() })
    }
}

fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    logits.iter().map(|logit| f64::from(logit - largest) - sum.ln()).collect()
}

impl EvaluationConfig {
    fn check(&self) -> Result<()> {
        if self.frames.is_empty() || self.frames.contains(&0) {
            let found = format!("{:?}", self.frames);
            return Err(Error::setting("frames", "at least one frame count, above 0", found));
        }
        if self.protocol == (Protocol::Test { views: 0 }) {
            return Err(Error::setting("protocol.test.views", "at least 1", 0));
        }
        if self.batch_size == 0 {
            return Err(Error::setting("batch_size", "at least 1", 0));
        }
        self.preprocessing.check()
    }

    /// The clips of a video that are scored, by frame count.
    fn clips(&self, source: &impl VideoSource, index: usize) -> Result<Vec<Vec<Clip>>> {
        let Self { sampling, protocol, preprocessing, .. } = self;
        let new_length = preprocessing.modality.new_length();
        let generator = &mut Generator::sample(self.seed, 0, index);
        let frames = source.frames(index);
        let samples: Vec<Vec<Vec<usize>>> = self
            .frames
            .iter()
            .map(|&count| match protocol {
                Protocol::Validation => {
                    let draw = &mut |bound| generator.below(bound);
                    vec![sampling.validation(frames, count, new_length, draw)]
                }
                Protocol::Test { views } => sampling.test(frames, count, new_length, *views),
            })
            .collect();
        // One reading for all of them: each frame is decoded once.
        let all = samples.iter().flatten().flat_map(|clip| preprocessing.modality.frames(clip, frames));
        let wanted: Vec<usize> = all.collect();
        let label = source.label(index);
        let images = source.read(index, &wanted)?;
        let mut images = &images[..];
        let mut plan = None;
        let mut clips = Vec::new();
        for sample in &samples {
            let mut views = Vec::new();
            for clip in sample {
                let (these, others) = images.split_at(clip.len() * new_length);
                images = others;
                if plan.is_none()
                    && let Some(image) = these.first()
                {
                    let new = preprocessing.plan(image.size(), generator);
                    plan = Some(new.map_err(in_video(source, index))?);
                }
                let Some(plan) = &plan else { continue };
                let applied = preprocessing.apply_plan(plan, these, label);
                views.extend(applied.map_err(in_video(source, index))?);
            }
            clips.push(views);
        }
        Ok(clips)
    }
}

/// Scores all videos of a source, at each frame count. Frames are decoded in parallel, each once for all counts.
///
/// - device: one that records no gradients
///
/// # Errors
///
/// When a setting is out of its range, or a frame cannot be read.
pub fn evaluate<B: Backend, N: ClipClassifier<B>>(
    network: &N,
    source: &impl VideoSource,
    config: &EvaluationConfig,
    device: &B::Device,
) -> Result<Vec<Scores>> {
    config.check()?;
    if source.is_empty() {
        return Err(Error::data("videos", "at least one", "none"));
    }
    let mut scores: Vec<Scores> = config
        .frames
        .iter()
        .map(|&frames| Scores { frames, classes: 0, logits: vec![], labels: vec![], seconds: 0.0 })
        .collect();
    for first in (0..source.len()).step_by(config.batch_size) {
        let batch = first..(first + config.batch_size).min(source.len());
        let videos: Vec<Vec<Vec<Clip>>> =
            batch.clone().into_par_iter().map(|index| config.clips(source, index)).collect::<Result<_>>()?;
        for (place, scores) in scores.iter_mut().enumerate() {
            scores.labels.extend(batch.clone().map(|index| source.label(index) as i64));
            let clips: Vec<&Clip> = videos.iter().flat_map(|video| &video[place]).collect();
            let views = clips.len() / videos.len();
            let input = stack::<B>(&clips, device)?;
            let start = Instant::now();
            let logits = averaged(network.forward(input), views, config.average);
            scores.classes = logits.dims()[1];
            scores.logits.extend(logits.into_data().iter::<f32>());
            scores.seconds += start.elapsed().as_secs_f64();
        }
    }
    for scores in &mut scores {
        scores.seconds /= scores.labels.len() as f64;
    }
    Ok(scores)
}

/// The mean over each video's clips.
///
/// - logits: `[videos * views, classes]`
fn averaged<B: Backend>(logits: Tensor<B, 2>, views: usize, average: Average) -> Tensor<B, 2> {
    if views == 1 {
        return logits;
    }
    let [clips, classes] = logits.dims();
    let mean = |x: Tensor<B, 2>| {
        x.reshape([clips / views, views, classes]).mean_dim(1).reshape([clips / views, classes])
    };
    match average {
        Average::Logits => mean(logits),
        Average::Probabilities => mean(softmax(logits, 1)).log(),
    }
}

/// Clips of one size as a batch, `[clips, frames, channels, height, width]`.
///
/// # Errors
///
/// When they differ in size or number of frames.
pub(crate) fn stack<B: Backend>(clips: &[&Clip], device: &B::Device) -> Result<Tensor<B, 5>> {
    let first = clips.first().ok_or_else(|| Error::data("batch", "at least one clip", "none"))?;
    let shape = [clips.len(), first.frames, first.channels, first.size[0], first.size[1]];
    let mut values = Vec::with_capacity(shape.iter().product());
    for (number, clip) in clips.iter().enumerate() {
        if (clip.frames, clip.size) != (first.frames, first.size) {
            let expected = format!("{} frames of {:?}, as the first", first.frames, first.size);
            let found = format!("{} of {:?}", clip.frames, clip.size);
            return Err(Error::data(format!("clip {number} of a batch"), expected, found));
        }
        values.extend_from_slice(&clip.values);
    }
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Mean average precision over classes, in percent, of videos that can be of several classes. Classes without a video
/// count 0, as in the published code.
///
/// - scores: `classes` numbers a video, video by video
/// - positive: whether each video is of each class, in the same order
///
/// # Errors
///
/// When there is no class, or the lengths differ.
pub fn mean_average_precision(scores: &[f32], positive: &[bool], classes: usize) -> Result<f64> {
    if classes == 0
        || scores.is_empty()
        || scores.len() != positive.len()
        || !scores.len().is_multiple_of(classes)
    {
        let expected = format!("as many as there are flags, {}, in rows of {classes}", positive.len());
        return Err(Error::data("scores", expected, scores.len()));
    }
    let mut sum = 0.0;
    for class in 0..classes {
        let column = |place: usize| place * classes + class;
        let mut order: Vec<usize> = (0..scores.len() / classes).collect();
        // Stable: of equal scores the earlier video comes first.
        order.sort_by(|&a, &b| scores[column(b)].total_cmp(&scores[column(a)]));
        let mut hits = 0;
        let mut precisions = 0.0;
        for (rank, &video) in (1..).zip(&order) {
            if positive[column(video)] {
                hits += 1;
                precisions += f64::from(hits) / f64::from(rank);
            }
        }
        sum += precisions / f64::from(hits.max(1));
    }
    Ok(100.0 * sum / classes as f64)
}

/// Moves the running statistics of a network's norms to those of clips, in training mode but without a gradient: what a
/// branch, or a network that was trained at another frame count, would have seen.
///
/// - network: its clones share the statistics
/// - clips: batches `[batch, frames, channels, height, width]`, at best some tens of them, on a device that records
///   gradients
///
/// # Errors
///
/// The first of `clips`.
pub fn recalibrated<B: Backend, N: ClipClassifier<B>>(
    network: N,
    clips: impl IntoIterator<Item = Result<Tensor<B, 5>>>,
) -> Result<N> {
    for clips in clips {
        // Read, so that devices that compute later do not pile them up.
        let _: f32 = network.forward(clips?).sum().into_scalar().elem();
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn_flex::Flex;
    use leanburn_vision::image::Image;

    use super::*;
    use crate::{
        Branches, VideoArchitecture,
        resnet::{Consensus, FrameResNetConfig},
        transform::Crop,
        videos::MemoryVideos,
    };

    fn scores(logits: &[f32], labels: &[i64]) -> Scores {
        let classes = logits.len() / labels.len();
        Scores { frames: 4, classes, logits: logits.to_vec(), labels: labels.to_vec(), seconds: 0.5 }
    }

    #[test]
    fn scores_are_summed_up() {
        let found = scores(&[2.0, 1.0, 0.0, 0.0, 1.0, 1.0], &[0, 2]);
        assert!((found.accuracy(1).unwrap() - 50.0).abs() < 1e-9);
        assert!((found.accuracy(2).unwrap() - 100.0).abs() < 1e-9);
        // Of equal scores the lower class is the higher.
        assert_eq!(found.confusion(), [[1, 0, 0], [0, 0, 0], [0, 1, 0]]);
        let expected = f64::midpoint(0.407_605_96, 0.861_994_8);
        assert!((found.loss() - expected).abs() < 1e-5, "{}", found.loss());
    }

    #[test]
    fn an_ensemble_is_the_mean_of_probabilities() {
        let sure = scores(&[9.0, 0.0], &[1]);
        let doubtful = scores(&[0.0, 0.0], &[1]);
        let found = Scores::ensemble(&[sure.clone(), doubtful]).unwrap();
        let probability = f32::midpoint(1.0 / (1.0 + (-9.0_f32).exp()), 0.5);
        assert!((found.logits[0].exp() - probability).abs() < 1e-5);
        assert!((found.seconds - 1.0).abs() < 1e-9);
        let other = Scores { frames: 8, ..sure.clone() };
        let error = Scores::ensemble(&[sure, other]).unwrap_err().to_string();
        assert!(error.contains("member 1"), "{error}");
        assert!(Scores::ensemble(&[]).is_err());
    }

    #[test]
    fn average_precision_is_by_class() {
        // Class 0: the positives are ranked 1 and 3; class 1 has none; class 2: ranked 2.
        let scores = [0.9, 0.1, 0.5, 0.8, 0.2, 0.9, 0.7, 0.3, 0.1];
        let positive = [true, false, true, false, false, false, true, false, false];
        let found = mean_average_precision(&scores, &positive, 3).unwrap();
        let expected = 100.0 * (f64::midpoint(1.0, 2.0 / 3.0) + 0.0 + 0.5) / 3.0;
        assert!((found - expected).abs() < 1e-9, "{found}");
        assert!(mean_average_precision(&scores, &positive[1..], 3).is_err());
        assert!(mean_average_precision(&scores, &positive, 4).is_err());
    }

    /// Videos of frames of one brightness each.
    fn videos(lengths: &[usize]) -> MemoryVideos {
        let frame = |value: usize| Image::new([8, 10], 3, vec![value as u8; 240]).unwrap();
        let videos = lengths.iter().map(|&frames| ((0..frames).map(|f| frame(20 * f)).collect(), frames % 2));
        MemoryVideos::new(videos, vec!["even".to_owned(), "odd".to_owned()]).unwrap()
    }

    fn network(consensus: Consensus) -> crate::resnet::FrameResNet<Flex> {
        let config = FrameResNetConfig::tsm(18, 2, Branches::single(2)).unwrap().with_width(8);
        let config = config.with_consensus(consensus);
        config.init::<Flex>(&mut Generator::new(1), &Default::default()).unwrap()
    }

    #[test]
    fn all_counts_are_scored_in_one_pass_and_batches_do_not_matter() {
        let videos = videos(&[3, 8, 5, 2, 9]);
        let preprocessing = ClipPreprocessing::tsn_valid(8);
        let device = Default::default();
        let network = network(Consensus::Logits);
        let config = EvaluationConfig::new(vec![2, 4], preprocessing.clone());
        let both = evaluate::<Flex, _>(&network, &videos, &config, &device).unwrap();
        assert_eq!(both.iter().map(|scores| scores.frames).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(both[0].labels, [1, 0, 1, 0, 1]);
        let single = EvaluationConfig::new(vec![4], preprocessing).with_batch_size(2);
        let single = evaluate::<Flex, _>(&network, &videos, &single, &device).unwrap();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&single[0].logits, &both[1].logits));
    }

    #[test]
    fn scores_of_several_views_are_averaged() {
        let videos = videos(&[9, 12]);
        let device = Default::default();
        for (average, consensus) in
            [(Average::Logits, Consensus::Logits), (Average::Probabilities, Consensus::Probabilities)]
        {
            let network = network(consensus);
            let config = |view: usize| {
                let crop = Crop::ShortSide { shortest: 8, side: 8, view };
                let preprocessing = ClipPreprocessing { crop, ..ClipPreprocessing::tsn_valid(8) };
                EvaluationConfig::new(vec![2], preprocessing)
            };
            let twice = config(1)
                .with_sampling(Sampling::Twice)
                .with_protocol(Protocol::Test { views: 1 })
                .with_average(average);
            let found = evaluate::<Flex, _>(&network, &videos, &twice, &device).unwrap();
            assert_eq!(found[0].logits.len(), 4);
            // Averaging the same clip twice changes nothing.
            let dense = config(1)
                .with_sampling(Sampling::Dense)
                .with_protocol(Protocol::Test { views: 3 })
                .with_average(average);
            let several = evaluate::<Flex, _>(&network, &videos, &dense, &device).unwrap();
            let one = dense.with_protocol(Protocol::Test { views: 1 });
            let one = evaluate::<Flex, _>(&network, &videos, &one, &device).unwrap();
            // Videos shorter than the window have one start; logits are compared as probabilities.
            let probabilities = |scores: &Scores| -> Vec<f64> {
                scores.logits.chunks(2).flat_map(log_probabilities).map(f64::exp).collect()
            };
            for (a, b) in probabilities(&several[0]).into_iter().zip(probabilities(&one[0])) {
                assert!((a - b).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn settings_are_checked() {
        let device = Default::default();
        let error = |config: EvaluationConfig| {
            evaluate::<Flex, _>(&network(Consensus::Logits), &videos(&[3]), &config, &device)
                .unwrap_err()
                .to_string()
        };
        let config = |frames: Vec<usize>| EvaluationConfig::new(frames, ClipPreprocessing::tsn_valid(8));
        assert!(error(config(vec![])).contains("frames"));
        assert!(error(config(vec![4, 0])).contains("frames"));
        assert!(error(config(vec![4]).with_batch_size(0)).contains("batch_size"));
        assert!(error(config(vec![4]).with_protocol(Protocol::Test { views: 0 })).contains("views"));
    }

    #[test]
    fn statistics_are_estimated_anew() {
        type Training = Autodiff<Flex>;
        let device = Default::default();
        let config = FrameResNetConfig::tsm(18, 2, Branches::single(2)).unwrap().with_width(8);
        let network = config.init::<Training>(&mut Generator::new(1), &device).unwrap();
        let clips = || Generator::new(3).normal::<Training, 5>([4, 2, 3, 32, 32], &device) + 2.0;
        let mean = |network: &crate::resnet::FrameResNet<Training>| {
            network.bn1.as_ref().unwrap().branches[0].running_mean.value_sync().into_data()
        };
        let before = mean(&network);
        let weights = network.conv1.weight.val().into_data();
        let network = recalibrated(network, (0..30).map(|_| Ok(clips()))).unwrap();
        assert_eq!(network.conv1.weight.val().into_data(), weights);
        let after = mean(&network);
        assert_ne!(before, after);
        // Many passes over one batch end at its own statistics.
        let x = network.conv1.forward(clips().reshape([8, 3, 32, 32]));
        let [frames, channels, height, width] = x.dims();
        let batch = x.swap_dims(0, 1).reshape([channels, frames * height * width]).mean_dim(1).into_data();
        for (found, expected) in after.iter::<f32>().zip(batch.iter::<f32>()) {
            assert!((found - expected).abs() < 0.05 * expected.abs().max(0.5), "{found} {expected}");
        }
    }
}
