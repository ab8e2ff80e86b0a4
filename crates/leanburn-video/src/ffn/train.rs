use std::{marker::PhantomData, ops::Range};

use burn::{
    module::{AutodiffModule, Module},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
    train::{InferenceStep, TrainOutput, TrainStep},
};
use leanburn_core::{Result, random::Generator};
use serde::{Deserialize, Serialize};

use super::{Alignment, Terms};
use crate::{
    model::ClipClassifier,
    train::{ClipBatch, ClipOutput, label_loss},
};

/// Which of a batch's clips are trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Frequencies {
    /// All of them.
    All,
    /// Those of one frame count, each as likely (mixed sampling).
    Uniform,
    /// Those of one frame count, as likely as it has frames (proportional sampling).
    Proportional,
}

impl Frequencies {
    /// Which of a batch's clips are trained on.
    fn choose<B: Backend>(self, batch: &ClipBatch<B>, generator: &mut Generator) -> Range<usize> {
        let frames: Vec<usize> = batch.clips.iter().map(|clips| clips.dims()[1]).collect();
        let place = match self {
            Self::All => return 0..frames.len(),
            Self::Uniform => generator.below(frames.len()),
            Self::Proportional => {
                let draw = generator.below(frames.iter().sum());
                let ends = frames.iter().scan(0, |end, frames| {
                    *end += frames;
                    Some(*end)
                });
                ends.take_while(|end| *end <= draw).count()
            }
        };
        place..place + 1
    }
}

/// A network with FFN's objective, on batches with a clip for each of its frame counts.
#[derive(Module, Debug)]
pub struct FrameFlexible<B: Backend, N: Module<B>> {
    /// The network.
    pub network: N,
    /// How much of the target is spread over all classes; 0 for none. Targets of mixed batches have their own.
    pub label_smoothing: f64,
    /// Which clips are trained on; validation sees all of them.
    #[module(skip)]
    pub frequencies: Frequencies,
    #[module(skip)]
    alignment: Alignment,
    backend: PhantomData<B>,
}

impl<B: Backend, N: ClipClassifier<B>> FrameFlexible<B, N> {
    /// Without label smoothing, on all clips.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    pub fn new(network: N, alignment: Alignment) -> Result<Self> {
        alignment.check()?;
        let frequencies = Frequencies::All;
        Ok(Self { network, label_smoothing: 0.0, frequencies, alignment, backend: PhantomData })
    }

    /// The terms of the loss of a batch.
    ///
    /// - logits: of each of the batch's clips
    pub fn terms(&self, batch: &ClipBatch<B>, logits: &[Tensor<B, 2>]) -> Terms<B> {
        self.alignment.terms(logits, |logits| label_loss(logits, batch, self.label_smoothing))
    }
}

impl<B: AutodiffBackend, N: ClipClassifier<B> + AutodiffModule<B>> TrainStep for FrameFlexible<B, N>
where
    N::InnerModule: ClipClassifier<B::InnerBackend>,
{
    type Input = ClipBatch<B>;
    type Output = ClipOutput<B>;

    fn step(&self, mut batch: ClipBatch<B>) -> TrainOutput<ClipOutput<B>> {
        let mut generator = Generator::new(batch.seed);
        let chosen = self.frequencies.choose(&batch, &mut generator);
        batch.clips = batch.clips.drain(chosen).collect();
        // Of several devices, Burn's strategies move the network to each, and leave the batch where it is.
        let batch = batch.to_device(&self.devices()[0]);
        let forward = |clips: &Tensor<B, 5>| self.network.forward_train(clips.clone(), &mut generator);
        let logits: Vec<Tensor<B, 2>> = batch.clips.iter().map(forward).collect();
        let loss = self.terms(&batch, &logits).total();
        let output = ClipOutput::new(loss, &batch, logits);
        TrainOutput::new(self, output.loss.backward(), output)
    }
}

impl<B: Backend, N: ClipClassifier<B>> InferenceStep for FrameFlexible<B, N> {
    type Input = ClipBatch<B>;
    type Output = ClipOutput<B>;

    fn step(&self, batch: ClipBatch<B>) -> ClipOutput<B> {
        let logits: Vec<Tensor<B, 2>> =
            batch.clips.iter().map(|clips| self.network.forward(clips.clone())).collect();
        let loss = self.terms(&batch, &logits).total();
        ClipOutput::new(loss, &batch, logits)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn frame_counts_are_drawn_as_often_as_the_method_says() {
        let device = Default::default();
        let batch = ClipBatch::<Flex> {
            clips: [2, 4, 8].map(|frames| Tensor::zeros([1, frames, 1, 1, 1], &device)).to_vec(),
            labels: Tensor::from_data(TensorData::from([0_i64]), &device),
            targets: None,
            seed: 0,
        };
        let mut generator = Generator::new(1);
        assert_eq!(Frequencies::All.choose(&batch, &mut generator), 0..3);
        for (frequencies, expected) in [
            (Frequencies::Uniform, [1.0 / 3.0; 3]),
            (Frequencies::Proportional, [2.0 / 14.0, 4.0 / 14.0, 8.0 / 14.0]),
        ] {
            let draws = 6000;
            let mut counts = [0_usize; 3];
            for _ in 0..draws {
                let chosen = frequencies.choose(&batch, &mut generator);
                assert_eq!(chosen.len(), 1);
                counts[chosen.start] += 1;
            }
            for (count, expected) in counts.into_iter().zip(expected) {
                // Four standard deviations of the share.
                assert!((count as f64 / f64::from(draws) - expected).abs() < 0.026, "{counts:?}");
            }
        }
    }
}
