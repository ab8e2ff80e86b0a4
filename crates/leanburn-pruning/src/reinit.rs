//! Weights made trainable again after pruning: isometry recovered, or drawn anew.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use faer::Mat;
use leanburn_core::{
    Error, Result,
    architecture::{Graph, Layer, LayerKind},
    metrics::mean_std,
    parallel::on_own_threads,
    random::Generator,
};
use serde::{Deserialize, Serialize};

use crate::State;

/// What follows a layer, which tells by what factor an isometry must make up for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Nothing.
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0.01 x)`.
    LeakyRelu,
}

impl Activation {
    /// Its value.
    pub(crate) fn of(self, x: f64) -> f64 {
        match self {
            Self::Linear => x,
            Self::Relu => x.max(0.0),
            Self::Tanh => x.tanh(),
            Self::LeakyRelu => x.max(0.01 * x),
        }
    }

    /// The factor, PyTorch's `calculate_gain`.
    pub fn gain(self) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Relu => 2.0_f64.sqrt(),
            Self::Tanh => 5.0 / 3.0,
            Self::LeakyRelu => (2.0 / (1.0 + 1e-4_f64)).sqrt(),
        }
    }
}

/// How weights are made anew. Where they are drawn, biases become 0 and batch norms 1 and 0; else they stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reinit {
    /// OrthP (Wang and Fu, 2021): the orthogonal factor of each weight's QR decomposition.
    OrthP,
    /// Random orthogonal rows (Saxe et al., 2014).
    Orthogonal,
    /// Random orthogonal rows in the middle of the kernel, and zeros around (Xiao et al., 2018).
    DeltaOrthogonal,
    /// Normal with deviation `sqrt(2 / fan_in)`.
    KaimingNormal,
    /// Uniform within `sqrt(6 / (fan_in + fan_out))`.
    XavierUniform,
    /// The weights as they are, rescaled to the deviation `sqrt(2 / fan_in)`.
    RescaleStd {
        /// What the deviation is multiplied by.
        factor: f64,
    },
    /// The weights as they are, times a factor.
    Rescale {
        /// The factor.
        factor: f64,
    },
    /// PyTorch's default (`pth_reset`): weights and biases uniform within `1 / sqrt(fan_in)`, as of a network from scratch.
    Uniform,
    /// Approximate isometry: gradient steps towards orthonormal rows.
    Approximate(ApproximateIsometry),
    /// The same from the weights of [`Uniform`](Self::Uniform) on (`AI_scratch`).
    ApproximateFromScratch(ApproximateIsometry),
}

/// Steps towards `W W^T = I`, of a fixed size in each weight: the published code makes its Adam anew at each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ApproximateIsometry {
    /// Number of steps; 10,000 as published.
    pub steps: usize,
    /// The size of a step; 1e-3 as published.
    pub rate: f64,
}

impl Default for ApproximateIsometry {
    fn default() -> Self {
        Self { steps: 10_000, rate: 1e-3 }
    }
}

impl Reinit {
    fn draws(&self) -> bool {
        self.resets()
            || matches!(
                self,
                Self::Orthogonal | Self::DeltaOrthogonal | Self::KaimingNormal | Self::XavierUniform
            )
    }

    /// Whether biases are drawn as those of a network from scratch.
    fn resets(&self) -> bool {
        matches!(self, Self::Uniform | Self::ApproximateFromScratch(_))
    }

    /// A state with weights made anew.
    ///
    /// - activation: what follows the layers; the factor is applied to all, the last one too, as published
    /// - device: for what is computed there
    ///
    /// # Errors
    ///
    /// When the state is of another network, a rescaled weight is constant, or a decomposition does not converge.
    pub fn apply<B: Backend>(
        &self,
        graph: &Graph,
        mut state: State,
        activation: Activation,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Result<State> {
        for layer in graph.layers() {
            if layer.is_learnable() {
                let name = format!("{}.weight", layer.name());
                let weight = state.tensor(&name)?.clone();
                let values = self.weight::<B>(layer, &weight, activation.gain(), generator, device)?;
                state.set(name, TensorData::new(values, weight.shape.clone()));
            }
            if self.draws() {
                clear(layer, &mut state)?;
            }
            if self.resets() && layer.is_learnable() && layer.has_bias() {
                let columns: usize =
                    state.tensor(&format!("{}.weight", layer.name()))?.shape[1..].iter().product();
                let count = layer.outputs().len();
                let bias = uniform::<B>(count, 1.0 / (columns as f64).sqrt(), generator, device);
                let bias = bias.into_iter().map(|value| value as f32).collect::<Vec<f32>>();
                state.set(format!("{}.bias", layer.name()), TensorData::new(bias, [count]));
            }
        }
        Ok(state)
    }

    fn weight<B: Backend>(
        &self,
        layer: &Layer,
        weight: &TensorData,
        gain: f64,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Result<Vec<f32>> {
        let rows = weight.shape[0];
        let columns: usize = weight.shape[1..].iter().product();
        let kernel: usize = weight.shape[2..].iter().product();
        let (fan_in, fan_out) = (columns as f64, (rows * kernel) as f64);
        let count = rows * columns;
        let old = || weight.iter::<f64>();
        let normals = |generator: &mut Generator, count: usize| -> Vec<f64> {
            generator.normals(count).into_iter().map(f64::from).collect()
        };
        let values: Vec<f64> = match self {
            Self::OrthP => times(orthogonal(&old().collect::<Vec<_>>(), rows, columns), gain),
            Self::Orthogonal => times(orthogonal(&normals(generator, count), rows, columns), gain),
            Self::DeltaOrthogonal => {
                let inputs = weight.shape[1];
                let square = rows.max(inputs);
                let matrix = orthogonal(&normals(generator, square * square), square, square);
                let mut values = vec![0.0; count];
                let middle = kernel / 2;
                for (row, input) in (0..rows).flat_map(|row| (0..inputs).map(move |input| (row, input))) {
                    values[(row * inputs + input) * kernel + middle] = gain * matrix[row * square + input];
                }
                values
            }
            Self::KaimingNormal => times(normals(generator, count), (2.0 / fan_in).sqrt()),
            Self::XavierUniform => uniform::<B>(count, (6.0 / (fan_in + fan_out)).sqrt(), generator, device),
            Self::Uniform => uniform::<B>(count, 1.0 / fan_in.sqrt(), generator, device),
            Self::Rescale { factor } => old().map(|value| value * factor).collect(),
            Self::RescaleStd { factor } => {
                let std = unbiased_std(&old().collect::<Vec<_>>());
                if std.is_nan() || std == 0.0 {
                    let location = format!("weight of layer `{}`", layer.name());
                    return Err(Error::data(location, "values that differ, to rescale", "equal ones"));
                }
                let scale = factor * (2.0 / fan_in).sqrt() / std;
                old().map(|value| value * scale).collect()
            }
            Self::Approximate(isometry) | Self::ApproximateFromScratch(isometry) => {
                let start: Vec<f64> = if self.resets() {
                    uniform::<B>(count, 1.0 / fan_in.sqrt(), generator, device)
                } else {
                    old().collect()
                };
                let start: Vec<f32> = start.into_iter().map(|value| value as f32).collect();
                let start = Tensor::<B, 1>::from_data(TensorData::new(start, [count]), device);
                let end = isometry.approach(start.reshape([rows, columns]), None);
                return Ok(end.into_data().iter::<f32>().collect());
            }
        };
        Ok(values.into_iter().map(|value| value as f32).collect())
    }
}

/// Numbers drawn uniformly within a bound.
fn uniform<B: Backend>(count: usize, bound: f64, generator: &mut Generator, device: &B::Device) -> Vec<f64> {
    let draws = generator.uniform::<B, 1>([count], -1.0, 1.0, device).into_data();
    draws.iter::<f64>().map(|draw| draw * bound).collect()
}

impl ApproximateIsometry {
    /// A matrix nearer to one with orthonormal rows.
    ///
    /// - weight: `[rows, columns]`
    /// - mask: 1 for each value that stays, applied before the first and after each step
    pub fn approach<B: Backend>(self, weight: Tensor<B, 2>, mask: Option<Tensor<B, 2>>) -> Tensor<B, 2> {
        let rows = weight.dims()[0];
        let identity = Tensor::<B, 2>::eye(rows, &weight.device());
        let masked = |weight: Tensor<B, 2>| match &mask {
            Some(mask) => weight * mask.clone(),
            None => weight,
        };
        let mut weight = masked(weight);
        for _ in 0..self.steps {
            let excess = weight.clone().matmul(weight.clone().transpose()) - identity.clone();
            let gradient = excess.matmul(weight.clone()) * (4.0 / (rows * rows) as f64);
            let step = gradient.clone() / (gradient.abs() + 1e-8) * self.rate;
            weight = masked(weight - step);
        }
        weight
    }
}

/// Biases 0, scales 1, shifts 0, running statistics 0 and 1.
fn clear(layer: &Layer, state: &mut State) -> Result<()> {
    let values: BTreeMap<&str, f32> = match layer.kind() {
        LayerKind::BatchNorm => {
            [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)].into()
        }
        _ if layer.has_bias() => [("bias", 0.0)].into(),
        _ => return Ok(()),
    };
    for (part, value) in values {
        let name = format!("{}.{part}", layer.name());
        let shape = state.tensor(&name)?.shape.clone();
        state.set(name, TensorData::new(vec![value; shape.num_elements()], shape));
    }
    Ok(())
}

/// The standard deviation with `n - 1`, as PyTorch's; not a number for a single value.
pub fn unbiased_std(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    mean_std(values).1 * (count / (count - 1.0)).sqrt()
}

fn times(values: Vec<f64>, factor: f64) -> Vec<f64> {
    values.into_iter().map(|value| value * factor).collect()
}

/// The orthogonal factor of a matrix, row by row: orthonormal rows, or columns where there are fewer of them. Its sign is
/// that of a triangular factor with a positive diagonal.
pub fn orthogonal(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let wide = rows < columns;
    let (height, width) = if wide { (columns, rows) } else { (rows, columns) };
    let matrix =
        Mat::from_fn(
            height,
            width,
            |i, j| if wide { values[j * columns + i] } else { values[i * columns + j] },
        );
    let (q, r) = on_own_threads(|| {
        let qr = matrix.qr();
        (qr.compute_thin_Q(), qr.thin_R().to_owned())
    });
    // A zero on the diagonal takes nothing away: the factor is orthogonal whatever the matrix's rank.
    let sign = |k: usize| if r[(k, k)] < 0.0 { -1.0 } else { 1.0 };
    let cell = |row: usize, column: usize| {
        if wide { q[(column, row)] * sign(row) } else { q[(row, column)] * sign(column) }
    };
    (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| cell(r, c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use leanburn_vision::{Architecture, sequential::SequentialConfig};

    fn products(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
        let cell = |i: usize, j: usize| -> f64 {
            (0..columns).map(|k| values[i * columns + k] * values[j * columns + k]).sum()
        };
        (0..rows * rows).map(|index| cell(index / rows, index % rows)).collect()
    }

    #[test]
    fn the_orthogonal_factor_is_orthogonal_whatever_the_rank() {
        let mut values: Vec<f64> = Generator::new(1).normals(12).into_iter().map(f64::from).collect();
        // The third row is a multiple of the first.
        for column in 0..4 {
            values[8 + column] = 2.0 * values[column];
        }
        let rows = orthogonal(&values, 3, 4);
        for (index, product) in products(&rows, 3, 4).iter().enumerate() {
            assert!((product - f64::from(u8::from(index % 4 == 0))).abs() < 1e-12, "{product}");
        }
        // The first row keeps its direction.
        assert!(rows[0] * values[0] > 0.0);
    }

    #[test]
    fn drawn_weights_have_their_laws() {
        let config = SequentialConfig::vgg(11, 10).unwrap();
        let device = Default::default();
        let mut generator = Generator::new(2);
        let network = config.init::<Flex>(&mut generator, &device).unwrap();
        let graph = config.graph([32, 32]).unwrap();
        let state = State::of::<_, Flex>(&config, &network).unwrap();
        let mut apply = |reinit: Reinit| {
            reinit.apply::<Flex>(&graph, state.clone(), Activation::Relu, &mut generator, &device).unwrap()
        };
        let conv = "features.8.weight";
        let deviation = |state: &State| {
            let values: Vec<f64> = state.tensor(conv).unwrap().iter::<f64>().collect();
            leanburn_core::metrics::mean_std(&values).1
        };
        let (fan_in, fan_out) = (128.0 * 9.0, 256.0 * 9.0);
        let kaiming = apply(Reinit::KaimingNormal);
        assert!((deviation(&kaiming) / (2.0_f64 / fan_in).sqrt() - 1.0).abs() < 0.02);
        assert!(kaiming.tensor("classifier.bias").unwrap().iter::<f32>().all(|bias| bias == 0.0));
        let xavier = apply(Reinit::XavierUniform);
        assert!((deviation(&xavier) / (2.0_f64 / (fan_in + fan_out)).sqrt() - 1.0).abs() < 0.02);
        let reset = apply(Reinit::Uniform);
        let largest = |state: &State, name: &str| {
            state
                .tensor(name)
                .unwrap()
                .iter::<f64>()
                .fold(0.0, |largest: f64, value| largest.max(value.abs()))
        };
        let bound = 1.0 / fan_in.sqrt();
        assert!(largest(&reset, conv) <= bound && largest(&reset, conv) > 0.99 * bound);
        let bias = largest(&reset, "classifier.bias");
        assert!(bias > 0.0 && bias <= 1.0 / 512.0_f64.sqrt(), "{bias}");
        let steps = ApproximateIsometry { steps: 1, rate: 1e-4 };
        let stepped = apply(Reinit::ApproximateFromScratch(steps));
        assert!(largest(&stepped, conv) <= bound + 1.1e-4 && stepped != apply(Reinit::Approximate(steps)));
        let rescaled = apply(Reinit::RescaleStd { factor: 1.5 });
        assert!((deviation(&rescaled) / (1.5 * (2.0_f64 / fan_in).sqrt()) - 1.0).abs() < 1e-3);
        assert_eq!(rescaled.tensor("classifier.bias").unwrap(), state.tensor("classifier.bias").unwrap());
        let delta = apply(Reinit::DeltaOrthogonal);
        let values: Vec<f64> = delta.tensor(conv).unwrap().iter::<f64>().collect();
        assert!(
            values.chunks(9).all(|kernel| kernel.iter().enumerate().all(|(tap, v)| tap == 4 || *v == 0.0))
        );
        // 256 rows of 128: the columns are orthonormal, times the gain.
        let centre: Vec<f64> = values.iter().skip(4).step_by(9).copied().collect();
        let column: f64 = (0..256).map(|row| centre[row * 128 + 7].powi(2)).sum();
        assert!((column - 2.0).abs() < 1e-4, "{column}");
    }

    #[test]
    fn steps_lead_towards_isometry() {
        let device = Default::default();
        let weight: Tensor<Flex, 2> = Generator::new(1).normal([4, 20], &device) * 0.2;
        let distance = |weight: &Tensor<Flex, 2>| {
            let values: Vec<f64> = weight.to_data().iter::<f64>().collect();
            products(&values, 4, 20)
                .iter()
                .enumerate()
                .map(|(index, product)| (product - f64::from(u8::from(index % 5 == 0))).powi(2))
                .sum::<f64>()
        };
        let isometry = ApproximateIsometry { steps: 400, rate: 1e-3 };
        assert!(distance(&isometry.approach(weight.clone(), None)) < 0.01 * distance(&weight));
        let mask = Generator::new(2).uniform::<Flex, 2>([4, 20], 0.0, 1.0, &device).greater_elem(0.5).float();
        let masked = isometry.approach(weight, Some(mask.clone()));
        assert_eq!((masked * (mask.neg() + 1.0)).abs().max().into_scalar(), 0.0);
    }

    #[test]
    fn constant_weights_cannot_be_rescaled() {
        let config = SequentialConfig::mlp([1, 2, 2], &[3, 2], true);
        let network = config.init::<Flex>(&mut Generator::new(1), &Default::default()).unwrap();
        let mut state = State::of::<_, Flex>(&config, &network).unwrap();
        state.set("net.0.weight".to_owned(), TensorData::new(vec![0.5_f32; 12], [3, 4]));
        let graph = config.graph([2, 2]).unwrap();
        let reinit = Reinit::RescaleStd { factor: 1.0 };
        let error = reinit.apply::<Flex>(
            &graph,
            state,
            Activation::Relu,
            &mut Generator::new(1),
            &Default::default(),
        );
        assert!(error.unwrap_err().to_string().contains("net.0"));
    }
}
