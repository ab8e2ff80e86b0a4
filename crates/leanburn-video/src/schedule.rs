//! Learning-rate schedules by epoch, as the video recipes state them.

use std::f64::consts::PI;

use leanburn_core::{
    Error, Result,
    schedule::{Decay, Schedule},
};
use serde::{Deserialize, Serialize};

/// A learning rate as a function of the epoch, which may be a fraction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochSchedule {
    /// The rate after the warm-up.
    pub base: f64,
    /// Epochs in all.
    pub epochs: usize,
    /// How the rate falls.
    pub decay: EpochDecay,
    /// How it rises at first, if it does.
    pub warmup: Option<WarmUp>,
    /// Whether it changes at every step, or stays within an epoch.
    pub every_step: bool,
}

/// A linear warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Until when.
    pub epochs: f64,
    /// The rate at the start.
    pub start: f64,
}

/// How a rate falls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochDecay {
    /// Times a factor from some epochs on.
    Steps(Vec<(f64, f64)>),
    /// Half a cosine from the end of the warm-up to a rate at the last epoch.
    Cosine {
        /// The rate at the end.
        end: f64,
    },
}

impl EpochSchedule {
    /// A tenth at each milestone: `step` of TSN, TSM and TEA.
    pub fn steps(base: f64, epochs: usize, milestones: &[usize]) -> Self {
        let steps = (1..).zip(milestones).map(|(passed, &epoch)| (epoch as f64, 0.1_f64.powi(passed)));
        let decay = EpochDecay::Steps(steps.collect());
        Self { base, epochs, decay, warmup: None, every_step: false }
    }

    /// Half a cosine to 0: `cos` of TSN, TSM and TEA.
    pub fn cosine(base: f64, epochs: usize) -> Self {
        Self { base, epochs, decay: EpochDecay::Cosine { end: 0.0 }, warmup: None, every_step: false }
    }

    /// The rate.
    ///
    /// - epoch: from 0 on
    pub fn rate(&self, epoch: f64) -> f64 {
        match self.warmup {
            Some(warmup) if epoch < warmup.epochs => {
                warmup.start + epoch * (self.decayed(warmup.epochs) - warmup.start) / warmup.epochs
            }
            _ => self.decayed(epoch),
        }
    }

    fn decayed(&self, epoch: f64) -> f64 {
        match &self.decay {
            EpochDecay::Steps(steps) => {
                let passed = steps.iter().rev().find(|(start, _)| *start <= epoch);
                self.base * passed.map_or(1.0, |(_, factor)| *factor)
            }
            EpochDecay::Cosine { end } => {
                let start = self.warmup.map_or(0.0, |warmup| warmup.epochs);
                let progress = (epoch - start) / (self.epochs as f64 - start);
                end + (self.base - end) * 0.5 * (1.0 + (PI * progress).cos())
            }
        }
    }

    /// The rate of each step.
    ///
    /// # Errors
    ///
    /// When there is no epoch or no step in it, the warm-up is not shorter than the training, or a rate is negative.
    pub fn by_step(&self, steps_per_epoch: usize) -> Result<Schedule> {
        if self.epochs == 0 || steps_per_epoch == 0 {
            let found = format!("{} of {steps_per_epoch} steps", self.epochs);
            return Err(Error::setting("epochs", "at least one, of at least one step", found));
        }
        if let Some(WarmUp { epochs, .. }) = self.warmup
            && !(0.0..self.epochs as f64).contains(&epochs)
        {
            return Err(Error::setting("warmup.epochs", format!("from 0 to below {}", self.epochs), epochs));
        }
        let steps = self.epochs * steps_per_epoch;
        let mut rates: Vec<(usize, f64)> = Vec::new();
        for step in 0..steps {
            let epoch = if self.every_step {
                step as f64 / steps_per_epoch as f64
            } else {
                (step / steps_per_epoch) as f64
            };
            let rate = self.rate(epoch);
            if rates.last().is_none_or(|(_, last)| *last != rate) {
                rates.push((step, rate));
            }
        }
        Schedule::new(self.base, steps, 0, Decay::Stages { rates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_by_epoch_or_by_step() {
        let schedule = EpochSchedule::steps(0.01, 50, &[20, 40]);
        let by_step = schedule.by_step(10).unwrap();
        for (step, expected) in [(0, 0.01), (199, 0.01), (200, 0.001), (400, 1e-4), (499, 1e-4)] {
            assert!((by_step.rate(step) - expected).abs() < 1e-12);
        }
        let warmup = Some(WarmUp { epochs: 2.0, start: 0.0 });
        let schedule = EpochSchedule { warmup, every_step: true, ..EpochSchedule::cosine(1.0, 4) };
        let by_step = schedule.by_step(4).unwrap();
        for (step, expected) in [(0, 0.0), (4, 0.5), (8, 1.0), (12, 0.5)] {
            assert!((by_step.rate(step) - expected).abs() < 1e-12, "{step}: {}", by_step.rate(step));
        }
    }

    #[test]
    fn settings_are_checked() {
        assert!(EpochSchedule::cosine(0.1, 0).by_step(3).unwrap_err().to_string().contains("epochs"));
        assert!(EpochSchedule::cosine(0.1, 3).by_step(0).is_err());
        let warmup = Some(WarmUp { epochs: 5.0, start: 0.0 });
        let schedule = EpochSchedule { warmup, ..EpochSchedule::cosine(0.1, 5) };
        assert!(schedule.by_step(2).unwrap_err().to_string().contains("warmup"));
    }
}
