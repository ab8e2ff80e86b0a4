use burn::tensor::backend::AutodiffBackend;
use leanburn_core::{
    Result,
    schedule::Schedule,
    train::{EpochReport, Hook},
};
use serde::{Deserialize, Serialize};

use super::{MaskedLlama, Masks};
use crate::train::FineTuning;

/// What a training has done to its masks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MaskReport {
    /// Steps so far.
    pub steps: usize,
    /// The share of the masked matrices' entries that is kept; it changes with thresholds alone.
    pub kept_ratio: f64,
    /// The share of entries that are masked otherwise than at the start.
    pub flip_rate: f64,
    /// How far a score can have moved, in units of the scores' first deviation: `AdamW` moves it by at most about the
    /// learning rate a step.
    pub mobility: f64,
}

/// A hook that tells after each epoch what has become of the masks.
pub struct MaskHook<F> {
    start: Masks,
    schedule: Schedule,
    deviation: f64,
    show: F,
}

impl<F: FnMut(MaskReport) + Send> MaskHook<F> {
    /// - start: the masks at the start, also of a run that goes on
    /// - schedule: the training's
    /// - deviation: of the scores at the start
    /// - show: gets each report
    pub fn new(start: Masks, schedule: Schedule, deviation: f64, show: F) -> Self {
        Self { start, schedule, deviation, show }
    }
}

impl<B: AutodiffBackend, F: FnMut(MaskReport) + Send> Hook<B, FineTuning<B, MaskedLlama<B>>> for MaskHook<F> {
    fn epoch_ended(&mut self, report: &EpochReport, model: &FineTuning<B, MaskedLlama<B>>) -> Result<()> {
        let masks = model.network.masks();
        let moved: f64 = (0..report.steps).map(|step| self.schedule.rate(step)).sum();
        (self.show)(MaskReport {
            steps: report.steps,
            kept_ratio: masks.kept_ratio(),
            flip_rate: masks.flip_rate(&self.start),
            mobility: moved / self.deviation,
        });
        Ok(())
    }
}
