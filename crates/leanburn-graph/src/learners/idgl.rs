//! IDGL (Chen, Wu and Zaki, NeurIPS 2020): iterative deep graph learning. A graph is learned from the features, then again
//! from the hidden layer along it, until it no longer changes. With anchors, nodes are linked to a few of them instead of
//! to each other.

use burn::{
    config::Config,
    module::{AutodiffModule, Module, Param},
    optim::{AdamConfig, GradientsParams, Optimizer, adaptor::OptimizerAdaptor, decay::WeightDecayConfig},
    tensor::{
        Tensor,
        activation::{log_softmax, relu},
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
};
use leanburn_core::{
    Error, Result,
    nn::dropout,
    random::{Generator, streams},
    train,
};

use super::adjacency::{restored_dense, unit_rows};
use crate::{
    Graph, NodeSet, Normalization,
    gcn::check_dropout,
    knn::KnnConfig,
    lgi::{RestorationConfig, mask, targets},
    protocol::{self, History, Learner},
    sparse::{SparseMatrix, ints},
};

/// Added to divisors and logarithms, as in the official code.
const EPSILON: f64 = 1e-12;

/// IDGL and, with restored connections, `IDGL_U` and `IDGL_R`.
#[derive(Config, Debug)]
pub struct IdglConfig {
    /// Neighbours of the initial graph, each node counted among its own. Default: 20
    #[config(default = 20)]
    pub k: usize,
    /// Number of anchors, drawn anew every epoch. Default: none, every pair of nodes
    pub anchors: Option<usize>,
    /// Width of the hidden layer. Default: 16
    #[config(default = 16)]
    pub hidden: usize,
    /// Share of the initial graph in a learned one. Default: 0.8
    #[config(default = 0.8)]
    pub graph_skip_conn: f64,
    /// Share of the latest graph against the first. Default: 0.1
    #[config(default = 0.1)]
    pub update_adj_ratio: f64,
    /// Weight of features' smoothness along the graph. Default: 0.2
    #[config(default = 0.2)]
    pub smoothness_ratio: f64,
    /// Weight of the logarithms of degrees. Default: 0
    #[config(default = 0.0)]
    pub degree_ratio: f64,
    /// Weight of the squares of edges. Default: 0
    #[config(default = 0.0)]
    pub sparsity_ratio: f64,
    /// Weight of the change from graph to graph. Default: 0
    #[config(default = 0.0)]
    pub graph_learn_ratio: f64,
    /// Similarities up to this become 0. Default: 0
    #[config(default = 0.0)]
    pub epsilon: f64,
    /// Number of perspectives of which similarities are averaged. Default: 4
    #[config(default = 4)]
    pub perspectives: usize,
    /// Most refinements of a graph. Default: 10
    #[config(default = 10)]
    pub max_iter: usize,
    /// A graph is refined until its change is at most this, relative to the first graph. Default: 4e-5
    #[config(default = 4e-5)]
    pub eps_adj: f64,
    /// The connections to labelled nodes that are restored, weighted by the learned similarities; `weight` and `block` are
    /// not looked at. Default: none
    pub restoration: Option<RestorationConfig>,
    /// Dropout of the first graph's hidden layer. Default: 0.5
    #[config(default = 0.5)]
    pub dropout: f64,
    /// Dropout of features and of the first graph. Default: 0.5
    #[config(default = 0.5)]
    pub feat_adj_dropout: f64,
    /// Dropout of the hidden layers of refined graphs. Default: 0
    #[config(default = 0.0)]
    pub gl_dropout: f64,
    /// Most passes over all nodes. Default: 10000
    #[config(default = 10_000)]
    pub epochs: usize,
    /// Training ends after this many epochs without a smaller validation loss. Default: 100
    #[config(default = 100)]
    pub patience: usize,
    /// Adam's learning rate. Default: 0.01
    #[config(default = 0.01)]
    pub learning_rate: f64,
    /// L2 penalty added to the gradient. Default: 5e-4
    #[config(default = 5e-4)]
    pub weight_decay: f32,
    /// Seed of the initial weights, anchors and dropout. Default: 42
    #[config(default = 42)]
    pub seed: u64,
}

impl IdglConfig {
    /// Cora with the published settings.
    pub fn cora() -> Self {
        Self::new()
    }

    /// Citeseer with the published settings.
    pub fn citeseer() -> Self {
        Self::new()
            .with_graph_skip_conn(0.6)
            .with_update_adj_ratio(0.5)
            .with_smoothness_ratio(0.4)
            .with_sparsity_ratio(0.2)
            .with_epsilon(0.3)
            .with_perspectives(1)
            .with_eps_adj(1e-3)
    }

    /// Pubmed with the published settings of the anchor version.
    pub fn pubmed() -> Self {
        Self::new()
            .with_anchors(Some(700))
            .with_graph_skip_conn(0.7)
            .with_update_adj_ratio(0.3)
            .with_smoothness_ratio(0.0)
            .with_degree_ratio(0.03)
            .with_epsilon(0.1)
            .with_perspectives(6)
            .with_eps_adj(8e-5)
            .with_feat_adj_dropout(0.0)
    }

    /// The networks, drawn from `generator`.
    pub fn init<B: Backend>(
        &self,
        features: usize,
        classes: usize,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Idgl<B> {
        let mut uniform = |rows: usize, columns: usize| {
            // Xavier's bound, as both the layers and the learners have it.
            let bound = (6.0 / (rows + columns) as f32).sqrt();
            Param::from_tensor(generator.uniform([rows, columns], -bound, bound, device))
        };
        let encoder = Encoder {
            graph_encoders: vec![
                EncoderLayer { weight: uniform(features, self.hidden) },
                EncoderLayer { weight: uniform(self.hidden, classes) },
            ],
        };
        let mut learner = |width| GraphLearner { weight_tensor: uniform(self.perspectives, width) };
        Idgl { encoder, graph_learner: learner(features), graph_learner2: learner(self.hidden) }
    }

    fn validate(&self, set: &NodeSet) -> Result<()> {
        for (field, value) in [
            ("dropout", self.dropout),
            ("feat_adj_dropout", self.feat_adj_dropout),
            ("gl_dropout", self.gl_dropout),
        ] {
            check_dropout(field, value)?;
        }
        for (field, value) in [
            ("epochs", self.epochs),
            ("hidden", self.hidden),
            ("perspectives", self.perspectives),
            ("patience", self.patience),
        ] {
            if value == 0 {
                return Err(Error::setting(field, "at least 1", value));
            }
        }
        if self.k < 2 || self.k > set.nodes() {
            return Err(Error::setting("k", format!("2 to {}, the number of nodes", set.nodes()), self.k));
        }
        if let Some(anchors) = self.anchors
            && (anchors == 0 || anchors > set.nodes())
        {
            return Err(Error::setting(
                "anchors",
                format!("1 to {}, the number of nodes", set.nodes()),
                anchors,
            ));
        }
        for (field, value) in [
            ("epsilon", self.epsilon),
            ("eps_adj", self.eps_adj),
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay.into()),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::setting(field, "0 or a positive number", value));
            }
        }
        for (field, value) in
            [("graph_skip_conn", self.graph_skip_conn), ("update_adj_ratio", self.update_adj_ratio)]
        {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::setting(field, "0 to 1", value));
            }
        }
        if !set.features.is_non_negative() {
            return Err(Error::data(
                "features",
                "numbers from 0 on, whose rows are scaled to sum 1",
                "negative ones",
            ));
        }
        match &self.restoration {
            Some(_) if self.anchors.is_some() => {
                Err(Error::setting("restoration", "none with anchors, which are no labelled nodes", "some"))
            }
            Some(restoration) => restoration.validate(set.nodes(), &set.split.train),
            None => Ok(()),
        }
    }
}

/// A layer of the encoder, without a bias.
#[derive(Module, Debug)]
pub struct EncoderLayer<B: Backend> {
    /// `[in, out]`, as it is published.
    weight: Param<Tensor<B, 2>>,
}

/// The layers that classify.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    graph_encoders: Vec<EncoderLayer<B>>,
}

/// Weighted cosines of several perspectives.
#[derive(Module, Debug)]
pub struct GraphLearner<B: Backend> {
    /// `[perspectives, width]`
    weight_tensor: Param<Tensor<B, 2>>,
}

impl<B: Backend> GraphLearner<B> {
    /// For each perspective the weighted rows of length 1, side by side, so that inner products are mean cosines.
    ///
    /// - x: `[nodes, width]`
    /// - output: `[nodes, perspectives * width]`
    fn perspectives(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        let [count, _] = self.weight_tensor.dims();
        let weighted = (0..count).map(|perspective| {
            let weights = self.weight_tensor.val().narrow(0, perspective, 1);
            unit_rows(x.clone() * weights)
        });
        Tensor::cat(weighted.collect(), 1) / (count as f64).sqrt()
    }
}

/// Encoder and graph learners, as a checkpoint holds them.
#[derive(Module, Debug)]
pub struct Idgl<B: Backend> {
    encoder: Encoder<B>,
    graph_learner: GraphLearner<B>,
    graph_learner2: GraphLearner<B>,
}

/// Features, the initial graph and the labelled nodes, on a device.
pub struct Context<'a, B: Backend> {
    features: Tensor<B, 2>,
    /// Symmetrically normalised; dense where every pair of nodes is learned.
    initial: Initial<B>,
    labelled: &'a [usize],
    is_labelled: Vec<bool>,
}

enum Initial<B: Backend> {
    Dense(Tensor<B, 2>),
    Sparse(SparseMatrix<B>),
}

impl<'a, B: Backend> Context<'a, B> {
    /// The features `[nodes, features]`, the initial graph with self-loops, and the labelled nodes.
    ///
    /// # Errors
    ///
    /// When the graph cannot be normalised.
    pub fn new(
        config: &IdglConfig,
        features: Tensor<B, 2>,
        graph: &Graph,
        labelled: &'a [usize],
    ) -> Result<Self> {
        let (nodes, device) = (graph.nodes(), features.device());
        let graph = graph.normalised(Normalization::Symmetric)?;
        let initial = SparseMatrix::new(graph.adjacency(), &device);
        let initial = match config.anchors {
            Some(_) => Initial::Sparse(initial),
            None => Initial::Dense(initial.product(Tensor::eye(nodes, &device))),
        };
        Ok(Self { features, initial, labelled, is_labelled: mask(nodes, labelled) })
    }

    /// The initial graph, `[nodes, nodes]`, where every pair of nodes is learned.
    pub fn initial(&self) -> Option<Tensor<B, 2>> {
        match &self.initial {
            Initial::Dense(initial) => Some(initial.clone()),
            Initial::Sparse(_) => None,
        }
    }
}

/// What one epoch gives.
pub struct Output<B: Backend> {
    /// The first learned graph before its rows are scaled: `[nodes, nodes]`, or with anchors `[nodes, anchors]`.
    pub first_raw: Tensor<B, 2>,
    /// The first graph that features were propagated along, `[nodes, nodes]`; none with anchors.
    pub first: Option<Tensor<B, 2>>,
    /// The regularisation of the first graph, `[1]`.
    pub graph_loss: Tensor<B, 1>,
    /// The last learned graph before its rows are scaled.
    pub last_raw: Tensor<B, 2>,
    /// Log-probabilities of all nodes along the last graph, `[nodes, classes]`.
    pub log_probabilities: Tensor<B, 2>,
    /// How often the graph was refined.
    pub iterations: usize,
    /// The training loss, `[1]`.
    pub loss: Tensor<B, 1>,
}

/// A graph that was learned.
struct Learned<B: Backend> {
    raw: Tensor<B, 2>,
    /// With its rows scaled to sum 1.
    rows: Tensor<B, 2>,
    /// With anchors, with their columns scaled to sum 1, transposed: `[anchors, nodes]`.
    columns: Option<Tensor<B, 2>>,
}

impl<B: Backend> Learned<B> {
    fn product(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.columns {
            Some(columns) => self.rows.clone().matmul(columns.clone().matmul(x)),
            None => self.rows.clone().matmul(x),
        }
    }
}

/// Dropout, where there is noise.
fn noisy<B: Backend>(x: Tensor<B, 2>, probability: f64, noise: &mut Option<&mut Generator>) -> Tensor<B, 2> {
    match noise {
        Some(generator) => dropout(x, probability, generator),
        None => x,
    }
}

impl<B: Backend> Idgl<B> {
    /// One epoch: the first graph, its refinements, and the loss of all.
    ///
    /// - targets: `[nodes, classes]`, one over the number of labelled nodes at the class of each of them
    /// - anchors: the nodes that are anchors, if the configuration has some
    /// - noise: of dropout; none in evaluation
    pub fn forward(
        &self,
        config: &IdglConfig,
        context: &Context<B>,
        targets: &Tensor<B, 2>,
        anchors: Option<&[usize]>,
        mut noise: Option<&mut Generator>,
    ) -> Output<B> {
        let device = context.features.device();
        let anchors =
            anchors.map(|nodes| ints::<B>(nodes.iter().map(|&node| node as i64).collect(), &device));
        let features = noisy(context.features.clone(), config.feat_adj_dropout, &mut noise);
        let support = features.clone().matmul(self.encoder.graph_encoders[0].weight.val());
        let (products, lengths) = comparisons(&features, anchors.as_ref());

        let mut first = Self::learn(config, context, &self.graph_learner, &features, anchors.as_ref());
        let (graph_loss, mut loss) = {
            let regularised = if config.max_iter > 0 && anchors.is_none() {
                noisy(first.raw.clone(), config.feat_adj_dropout, &mut noise)
            } else {
                first.raw.clone()
            };
            first.raw = regularised;
            let graph_loss = graph_loss(config, &first, &products, &lengths);
            (graph_loss.clone(), graph_loss)
        };
        // Propagation along the initial graph, the first one and the latest one.
        let skip = config.graph_skip_conn;
        let (dense_first, propagate_first): (Option<Tensor<B, 2>>, _) = match &context.initial {
            Initial::Dense(initial) => {
                let adjacency = initial.clone() * skip + first.rows.clone() * (1.0 - skip);
                let adjacency = noisy(adjacency, config.feat_adj_dropout, &mut noise);
                (
                    Some(adjacency.clone()),
                    Box::new(move |x: Tensor<B, 2>| adjacency.clone().matmul(x))
                        as Box<dyn Fn(Tensor<B, 2>) -> Tensor<B, 2> + '_>,
                )
            }
            Initial::Sparse(initial) => {
                let first = &first;
                (
                    None,
                    Box::new(move |x: Tensor<B, 2>| {
                        initial.product(x.clone()) * skip + first.product(x) * (1.0 - skip)
                    }) as _,
                )
            }
        };
        let last_weight = || self.encoder.graph_encoders[1].weight.val();
        let mut hidden = noisy(relu(propagate_first(support.clone())), config.dropout, &mut noise);
        let classify = |hidden: &Tensor<B, 2>, propagate: &dyn Fn(Tensor<B, 2>) -> Tensor<B, 2>| {
            log_softmax(propagate(hidden.clone().matmul(last_weight())), 1)
        };
        let mut log_probabilities = classify(&hidden, &*propagate_first);
        let nll =
            |log_probabilities: &Tensor<B, 2>| (log_probabilities.clone() * targets.clone()).sum().neg();
        loss = loss + nll(&log_probabilities);

        let scale = scalar(first.raw.clone().square().sum()).max(EPSILON);
        let ratio = config.update_adj_ratio;
        let mut iterations = 0;
        let mut later: Option<Tensor<B, 1>> = None;
        let mut previous = first.raw.clone();
        while iterations < config.max_iter {
            iterations += 1;
            let latest = Self::learn(config, context, &self.graph_learner2, &hidden, anchors.as_ref());
            let propagate = |x: Tensor<B, 2>| {
                let of_latest = match &context.initial {
                    Initial::Dense(initial) => {
                        initial.clone().matmul(x.clone()) * skip + latest.product(x.clone()) * (1.0 - skip)
                    }
                    Initial::Sparse(initial) => {
                        initial.product(x.clone()) * skip + latest.product(x.clone()) * (1.0 - skip)
                    }
                };
                of_latest * ratio + propagate_first(x) * (1.0 - ratio)
            };
            hidden = noisy(relu(propagate(support.clone())), config.gl_dropout, &mut noise);
            log_probabilities = classify(&hidden, &propagate);
            let mut of_iteration =
                nll(&log_probabilities) + self::graph_loss(config, &latest, &products, &lengths);
            let change = (latest.raw.clone() - previous.clone()).square().sum();
            let relative = scalar(change.clone()) / scale;
            if config.graph_learn_ratio > 0.0 {
                let count = latest.raw.shape().num_elements() as f64;
                of_iteration = of_iteration + change * (config.graph_learn_ratio / count);
            }
            later = Some(match later {
                Some(sum) => sum + of_iteration,
                None => of_iteration,
            });
            previous = latest.raw;
            if relative <= config.eps_adj {
                break;
            }
        }
        drop(propagate_first);
        if let Some(later) = later {
            loss = loss + later / iterations as f64;
        }
        Output {
            first_raw: first.raw,
            first: dense_first,
            graph_loss,
            last_raw: previous,
            log_probabilities,
            iterations,
            loss,
        }
    }

    fn learn(
        config: &IdglConfig,
        context: &Context<B>,
        learner: &GraphLearner<B>,
        x: &Tensor<B, 2>,
        anchors: Option<&Tensor<B, 1, burn::tensor::Int>>,
    ) -> Learned<B> {
        let nodes = learner.perspectives(x);
        let others =
            anchors.map_or_else(|| nodes.clone(), |anchors| nodes.clone().select(0, anchors.clone()));
        let similarity = nodes.matmul(others.transpose());
        let mut raw = similarity.clone().mask_fill(similarity.clone().lower_equal_elem(config.epsilon), 0.0);
        if let Some(restoration) = &config.restoration {
            let Context { labelled, is_labelled, .. } = context;
            raw = restored_dense(restoration, labelled, is_labelled, raw, similarity);
        }
        let rows = raw.clone() / raw.clone().sum_dim(1).clamp_min(EPSILON);
        let columns = anchors.map(|_| (raw.clone() / raw.clone().sum_dim(0).clamp_min(EPSILON)).transpose());
        Learned { raw, rows, columns }
    }
}

/// What smoothness compares: the inner products of nodes, or anchors, and their squared lengths.
fn comparisons<B: Backend>(
    features: &Tensor<B, 2>,
    anchors: Option<&Tensor<B, 1, burn::tensor::Int>>,
) -> (Tensor<B, 2>, Tensor<B, 2>) {
    let compared =
        anchors.map_or_else(|| features.clone(), |nodes| features.clone().select(0, nodes.clone()));
    (compared.clone().matmul(compared.clone().transpose()), compared.square().sum_dim(1))
}

/// Smoothness, degrees and sparsity of a learned graph, `[1]`; with anchors, of the graph between them.
fn graph_loss<B: Backend>(
    config: &IdglConfig,
    learned: &Learned<B>,
    products: &Tensor<B, 2>,
    lengths: &Tensor<B, 2>,
) -> Tensor<B, 1> {
    let adjacency = match &learned.columns {
        None => learned.raw.clone(),
        // Two anchors are linked through the nodes that both are linked to.
        Some(_) => learned.raw.clone().transpose().matmul(learned.rows.clone()),
    };
    let [nodes, _] = adjacency.dims();
    let (n, pairs) = (nodes as f64, (nodes * nodes) as f64);
    let sums = adjacency.clone().sum_dim(1);
    let smoothness = (sums.clone() * lengths.clone()).sum() - (adjacency.clone() * products.clone()).sum();
    let degree = (sums + EPSILON).log().sum();
    let sparsity = adjacency.square().sum();
    smoothness * (config.smoothness_ratio / pairs) - degree * (config.degree_ratio / n)
        + sparsity * (config.sparsity_ratio / pairs)
}

fn scalar<B: Backend>(tensor: Tensor<B, 1>) -> f64 {
    tensor.into_data().iter::<f64>().next().expect("it has one value")
}

/// Networks as they were trained.
#[derive(Debug, Clone)]
pub struct IdglModel<B: Backend> {
    /// The networks.
    pub networks: Idgl<B>,
    /// The last graph before its rows are scaled: `[nodes, nodes]`, or with anchors `[nodes, anchors]`.
    pub graph: Tensor<B, 2>,
    /// Logits of all nodes, `[nodes, classes]`, row by row.
    pub logits: Vec<f32>,
}

impl IdglConfig {
    /// Trains the networks on `set`.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range or does not fit `set`, the device does not record gradients, or training
    /// diverges.
    pub fn fit<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<(IdglModel<B::InnerBackend>, History)> {
        self.validate(set)?;
        train::check_records_gradients::<B>(device)?;
        let features = set.features.row_normalised();
        // A node is the nearest to itself.
        let graph =
            KnnConfig::new().with_k(self.k - 1).graph::<B::InnerBackend>(&features, device.inner())?;
        let labelled = &set.split.train;
        let context = Context::new(self, features.to_tensor(device), &graph, labelled)?;
        let valid = Context::new(self, features.to_tensor(device.inner()), &graph, labelled)?;
        let mut weights = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
        let mut learner = IdglLearner::<B> {
            config: self,
            networks: self.init(set.features.columns(), set.classes, &mut weights, device),
            optimizer: AdamConfig::new()
                .with_epsilon(1e-8)
                .with_weight_decay(Some(WeightDecayConfig::new(self.weight_decay)))
                .init(),
            targets: targets(set, device),
            generator: Generator::stream(self.seed, streams::DROPOUT),
            anchors: Generator::stream(self.seed, streams::ORDER),
            evaluated: None,
            best: f64::INFINITY,
            since: 0,
            context,
            valid,
        };
        protocol::run(&mut learner, set, self.epochs, progress)
    }
}

struct IdglLearner<'a, B: AutodiffBackend> {
    config: &'a IdglConfig,
    context: Context<'a, B>,
    valid: Context<'a, B::InnerBackend>,
    networks: Idgl<B>,
    optimizer: OptimizerAdaptor<burn::optim::Adam, Idgl<B>, B>,
    targets: Tensor<B, 2>,
    generator: Generator,
    anchors: Generator,
    evaluated: Option<(Tensor<B::InnerBackend, 2>, Vec<f32>)>,
    best: f64,
    since: usize,
}

impl<B: AutodiffBackend> IdglLearner<'_, B> {
    fn draw_anchors(&mut self) -> Option<Vec<usize>> {
        let nodes = self.context.is_labelled.len();
        self.config.anchors.map(|count| {
            let mut chosen = self.anchors.permutation(nodes);
            chosen.truncate(count);
            chosen
        })
    }
}

impl<B: AutodiffBackend> Learner for IdglLearner<'_, B> {
    type Model = IdglModel<B::InnerBackend>;

    fn step(&mut self, _epoch: usize) -> Result<f32> {
        let anchors = self.draw_anchors();
        let Self { config, context, networks, targets, generator, .. } = self;
        let loss = networks.forward(config, context, targets, anchors.as_deref(), Some(generator)).loss;
        let gradients = GradientsParams::from_grads(loss.backward(), networks);
        self.networks = self.optimizer.step(config.learning_rate, networks.clone(), gradients);
        Ok(loss.into_data().iter::<f32>().next().expect("the loss is a number"))
    }

    fn logits(&mut self) -> Result<Vec<f32>> {
        let anchors = self.draw_anchors();
        let targets = self.targets.clone().inner();
        let output =
            self.networks.valid().forward(self.config, &self.valid, &targets, anchors.as_deref(), None);
        let logits: Vec<f32> = output.log_probabilities.into_data().iter::<f32>().collect();
        self.evaluated = Some((output.last_raw, logits.clone()));
        Ok(logits)
    }

    fn model(&self) -> Self::Model {
        let (graph, logits) = self.evaluated.clone().expect("the epoch was evaluated");
        IdglModel { networks: self.networks.valid(), graph, logits }
    }

    fn validated(&mut self, loss: f64) -> bool {
        if loss < self.best {
            (self.best, self.since) = (loss, 0);
        } else {
            self.since += 1;
        }
        self.since >= self.config.patience
    }
}
