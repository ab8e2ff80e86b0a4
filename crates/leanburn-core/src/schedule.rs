//! Learning-rate schedules, as functions of the step alone, so that a resumed run continues exactly.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays.
    Constant,
    /// Half a cosine from the base rate to `minimum` at the last step (Loshchilov and Hutter, 2017).
    Cosine {
        /// The rate at the end.
        minimum: f64,
    },
    /// `(1 - t)^power` from the base rate to 0; power 1 is linear.
    Polynomial {
        /// The power, above 0.
        power: f64,
    },
    /// Multiplied by `factor` at each milestone.
    MultiStep {
        /// Steps, ascending, counted from the start of training.
        milestones: Vec<usize>,
        /// The factor.
        factor: f64,
    },
    /// Other rates from some steps on.
    Stages {
        /// Steps, ascending, counted from the start of training, each with the rate from there on.
        rates: Vec<(usize, f64)>,
    },
}

/// A learning-rate schedule: a linear warm-up, then a [`Decay`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Schedule {
    base: f64,
    steps: usize,
    warmup: usize,
    decay: Decay,
}

/// A schedule as a file has it.
#[derive(Deserialize)]
struct Unchecked {
    base: f64,
    steps: usize,
    warmup: usize,
    decay: Decay,
}

impl TryFrom<Unchecked> for Schedule {
    type Error = Error;

    fn try_from(Unchecked { base, steps, warmup, decay }: Unchecked) -> Result<Self> {
        Self::new(base, steps, warmup, decay)
    }
}

impl Schedule {
    /// The schedule that reaches `base` after `warmup` steps and decays until step `steps`.
    ///
    /// # Errors
    ///
    /// When `base` is not positive and finite, when `warmup` is longer than `steps`, when milestones or the starts of
    /// stages do not ascend, when a rate is negative, or when a power is not positive.
    pub fn new(base: f64, steps: usize, warmup: usize, decay: Decay) -> Result<Self> {
        if !(base.is_finite() && base > 0.0) {
            return Err(Error::setting("learning_rate", "a positive number", base));
        }
        if warmup > steps {
            return Err(Error::setting("warmup", format!("at most the {steps} steps"), warmup));
        }
        match &decay {
            Decay::MultiStep { milestones, .. } if !milestones.is_sorted() => {
                return Err(Error::setting("milestones", "ascending steps", format!("{milestones:?}")));
            }
            Decay::Stages { rates } if !rates.is_sorted_by(|a, b| a.0 < b.0) => {
                return Err(Error::setting("rates", "ascending steps", format!("{rates:?}")));
            }
            Decay::Stages { rates } if rates.iter().any(|(_, rate)| !(rate.is_finite() && *rate >= 0.0)) => {
                return Err(Error::setting("rates", "rates from 0 on", format!("{rates:?}")));
            }
            Decay::Polynomial { power } if power.is_nan() || *power <= 0.0 => {
                return Err(Error::setting("power", "a positive number", power));
            }
            _ => {}
        }
        Ok(Self { base, steps, warmup, decay })
    }

    /// The rate of step `step`, counted from 0. Steps past the end keep the last rate.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.base * (step + 1) as f64 / self.warmup as f64;
        }
        let span = (self.steps - self.warmup).max(1) as f64;
        let progress = ((step - self.warmup) as f64 / span).min(1.0);
        match &self.decay {
            Decay::Constant => self.base,
            Decay::Cosine { minimum } => {
                minimum + (self.base - minimum) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Decay::Polynomial { power } => self.base * (1.0 - progress).powf(*power),
            Decay::MultiStep { milestones, factor } => {
                let passed = milestones.partition_point(|&milestone| milestone <= step);
                self.base * factor.powi(passed as i32)
            }
            Decay::Stages { rates } => {
                let passed = rates.partition_point(|&(start, _)| start <= step);
                if passed == 0 { self.base } else { rates[passed - 1].1 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_then_cosine() {
        let schedule = Schedule::new(0.1, 110, 10, Decay::Cosine { minimum: 0.001 }).unwrap();
        assert!((schedule.rate(0) - 0.01).abs() < 1e-12);
        assert!((schedule.rate(9) - 0.1).abs() < 1e-12);
        assert!((schedule.rate(10) - 0.1).abs() < 1e-12);
        assert!((schedule.rate(60) - 0.0505).abs() < 1e-12);
        assert!((schedule.rate(110) - 0.001).abs() < 1e-12);
        assert!((schedule.rate(500) - 0.001).abs() < 1e-12);
    }

    #[test]
    fn milestones_multiply() {
        let decay = Decay::MultiStep { milestones: vec![30, 60], factor: 0.1 };
        let schedule = Schedule::new(1.0, 90, 0, decay).unwrap();
        let rates: Vec<f64> = [0, 29, 30, 59, 60, 89].map(|step| schedule.rate(step)).to_vec();
        for (rate, expected) in rates.iter().zip([1.0, 1.0, 0.1, 0.1, 0.01, 0.01]) {
            assert!((rate - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn stages_have_their_rates() {
        let rates = vec![(10, 0.5), (20, 0.01)];
        let schedule = Schedule::new(1.0, 30, 2, Decay::Stages { rates }).unwrap();
        assert_eq!(
            [0, 1, 9, 10, 19, 20, 50].map(|step| schedule.rate(step)),
            [0.5, 1.0, 1.0, 0.5, 0.5, 0.01, 0.01]
        );
        for rates in [vec![(3, 0.1), (3, 0.2)], vec![(3, -0.1)], vec![(3, f64::NAN)]] {
            assert!(
                Schedule::new(1.0, 30, 2, Decay::Stages { rates }).unwrap_err().to_string().contains("rates")
            );
        }
    }

    #[test]
    fn linear_reaches_zero() {
        let schedule = Schedule::new(2.0, 10, 0, Decay::Polynomial { power: 1.0 }).unwrap();
        assert!((schedule.rate(5) - 1.0).abs() < 1e-12);
        assert!(schedule.rate(10).abs() < 1e-12);
    }

    #[test]
    fn bad_settings_name_the_field() {
        let error = Schedule::new(0.0, 10, 0, Decay::Constant).unwrap_err();
        assert!(error.to_string().contains("learning_rate"));
        let error = Schedule::new(1.0, 10, 11, Decay::Constant).unwrap_err();
        assert!(error.to_string().contains("warmup"));
        let decay = Decay::MultiStep { milestones: vec![3, 1], factor: 0.1 };
        assert!(Schedule::new(1.0, 10, 0, decay).unwrap_err().to_string().contains("milestones"));
        let saved = serde_json::to_string(&Schedule::new(1.0, 10, 3, Decay::Constant).unwrap()).unwrap();
        assert!(serde_json::from_str::<Schedule>(&saved).is_ok());
        let error = serde_json::from_str::<Schedule>(&saved.replace('3', "30")).unwrap_err();
        assert!(error.to_string().contains("warmup"));
    }
}
