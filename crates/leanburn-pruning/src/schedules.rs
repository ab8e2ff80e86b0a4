//! Learning rates of retraining by epoch, as the papers write them, and how long pipelines may be compared.

use std::{fmt, str::FromStr};

use leanburn_core::{
    Error, Result,
    schedule::{Decay, Schedule},
};
use serde::{Deserialize, Serialize};

/// A learning rate by epoch: from each start on, a rate. Written `0:0.01,30:0.001`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Stages(Vec<(usize, f64)>);

impl Stages {
    /// - stages: the first epoch of each, ascending from 0, and its rate
    ///
    /// # Errors
    ///
    /// When there is none, the first does not start at epoch 0, starts do not ascend, or a rate is not positive.
    pub fn new(stages: Vec<(usize, f64)>) -> Result<Self> {
        let found = || format!("{stages:?}");
        if stages.first().is_none_or(|(start, _)| *start != 0) {
            return Err(Error::setting("schedule", "stages from epoch 0 on", found()));
        }
        if !stages.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::setting("schedule", "starts that ascend", found()));
        }
        if stages.iter().any(|(_, rate)| !(rate.is_finite() && *rate > 0.0)) {
            return Err(Error::setting("schedule", "positive rates", found()));
        }
        Ok(Self(stages))
    }

    /// The halving rule (appendix A of "Why is the State of Neural Network Pruning so Confusing?"): each stage takes half
    /// of what is left, at most `longest` epochs, at a tenth of the rate before; the stage at the final rate takes the
    /// rest.
    ///
    /// # Errors
    ///
    /// When there is no epoch, or the first rate is below the final one.
    pub fn halving(epochs: usize, first: f64, last: f64, factor: f64, longest: usize) -> Result<Self> {
        if epochs == 0 || longest == 0 {
            return Err(Error::setting("epochs, longest", "at least 1", format!("{epochs}, {longest}")));
        }
        if !(last > 0.0 && first >= last * (1.0 - 1e-9) && factor > 0.0 && factor < 1.0) {
            let found = format!("{first}, {last}, {factor}");
            return Err(Error::setting(
                "rates",
                "a first one from the final one on, and a factor below 1",
                found,
            ));
        }
        let (mut stages, mut start, mut rate) = (Vec::new(), 0, first);
        while start < epochs {
            stages.push((start, rate));
            if rate <= last * (1.0 + 1e-6) {
                break;
            }
            start += longest.min((epochs - start).div_ceil(2));
            rate *= factor;
        }
        Self::new(stages)
    }

    /// The rate of an epoch, counted from 0.
    pub fn rate(&self, epoch: usize) -> f64 {
        let stage = self.0.partition_point(|(start, _)| *start <= epoch);
        self.0[stage - 1].1
    }

    /// The first epoch and the rate of each stage.
    pub fn stages(&self) -> &[(usize, f64)] {
        &self.0
    }

    /// How many of `epochs` the first stage takes.
    pub fn first_stage(&self, epochs: usize) -> usize {
        self.0.get(1).map_or(epochs, |(start, _)| epochs.min(*start))
    }

    /// The schedule with each start moved by a factor, of a training that is as many times longer.
    ///
    /// # Errors
    ///
    /// When stages become shorter than an epoch.
    pub fn stretched(&self, factor: f64) -> Result<Self> {
        let start = |epoch: usize| (epoch as f64 * factor).round() as usize;
        Self::new(self.0.iter().map(|(epoch, rate)| (start(*epoch), *rate)).collect())
    }

    /// What is left of the schedule from an epoch on, as a schedule of its own: of a network pruned at that epoch.
    ///
    /// # Errors
    ///
    /// Never of a schedule that was checked.
    pub fn from_epoch(&self, epoch: usize) -> Result<Self> {
        let later =
            self.0.iter().filter(|(start, _)| *start > epoch).map(|(start, rate)| (start - epoch, *rate));
        Self::new(std::iter::once((0, self.rate(epoch))).chain(later).collect())
    }
}

impl FromStr for Stages {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |part: &str| {
            Error::setting("schedule", "`epoch:rate,epoch:rate`", format!("`{part}` in `{text}`"))
        };
        let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
        let stages = inner.split([',', ';', '/']).filter(|part| !part.trim().is_empty()).map(|part| {
            let (start, rate) = part.split_once(':').ok_or_else(|| bad(part))?;
            let start = start.trim().parse().map_err(|_| bad(part))?;
            Ok((start, rate.trim().parse().map_err(|_| bad(part))?))
        });
        Self::new(stages.collect::<Result<_>>()?)
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (start, rate)) in self.0.iter().enumerate() {
            write!(f, "{}{start}:{rate}", if place == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Stages {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Stages> for String {
    fn from(stages: Stages) -> Self {
        stages.to_string()
    }
}

/// A learning rate by epoch, of either kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rates {
    /// Stages.
    Stages(Stages),
    /// [`cosine`], from epoch 0 on.
    Cosine {
        /// The rate of the first epoch.
        rate: f64,
        /// Towards which it falls.
        minimum: f64,
    },
}

impl Rates {
    /// The rate of each epoch.
    pub fn by_epoch(&self, epochs: usize) -> Vec<f64> {
        match self {
            Self::Stages(stages) => (0..epochs).map(|epoch| stages.rate(epoch)).collect(),
            Self::Cosine { rate, minimum } => cosine(epochs, *rate, *minimum, 0),
        }
    }

    /// How many of `epochs` the first stage takes; all of them of a cosine, which has no stages.
    pub fn first_stage(&self, epochs: usize) -> usize {
        match self {
            Self::Stages(stages) => stages.first_stage(epochs),
            Self::Cosine { .. } => epochs,
        }
    }

    /// The schedule by step.
    ///
    /// - steps: of an epoch
    /// - `warm_up`: epochs in which the rate rises from 0
    ///
    /// # Errors
    ///
    /// When there is no epoch, or a rate is not positive.
    pub fn by_step(&self, epochs: usize, steps: usize, warm_up: usize) -> Result<Schedule> {
        let rates = self.by_epoch(epochs);
        let first = *rates.first().ok_or_else(|| Error::setting("epochs", "at least 1", 0))?;
        let rates = rates.into_iter().enumerate().map(|(epoch, rate)| (epoch * steps, rate)).collect();
        Schedule::new(first, epochs * steps, warm_up * steps, Decay::Stages { rates })
    }
}

impl FromStr for Rates {
    type Err = Error;

    /// Stages as [`Stages`] has them, or `cosine:0.01:0.0001`, from one rate towards another.
    fn from_str(text: &str) -> Result<Self> {
        let Some(rates) = text.trim().strip_prefix("cosine:") else { return text.parse().map(Self::Stages) };
        let bad = || Error::setting("schedule", "`cosine:rate:minimum`", format!("`{text}`"));
        let (rate, minimum) = rates.split_once(':').ok_or_else(bad)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
        let (rate, minimum) = (number(rate)?, number(minimum)?);
        if !(rate.is_finite() && rate > 0.0 && (0.0..=rate).contains(&minimum)) {
            return Err(bad());
        }
        Ok(Self::Cosine { rate, minimum })
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stages(stages) => stages.fmt(f),
            Self::Cosine { rate, minimum } => write!(f, "cosine:{rate}:{minimum}"),
        }
    }
}

/// Half a cosine by epoch, from `rate` at epoch 0 towards `minimum`.
///
/// - `first_epoch`: 0, or 1 as the published loop has it, which steps its scheduler before each epoch
pub fn cosine(epochs: usize, rate: f64, minimum: f64, first_epoch: usize) -> Vec<f64> {
    let at = |epoch: usize| {
        let progress = (epoch + first_epoch) as f64 / epochs as f64;
        minimum + (rate - minimum) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    };
    (0..epochs).map(at).collect()
}

/// Epochs for which a small network may be trained from scratch with the computation of a pipeline (Scratch-B).
///
/// - pretraining, retraining: epochs of the large and of the pruned network
/// - speedup: MACs of the large network over those of the small one
pub fn scratch_b(pretraining: usize, retraining: usize, speedup: f64) -> f64 {
    pretraining as f64 * speedup + retraining as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_users_write_them() {
        let stages: Stages = "{0:0.01, 30:0.001;60:1e-4}".parse().unwrap();
        assert_eq!(stages.stages(), [(0, 0.01), (30, 0.001), (60, 1e-4)]);
        assert_eq!([0, 29, 30, 59, 200].map(|epoch| stages.rate(epoch)), [0.01, 0.01, 0.001, 0.001, 1e-4]);
        assert_eq!(stages.to_string().parse::<Stages>().unwrap(), stages);
        let cosine: Rates = "cosine:0.01:1e-4".parse().unwrap();
        assert_eq!(cosine.to_string().parse::<Rates>().unwrap(), cosine);
        assert!((cosine.by_epoch(120)[60] - 0.00505).abs() < 1e-12);
        for text in ["cosine:1", "cosine:0:0", "cosine:0.1:1", "0:x"] {
            assert!(text.parse::<Rates>().is_err(), "{text}");
        }
        for text in ["", "5:0.1", "0:0.1,0:0.2", "0:0.1,x", "0:-1", "0:nan"] {
            assert!(text.parse::<Stages>().is_err(), "{text}");
        }
    }

    #[test]
    fn halving_is_the_papers() {
        let starts = |epochs, first| {
            let stages = Stages::halving(epochs, first, 1e-5, 0.1, 30).unwrap();
            stages.stages().iter().map(|(start, _)| *start).collect::<Vec<_>>()
        };
        assert_eq!(starts(90, 1e-1), [0, 30, 60, 75, 83]);
        assert_eq!(starts(60, 1e-2), [0, 30, 45, 53]);
        assert_eq!(starts(120, 1e-1), [0, 30, 60, 90, 105]);
        assert_eq!(starts(30, 1e-4), [0, 15]);
        assert!(Stages::halving(0, 0.1, 1e-5, 0.1, 30).is_err());
        assert!(Stages::halving(30, 1e-6, 1e-5, 0.1, 30).is_err());
    }

    #[test]
    fn what_is_left_after_pruning_is_a_schedule() {
        let whole: Stages = "0:1e-1,30:1e-2,60:1e-3,90:1e-4,105:1e-5".parse().unwrap();
        let rest = whole.from_epoch(15).unwrap();
        assert_eq!(rest, "0:1e-1,15:1e-2,45:1e-3,75:1e-4,90:1e-5".parse().unwrap());
        let stretched: Stages = "0:1e-1,60:1e-2,120:1e-3,180:1e-4,210:1e-5".parse().unwrap();
        assert_eq!(whole.stretched(2.0).unwrap(), stretched);
        assert!(whole.stretched(0.01).is_err());
        assert_eq!(whole.from_epoch(30).unwrap().first_stage(90), 30);
        let steps = Rates::Stages(rest).by_step(105, 10, 0).unwrap();
        assert_eq!([0, 149, 150, 1049].map(|step| steps.rate(step)), [1e-1, 1e-1, 1e-2, 1e-5]);
        // ResNet-34 at a ratio of 0.5.
        assert!((scratch_b(30, 90, 1.927_732) - 147.832).abs() < 1e-3);
    }
}
