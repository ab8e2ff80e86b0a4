//! IDGL (Chen, Wu and Zaki, NeurIPS 2020): iterative deep graph learning. A graph is learned from the features, then again
//! from the hidden layer along it, until it no longer changes. With anchors, nodes are linked to a few of them instead of
//! to each other.

use std::cell::OnceCell;

use burn::{
    config::Config,
    module::{AutodiffModule, Module, Param},
    optim::{GradientsParams, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{
        Int, Tensor,
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

use super::{
    adjacency::{Labelled, largest_of_rows, on_host, unit_rows},
    model::{GraphModel, LARGEST_DENSE, LearnedGraph, Sizes, Trained},
};
use crate::{
    Features, Graph, NodeSet, Normalization, Split, checks,
    knn::KnnConfig,
    lgi::{RestorationConfig, Rows, Varied, targets_of},
    protocol::{self, History, Learner, number},
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
    /// How many similarities of a node, that to itself among them, are kept at most; of anchors, how many to them.
    /// Default: all
    pub topk: Option<usize>,
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
        checks::dropouts(&[
            ("dropout", self.dropout),
            ("feat_adj_dropout", self.feat_adj_dropout),
            ("gl_dropout", self.gl_dropout),
        ])?;
        checks::counts(&[
            ("epochs", self.epochs),
            ("hidden", self.hidden),
            ("perspectives", self.perspectives),
            ("patience", self.patience),
            ("topk", self.topk.unwrap_or(1)),
        ])?;
        let nodes = set.nodes();
        if self.k < 2 || self.k > nodes {
            return Err(Error::setting("k", format!("2 to {nodes}, the number of nodes"), self.k));
        }
        match self.anchors {
            Some(anchors) if anchors == 0 || anchors > nodes => {
                let expected = format!("1 to {nodes}, the number of nodes");
                return Err(Error::setting("anchors", expected, anchors));
            }
            Some(anchors) if nodes.saturating_mul(anchors) > LARGEST_DENSE * LARGEST_DENSE => {
                let expected = format!("fewer anchors for {nodes} nodes, each of which is compared with all");
                return Err(Error::setting("anchors", expected, anchors));
            }
            None if nodes > LARGEST_DENSE => {
                let expected = format!("some, for more than {LARGEST_DENSE} nodes");
                return Err(Error::setting("anchors", expected, "none"));
            }
            _ => (),
        }
        checks::not_negative(&[
            ("epsilon", self.epsilon),
            ("eps_adj", self.eps_adj),
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay.into()),
            ("smoothness_ratio", self.smoothness_ratio),
            ("degree_ratio", self.degree_ratio),
            ("sparsity_ratio", self.sparsity_ratio),
            ("graph_learn_ratio", self.graph_learn_ratio),
        ])?;
        checks::shares(&[
            ("graph_skip_conn", self.graph_skip_conn),
            ("update_adj_ratio", self.update_adj_ratio),
        ])?;
        if !set.features.is_non_negative() {
            let expected = "numbers from 0 on, whose rows are scaled to sum 1";
            return Err(Error::data("features", expected, "negative ones"));
        }
        let labelled = &set.split.train;
        match &self.restoration {
            Some(restoration) => {
                restoration.validate_learned(nodes, labelled)?;
                let pairs = nodes.saturating_mul(labelled.len());
                if pairs > LARGEST_DENSE * LARGEST_DENSE {
                    let expected = "none, or fewer labelled nodes: each node is compared with all of them";
                    return Err(Error::setting("restoration", expected, format!("{pairs} pairs")));
                }
                Ok(())
            }
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
    initial: Initial<B>,
    labelled: Labelled<'a>,
    /// Of features without dropout and without anchors, which stays.
    regularisation: OnceCell<Regularisation<B>>,
}

/// The initial graph, symmetrically normalised.
enum Initial<B: Backend> {
    /// Where every pair of nodes is learned.
    Dense(Tensor<B, 2>),
    /// With anchors.
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
        let labelled = Labelled::new(nodes, labelled);
        Ok(Self { features, initial, labelled, regularisation: OnceCell::new() })
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
pub struct Output<'a, B: Backend> {
    /// The first learned graph before its rows are scaled: `[nodes, nodes]`, or with anchors `[nodes, anchors]`.
    pub first_raw: Tensor<B, 2>,
    /// The first graph that features were propagated along.
    pub first: Propagation<'a, B>,
    /// The regularisation of the first graph, `[1]`.
    pub graph_loss: Tensor<B, 1>,
    /// The last learned graph before its rows are scaled.
    pub last_raw: Tensor<B, 2>,
    /// The last graph that features were propagated along.
    pub last: Propagation<'a, B>,
    /// Log-probabilities of all nodes along the last graph, `[nodes, classes]`.
    pub log_probabilities: Tensor<B, 2>,
    /// How often the graph was refined.
    pub iterations: usize,
    /// The loss, `[1]`.
    pub loss: Tensor<B, 1>,
}

/// A graph that was learned.
#[derive(Clone)]
struct Learned<B: Backend> {
    raw: Tensor<B, 2>,
    /// With its rows scaled to sum 1; with anchors and restored connections, they and those are.
    rows: Tensor<B, 2>,
    anchored: Option<Anchored<B>>,
}

/// What a graph between nodes and anchors has in addition.
#[derive(Clone)]
struct Anchored<B: Backend> {
    /// The graph with its columns scaled to sum 1, transposed: `[anchors, nodes]`.
    columns: Tensor<B, 2>,
    /// The graph between anchors, which are linked through the nodes that both are linked to: `[anchors, anchors]`.
    between: Tensor<B, 2>,
    /// Connections to the labelled nodes, `[nodes, labelled]`.
    restored: Option<Tensor<B, 2>>,
}

/// What features are propagated along.
#[derive(Clone)]
pub enum Propagation<'a, B: Backend> {
    /// `[nodes, nodes]`
    Dense(Tensor<B, 2>),
    /// The initial graph with its weight, and graphs between nodes and anchors with theirs.
    Anchored(Parts<'a, B>),
}

/// A sum of graphs.
#[derive(Clone)]
pub struct Parts<'a, B: Backend> {
    initial: (&'a SparseMatrix<B>, f64),
    learned: Vec<(Learned<B>, f64)>,
    labelled: &'a Labelled<'a>,
}

impl<B: Backend> Propagation<'_, B> {
    /// `A x`
    ///
    /// - x, output: `[nodes, width]`
    fn product(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Dense(adjacency) => adjacency.clone().matmul(x),
            Self::Anchored(Parts { initial: (initial, weight), learned, labelled }) => {
                let sum = initial.product(x.clone()) * *weight;
                learned.iter().fold(sum, |mut sum, (Learned { rows, anchored, .. }, weight)| {
                    let anchored = anchored.as_ref().expect("graphs are between nodes and anchors");
                    sum = sum + rows.clone().matmul(anchored.columns.clone().matmul(x.clone())) * *weight;
                    match &anchored.restored {
                        Some(restored) => {
                            sum + restored.clone().matmul(labelled.select(x.clone(), 0)) * *weight
                        }
                        None => sum,
                    }
                })
            }
        }
    }

    /// `[nodes, nodes]`; none with anchors.
    pub fn to_dense(&self) -> Option<Tensor<B, 2>> {
        match self {
            Self::Dense(adjacency) => Some(adjacency.clone()),
            Self::Anchored(_) => None,
        }
    }

    /// The graph, for use without what it was made of.
    ///
    /// - initial: the initial graph, normalised
    fn to_learned_graph(&self, initial: &Graph) -> LearnedGraph<B> {
        let Parts { initial: (_, weight), learned, labelled } = match self {
            Self::Dense(adjacency) => return LearnedGraph::Dense(adjacency.clone()),
            Self::Anchored(parts) => parts,
        };
        let mut sparse = Graph::empty(initial.nodes()).plus(*weight as f32, initial).adjacency().clone();
        let mut factors = Vec::new();
        for (Learned { rows, anchored, .. }, weight) in learned {
            let anchored = anchored.as_ref().expect("graphs are between nodes and anchors");
            factors.push([rows.clone() * *weight, anchored.columns.clone()]);
            if let Some(restored) = &anchored.restored {
                sparse = sparse.weighted_sum(1.0, &labelled.entries(&on_host(restored)), *weight as f32);
            }
        }
        let device = factors[0][0].device();
        let LearnedGraph::Sparse(places, values) = LearnedGraph::sparse(&sparse, &device) else {
            unreachable!("it is sparse")
        };
        LearnedGraph::Anchored(places, values, factors)
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
    /// - targets: `[nodes, classes]`, one over the number of nodes that are trained on at the class of each of them
    /// - anchors: the nodes that are anchors, if the configuration has some
    /// - noise: of dropout; none in evaluation
    pub fn forward<'a>(
        &self,
        config: &IdglConfig,
        context: &'a Context<'a, B>,
        targets: &Tensor<B, 2>,
        anchors: Option<&[usize]>,
        mut noise: Option<&mut Generator>,
    ) -> Output<'a, B> {
        let device = context.features.device();
        let anchors =
            anchors.map(|nodes| ints::<B>(nodes.iter().map(|&node| node as i64).collect(), &device));
        let features = noisy(context.features.clone(), config.feat_adj_dropout, &mut noise);
        let support = features.clone().matmul(self.encoder.graph_encoders[0].weight.val());
        let regularisation = if noise.is_none() && anchors.is_none() {
            context.regularisation.get_or_init(|| Regularisation::new(&features, None)).clone()
        } else {
            Regularisation::new(&features, anchors.as_ref())
        };
        let last_weight = || self.encoder.graph_encoders[1].weight.val();
        let classify = |hidden: &Tensor<B, 2>, propagation: &Propagation<B>| {
            log_softmax(propagation.product(hidden.clone().matmul(last_weight())), 1)
        };
        let nll =
            |log_probabilities: &Tensor<B, 2>| (log_probabilities.clone() * targets.clone()).sum().neg();

        let mut learned = Self::learn(config, context, &self.graph_learner, &features, anchors.as_ref());
        if config.max_iter > 0 && anchors.is_none() {
            learned.raw = noisy(learned.raw, config.feat_adj_dropout, &mut noise);
        }
        let first_raw = learned.raw.clone();
        let graph_loss = regularisation.loss(config, &learned);
        let mut first = context.propagation(config.graph_skip_conn, learned);
        if let Propagation::Dense(adjacency) = first {
            first = Propagation::Dense(noisy(adjacency, config.feat_adj_dropout, &mut noise));
        }
        let mut hidden = noisy(relu(first.product(support.clone())), config.dropout, &mut noise);
        let mut log_probabilities = classify(&hidden, &first);
        let mut loss = nll(&log_probabilities) + graph_loss.clone();

        let scale = f64::from(number(first_raw.clone().square().sum())).max(EPSILON);
        let (mut iterations, mut last) = (0, first.clone());
        let mut later: Option<Tensor<B, 1>> = None;
        let mut last_raw = first_raw.clone();
        while iterations < config.max_iter {
            iterations += 1;
            let learned = Self::learn(config, context, &self.graph_learner2, &hidden, anchors.as_ref());
            let raw = learned.raw.clone();
            let of_graph = regularisation.loss(config, &learned);
            last =
                context.propagation(config.graph_skip_conn, learned).mixed(config.update_adj_ratio, &first);
            hidden = noisy(relu(last.product(support.clone())), config.gl_dropout, &mut noise);
            log_probabilities = classify(&hidden, &last);
            let mut of_iteration = nll(&log_probabilities) + of_graph;
            let change = (raw.clone() - last_raw).square().sum();
            let relative = f64::from(number(change.clone())) / scale;
            if config.graph_learn_ratio > 0.0 {
                let count = raw.shape().num_elements() as f64;
                of_iteration = of_iteration + change * (config.graph_learn_ratio / count);
            }
            later = Some(match later {
                Some(sum) => sum + of_iteration,
                None => of_iteration,
            });
            last_raw = raw;
            if relative <= config.eps_adj {
                break;
            }
        }
        if let Some(later) = later {
            loss = loss + later / iterations as f64;
        }
        Output { first_raw, first, graph_loss, last_raw, last, log_probabilities, iterations, loss }
    }

    fn learn(
        config: &IdglConfig,
        context: &Context<B>,
        learner: &GraphLearner<B>,
        x: &Tensor<B, 2>,
        anchors: Option<&Tensor<B, 1, Int>>,
    ) -> Learned<B> {
        let nodes = learner.perspectives(x);
        let kept = |similarity: Tensor<B, 2>| {
            let near = similarity.clone().mask_fill(similarity.lower_equal_elem(config.epsilon), 0.0);
            match config.topk {
                Some(k) => near.clone() * largest_of_rows(near, k),
                None => near,
            }
        };
        let Some(anchors) = anchors else {
            let similarity = nodes.clone().matmul(nodes.transpose());
            let mut raw = kept(similarity.clone());
            if let Some(restoration) = &config.restoration {
                raw = context.labelled.restored_dense(restoration, raw, similarity);
            }
            let rows = raw.clone() / raw.clone().sum_dim(1).clamp_min(EPSILON);
            return Learned { raw, rows, anchored: None };
        };
        let raw = kept(nodes.clone().matmul(nodes.clone().select(0, anchors.clone()).transpose()));
        let columns = (raw.clone() / raw.clone().sum_dim(0).clamp_min(EPSILON)).transpose();
        let sums = raw.clone().sum_dim(1);
        let own = raw.clone() / sums.clone().clamp_min(EPSILON);
        let between = raw.clone().transpose().matmul(own.clone());
        let Some(restoration) = &config.restoration else {
            return Learned { raw, rows: own, anchored: Some(Anchored { columns, between, restored: None }) };
        };
        // Nodes reach labelled ones through the anchors that both are linked to.
        let labelled = &context.labelled;
        let reaching = (restoration.rows == Rows::Starved).then(|| {
            let links = raw.clone().greater_elem(0.0).float();
            on_host(&links.clone().matmul(labelled.select(links, 0).sum_dim(0).transpose()))
        });
        let reaches = |row: usize| reaching.as_ref().is_some_and(|reaching| reaching[row] > 0.0);
        let similarity = nodes.clone().matmul(labelled.select(nodes, 0).transpose());
        let restored = labelled.restored(restoration, &on_host(&sums), reaches, similarity);
        let sums = (sums + restored.clone().sum_dim(1)).clamp_min(EPSILON);
        let rows = raw.clone() / sums.clone();
        Learned { raw, rows, anchored: Some(Anchored { columns, between, restored: Some(restored / sums) }) }
    }
}

impl<'a, B: Backend> Context<'a, B> {
    /// A learned graph together with the initial one.
    ///
    /// - skip: share of the initial one
    fn propagation(&'a self, skip: f64, learned: Learned<B>) -> Propagation<'a, B> {
        match &self.initial {
            Initial::Dense(initial) => {
                Propagation::Dense(initial.clone() * skip + learned.rows * (1.0 - skip))
            }
            Initial::Sparse(initial) => Propagation::Anchored(Parts {
                initial: (initial, skip),
                learned: vec![(learned, 1.0 - skip)],
                labelled: &self.labelled,
            }),
        }
    }
}

impl<B: Backend> Propagation<'_, B> {
    /// A share of this and the rest of another.
    fn mixed(self, share: f64, other: &Self) -> Self {
        match (self, other) {
            (Self::Anchored(mut parts), Self::Anchored(others)) => {
                parts.initial.1 = parts.initial.1 * share + others.initial.1 * (1.0 - share);
                parts.learned.iter_mut().for_each(|(_, weight)| *weight *= share);
                let others = others.learned.iter().cloned();
                parts.learned.extend(others.map(|(learned, weight)| (learned, weight * (1.0 - share))));
                Self::Anchored(parts)
            }
            (Self::Dense(adjacency), Self::Dense(other)) => {
                Self::Dense(adjacency * share + other.clone() * (1.0 - share))
            }
            _ => unreachable!("a context's graphs are of one kind"),
        }
    }
}

/// What is common to the regularisation of all graphs of an epoch, which compares features of linked nodes, or anchors.
#[derive(Debug, Clone)]
struct Regularisation<B: Backend> {
    /// The inner products of features.
    products: Tensor<B, 2>,
    /// The squared lengths of features, `[nodes, 1]`.
    lengths: Tensor<B, 2>,
}

impl<B: Backend> Regularisation<B> {
    fn new(features: &Tensor<B, 2>, anchors: Option<&Tensor<B, 1, Int>>) -> Self {
        let compared =
            anchors.map_or_else(|| features.clone(), |nodes| features.clone().select(0, nodes.clone()));
        let products = compared.clone().matmul(compared.clone().transpose());
        Self { products, lengths: compared.square().sum_dim(1) }
    }

    /// Smoothness, degrees and sparsity of a learned graph, `[1]`; with anchors, of the graph between them.
    fn loss(&self, config: &IdglConfig, learned: &Learned<B>) -> Tensor<B, 1> {
        let adjacency = learned.anchored.as_ref().map_or(&learned.raw, |anchored| &anchored.between).clone();
        let [nodes, _] = adjacency.dims();
        let (n, pairs) = (nodes as f64, (nodes * nodes) as f64);
        let sums = adjacency.clone().sum_dim(1);
        let smoothness =
            (sums.clone() * self.lengths.clone()).sum() - (adjacency.clone() * self.products.clone()).sum();
        let mut loss = smoothness * (config.smoothness_ratio / pairs);
        if config.degree_ratio > 0.0 {
            loss = loss - (sums + EPSILON).log().sum() * (config.degree_ratio / n);
        }
        if config.sparsity_ratio > 0.0 {
            loss = loss + adjacency.square().sum() * (config.sparsity_ratio / pairs);
        }
        loss
    }
}

impl GraphModel for IdglConfig {
    type Networks<B: Backend> = Idgl<B>;

    fn varied_settings(&mut self) -> Varied<'_> {
        Varied { seed: &mut self.seed, k: &mut self.k, restoration: &mut self.restoration }
    }

    fn networks<B: Backend>(&self, sizes: Sizes, device: &B::Device) -> Result<Idgl<B>> {
        Ok(self.init(sizes.features, sizes.classes, &mut Generator::new(0), device))
    }

    fn weights(&self, sizes: Sizes) -> impl Iterator<Item = [usize; 2]> {
        let Sizes { features, classes, .. } = sizes;
        [
            [features, self.hidden],
            [self.hidden, classes],
            [self.perspectives, features],
            [self.perspectives, self.hidden],
        ]
        .into_iter()
    }

    /// The published layout of the encoder is Burn's own.
    fn published_name(path: &str) -> String {
        path.to_owned()
    }

    fn logits<B: Backend>(
        &self,
        networks: &Idgl<B>,
        features: &Features,
        graph: &LearnedGraph<B>,
    ) -> Tensor<B, 2> {
        let [first, last] = [0, 1].map(|layer: usize| networks.encoder.graph_encoders[layer].weight.val());
        let features = features.row_normalised().to_tensor(&first.device());
        let hidden = relu(graph.product(features.matmul(first)));
        graph.product(hidden.matmul(last))
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
        let features = set.features.row_normalised();
        // A node is the nearest to itself.
        let graph =
            KnnConfig::new().with_k(self.k - 1).graph::<B::InnerBackend>(&features, device.inner())?;
        let Split { train: labelled, validation, .. } = &set.split;
        let contexts = (
            Context::new(self, features.to_tensor(device), &graph, labelled)?,
            Context::new(self, features.to_tensor(device.inner()), &graph, labelled)?,
        );
        let watched = if validation.is_empty() { labelled } else { validation };
        let mut weights = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
        let mut learner = IdglLearner::<B> {
            config: self,
            networks: self.init(set.features.columns(), set.classes, &mut weights, device),
            optimizer: protocol::adam(self.weight_decay).init(),
            targets: targets_of(set, labelled, device),
            watched_targets: targets_of(set, watched, device.inner()),
            generator: Generator::stream(self.seed, streams::DROPOUT),
            anchors: Generator::stream(self.seed, streams::ORDER),
            initial: graph.normalised(Normalization::Symmetric)?,
            evaluated: None,
            best: f32::INFINITY,
            since: 0,
            context: &contexts.0,
            valid: &contexts.1,
        };
        protocol::run(&mut learner, set, self.epochs, progress)
    }
}

struct IdglLearner<'a, B: AutodiffBackend> {
    config: &'a IdglConfig,
    context: &'a Context<'a, B>,
    valid: &'a Context<'a, B::InnerBackend>,
    networks: Idgl<B>,
    optimizer: OptimizerAdaptor<burn::optim::Adam, Idgl<B>, B>,
    targets: Tensor<B, 2>,
    /// Of the validation nodes, whose loss ends training.
    watched_targets: Tensor<B::InnerBackend, 2>,
    generator: Generator,
    anchors: Generator,
    /// The initial graph, normalised.
    initial: Graph,
    /// The last graph of the last evaluation, and the loss of the nodes that are watched.
    evaluated: Option<(Propagation<'a, B::InnerBackend>, f32)>,
    best: f32,
    since: usize,
}

impl<B: AutodiffBackend> IdglLearner<'_, B> {
    fn draw_anchors(&mut self) -> Option<Vec<usize>> {
        let nodes = self.initial.nodes();
        self.config.anchors.map(|count| {
            let mut chosen = self.anchors.permutation(nodes);
            chosen.truncate(count);
            chosen
        })
    }
}

impl<B: AutodiffBackend> Learner for IdglLearner<'_, B> {
    type Model = Trained<IdglConfig, B::InnerBackend>;

    fn step(&mut self, _epoch: usize) -> Result<f32> {
        let anchors = self.draw_anchors();
        let Self { config, context, networks, targets, generator, .. } = self;
        let loss = networks.forward(config, context, targets, anchors.as_deref(), Some(generator)).loss;
        let gradients = GradientsParams::from_grads(loss.backward(), networks);
        self.networks = self.optimizer.step(config.learning_rate, networks.clone(), gradients);
        Ok(number(loss))
    }

    fn logits(&mut self) -> Result<Vec<f32>> {
        let anchors = self.draw_anchors();
        let Self { config, valid, watched_targets, .. } = self;
        let networks = self.networks.valid();
        let output = networks.forward(config, valid, watched_targets, anchors.as_deref(), None);
        self.evaluated = Some((output.last, number(output.loss)));
        Ok(on_host(&output.log_probabilities))
    }

    fn model(&self) -> Self::Model {
        let (last, _) = self.evaluated.as_ref().expect("the epoch was evaluated");
        (self.networks.valid(), last.to_learned_graph(&self.initial))
    }

    /// Watches the loss with all of its parts, as the official code does.
    fn has_finished(&mut self) -> bool {
        let (_, loss) = self.evaluated.as_ref().expect("the epoch was evaluated");
        if *loss < self.best {
            (self.best, self.since) = (*loss, 0);
        } else {
            self.since += 1;
        }
        self.since >= self.config.patience
    }
}
