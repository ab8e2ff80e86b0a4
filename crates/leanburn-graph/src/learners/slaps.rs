//! SLAPS (Fatemi, El Asri and Kazemi, NeurIPS 2021): a generator makes the graph, a classifier uses it, and a denoising
//! autoencoder, which has to restore masked features along the same graph, supervises what labels do not reach.

use burn::{
    config::Config,
    module::{AutodiffModule, Module, Param},
    nn::Linear,
    optim::{Adam, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{
        Device, Tensor, TensorData,
        activation::{relu, sigmoid},
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
};
use leanburn_core::{
    Error, Result,
    nn::{dropout, linear},
    random::{Generator, streams},
    train,
};
use serde::{Deserialize, Serialize};

use super::{
    adjacency::{
        Adjacency, Combination, Labelled, inverse, labelled_ties, normalise_dense, normalise_sparse,
        unit_rows,
    },
    classifier::{Input, SparseInput, classify, evaluate},
    model::{GraphModel, LARGEST_DENSE, LearnedGraph, Sizes, Trained},
};
use crate::{
    Csr, Features, NodeSet, Normalization, checks,
    gcn::{Gcn, GcnConfig, GcnLayer},
    knn::{KnnConfig, Metric, Nearest, Search, Ties},
    lgi::{RestorationConfig, Rows, Varied, labelled_loss, targets},
    protocol::{self, History, Learner},
    sparse::{LearnedMatrix, SparseMatrix, Tape, ints, with_gradient},
};

/// What makes the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GeneratorKind {
    /// Every pair of nodes has a parameter (`FP`); the graph is dense.
    FullParam,
    /// Similarities of the output of two linear layers, which begin as the identity (`MLP`).
    Mlp,
    /// Similarities of features that are scaled one by one (`MLP-D`).
    MlpDiag,
}

/// What turns similarities, or parameters, into weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NonLinearity {
    /// `elu(i s - i) + 1`, and for `FullParam` `elu(s) + 1`; dense, as entries that are not kept become `exp(-i)`, but in
    /// sparse mode.
    Elu,
    /// `max(s, 0)`; of a `FullParam`, pairs that are no neighbours at first never become some.
    Relu,
    /// `exp(s)`; dense, but in sparse mode.
    Exp,
    /// `s`, whose negative values can make sums that have no root.
    None,
}

/// The activation between the generator's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `tanh(x)`
    Tanh,
}

/// How restored features are compared with the true ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DenoisingLoss {
    /// Binary cross-entropy of logits, for features from 0 to 1.
    BinaryCrossEntropy,
    /// Mean squared error, for any features.
    MeanSquared,
    /// Binary cross-entropy of logits with the features' signs, for any features: 1 for positive ones, 0 for negative ones
    /// and 0.5 for zeros.
    SignCrossEntropy,
}

/// What masked features are replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Noise {
    /// Zeros (`mask`).
    Mask,
    /// The features with a draw from the standard normal distribution added (`normal`).
    Normal,
}

/// SLAPS and, with restored connections, `SLAPS_U` and `SLAPS_R`.
#[derive(Config, Debug)]
pub struct SlapsConfig {
    /// What makes the graph.
    pub generator: GeneratorKind,
    /// Neighbours of a node that are kept, itself not counted, and with which `FullParam` begins. Default: 20
    #[config(default = 20)]
    pub k: usize,
    /// What turns similarities into weights. Default: `NonLinearity::Relu`
    #[config(default = "NonLinearity::Relu")]
    pub non_linearity: NonLinearity,
    /// The factor of `Elu`; for `FullParam` with `Elu` and `Exp`, minus the first parameter of pairs that are no neighbours,
    /// where that of neighbours is 0 (else 0 and 1). Default: 6
    #[config(default = 6.0)]
    pub i: f64,
    /// Between the generator's layers. Default: `Activation::Relu`
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
    /// Width of the generator's output. Default: that of the features
    pub embedding: Option<usize>,
    /// Whether the graph is made as the official sparse mode does: similarities are normalised, always symmetrically,
    /// before the non-linearity, which is applied to kept ones alone. Default: false
    #[config(default = false)]
    pub sparse_mode: bool,
    /// Whether of equally similar nodes those are kept that PyTorch's `topk` takes on a CPU, to repeat its runs; slow, and
    /// for comparison only. Default: false, the first ones
    #[config(default = false)]
    pub official_ties: bool,
    /// How the graph is scaled. Default: `Normalization::Symmetric`
    #[config(default = "Normalization::Symmetric")]
    pub normalization: Normalization,
    /// The connections to labelled nodes that are restored, weighted by the generator's own similarities; `weight` and
    /// `block` are not looked at. Default: none
    pub restoration: Option<RestorationConfig>,
    /// Width of the autoencoder's hidden layer. Default: 512
    #[config(default = 512)]
    pub hidden_adj: usize,
    /// Width of the classifier's hidden layers. Default: 32
    #[config(default = 32)]
    pub hidden: usize,
    /// Layers of the classifier. Default: 2
    #[config(default = 2)]
    pub layers: usize,
    /// Dropout of the autoencoder's hidden layer. Default: 0.5
    #[config(default = 0.5)]
    pub dropout1: f64,
    /// Dropout of the classifier's hidden layers. Default: 0.5
    #[config(default = 0.5)]
    pub dropout2: f64,
    /// Dropout of the autoencoder's edges. Default: 0.25
    #[config(default = 0.25)]
    pub dropout_adj1: f64,
    /// Dropout of the classifier's edges. Default: 0.5
    #[config(default = 0.5)]
    pub dropout_adj2: f64,
    /// Weight of the denoising loss; with 0 there is none, and no epochs without the classifier. Default: 10
    #[config(default = 10.0)]
    pub lambda: f64,
    /// One in `r` features that are not zero is masked. Default: 10
    #[config(default = 10.0)]
    pub r: f64,
    /// How many zeros are masked for each other masked feature. Default: 5
    #[config(default = 5.0)]
    pub nr: f64,
    /// The denoising loss; but for `BinaryCrossEntropy`, all features are masked alike. Default:
    /// `DenoisingLoss::BinaryCrossEntropy`
    #[config(default = "DenoisingLoss::BinaryCrossEntropy")]
    pub loss: DenoisingLoss,
    /// What masked features are replaced by. Default: `Noise::Mask`
    #[config(default = "Noise::Mask")]
    pub noise: Noise,
    /// Passes over all nodes. Default: 2000
    #[config(default = 2000)]
    pub epochs: usize,
    /// The classifier is trained from epoch `epochs / epoch_d` on. Default: 5
    #[config(default = 5)]
    pub epoch_d: usize,
    /// Adam's learning rate of the classifier. Default: 0.01
    #[config(default = 0.01)]
    pub learning_rate: f64,
    /// Adam's learning rate of the generator and the autoencoder. Default: 0.001
    #[config(default = 0.001)]
    pub learning_rate_adj: f64,
    /// L2 penalty added to the classifier's gradient. Default: 5e-4
    #[config(default = 5e-4)]
    pub weight_decay: f32,
    /// Seed of the initial weights, masks and dropout. Default: 42
    #[config(default = 42)]
    pub seed: u64,
}

impl SlapsConfig {
    /// Cora with the published settings of each generator.
    pub fn cora(generator: GeneratorKind) -> Self {
        match generator {
            GeneratorKind::FullParam => Self::new(generator)
                .with_learning_rate(0.001)
                .with_learning_rate_adj(0.01)
                .with_dropout_adj1(0.5)
                .with_dropout_adj2(0.25)
                .with_k(30)
                .with_non_linearity(NonLinearity::Elu),
            GeneratorKind::Mlp => Self::new(generator),
            GeneratorKind::MlpDiag => Self::new(generator).with_weight_decay(5e-2).with_k(15),
        }
    }

    /// Citeseer with the published settings of each generator.
    pub fn citeseer(generator: GeneratorKind) -> Self {
        let config = Self::new(generator).with_hidden_adj(1024);
        match generator {
            GeneratorKind::FullParam => config
                .with_learning_rate_adj(0.01)
                .with_weight_decay(5e-2)
                .with_dropout_adj1(0.4)
                .with_dropout_adj2(0.4)
                .with_k(30)
                .with_lambda(1.0)
                .with_nr(1.0)
                .with_non_linearity(NonLinearity::Elu),
            GeneratorKind::Mlp => config.with_k(30),
            GeneratorKind::MlpDiag => config
                .with_learning_rate(0.001)
                .with_learning_rate_adj(0.01)
                .with_weight_decay(5e-2)
                .with_dropout_adj1(0.5)
                .with_activation(Activation::Tanh),
        }
    }

    /// Citeseer with 370 labels, `MLP`.
    pub fn citeseer370() -> Self {
        Self::citeseer(GeneratorKind::Mlp).with_dropout1(0.25).with_activation(Activation::Tanh)
    }

    /// Pubmed with the published settings of `MLP` and `MLP-D`; nothing was published of `FullParam`, which is dense.
    pub fn pubmed(generator: GeneratorKind) -> Self {
        let config = Self::new(generator)
            .with_learning_rate_adj(0.01)
            .with_hidden_adj(128)
            .with_k(15)
            .with_r(20.0)
            .with_sparse_mode(true);
        match generator {
            GeneratorKind::Mlp => config.with_dropout_adj1(0.5),
            GeneratorKind::FullParam => config.with_sparse_mode(false),
            GeneratorKind::MlpDiag => {
                config.with_dropout_adj2(0.25).with_lambda(100.0).with_activation(Activation::Tanh)
            }
        }
    }

    /// `ogbn-arxiv` with the published settings of `MLP`: classifier and autoencoder are trained from the first epoch on,
    /// as `epoch_d` is beyond the number of epochs.
    pub fn ogbn_arxiv() -> Self {
        Self::new(GeneratorKind::Mlp)
            .with_weight_decay(0.0)
            .with_hidden_adj(256)
            .with_hidden(256)
            .with_k(15)
            .with_r(100.0)
            .with_sparse_mode(true)
            .with_loss(DenoisingLoss::MeanSquared)
            .with_embedding(Some(128))
            .with_epoch_d(2001)
    }

    /// GCN trained together with its neighbours' graph (`GCN&KNN`): a parameter for every pair of nodes, and no
    /// autoencoder. Nothing more was published of it than accuracies.
    pub fn gcn_and_knn() -> Self {
        Self::cora(GeneratorKind::FullParam).with_learning_rate(0.01).with_k(15).with_lambda(0.0)
    }

    /// The generator of `features`.
    ///
    /// # Errors
    ///
    /// When `k` is 0 or not below the number of nodes.
    pub fn init_generator<B: Backend>(
        &self,
        features: &Features,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Result<GraphGenerator<B>> {
        if self.k == 0 || self.k >= features.rows() {
            let expected = format!("1 to {}, the number of other nodes", features.rows() - 1);
            return Err(Error::setting("k", expected, self.k));
        }
        let mut graph_gen = self.generator(features.rows(), features.columns(), generator, device);
        if let GraphGenerator::FullParam(parameters) = &mut graph_gen {
            let graph = KnnConfig::new().with_k(self.k).graph::<B>(features, device)?;
            let mut weights = graph.adjacency().to_dense();
            if matches!(self.non_linearity, NonLinearity::Elu | NonLinearity::Exp) {
                let i = self.i as f32;
                for weight in &mut weights {
                    *weight = i * *weight - i;
                }
            }
            let adj = TensorData::new(weights, [features.rows(), features.rows()]);
            parameters.adj = Param::from_tensor(Tensor::from_data(adj, device));
        }
        Ok(graph_gen)
    }

    /// The generator, whose parameters of pairs are 0.
    fn generator<B: Backend>(
        &self,
        nodes: usize,
        columns: usize,
        generator: &mut Generator,
        device: &B::Device,
    ) -> GraphGenerator<B> {
        match self.generator {
            GeneratorKind::FullParam => {
                let adj = Param::from_tensor(Tensor::zeros([nodes, nodes], device));
                GraphGenerator::FullParam(FullParam { adj })
            }
            GeneratorKind::Mlp => {
                let width = self.embedding.unwrap_or(columns);
                let layers = self.embedding_layers(columns).map(|[inputs, outputs]| {
                    let mut layer: Linear<B> = linear(inputs, outputs, generator, device);
                    if width == columns {
                        layer.weight = Param::from_tensor(Tensor::eye(columns, device));
                    }
                    layer
                });
                GraphGenerator::Mlp(Mlp { layers: layers.to_vec() })
            }
            GeneratorKind::MlpDiag => {
                let ones = || Diagonal { w: Param::from_tensor(Tensor::ones([columns], device)) };
                GraphGenerator::MlpDiag(MlpDiag { layers: vec![ones(), ones()] })
            }
        }
    }

    /// Inputs and outputs of the layers of `Mlp`.
    fn embedding_layers(&self, columns: usize) -> [[usize; 2]; 2] {
        let width = self.embedding.unwrap_or(columns);
        let middle =
            if width == columns { columns } else { (columns as f64 * width as f64).sqrt().floor() as usize };
        [[columns, middle], [middle, width]]
    }

    /// The generator and the autoencoder, drawn from `generator`.
    ///
    /// # Errors
    ///
    /// As [`init_generator`](Self::init_generator).
    pub fn init_denoiser<B: Backend>(
        &self,
        features: &Features,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Result<Denoiser<B>> {
        let graph_gen = self.init_generator(features, generator, device)?;
        Ok(self.denoiser(graph_gen, features.columns(), generator, device))
    }

    fn denoiser<B: Backend>(
        &self,
        graph_gen: GraphGenerator<B>,
        columns: usize,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Denoiser<B> {
        let layers = [(columns, self.hidden_adj), (self.hidden_adj, columns)];
        let layers =
            layers.map(|(inputs, outputs)| GcnLayer { linear: linear(inputs, outputs, generator, device) });
        Denoiser { layers: layers.to_vec(), graph_gen }
    }

    /// The classifier.
    pub fn classifier(&self, features: usize, classes: usize) -> GcnConfig {
        GcnConfig::new(features, classes)
            .with_hidden(self.hidden)
            .with_layers(self.layers)
            .with_dropout(self.dropout2)
    }

    fn validate(&self, set: &NodeSet) -> Result<()> {
        checks::dropouts(&[
            ("dropout1", self.dropout1),
            ("dropout_adj1", self.dropout_adj1),
            ("dropout_adj2", self.dropout_adj2),
        ])?;
        checks::counts(&[
            ("epochs", self.epochs),
            ("epoch_d", self.epoch_d),
            ("hidden_adj", self.hidden_adj),
            ("embedding", self.embedding.unwrap_or(1)),
        ])?;
        checks::positive(&[
            ("learning_rate", self.learning_rate),
            ("learning_rate_adj", self.learning_rate_adj),
            ("r", self.r),
            ("i", self.i),
        ])?;
        checks::not_negative(&[
            ("nr", self.nr),
            ("lambda", self.lambda),
            ("weight_decay", self.weight_decay.into()),
        ])?;
        if self.sparse_mode && self.generator == GeneratorKind::FullParam {
            return Err(Error::setting("sparse_mode", "a generator of similarities", "`FullParam`"));
        }
        let is_dense = self.generator == GeneratorKind::FullParam || !self.is_sparse();
        if is_dense && set.nodes() > LARGEST_DENSE {
            let expected = format!("at most {LARGEST_DENSE} nodes for a dense graph; take another with Relu");
            return Err(Error::setting("generator", expected, set.nodes()));
        }
        match &self.restoration {
            Some(restoration) if restoration.rows == Rows::Starved && is_dense => {
                let expected = "other rows for a graph that links every node to each other: none is starved";
                Err(Error::setting("rows", expected, "Starved"))
            }
            Some(restoration) => restoration.validate_learned(set.nodes(), &set.split.train),
            None => Ok(()),
        }
    }

    /// Whether entries that are not kept are 0.
    fn is_sparse(&self) -> bool {
        self.sparse_mode || matches!(self.non_linearity, NonLinearity::Relu | NonLinearity::None)
    }
}

/// A parameter for every pair of nodes.
#[derive(Module, Debug)]
pub struct FullParam<B: Backend> {
    /// `[nodes, nodes]`
    pub adj: Param<Tensor<B, 2>>,
}

/// Two linear layers.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    layers: Vec<Linear<B>>,
}

/// Two layers that scale each feature.
#[derive(Module, Debug)]
pub struct MlpDiag<B: Backend> {
    layers: Vec<Diagonal<B>>,
}

/// A scale for each feature.
#[derive(Module, Debug)]
pub struct Diagonal<B: Backend> {
    /// `[features]`
    pub w: Param<Tensor<B, 1>>,
}

/// What makes the graph.
#[derive(Module, Debug)]
pub enum GraphGenerator<B: Backend> {
    /// A parameter for every pair.
    FullParam(FullParam<B>),
    /// Linear layers.
    Mlp(Mlp<B>),
    /// Scales.
    MlpDiag(MlpDiag<B>),
}

/// The generator, and the autoencoder that learns along its graph.
#[derive(Module, Debug)]
pub struct Denoiser<B: Backend> {
    layers: Vec<GcnLayer<B>>,
    /// What makes the graph.
    pub graph_gen: GraphGenerator<B>,
}

/// Both networks, as a checkpoint holds them.
#[derive(Module, Debug)]
pub struct Slaps<B: Backend> {
    /// The generator and the autoencoder.
    pub model1: Denoiser<B>,
    /// The classifier.
    pub model2: Gcn<B>,
}

/// Features that the autoencoder has to restore.
#[derive(Debug, Clone, PartialEq)]
pub struct Masked {
    /// Where they are, with the true values.
    truth: Csr,
    /// What the autoencoder sees in their place.
    replaced: Vec<f32>,
}

impl Masked {
    /// Those at the entries of a matrix, whose values are the true features.
    pub fn new(truth: Csr) -> Self {
        let replaced = vec![0.0; truth.entries()];
        Self { truth, replaced }
    }

    /// Replaces them as `noise` says.
    pub fn with_noise(mut self, noise: Noise, generator: &mut Generator) -> Self {
        if noise == Noise::Normal {
            let drawn = generator.normals(self.truth.entries());
            self.replaced = self.truth.values.iter().zip(drawn).map(|(value, drawn)| value + drawn).collect();
        }
        self
    }

    /// For features from 0 to 1: one in `r` of those that are not zero, and `nr` times as many zeros.
    ///
    /// # Errors
    ///
    /// When all features are zero, or none is.
    pub fn binary(features: &Features, r: f64, nr: f64, generator: &mut Generator) -> Result<Self> {
        let (of_ones, of_zeros) = mask_probabilities(features, r, nr)?;
        Ok(Self::draw(features, of_ones, of_zeros, generator))
    }

    /// For any features: one in `r`.
    pub fn uniform(features: &Features, r: f64, generator: &mut Generator) -> Self {
        Self::draw(features, 1.0 / r, 1.0 / r, generator)
    }

    fn draw(features: &Features, of_ones: f64, of_zeros: f64, generator: &mut Generator) -> Self {
        let (rows, columns) = (features.rows(), features.columns());
        let (mut offsets, mut places, mut values) = (vec![0], Vec::new(), Vec::new());
        // How many zeros are passed over until the next one that is masked.
        let mut gap = generator.gap(of_zeros);
        for row in 0..rows {
            let mut visit = |column: usize, value: f32, generator: &mut Generator| {
                let masked = if value == 0.0 {
                    let masked = gap == 0;
                    gap = if masked { generator.gap(of_zeros) } else { gap - 1 };
                    masked
                } else {
                    generator.chance(of_ones)
                };
                if masked {
                    places.push(column as u32);
                    values.push(value);
                }
            };
            match features {
                Features::Dense { values, columns } => {
                    for (column, &value) in values[row * columns..(row + 1) * columns].iter().enumerate() {
                        visit(column, value, generator);
                    }
                }
                Features::Sparse(matrix) => {
                    let (filled, of_row) = matrix.row(row);
                    let mut next = 0;
                    for column in 0..columns {
                        let is_filled = filled.get(next) == Some(&(column as u32));
                        visit(column, if is_filled { of_row[next] } else { 0.0 }, generator);
                        next += usize::from(is_filled);
                    }
                }
            }
            offsets.push(places.len());
        }
        if places.is_empty() {
            // A loss needs one at least.
            let (row, column) = (generator.below(rows), generator.below(columns));
            offsets[row + 1..].fill(1);
            places.push(column as u32);
            values.push(features.value(row, column));
        }
        Self::new(Csr { width: columns, offsets, columns: places, values })
    }

    /// The values of `matrix` with 0 where they are masked.
    fn hide(&self, matrix: &Csr) -> Vec<f32> {
        let mut values = matrix.values.clone();
        for row in 0..matrix.rows() {
            let hidden = self.truth.row(row).0;
            let range = matrix.offsets[row]..matrix.offsets[row + 1];
            for (column, value) in matrix.columns[range.clone()].iter().zip(&mut values[range]) {
                if hidden.binary_search(column).is_ok() {
                    *value = 0.0;
                }
            }
        }
        values
    }

    /// What is added to the features.
    fn change(&self) -> Csr {
        let change = self.replaced.iter().zip(&self.truth.values).map(|(replaced, value)| replaced - value);
        Csr { values: change.collect(), ..self.truth.clone() }
    }

    /// What stands in place of the masked features; none where they are zeros.
    fn replacement(&self) -> Option<Csr> {
        let are_zeros = self.replaced.iter().all(|&value| value == 0.0);
        (!are_zeros).then(|| Csr { values: self.replaced.clone(), ..self.truth.clone() })
    }
}

/// The probabilities with which a feature that is 1 and one that is 0 is masked.
///
/// # Errors
///
/// When all features are zero, or none is.
pub fn mask_probabilities(features: &Features, r: f64, nr: f64) -> Result<(f64, f64)> {
    let filled = match features {
        Features::Dense { values, .. } => values.iter().filter(|&&value| value != 0.0).count(),
        Features::Sparse(matrix) => matrix.values.iter().filter(|&&value| value != 0.0).count(),
    };
    let zeros = features.rows() * features.columns() - filled;
    if filled == 0 || zeros == 0 {
        return Err(Error::data("features", "both zeros and others, to mask", "one kind alone"));
    }
    Ok((1.0 / r, filled as f64 / zeros as f64 / r * nr))
}

/// The graph of an epoch, in training.
pub struct Generated<B: AutodiffBackend> {
    /// The generator's output before it is symmetrised, restored and normalised.
    pub raw: Adjacency<B>,
    /// The adjacency that networks propagate along, for use in several products.
    pub adjacency: Adjacency<B>,
}

/// What of a [`NodeSet`] stays the same in all epochs.
pub struct Context<'a, B: Backend> {
    features: &'a Features,
    input: Input<B>,
    labelled: Labelled<'a>,
    device: B::Device,
}

impl<'a, B: Backend> Context<'a, B> {
    /// The features and labelled nodes on `device`.
    pub fn new(features: &'a Features, labelled: &'a [usize], device: &B::Device) -> Self {
        Self {
            features,
            input: Input::new(features, device),
            labelled: Labelled::new(features.rows(), labelled),
            device: device.clone(),
        }
    }

    /// The features.
    pub fn input(&self) -> &Input<B> {
        &self.input
    }
}

impl<B: AutodiffBackend> GraphGenerator<B> {
    /// The embeddings of nodes, of which similarities are taken; none of a full parametrisation.
    ///
    /// - output: `[nodes, width]`
    pub fn embeddings(
        &self,
        config: &SlapsConfig,
        context: &Context<B::InnerBackend>,
        tape: &mut Tape<B>,
    ) -> Option<Tensor<B, 2>> {
        let activate = |x: Tensor<B, 2>| match config.activation {
            Activation::Relu => relu(x),
            Activation::Tanh => x.tanh(),
        };
        match self {
            Self::FullParam(_) => None,
            Self::Mlp(Mlp { layers }) => {
                let first = context.input.linear_train(&layers[0], tape);
                Some(layers[1].forward(activate(first)))
            }
            Self::MlpDiag(MlpDiag { layers }) => {
                let (nodes, columns) = (context.features.rows(), context.features.columns());
                let x = Tensor::from_inner(context.input.to_tensor(nodes, columns, &context.device));
                let scaled = activate(x * layers[0].w.val().unsqueeze_dim(0));
                Some(scaled * layers[1].w.val().unsqueeze_dim(0))
            }
        }
    }

    /// The graph.
    ///
    /// # Errors
    ///
    /// When similarities are not finite.
    pub fn generate(
        &self,
        config: &SlapsConfig,
        context: &Context<B::InnerBackend>,
        tape: &mut Tape<B>,
    ) -> Result<Generated<B>> {
        if let Self::FullParam(FullParam { adj }) = self {
            let raw = match config.non_linearity {
                NonLinearity::Elu => elu(adj.val()) + 1.0,
                other => other.apply(adj.val(), config.i),
            };
            return Ok(dense(config, context, tape, raw.clone(), raw));
        }
        let embeddings = self.embeddings(config, context, tape).expect("the other generators embed");
        let similar = Similar::new(embeddings, config.k, config.official_ties, &context.device, tape)?;
        if config.is_sparse() {
            return sparse(config, context, tape, &similar);
        }
        let nodes = context.features.rows();
        let mask = TensorData::new(similar.nearest.graph().adjacency().to_dense(), [nodes, nodes]);
        let mask = Tensor::from_data(mask, &similar.unit.device());
        let similarity = tape.gram(similar.unit.clone());
        let raw = config.non_linearity.apply(similarity.clone() * mask, config.i);
        Ok(dense(config, context, tape, raw, similarity))
    }
}

impl NonLinearity {
    /// The weights of similarities.
    ///
    /// - i: the factor of `Elu`
    pub fn apply<B: Backend, const D: usize>(self, similarity: Tensor<B, D>, i: f64) -> Tensor<B, D> {
        match self {
            Self::Elu => elu(similarity * i - i) + 1.0,
            Self::Relu => relu(similarity),
            Self::Exp => similarity.exp(),
            Self::None => similarity,
        }
    }
}

/// The k + 1 nodes most similar to each, itself included.
pub struct Similar<B: AutodiffBackend> {
    /// Embeddings of length 1, `[nodes, width]`, for use in several places.
    unit: Tensor<B, 2>,
    on_host: Features,
    /// The nodes, the most similar first.
    pub nearest: Nearest,
    /// The places of the similarities, columns ascending.
    places: Csr,
    matrix: LearnedMatrix<B::InnerBackend>,
    /// `[entries]`, columns ascending, for use in several places.
    pub values: Tensor<B, 1>,
}

impl<B: AutodiffBackend> Similar<B> {
    /// By the cosines of embeddings.
    ///
    /// - embeddings: `[nodes, width]`
    /// - `official_ties`: as in [`SlapsConfig`]
    ///
    /// # Errors
    ///
    /// When an embedding is not finite.
    pub fn new(
        embeddings: Tensor<B, 2>,
        k: usize,
        official_ties: bool,
        device: &Device<B::InnerBackend>,
        tape: &mut Tape<B>,
    ) -> Result<Self> {
        let [nodes, width] = embeddings.dims();
        let unit = tape.shared(unit_rows(embeddings));
        let values: Vec<f32> = unit.clone().inner().into_data().iter::<f32>().collect();
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            let location = format!("embedding of node {}", place / width);
            return Err(Error::data(location, "finite numbers", values[place]));
        }
        let on_host = Features::Dense { values, columns: width };
        let all: Vec<usize> = (0..nodes).collect();
        let metric = Metric::InnerProduct;
        let search = Search {
            features: &on_host,
            candidates: &all,
            metric,
            k: k + 1,
            not_itself: false,
            ties: if official_ties { Ties::PyTorch } else { Ties::First },
        };
        let nearest = search.run::<B::InnerBackend>(device)?;
        let places = nearest.graph().adjacency().clone();
        let matrix = LearnedMatrix::new(&places, device);
        let values = tape.inner_products(&matrix, unit.clone(), unit.clone());
        Ok(Self { unit, on_host, nearest, places, matrix, values })
    }

    /// The similarities as the official sparse mode scales them: each over the roots of both nodes' sums, in rows and in
    /// columns.
    ///
    /// - output: `[entries]`, columns ascending
    ///
    /// # Errors
    ///
    /// When a node's similarities have a negative sum, whose root is none.
    pub fn scaled(&self, device: &Device<B::InnerBackend>, tape: &mut Tape<B>) -> Result<Tensor<B, 1>> {
        let scales = self.scales(device, tape)?;
        Ok(self.values.clone() * tape.inner_products(&self.matrix, scales.clone(), scales))
    }

    /// One over the root of the sum of the similarities in each node's row and column, `[nodes, 1]`, for use in several
    /// places.
    fn scales(&self, device: &Device<B::InnerBackend>, tape: &mut Tape<B>) -> Result<Tensor<B, 2>> {
        let ones = Tensor::ones([self.places.rows(), 1], &self.unit.device());
        let of_rows = tape.learned_product(&self.matrix, self.values.clone(), ones.clone());
        let (transpose, order) = self.places.transpose_with_places();
        let order = ints(order.into_iter().map(i64::from).collect(), device);
        let transpose = LearnedMatrix::new(&transpose, device);
        let swapped = self.values.clone().select(0, Tensor::from_inner(order));
        let sums = of_rows + tape.learned_product(&transpose, swapped, ones);
        let on_host: Vec<f32> = sums.clone().inner().into_data().iter::<f32>().collect();
        if let Some(node) = on_host.iter().position(|&sum| sum < 0.0) {
            let location = format!("similarities of node {node}");
            return Err(Error::data(location, "a sum of at least 0, which has a root", on_host[node]));
        }
        // Rows of zeros have the sum 0, and keep their zeros.
        Ok(tape.shared(inverse(sums.clamp_min(1e-12).sqrt())))
    }
}

/// Exponential linear unit.
fn elu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let below = x.clone().clamp_max(0.0).exp() - 1.0;
    relu(x) + below
}

/// A dense graph of the generator's output, and of the similarities that restored connections weigh.
fn dense<B: AutodiffBackend>(
    config: &SlapsConfig,
    context: &Context<B::InnerBackend>,
    tape: &mut Tape<B>,
    raw: Tensor<B, 2>,
    similarity: Tensor<B, 2>,
) -> Generated<B> {
    let mut adjacency = (raw.clone() + raw.clone().transpose()) * 0.5;
    if let Some(restoration) = &config.restoration {
        adjacency = context.labelled.restored_dense(restoration, adjacency, similarity);
    }
    let normalised = normalise_dense(adjacency, config.normalization);
    Generated { adjacency: Adjacency::Dense(tape.shared(normalised)), raw: Adjacency::Dense(raw) }
}

/// Connections to labelled nodes.
struct Restored<B: AutodiffBackend> {
    places: Csr,
    /// The weights, `[entries]`.
    values: Tensor<B, 1>,
}

impl<B: AutodiffBackend> Restored<B> {
    /// - weights: of the kept similarities
    /// - scales: of the nodes' similarities, where the generator scales them
    /// - terms: the row, the column, the similarity and its factor of each entry of the present graph
    fn new(
        restoration: &RestorationConfig,
        context: &Context<B::InnerBackend>,
        tape: &mut Tape<B>,
        similar: &Similar<B>,
        weights: Tensor<B, 1>,
        scales: Option<Tensor<B, 2>>,
        terms: &[(u32, u32, u32, f32)],
    ) -> Result<Self> {
        let Context { labelled, device, .. } = context;
        let of_host = |values: Tensor<B, 1>| values.inner().into_data().iter::<f64>().collect::<Vec<_>>();
        let weights = of_host(weights);
        let mut linked = vec![false; labelled.of()];
        for &(row, column, place, _) in terms {
            linked[row as usize] |= labelled.contains(column as usize) && weights[place as usize] > 0.0;
        }
        let filled = labelled.filled(restoration, |row| linked[row]);
        let places =
            labelled_ties::<B::InnerBackend>(restoration, &similar.on_host, labelled, &filled, device)?;
        let matrix = LearnedMatrix::new(&places, device);
        let mut values = tape.inner_products(&matrix, similar.unit.clone(), similar.unit.clone());
        if let Some(scales) = scales {
            values = values * tape.inner_products(&matrix, scales.clone(), scales);
        }
        let own = terms.iter().filter(|(row, ..)| filled[*row as usize]);
        let own = own.map(|&(_, _, place, factor)| f64::from(factor) * weights[place as usize].abs());
        let restored = of_host(values.clone()).into_iter().map(f64::abs);
        let alpha = labelled.alpha(restoration, own.sum(), restored.sum());
        Ok(Self { places, values: values * alpha })
    }
}

/// A sparse graph of the kept similarities.
fn sparse<B: AutodiffBackend>(
    config: &SlapsConfig,
    context: &Context<B::InnerBackend>,
    tape: &mut Tape<B>,
    similar: &Similar<B>,
) -> Result<Generated<B>> {
    let (nodes, device) = (context.features.rows(), &context.device);
    let Similar { places, matrix, .. } = similar;
    // The official sparse mode normalises before the non-linearity.
    let scales = if config.sparse_mode { Some(similar.scales(device, tape)?) } else { None };
    let similarities = match &scales {
        Some(scales) => similar.values.clone() * tape.inner_products(matrix, scales.clone(), scales.clone()),
        None => similar.values.clone(),
    };
    let kept = tape.shared(config.non_linearity.apply(similarities, config.i));
    // Half of each edge in both directions; in sparse mode, the whole of it.
    let factor = if config.sparse_mode { 1.0 } else { 0.5 };
    let mut terms = Vec::with_capacity(2 * places.entries());
    for row in 0..nodes {
        for place in places.offsets[row]..places.offsets[row + 1] {
            let column = places.columns[place];
            terms.push((row as u32, column, place as u32, factor));
            terms.push((column, row as u32, place as u32, factor));
        }
    }
    let mut values = kept.clone();
    let mut count = places.entries();
    if let Some(restoration) = &config.restoration {
        let Restored { places, values: added } =
            Restored::new(restoration, context, tape, similar, kept.clone(), scales, &terms)?;
        for row in 0..nodes {
            for place in places.offsets[row]..places.offsets[row + 1] {
                terms.push((row as u32, places.columns[place], (count + place) as u32, 1.0));
            }
        }
        values = Tensor::cat(vec![values, added], 0);
        count += places.entries();
    }
    let combination = Combination::new(nodes, count, &terms);
    let (matrix_all, mut values) = combination.adjacency(tape, values, device);
    if !config.sparse_mode {
        let normalised = normalise_sparse(tape, &matrix_all, values, config.normalization);
        values = tape.shared(normalised);
    }
    Ok(Generated {
        raw: Adjacency::Sparse(matrix.clone(), kept),
        adjacency: Adjacency::Sparse(matrix_all, values),
    })
}

impl<B: AutodiffBackend> Denoiser<B> {
    /// The hidden layer of masked features, and the sums of the adjacency's rows `[nodes, 1]`, both propagated: what the
    /// last layer, which is wider than its input, is applied to.
    fn hidden(
        &self,
        config: &SlapsConfig,
        context: &Context<B::InnerBackend>,
        masked: &Masked,
        adjacency: &Adjacency<B>,
        generator: &mut Generator,
        tape: &mut Tape<B>,
    ) -> Tensor<B, 2> {
        let Linear { weight, bias } = &self.layers[0].linear;
        let (weight, bias) = (weight.val(), bias.as_ref().expect("the layers have biases").val());
        let product = match &context.input {
            Input::Dense(x) => {
                let change = TensorData::new(masked.change().to_dense(), x.dims());
                let change = Tensor::<B::InnerBackend, 2>::from_data(change, &context.device);
                Tensor::from_inner(x.clone() + change).matmul(weight)
            }
            Input::Sparse(x) => {
                let SparseInput { entries: places, places: matrix, .. } = &**x;
                let values = TensorData::new(masked.hide(places), [places.entries()]);
                let values = Tensor::<B::InnerBackend, 1>::from_data(values, &context.device);
                let (matrix, output) =
                    (matrix.clone(), matrix.product(values.clone(), weight.clone().inner()));
                let of_weight = weight.clone();
                let product = tape.cut(output, move |gradient| {
                    with_gradient(of_weight, matrix.transposed_product(values, gradient))
                });
                match masked.replacement() {
                    Some(replacement) => {
                        product + tape.product(&SparseMatrix::new(&replacement, &context.device), weight)
                    }
                    None => product,
                }
            }
        };
        let hidden = relu(adjacency.product(tape, product + bias.unsqueeze_dim(0)));
        let hidden = dropout(hidden, config.dropout1, generator);
        let ones = Tensor::ones([context.features.rows(), 1], &hidden.device());
        adjacency.product(tape, Tensor::cat(vec![hidden, ones], 1))
    }

    /// The weight and, below it, the bias of the last layer, `[hidden + 1, features]`.
    fn last(&self) -> Tensor<B, 2> {
        let Linear { weight, bias } = &self.layers[1].linear;
        let bias = bias.as_ref().expect("the layers have biases").val().unsqueeze_dim(0);
        Tensor::cat(vec![weight.val(), bias], 0)
    }

    /// All features as they are restored, `[nodes, features]`.
    pub fn reconstruction(
        &self,
        config: &SlapsConfig,
        context: &Context<B::InnerBackend>,
        masked: &Masked,
        adjacency: &Adjacency<B>,
        generator: &mut Generator,
    ) -> Tensor<B, 2> {
        let mut tape = Tape::new();
        let hidden = self.hidden(config, context, masked, adjacency, generator, &mut tape);
        hidden.matmul(self.last())
    }

    /// The denoising loss, `[1]`: of the masked features alone, and only they are restored.
    pub fn loss(
        &self,
        config: &SlapsConfig,
        context: &Context<B::InnerBackend>,
        masked: &Masked,
        adjacency: &Adjacency<B>,
        generator: &mut Generator,
        tape: &mut Tape<B>,
    ) -> Tensor<B, 1> {
        let adjacency = adjacency.dropout(config.dropout_adj1, generator, tape);
        let hidden = self.hidden(config, context, masked, &adjacency, generator, tape);
        let places = LearnedMatrix::new(&masked.truth, &context.device);
        let restored = tape.inner_products(&places, hidden, self.last().transpose());
        let truth = TensorData::new(masked.truth.values.clone(), [masked.truth.entries()]);
        let truth = Tensor::<B, 1>::from_data(truth, &restored.device());
        match config.loss {
            DenoisingLoss::MeanSquared => (restored - truth).square().mean(),
            DenoisingLoss::BinaryCrossEntropy | DenoisingLoss::SignCrossEntropy => {
                let truth = if config.loss == DenoisingLoss::SignCrossEntropy {
                    truth.sign() * 0.5 + 0.5
                } else {
                    truth
                };
                let (x, truth) = (restored.clone().inner(), truth.inner());
                let rest = (x.clone().abs().neg().exp() + 1.0).log();
                let loss = (relu(x.clone()) - x.clone() * truth.clone() + rest).mean();
                // The gradient in closed form: that of a logarithm has a reciprocal, which some CPUs approximate.
                let count = masked.truth.entries() as f64;
                tape.cut(loss, move |gradient| {
                    with_gradient(restored, (sigmoid(x) - truth) * gradient / count)
                })
            }
        }
    }
}

impl GraphModel for SlapsConfig {
    type Networks<B: Backend> = Slaps<B>;

    fn varied_settings(&mut self) -> Varied<'_> {
        Varied { seed: &mut self.seed, k: &mut self.k, restoration: &mut self.restoration }
    }

    fn networks<B: Backend>(&self, sizes: Sizes, device: &B::Device) -> Result<Slaps<B>> {
        let Sizes { nodes, features, classes } = sizes;
        let mut draws = Generator::new(0);
        let graph_gen = self.generator(nodes, features, &mut draws, device);
        let model1 = self.denoiser(graph_gen, features, &mut draws, device);
        Ok(Slaps { model1, model2: self.classifier(features, classes).init(&mut draws, device)? })
    }

    fn weights(&self, sizes: Sizes) -> impl Iterator<Item = [usize; 2]> {
        let Sizes { nodes, features, classes } = sizes;
        let generator = match self.generator {
            GeneratorKind::FullParam => vec![[nodes, nodes]],
            GeneratorKind::Mlp => self.embedding_layers(features).to_vec(),
            GeneratorKind::MlpDiag => vec![[1, features]; 2],
        };
        let denoiser = [[features, self.hidden_adj], [self.hidden_adj, features]];
        generator.into_iter().chain(denoiser).chain(self.classifier(features, classes).weights())
    }

    fn published_name(path: &str) -> String {
        let path = path.replace("graph_gen.adj", "graph_gen.Adj");
        path.strip_suffix(".w").map_or(path.clone(), |layer| format!("{layer}.W"))
    }

    fn logits<B: Backend>(
        &self,
        networks: &Slaps<B>,
        features: &Features,
        graph: &LearnedGraph<B>,
    ) -> Tensor<B, 2> {
        let device = networks.model2.layers[0].linear.weight.val().device();
        evaluate(&networks.model2, &Input::new(features, &device), graph)
    }

    fn train<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<(Trained<Self, B::InnerBackend>, History)> {
        set.check()?;
        self.validate(set)?;
        train::check_records_gradients::<B>(device)?;
        let mut learner = SlapsLearner::<B>::new(self, set, device)?;
        protocol::run(&mut learner, set, self.epochs, progress)
    }
}

struct SlapsLearner<'a, B: AutodiffBackend> {
    config: &'a SlapsConfig,
    context: Context<'a, B::InnerBackend>,
    denoiser: Denoiser<B>,
    classifier: Gcn<B>,
    denoiser_optimizer: OptimizerAdaptor<Adam, Denoiser<B>, B>,
    classifier_optimizer: OptimizerAdaptor<Adam, Gcn<B>, B>,
    targets: Tensor<B, 2>,
    generator: Generator,
    /// The graph before the last step, which evaluation uses.
    graph: Option<LearnedGraph<B::InnerBackend>>,
}

impl<'a, B: AutodiffBackend> SlapsLearner<'a, B> {
    fn new(config: &'a SlapsConfig, set: &'a NodeSet, device: &B::Device) -> Result<Self> {
        let mut weights = Generator::stream(config.seed, streams::INITIAL_WEIGHTS);
        Ok(Self {
            config,
            context: Context::new(&set.features, &set.split.train, device.inner()),
            denoiser: config.init_denoiser(&set.features, &mut weights, device)?,
            classifier: config.classifier(set.features.columns(), set.classes).init(&mut weights, device)?,
            denoiser_optimizer: protocol::adam(0.0).init(),
            classifier_optimizer: protocol::adam(config.weight_decay).init(),
            targets: targets(set, device),
            generator: Generator::stream(config.seed, streams::DROPOUT),
            graph: None,
        })
    }
}

impl<B: AutodiffBackend> Learner for SlapsLearner<'_, B> {
    type Model = Trained<SlapsConfig, B::InnerBackend>;

    fn step(&mut self, epoch: usize) -> Result<f32> {
        let Self { config, context, denoiser, classifier, targets, generator, .. } = self;
        let mut tape = Tape::new();
        let masked = match config.loss {
            _ if config.lambda == 0.0 => None,
            DenoisingLoss::BinaryCrossEntropy => {
                Some(Masked::binary(context.features, config.r, config.nr, generator)?)
            }
            DenoisingLoss::MeanSquared | DenoisingLoss::SignCrossEntropy => {
                Some(Masked::uniform(context.features, config.r, generator))
            }
        };
        let masked = masked.map(|masked| masked.with_noise(config.noise, generator));
        let graph = denoiser.graph_gen.generate(config, context, &mut tape)?.adjacency;
        let mut loss = Tensor::zeros([1], &targets.device());
        if let Some(masked) = &masked {
            let denoising = denoiser.loss(config, context, masked, &graph, generator, &mut tape);
            loss = loss + denoising * config.lambda;
        }
        if config.lambda == 0.0 || epoch >= config.epochs / config.epoch_d {
            let dropped = graph.dropout(config.dropout_adj2, generator, &mut tape);
            let logits = classify(classifier, &context.input, &dropped, generator, &mut tape);
            loss = loss + labelled_loss(logits, targets.clone());
        }
        self.graph = Some(graph.valid());
        let (of_denoiser, of_classifier) = tape.backward_two(loss.clone(), denoiser, classifier);
        self.denoiser =
            self.denoiser_optimizer.step(self.config.learning_rate_adj, self.denoiser.clone(), of_denoiser);
        self.classifier =
            self.classifier_optimizer.step(self.config.learning_rate, self.classifier.clone(), of_classifier);
        Ok(protocol::number(loss))
    }

    fn logits(&mut self) -> Result<Vec<f32>> {
        let graph = self.graph.as_ref().expect("a step was made");
        let logits = evaluate(&self.classifier.valid(), &self.context.input, graph);
        Ok(logits.into_data().iter::<f32>().collect())
    }

    fn model(&self) -> Self::Model {
        let networks = Slaps { model1: self.denoiser.valid(), model2: self.classifier.valid() };
        (networks, self.graph.clone().expect("a step was made"))
    }
}
