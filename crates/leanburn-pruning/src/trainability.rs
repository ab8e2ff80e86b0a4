//! How well a network can be trained: the singular values of its Jacobian (Saxe et al., 2014), which pruning makes small.
//!
//! A network whose input-output Jacobian has all singular values near 1 (dynamical isometry) passes gradients on as they
//! are. Their mean ("mean JSV") falls when filters go, by more than accuracy tells, and retraining needs a larger
//! learning rate, or more time, until it has recovered.

use burn::{
    module::AutodiffModule,
    tensor::{Tensor, backend::AutodiffBackend},
};
use faer::Mat;
use leanburn_core::{Error, Result, metrics::mean_std, parallel::on_own_threads, random::Generator};
use leanburn_vision::Classifier;
use serde::{Deserialize, Serialize};
#[cfg(feature = "train")]
use {
    leanburn_core::train::{EpochReport, Hook},
    leanburn_vision::train::Supervised,
    std::sync::{Arc, Mutex, PoisonError},
};

/// How batch norm computes while the Jacobian is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By its running statistics: each sample has a Jacobian of its own.
    Eval,
    /// By the batch's statistics, as the published program measures: what is measured for a sample is the derivative of
    /// the sum of all samples' outputs.
    Train,
}

/// The singular values of Jacobians, by sample, each sample's in descending order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SingularValues(Vec<Vec<f64>>);

impl SingularValues {
    /// The singular values of `d logits / d input` for each image, exactly: one backward pass a class.
    ///
    /// - images: `[batch, channels, height, width]`, on a device that records gradients
    ///
    /// # Errors
    ///
    /// When the device does not record gradients, or a derivative is not finite.
    pub fn measure<B, N>(network: &N, images: Tensor<B, 4>, mode: Mode) -> Result<Self>
    where
        B: AutodiffBackend,
        N: Classifier<B> + AutodiffModule<B>,
    {
        leanburn_core::train::check_records_gradients::<B>(&images.device())?;
        let network = copy(network, mode);
        let [batch, channels, height, width] = images.dims();
        let inputs = channels * height * width;
        let classes = network.forward(images.clone()).dims()[1];
        let rows = (0..classes).map(|class| {
            let gradient = pull_back(&network, images.clone(), |logits| logits.narrow(1, class, 1).sum());
            Ok(gradient.into_data().iter::<f64>().collect::<Vec<f64>>())
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        if rows.iter().flatten().any(|value| !value.is_finite()) {
            return Err(Error::data("Jacobian", "finite derivatives", "others"));
        }
        let samples: Vec<usize> = (0..batch).collect();
        // The triangular factor has the singular values of the whole matrix and is as small as the classes.
        let values = on_own_threads(|| {
            let of_sample = |&sample: &usize| {
                let transposed =
                    Mat::from_fn(inputs, classes, |input, class| rows[class][sample * inputs + input]);
                let singular = transposed.qr().thin_R().singular_values().map_err(|_| {
                    Error::data("Jacobian", "singular values", "a decomposition that does not converge")
                })?;
                Ok(singular)
            };
            samples.iter().map(of_sample).collect::<Result<Vec<_>>>()
        })?;
        Ok(Self(values))
    }

    /// The values of several batches together.
    pub fn concat(batches: impl IntoIterator<Item = Self>) -> Self {
        Self(batches.into_iter().flat_map(|batch| batch.0).collect())
    }

    /// By sample, in descending order.
    pub fn by_sample(&self) -> &[Vec<f64>] {
        &self.0
    }

    /// What they are on the whole.
    pub fn summary(&self) -> Summary {
        let all: Vec<f64> = self.0.iter().flatten().copied().collect();
        let (mean, std) = mean_std(&all);
        let deviations: Vec<f64> = all.iter().map(|value| (value - 1.0).powi(2)).collect();
        let (deviation_mean, deviation_std) = mean_std(&deviations);
        let conditions: Vec<f64> = self
            .0
            .iter()
            .filter_map(|values| Some(values.first()? / values.last()?))
            .filter(|condition| !condition.is_nan())
            .collect();
        Summary {
            mean,
            std,
            max: all.iter().copied().fold(f64::MIN, f64::max),
            min: all.iter().copied().fold(f64::MAX, f64::min),
            condition: mean_std(&conditions).0,
            deviation_mean,
            deviation_std,
        }
    }
}

/// Singular values on the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The mean ("mean JSV").
    pub mean: f64,
    /// The population's standard deviation.
    pub std: f64,
    /// The largest.
    pub max: f64,
    /// The smallest.
    pub min: f64,
    /// The mean of the samples' condition numbers, the largest value over the smallest.
    pub condition: f64,
    /// The mean of `(s - 1)^2`, 0 under dynamical isometry.
    pub deviation_mean: f64,
    /// The population's standard deviation of `(s - 1)^2`.
    pub deviation_std: f64,
}

/// An estimate of the root mean squared singular value, for inputs or classes too many for the exact values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The root of the mean of all squared singular values; never below the mean JSV.
    pub root_mean_square: f64,
    /// The standard error of its square's estimate, as a part of it.
    pub relative_error: f64,
}

/// Estimates the root mean squared singular value by random combinations of the logits (Hutchinson, 1990): one backward
/// pass a probe, whatever the number of classes.
///
/// - images: `[batch, channels, height, width]`, on a device that records gradients
/// - probes: at least 2
///
/// # Errors
///
/// When the device does not record gradients, there are too few probes, or a derivative is not finite.
pub fn estimate<B, N>(
    network: &N,
    images: Tensor<B, 4>,
    mode: Mode,
    probes: usize,
    generator: &mut Generator,
) -> Result<Estimate>
where
    B: AutodiffBackend,
    N: Classifier<B> + AutodiffModule<B>,
{
    leanburn_core::train::check_records_gradients::<B>(&images.device())?;
    if probes < 2 {
        return Err(Error::setting("probes", "at least 2", probes));
    }
    let network = copy(network, mode);
    let [batch, classes] = network.forward(images.clone()).dims();
    let squares = (0..probes).map(|_| {
        let probe: Tensor<B, 2> = generator.normal([batch, classes], &images.device());
        let gradient = pull_back(&network, images.clone(), |logits| (logits * probe).sum());
        let square: f64 = gradient.into_data().iter::<f64>().map(|value| value * value).sum();
        square / (batch * classes) as f64
    });
    let squares: Vec<f64> = squares.collect();
    let (mean, std) = mean_std(&squares);
    if !mean.is_finite() {
        return Err(Error::data("Jacobian", "finite derivatives", "others"));
    }
    let relative_error = std / (probes as f64).sqrt() / mean;
    Ok(Estimate { root_mean_square: mean.sqrt(), relative_error })
}

/// The network whose norms compute as asked, with running statistics of its own: measuring must not move the network's.
fn copy<B: AutodiffBackend, N: Classifier<B> + AutodiffModule<B>>(network: &N, mode: Mode) -> N {
    N::from_inner(network.valid()).with_frozen_norms(mode == Mode::Eval)
}

/// The gradient of a function of the logits with respect to the images.
fn pull_back<B: AutodiffBackend, N: Classifier<B>>(
    network: &N,
    images: Tensor<B, 4>,
    function: impl FnOnce(Tensor<B, 2>) -> Tensor<B, 1>,
) -> Tensor<B::InnerBackend, 4> {
    let images = images.detach().require_grad();
    let gradients = function(network.forward(images.clone())).backward();
    images.grad(&gradients).unwrap_or_else(|| Tensor::zeros(images.dims(), &images.device()))
}

/// Measures singular values while a network trains, after each `every` epochs. A
/// [hook](leanburn_core::train::Hook); its clones share what was measured.
#[cfg(feature = "train")]
#[derive(Debug, Clone)]
pub struct Curve<B: AutodiffBackend> {
    images: Tensor<B, 4>,
    mode: Mode,
    every: usize,
    measured: Arc<Mutex<Vec<(usize, Summary)>>>,
}

#[cfg(feature = "train")]
impl<B: AutodiffBackend> Curve<B> {
    /// - images: `[batch, channels, height, width]`, on a device that records gradients
    /// - every: how many epochs lie between
    ///
    /// # Errors
    ///
    /// When `every` is 0, or the device does not record gradients.
    pub fn new(images: Tensor<B, 4>, mode: Mode, every: usize) -> Result<Self> {
        leanburn_core::train::check_records_gradients::<B>(&images.device())?;
        if every == 0 {
            return Err(Error::setting("every", "at least 1", 0));
        }
        Ok(Self { images, mode, every, measured: Arc::default() })
    }

    /// What was measured, with the epochs, which are counted from 1.
    pub fn measured(&self) -> Vec<(usize, Summary)> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(feature = "train")]
impl<B, N> Hook<B, Supervised<B, N>> for Curve<B>
where
    B: AutodiffBackend,
    N: Classifier<B> + AutodiffModule<B>,
    N::InnerModule: Classifier<B::InnerBackend>,
{
    fn epoch_ended(&mut self, report: &EpochReport, model: &Supervised<B, N>) -> Result<()> {
        if report.epoch.is_multiple_of(self.every) {
            let values = SingularValues::measure(&model.network, self.images.clone(), self.mode)?;
            let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
            measured.push((report.epoch, values.summary()));
        }
        Ok(())
    }

    fn state(&self) -> serde_json::Value {
        serde_json::to_value(self.measured()).expect("numbers are JSON")
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        let measured = serde_json::from_value(state)
            .map_err(|error| Error::data("state of a curve of singular values", "what it saved", error))?;
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = measured;
        Ok(())
    }
}

/// The mean accuracy over the first stage of a learning-rate schedule: how fast a network learns again ("trainability
/// accuracy"). Only under the same schedule does it compare.
///
/// - accuracies: by epoch
/// - `first_stage`: epochs of the first stage
///
/// # Errors
///
/// When there are not as many epochs, or none.
pub fn trainability_accuracy(accuracies: &[f64], first_stage: usize) -> Result<f64> {
    if first_stage == 0 || accuracies.len() < first_stage {
        let expected = format!("accuracies of the {first_stage} epochs of the first stage, at least one");
        return Err(Error::data("accuracies", expected, accuracies.len()));
    }
    Ok(accuracies[..first_stage].iter().sum::<f64>() / first_stage as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Ratios, Selection, State,
        reinit::{Activation, Reinit},
        surgery::remove,
    };
    use burn::backend::Autodiff;
    use burn_flex::Flex;
    use leanburn_vision::{
        Architecture,
        resnet::ResNetConfig,
        sequential::{Layer, SequentialConfig},
    };

    type Training = Autodiff<Flex>;

    fn network<A: Architecture>(config: &A) -> A::Network<Training> {
        config.init(&mut Generator::new(4), &Default::default()).unwrap()
    }

    fn images(shape: [usize; 4]) -> Tensor<Training, 4> {
        Generator::new(8).normal(shape, &Default::default())
    }

    #[test]
    fn a_linear_networks_values_are_those_of_the_product_of_its_weights() {
        let config = SequentialConfig::mlp([1, 4, 4], &[12, 9, 5], false);
        let network = network(&config);
        let values = SingularValues::measure(&network, images([3, 1, 4, 4]), Mode::Eval).unwrap();
        let weights = network.layers.iter().filter_map(|layer| match layer {
            Layer::Linear(linear) => Some(linear.weight.val()),
            _ => None,
        });
        let product = weights.reduce(Tensor::matmul).unwrap().into_data();
        let cells: Vec<f64> = product.iter::<f64>().collect();
        let expected = Mat::from_fn(16, 5, |i, j| cells[i * 5 + j]).singular_values().unwrap();
        for sample in values.by_sample() {
            for (found, expected) in sample.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * expected, "{sample:?} and {expected:?}");
            }
        }
        let mean_square = expected.iter().map(|s| s * s).sum::<f64>() / 5.0;
        let mut generator = Generator::new(1);
        let estimated = estimate(&network, images([8, 1, 4, 4]), Mode::Eval, 200, &mut generator).unwrap();
        assert!((estimated.root_mean_square / mean_square.sqrt() - 1.0).abs() < 0.05, "{estimated:?}");
        assert!(estimated.relative_error < 0.05);
    }

    #[test]
    fn pruning_loses_isometry_and_orthp_brings_it_back() {
        let config = SequentialConfig::mlp7(10, false);
        let network = network(&config);
        let mean = |network: &_| {
            SingularValues::measure(network, images([2, 1, 32, 32]), Mode::Eval).unwrap().summary()
        };
        let graph = config.graph([32, 32]).unwrap();
        let state = State::of::<_, Training>(&config, &network).unwrap();
        let kept = Selection::new().select(&graph, &state, None, &Ratios::Uniform(0.8)).unwrap();
        let (smaller, removed) = remove::<_, Training>(&config, &network, &kept, [32, 32]).unwrap();
        assert!(mean(&removed).mean < 0.3 * mean(&network).mean);
        let graph = smaller.graph([32, 32]).unwrap();
        let state = State::of::<_, Training>(&smaller, &removed).unwrap();
        let device = Default::default();
        let state = Reinit::OrthP
            .apply::<Flex>(&graph, state, Activation::Linear, &mut Generator::new(1), &device)
            .unwrap();
        let recovered = state.network::<_, Training>(&smaller, &device).unwrap();
        let summary = mean(&recovered);
        assert!((summary.mean - 1.0).abs() < 1e-4 && summary.std < 1e-4, "{summary:?}");
        assert!((summary.condition - 1.0).abs() < 1e-4);
    }

    #[test]
    fn measuring_moves_no_statistics() {
        let config = ResNetConfig::cifar_blocks(&[1, 1], 4, 3, false);
        let network = network(&config);
        network.forward(images([4, 3, 8, 8]));
        let before = State::of::<_, Training>(&config, &network).unwrap();
        let measure = |mode| SingularValues::measure(&network, images([4, 3, 8, 8]), mode).unwrap();
        assert_ne!(measure(Mode::Train), measure(Mode::Eval));
        assert_eq!(State::of::<_, Training>(&config, &network).unwrap(), before);
        // Eval mode does not couple the samples.
        let one =
            SingularValues::measure(&network, images([4, 3, 8, 8]).narrow(0, 2, 1), Mode::Eval).unwrap();
        for (one, all) in one.by_sample()[0].iter().zip(&measure(Mode::Eval).by_sample()[2]) {
            assert!((one - all).abs() < 1e-5 * all);
        }
    }

    #[test]
    fn accuracy_is_of_the_first_stage() {
        assert_eq!(trainability_accuracy(&[10.0, 20.0, 90.0], 2).unwrap(), 15.0);
        assert!(trainability_accuracy(&[10.0], 2).is_err());
        assert!(trainability_accuracy(&[10.0], 0).is_err());
        let config = SequentialConfig::mlp([1, 2, 2], &[3, 2], true);
        let mut generator = Generator::new(1);
        let one = estimate(&network(&config), images([1, 1, 2, 2]), Mode::Eval, 1, &mut generator);
        assert!(one.unwrap_err().to_string().contains("probes"));
    }
}
