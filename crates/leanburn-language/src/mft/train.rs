use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{
    ElementConversion,
    backend::{AutodiffBackend, Backend},
};
use leanburn_core::{
    Error, Result,
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
    /// How far a score can have moved, in units of the scores' root mean square at the start: `AdamW` moves it by at most
    /// about the learning rate a step.
    pub mobility: f64,
}

/// The start of a training of masks, with which they are compared.
#[derive(Debug, Clone)]
pub struct MaskStart {
    masks: Masks,
    deviation: f64,
    schedule: Schedule,
}

impl MaskStart {
    /// - network: as it is at the start, also of a run that goes on
    /// - schedule: the training's
    pub fn new<B: Backend>(network: &MaskedLlama<B>, schedule: Schedule) -> Self {
        let (mut squares, mut entries) = (0.0, 0.0);
        for scores in &network.scores {
            let scores = scores.val();
            let count = scores.shape().num_elements() as f64;
            squares += count * scores.square().mean().into_scalar().elem::<f64>();
            entries += count;
        }
        Self { masks: network.masks(), deviation: (squares / entries).sqrt(), schedule }
    }

    /// What has become of the masks.
    ///
    /// - masks: as they are now
    /// - steps: so far
    ///
    /// # Panics
    ///
    /// When they are of other matrices.
    pub fn report(&self, masks: &Masks, steps: usize) -> MaskReport {
        let moved: f64 = (0..steps).map(|step| self.schedule.rate(step)).sum();
        MaskReport {
            steps,
            kept_ratio: masks.kept_ratio(),
            flip_rate: masks.flip_rate(&self.masks),
            mobility: moved / self.deviation,
        }
    }
}

/// What became of the masks in each epoch so far, also of those before a run that goes on.
#[derive(Debug, Clone, Default)]
pub struct MaskReports(Arc<Mutex<Vec<MaskReport>>>);

impl MaskReports {
    /// All of them, by epochs.
    pub fn all(&self) -> Vec<MaskReport> {
        self.reports().clone()
    }

    fn reports(&self) -> MutexGuard<'_, Vec<MaskReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hook that tells after each epoch what has become of the masks.
pub struct MaskHook<F> {
    start: MaskStart,
    reports: MaskReports,
    show: F,
}

impl<F: FnMut(MaskReport) + Send> MaskHook<F> {
    /// - show: gets each report
    pub fn new(start: MaskStart, show: F) -> Self {
        Self { start, reports: MaskReports::default(), show }
    }

    /// A handle of all reports.
    pub fn reports(&self) -> MaskReports {
        self.reports.clone()
    }
}

impl<B: AutodiffBackend, F: FnMut(MaskReport) + Send> Hook<B, FineTuning<B, MaskedLlama<B>>> for MaskHook<F> {
    fn epoch_ended(&mut self, report: &EpochReport, model: &FineTuning<B, MaskedLlama<B>>) -> Result<()> {
        let report = self.start.report(&model.network.masks(), report.steps);
        self.reports.reports().push(report);
        (self.show)(report);
        Ok(())
    }

    fn state(&self) -> serde_json::Value {
        serde_json::to_value(self.reports.all()).expect("numbers are JSON")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        *self.reports.reports() = serde_json::from_value(state)
            .map_err(|error| Error::data("state of the masks' hook", "reports", error))?;
        Ok(())
    }
}
