//! Ranges of settings.

use leanburn_core::{Error, Result};

/// Counts of which at least one is needed.
pub(crate) fn counts(settings: &[(&str, usize)]) -> Result<()> {
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((field, value)) => Err(Error::setting(*field, "at least 1", value)),
        None => Ok(()),
    }
}

/// Probabilities of dropout.
pub(crate) fn dropouts(settings: &[(&str, f64)]) -> Result<()> {
    within(settings, "0 to below 1", |value| (0.0..1.0).contains(&value))
}

/// Shares of a whole.
pub(crate) fn shares(settings: &[(&str, f64)]) -> Result<()> {
    within(settings, "0 to 1", |value| (0.0..=1.0).contains(&value))
}

/// Positive, finite numbers.
pub(crate) fn positive(settings: &[(&str, f64)]) -> Result<()> {
    within(settings, "a positive number", |value| value.is_finite() && value > 0.0)
}

/// Finite numbers from 0.
pub(crate) fn not_negative(settings: &[(&str, f64)]) -> Result<()> {
    within(settings, "0 or a positive number", |value| value.is_finite() && value >= 0.0)
}

fn within(settings: &[(&str, f64)], expected: &str, accepts: impl Fn(f64) -> bool) -> Result<()> {
    match settings.iter().find(|(_, value)| !accepts(*value)) {
        Some((field, value)) => Err(Error::setting(*field, expected, value)),
        None => Ok(()),
    }
}
