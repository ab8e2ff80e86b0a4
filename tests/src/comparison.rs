//! Comparing what a runner computed with what the reference gave.

use std::collections::{BTreeMap, BTreeSet};

use leanburn::{
    burn::tensor::{BasicOps, DType, Tensor, TensorData, TensorKind, backend::Backend},
    core::{Error, Result},
};

use crate::case::{Case, Comparison, Expected};

/// What a runner computed, by the names of the manifest.
#[derive(Default)]
pub struct Outputs(BTreeMap<String, TensorData>);

impl Outputs {
    /// Adds a tensor.
    pub fn tensor<B: Backend, const D: usize, K: TensorKind<B> + BasicOps<B>>(
        &mut self,
        name: impl Into<String>,
        tensor: Tensor<B, D, K>,
    ) {
        self.0.insert(name.into(), tensor.into_data());
    }

    /// Adds values.
    pub fn data(&mut self, name: impl Into<String>, data: TensorData) {
        self.0.insert(name.into(), data);
    }

    /// Adds all of others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Adds a list of numbers.
    pub fn list(&mut self, name: impl Into<String>, values: Vec<f64>) {
        let count = values.len();
        self.0.insert(name.into(), TensorData::new(values, [count]));
    }

    /// Adds a list of whole numbers.
    pub fn ints(&mut self, name: impl Into<String>, values: Vec<i64>) {
        let count = values.len();
        self.0.insert(name.into(), TensorData::new(values, [count]));
    }
}

/// How far a tensor is from its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Deviation {
    /// In units of its tolerance: at most 1 when the tensor passes.
    pub deviation: f64,
    /// The tensor.
    pub tensor: String,
}

/// Compares every expected tensor; in the manifest's order.
///
/// - slack: by what the tolerances are multiplied
///
/// # Errors
///
/// When a tensor was not computed, or has another shape.
pub fn compare(case: &Case, outputs: &Outputs, slack: f64) -> Result<Vec<Deviation>> {
    if case.expected().is_empty() {
        return Err(Error::data("manifest, expected", "at least one tensor", "none"));
    }
    let compared = case.expected().iter().map(|expected| {
        let reference = case.reference(&expected.name)?;
        let error =
            |wanted: String, found: String| Error::data(format!("output `{}`", expected.name), wanted, found);
        let output = outputs
            .0
            .get(&expected.name)
            .ok_or_else(|| error("a tensor".to_owned(), "none computed".to_owned()))?;
        let output = taken(expected, output).ok_or_else(|| {
            error(format!("to take {:?}", expected.take), format!("shape {:?}", output.shape))
        })?;
        if expected.compare == Some(Comparison::IndexSet) {
            let [ours, theirs] =
                [&output, &reference].map(|data| data.iter::<i64>().collect::<BTreeSet<i64>>());
            let differing = ours.symmetric_difference(&theirs).count();
            let deviation = if differing <= expected.max_differing { 0.0 } else { f64::INFINITY };
            return Ok(Deviation { deviation, tensor: expected.name.clone() });
        }
        if output.shape != reference.shape {
            return Err(error(format!("shape {:?}", reference.shape), format!("{:?}", output.shape)));
        }
        let (output, reference) = if expected.compare == Some(Comparison::ValidPositions) {
            let valid = case.valid_positions()?;
            [output, reference].map(|data| at_positions(&data, expected.time_axis, &valid)).into()
        } else {
            (output, reference)
        };
        let deviation = deviation(expected, &output, &reference, slack);
        Ok(Deviation { deviation, tensor: expected.name.clone() })
    });
    compared.collect()
}

/// The values at some positions, whose sequences the first dimension counts.
fn at_positions(data: &TensorData, axis: usize, valid: impl Fn(usize, usize) -> bool) -> TensorData {
    let below: usize = data.shape[axis + 1..].iter().product();
    let each: usize = data.shape[1..].iter().product();
    let values = data.iter::<f64>().enumerate().filter(|(place, _)| {
        let position = place / below % data.shape[axis];
        valid(place / each, position)
    });
    let values: Vec<f64> = values.map(|(_, value)| value).collect();
    let count = values.len();
    TensorData::new(values, [count])
}

/// The part of an output that is stored.
fn taken(expected: &Expected, output: &TensorData) -> Option<TensorData> {
    let Some(take) = &expected.take else {
        return Some(output.clone());
    };
    let kept: usize = take.strip_prefix("columns")?.parse().ok()?;
    let columns = *output.shape.last()?;
    if columns < kept {
        return None;
    }
    let mut shape = output.shape.clone();
    *shape.last_mut()? = kept;
    let values: Vec<f64> = output.iter::<f64>().collect();
    let values: Vec<f64> = values.chunks(columns).flat_map(|row| row.iter().take(kept).copied()).collect();
    Some(TensorData::new(values, shape))
}

fn deviation(expected: &Expected, output: &TensorData, reference: &TensorData, slack: f64) -> f64 {
    // Whole numbers are counts and labels: no slack makes another one right.
    let slack = if matches!(reference.dtype, DType::I64) { 1.0 } else { slack };
    output
        .iter::<f64>()
        .zip(reference.iter::<f64>())
        .map(|(ours, theirs)| {
            let tolerance = slack * (expected.atol + expected.rtol * theirs.abs()) + expected.max_off as f64;
            match (ours - theirs).abs() {
                0.0 => 0.0,
                // NaN compares with nothing: it must not pass.
                difference if difference.is_nan() => f64::INFINITY,
                difference => difference / tolerance,
            }
        })
        .fold(0.0, f64::max)
}
