use burn::{
    config::Config,
    module::{AutodiffModule, Module, Param},
    nn::{
        PaddingConfig1d,
        conv::{Conv1d, Conv1dConfig},
    },
    optim::{AdamConfig, GradientsParams, Optimizer},
    tensor::{
        Int, Tensor, TensorData,
        activation::{leaky_relu, log_softmax},
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
};
use leanburn_core::{
    Error, Result,
    random::{Generator, streams},
    table::Table,
    train,
};

use super::{Baseline, check_rows};
use crate::{
    preprocessing::{Preprocessing, PreprocessingConfig},
    sla2p::Projections,
};

/// Added to the distance to the own centre, so that the nearest other centre is the minimum.
const OWN_CENTRE: f64 = 1e6;

/// Depth of GOAD's network.
#[derive(Config, Debug, PartialEq, Eq)]
pub enum GoadDepth {
    /// One convolution (`netC1`).
    One,
    /// Five convolutions (`netC5`).
    Five,
}

/// GOAD (Bergman and Hoshen, "Classification-Based Anomaly Detection for General Data", ICLR 2020) for tables: a network
/// of 1x1 convolutions tells random projections apart, with a loss that keeps each projection's embeddings together.
///
/// It is meant for clean training rows; the published protocol fits it on half of the normal ones.
#[derive(Config, Debug)]
pub struct GoadConfig {
    /// Number of projections K.
    pub projections: usize,
    /// Width D of a projected row.
    pub width: usize,
    /// Channels of the network.
    pub channels: usize,
    /// Passes over the table.
    pub epochs: usize,
    /// The network. Default: `GoadDepth::Five`
    #[config(default = "GoadDepth::Five")]
    pub depth: GoadDepth,
    /// Weight of the triplet-centre loss. Default: 0.1
    #[config(default = 0.1)]
    pub lambda: f64,
    /// Margin between the own and the nearest other centre. Default: 1
    #[config(default = 1.0)]
    pub margin: f64,
    /// Least squared distance in the score. Default: 0
    #[config(default = 0.0)]
    pub epsilon: f64,
    /// Slope of the leaky rectifier for negative values. Default: 0.2
    #[config(default = 0.2)]
    pub leaky_slope: f64,
    /// Rows a training step. Default: 64
    #[config(default = 64)]
    pub batch_size: usize,
    /// Adam's learning rate. Default: 1e-3
    #[config(default = 1e-3)]
    pub learning_rate: f64,
    /// Seed of the projections, the initial weights and the order of training. Default: 0
    #[config(default = 0)]
    pub seed: u64,
}

impl GoadConfig {
    /// Arrhythmia and Thyroid.
    pub fn arrhythmia() -> Self {
        Self::new(256, 32, 8, 1).with_depth(GoadDepth::One)
    }

    /// KDDCUP99.
    pub fn kddcup99() -> Self {
        Self::new(64, 64, 32, 25)
    }

    /// KDDCUP99 with attacks as the anomalies.
    pub fn kddcup99_reversed() -> Self {
        Self::new(256, 128, 128, 25)
    }

    /// The network with PyTorch's default initialisation, drawn from `generator`.
    pub fn init<B: Backend>(&self, generator: &mut Generator, device: &B::Device) -> GoadNetwork<B> {
        let depth = match self.depth {
            GoadDepth::One => 1,
            GoadDepth::Five => 5,
        };
        let mut width = self.width;
        let mut layer = |outputs: usize, bias: bool| {
            let inputs = std::mem::replace(&mut width, outputs);
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut layer = Conv1dConfig::new(inputs, outputs, 1)
                .with_padding(PaddingConfig1d::Valid)
                .with_bias(bias)
                .init(device);
            layer.weight = Param::from_tensor(generator.uniform([outputs, inputs, 1], -bound, bound, device));
            layer.bias =
                bias.then(|| Param::from_tensor(generator.uniform([outputs], -bound, bound, device)));
            layer
        };
        GoadNetwork {
            trunk: (0..depth).map(|_| layer(self.channels, false)).collect(),
            head: layer(self.projections, true),
            leaky_slope: self.leaky_slope,
        }
    }

    /// Fits the network on a table of rows that are meant to be normal, standardised by its own statistics.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, the table has one row, or the device does not record gradients.
    pub fn fit<B: AutodiffBackend>(
        &self,
        table: &Table,
        device: &B::Device,
    ) -> Result<Goad<B::InnerBackend>> {
        check_rows(table)?;
        for (field, value, least) in [
            ("projections", self.projections, 2),
            ("width", self.width, 1),
            ("channels", self.channels, 1),
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1),
        ] {
            if value < least {
                return Err(Error::setting(field, format!("at least {least}"), value));
            }
        }
        train::check_records_gradients::<B>(device)?;
        let preprocessing =
            PreprocessingConfig::new().with_standardise(true).with_unit_rows(false).fit(table);
        let projections = Projections::from_seed(self.seed, self.projections, table.columns(), self.width);
        // K matrices side by side: [columns, K D].
        let matrices = Tensor::cat(
            (0..self.projections).map(|index| projections.matrix(index, device.inner())).collect(),
            1,
        );
        let mut network = self.init::<B>(&mut Generator::stream(self.seed, streams::INITIAL_WEIGHTS), device);
        let mut optimizer = AdamConfig::new().with_beta_1(0.5).with_epsilon(1e-8).init();
        let mut order = Generator::stream(self.seed, streams::ORDER);
        let mut centres = None;
        for epoch in 0..self.epochs {
            let rows = order.permutation(table.rows());
            let batches = rows.chunks(self.batch_size);
            let count = batches.len() as f64;
            for batch in batches {
                let rows = preprocessing.rows(table, batch.iter().copied())?;
                let projected = project(Tensor::from_data(rows, device.inner()), &matrices, self.projections);
                let (embedding, logits) = network.forward(Tensor::from_inner(projected));
                let losses = self.loss(embedding, logits);
                if epoch + 1 == self.epochs {
                    let share = losses.centres.inner() / count;
                    centres = Some(match centres {
                        Some(sum) => share + sum,
                        None => share,
                    });
                }
                let gradients = GradientsParams::from_grads(losses.total.backward(), &network);
                network = optimizer.step(self.learning_rate, network, gradients);
            }
        }
        let centres = centres.expect("there is an epoch and a batch");
        Ok(Goad { config: self.clone(), preprocessing, matrices, network: network.valid(), centres })
    }

    /// The training objective of a batch.
    ///
    /// - embedding: `[batch, channels, K]`
    /// - logits: `[batch, K, K]`, classes before projections
    pub fn loss<B: Backend>(&self, embedding: Tensor<B, 3>, logits: Tensor<B, 3>) -> GoadLoss<B> {
        let [batch, _, count] = embedding.dims();
        let device = embedding.device();
        let embedding = embedding.swap_dims(1, 2);
        let centres = embedding.clone().mean_dim(0).squeeze_dim::<2>(0);
        let distances = relative_distances(embedding, centres.clone());
        let own = diagonal(distances.clone());
        let others = Tensor::eye(count, &device).unsqueeze_dim::<3>(0) * OWN_CENTRE;
        let nearest = (distances + others).min_dim(2).squeeze_dim::<2>(2);
        let triplet = (own + self.margin - nearest).clamp_min(0.0).mean();
        let labels =
            Tensor::<B, 1, Int>::arange(0..count as i64, &device).reshape([1, 1, count]).repeat_dim(0, batch);
        let cross_entropy = log_softmax(logits, 1).gather(1, labels).mean().neg();
        let total = triplet.clone() * self.lambda + cross_entropy.clone();
        GoadLoss { triplet, cross_entropy, total, centres }
    }

    /// The anomaly score of embeddings: `sum_t -log softmax_t'(-max(||z_t - c_t'||^2, epsilon))[t]`.
    ///
    /// - embedding: `[rows, channels, K]`
    /// - centres: `[K, channels]`
    /// - output: `[rows]`
    pub fn score<B: Backend>(&self, embedding: Tensor<B, 3>, centres: Tensor<B, 2>) -> Tensor<B, 1> {
        let embedding = embedding.swap_dims(1, 2);
        // The least distance, relative to the embedding's length as the distances are.
        let least = embedding.clone().square().sum_dim(2).neg() + self.epsilon;
        let distances = relative_distances(embedding, centres);
        let [_, _, count] = distances.dims();
        let distances = distances.max_pair(least.repeat_dim(2, count));
        diagonal(log_softmax(distances.neg(), 2)).sum_dim(1).squeeze_dim::<1>(1).neg()
    }
}

/// GOAD's network of 1x1 convolutions over projected rows `[batch, D, K]`.
#[derive(Module, Debug)]
pub struct GoadNetwork<B: Backend> {
    trunk: Vec<Conv1d<B>>,
    head: Conv1d<B>,
    leaky_slope: f64,
}

impl<B: Backend> GoadNetwork<B> {
    /// Embeddings `[batch, channels, K]` and logits `[batch, K, K]`, classes before projections.
    ///
    /// - input: `[batch, D, K]`
    pub fn forward(&self, input: Tensor<B, 3>) -> (Tensor<B, 3>, Tensor<B, 3>) {
        let mut x = input;
        for (index, layer) in self.trunk.iter().enumerate() {
            if index > 0 {
                x = leaky_relu(x, self.leaky_slope);
            }
            x = layer.forward(x);
        }
        let logits = self.head.forward(leaky_relu(x.clone(), self.leaky_slope));
        (x, logits)
    }

    /// The published name of a parameter: activations count in `trunk.0`, `trunk.2`, ... and in `head.1`.
    pub fn published_name(path: &str) -> String {
        match path.split('.').collect::<Vec<_>>()[..] {
            ["trunk", layer, parameter] => {
                let layer: usize = layer.parse().expect("a vector's element is named by its index");
                format!("trunk.{}.{parameter}", 2 * layer)
            }
            ["head", parameter] => format!("head.1.{parameter}"),
            _ => path.to_owned(),
        }
    }
}

/// GOAD's training objective, each `[1]`, and the batch's centres.
pub struct GoadLoss<B: Backend> {
    /// Mean hinge of the distance to the own centre against that to the nearest other one.
    pub triplet: Tensor<B, 1>,
    /// Cross-entropy over rows and projections.
    pub cross_entropy: Tensor<B, 1>,
    /// `lambda * triplet + cross_entropy`.
    pub total: Tensor<B, 1>,
    /// Mean embedding of each projection, `[K, channels]`.
    pub centres: Tensor<B, 2>,
}

/// A fitted [`GoadConfig`].
#[derive(Debug)]
pub struct Goad<B: Backend> {
    config: GoadConfig,
    preprocessing: Preprocessing,
    matrices: Tensor<B, 2>,
    network: GoadNetwork<B>,
    centres: Tensor<B, 2>,
}

impl<B: Backend> Baseline for Goad<B> {
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>> {
        let device = self.centres.device();
        let mut scores = Vec::with_capacity(table.rows());
        for first in (0..table.rows()).step_by(self.config.batch_size) {
            let rows = first..table.rows().min(first + self.config.batch_size);
            let rows = Tensor::from_data(self.preprocessing.rows(table, rows)?, &device);
            let (embedding, _) = self.network.forward(project(rows, &self.matrices, self.config.projections));
            let score: TensorData = self.config.score(embedding, self.centres.clone()).into_data();
            scores.extend(score.iter::<f64>());
        }
        Ok(scores)
    }
}

/// Rows `[batch, columns]` by matrices `[columns, K D]`, as `[batch, D, K]`.
fn project<B: Backend>(rows: Tensor<B, 2>, matrices: &Tensor<B, 2>, count: usize) -> Tensor<B, 3> {
    let [batch, _] = rows.dims();
    let width = matrices.dims()[1] / count;
    rows.matmul(matrices.clone()).reshape([batch, count, width]).swap_dims(1, 2)
}

/// `||z_t - c_t'||^2 - ||z_t||^2` of embeddings `[batch, K, channels]` and centres `[K, channels]`, as `[batch, K, K]`.
///
/// Only differences of distances from one embedding matter, and far from all centres, where anomalies are, f32 would
/// lose them in its length.
fn relative_distances<B: Backend>(embedding: Tensor<B, 3>, centres: Tensor<B, 2>) -> Tensor<B, 3> {
    let centre_lengths = centres.clone().square().sum_dim(1).swap_dims(0, 1).unsqueeze_dim::<3>(0);
    let products = embedding.matmul(centres.transpose().unsqueeze_dim(0));
    centre_lengths - products * 2.0
}

/// The diagonals `[batch, K]` of `[batch, K, K]`.
fn diagonal<B: Backend>(values: Tensor<B, 3>) -> Tensor<B, 2> {
    let [batch, count, _] = values.dims();
    let own = Tensor::<B, 1, Int>::arange(0..count as i64, &values.device())
        .reshape([1, count, 1])
        .repeat_dim(0, batch);
    values.gather(2, own).squeeze_dim(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;
    use burn_flex::Flex;

    #[test]
    fn projecting_is_a_product_by_each_matrix() {
        let device = Default::default();
        let mut generator = Generator::new(1);
        let rows: Tensor<Flex, 2> = generator.normal([5, 7], &device);
        let matrices: Vec<Tensor<Flex, 2>> = (0..3).map(|_| generator.normal([7, 4], &device)).collect();
        let projected = project(rows.clone(), &Tensor::cat(matrices.clone(), 1), 3);
        let each = matrices.into_iter().map(|matrix| rows.clone().matmul(matrix)).collect();
        let expected = Tensor::stack::<3>(each, 2);
        projected
            .clone()
            .into_data()
            .assert_approx_eq::<f32>(&expected.clone().into_data(), Tolerance::rel_abs(1e-5, 1e-5));

        let network = GoadConfig::new(3, 4, 6, 1).init::<Flex>(&mut generator, &device);
        let (embedding, logits) = network.forward(projected);
        let (expected_embedding, expected_logits) = network.forward(expected);
        embedding
            .into_data()
            .assert_approx_eq::<f32>(&expected_embedding.into_data(), Tolerance::rel_abs(1e-5, 1e-5));
        logits
            .into_data()
            .assert_approx_eq::<f32>(&expected_logits.into_data(), Tolerance::rel_abs(1e-5, 1e-5));
    }
}
