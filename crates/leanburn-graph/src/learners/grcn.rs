//! GRCN (Yu, Zhang, Jiang and Yang, ECML 2020): graph-revised convolutional networks. A graph branch embeds the nodes
//! along a given graph, here that of nearest neighbours, and similar ones are linked in addition.

use burn::{
    config::Config,
    module::{AutodiffModule, Module, Param},
    optim::{Adam, AdamConfig, Optimizer, adaptor::OptimizerAdaptor, decay::WeightDecayConfig},
    tensor::{
        Tensor, TensorData,
        activation::relu,
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
        Adjacency, Combination, LabelledTies, LearnedGraph, normalise_dense, normalise_sparse,
        restored_dense, unit_rows,
    },
    slaps::{Diagonal, Input},
};
use crate::{
    Csr, Features, Graph, NodeSet, Normalization,
    gcn::{GcnLayer, check_dropout},
    knn::{KnnConfig, Metric, Search},
    lgi::{RestorationConfig, labelled_loss, mask, targets},
    protocol::{self, History, Learner},
    sparse::{LearnedMatrix, SparseMatrix, Tape},
};

/// The layers of the graph branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerKind {
    /// Linear layers of the widths of `hidden_graph`.
    Dense,
    /// A scale for each feature.
    Diag,
}

/// GRCN and, with restored connections, `GRCN_U` and `GRCN_R`.
#[derive(Config, Debug)]
pub struct GrcnConfig {
    /// The given graph. Default: 15 nearest neighbours by cosine
    #[config(default = "KnnConfig::new()")]
    pub knn: KnnConfig,
    /// How many similar nodes each is linked to, itself counted; links go both ways. Default: 150
    #[config(default = 150)]
    pub k: usize,
    /// The layers of the graph branch. Default: `LayerKind::Diag`
    #[config(default = "LayerKind::Diag")]
    pub layers: LayerKind,
    /// Widths of the dense layers of the graph branch. Default: 100 and 10
    #[config(default = "[100, 10]")]
    pub hidden_graph: [usize; 2],
    /// Whether embeddings are scaled to length 1. Default: true
    #[config(default = true)]
    pub normalise: bool,
    /// Whether the graph is held sparse. Default: false
    #[config(default = false)]
    pub sparse: bool,
    /// How graphs are scaled. Default: `Normalization::Symmetric`
    #[config(default = "Normalization::Symmetric")]
    pub normalization: Normalization,
    /// The connections to labelled nodes that are restored, weighted by the embeddings' inner products; `weight` and
    /// `block` are not looked at. Default: none
    pub restoration: Option<RestorationConfig>,
    /// Width of the classifier's hidden layer. Default: 32
    #[config(default = 32)]
    pub hidden: usize,
    /// Dropout of the hidden layer. Default: 0.5
    #[config(default = 0.5)]
    pub dropout: f64,
    /// Passes over all nodes. Default: 300
    #[config(default = 300)]
    pub epochs: usize,
    /// Adam's learning rate of the classifier. Default: 5e-3
    #[config(default = 5e-3)]
    pub learning_rate: f64,
    /// L2 penalty added to the classifier's gradient. Default: 5e-3
    #[config(default = 5e-3)]
    pub weight_decay: f32,
    /// Adam's learning rate of the graph branch. Default: 1e-3
    #[config(default = 1e-3)]
    pub learning_rate_graph: f64,
    /// Seed of the initial weights and of dropout. Default: 42
    #[config(default = 42)]
    pub seed: u64,
}

impl GrcnConfig {
    /// Cora with the published settings.
    pub fn cora() -> Self {
        Self::new()
    }

    /// Citeseer with the published settings.
    pub fn citeseer() -> Self {
        Self::new().with_k(300).with_normalise(false).with_epochs(200).with_learning_rate(5e-2)
    }

    /// Pubmed with the published settings.
    pub fn pubmed() -> Self {
        Self::new()
            .with_k(1)
            .with_layers(LayerKind::Dense)
            .with_normalise(false)
            .with_sparse(true)
            .with_learning_rate_graph(0.0)
    }

    /// The networks, drawn from `generator`.
    pub fn init<B: Backend>(
        &self,
        features: usize,
        classes: usize,
        generator: &mut Generator,
        device: &B::Device,
    ) -> Grcn<B> {
        let mut layer = |inputs, outputs| GcnLayer { linear: linear(inputs, outputs, generator, device) };
        let base = Base { conv1: layer(features, self.hidden), conv2: layer(self.hidden, classes) };
        let [first, second] = self.hidden_graph;
        let graph = match self.layers {
            LayerKind::Dense => Branch {
                conv_graph: GraphConv::Dense(layer(features, first)),
                conv_graph2: GraphConv::Dense(layer(first, second)),
            },
            LayerKind::Diag => {
                let ones =
                    || GraphConv::Diag(Diagonal { w: Param::from_tensor(Tensor::ones([features], device)) });
                Branch { conv_graph: ones(), conv_graph2: ones() }
            }
        };
        Grcn { base, graph }
    }

    fn validate(&self, set: &NodeSet) -> Result<()> {
        check_dropout("dropout", self.dropout)?;
        if self.k == 0 || self.k > set.nodes() {
            return Err(Error::setting("k", format!("1 to {}, the number of nodes", set.nodes()), self.k));
        }
        let [first, second] = self.hidden_graph;
        for (field, value) in [
            ("epochs", self.epochs),
            ("hidden", self.hidden),
            ("hidden_graph", first),
            ("hidden_graph", second),
        ] {
            if value == 0 {
                return Err(Error::setting(field, "at least 1", value));
            }
        }
        for (field, value) in
            [("learning_rate", self.learning_rate), ("learning_rate_graph", self.learning_rate_graph)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::setting(field, "0 or a positive number", value));
            }
        }
        match &self.restoration {
            Some(restoration) => restoration.validate(set.nodes(), &set.split.train),
            None => Ok(()),
        }
    }
}

/// The classifier.
#[derive(Module, Debug)]
pub struct Base<B: Backend> {
    conv1: GcnLayer<B>,
    conv2: GcnLayer<B>,
}

/// A layer of the graph branch.
#[derive(Module, Debug)]
pub enum GraphConv<B: Backend> {
    /// A linear layer.
    Dense(GcnLayer<B>),
    /// A scale for each feature.
    Diag(Diagonal<B>),
}

/// The graph branch.
#[derive(Module, Debug)]
pub struct Branch<B: Backend> {
    conv_graph: GraphConv<B>,
    conv_graph2: GraphConv<B>,
}

/// Classifier and graph branch, as a checkpoint holds them.
#[derive(Module, Debug)]
pub struct Grcn<B: Backend> {
    /// The classifier.
    pub base: Base<B>,
    /// The graph branch.
    pub graph: Branch<B>,
}

impl<B: Backend> Grcn<B> {
    /// The published name of a parameter.
    pub fn published_name(path: &str) -> String {
        let path = path.strip_prefix("base.").or_else(|| path.strip_prefix("graph.")).unwrap_or(path);
        path.strip_suffix(".w").map_or(path.to_owned(), |layer| format!("{layer}.W"))
    }
}

/// Features, the given graph and the labelled nodes, on a device.
pub struct Context<'a, B: Backend> {
    features: &'a Features,
    input: Input<B>,
    given: Graph,
    normalised: SparseMatrix<B>,
    labelled: &'a [usize],
    is_labelled: Vec<bool>,
    device: B::Device,
}

impl<'a, B: Backend> Context<'a, B> {
    /// The features, a graph with self-loops, and the labelled nodes, on `device`.
    ///
    /// # Errors
    ///
    /// When the graph cannot be normalised.
    pub fn new(
        config: &GrcnConfig,
        features: &'a Features,
        given: Graph,
        labelled: &'a [usize],
        device: &B::Device,
    ) -> Result<Self> {
        let normalised = given.normalised(config.normalization)?;
        Ok(Self {
            features,
            input: Input::new(features, device),
            normalised: SparseMatrix::new(normalised.adjacency(), device),
            given,
            labelled,
            is_labelled: mask(features.rows(), labelled),
            device: device.clone(),
        })
    }
}

/// The graph that the branch has revised.
pub struct Revised<B: AutodiffBackend> {
    /// The similarities that are kept, before the given graph is added.
    pub similarity: Adjacency<B>,
    /// The adjacency that the classifier propagates along, for use in several products.
    pub adjacency: Adjacency<B>,
}

impl<B: AutodiffBackend> Branch<B> {
    /// The embeddings of nodes.
    ///
    /// - output: `[nodes, width]`
    pub fn embeddings(
        &self,
        config: &GrcnConfig,
        context: &Context<B::InnerBackend>,
        tape: &mut Tape<B>,
    ) -> Tensor<B, 2> {
        let first = match &self.conv_graph {
            GraphConv::Dense(layer) => context.input.linear_train(&layer.linear, tape),
            GraphConv::Diag(diagonal) => {
                let x = context.features.to_tensor::<B::InnerBackend>(&context.device);
                Tensor::from_inner(x) * diagonal.w.val().unsqueeze_dim(0)
            }
        };
        let hidden = tape.product(&context.normalised, first).tanh();
        let second = match &self.conv_graph2 {
            GraphConv::Dense(layer) => layer.linear.forward(hidden),
            GraphConv::Diag(diagonal) => hidden * diagonal.w.val().unsqueeze_dim(0),
        };
        let embeddings = tape.product(&context.normalised, second);
        if config.normalise { unit_rows(embeddings) } else { embeddings }
    }

    /// The revised graph.
    ///
    /// # Errors
    ///
    /// When similarities are not finite.
    pub fn revise(
        &self,
        config: &GrcnConfig,
        context: &Context<B::InnerBackend>,
        tape: &mut Tape<B>,
    ) -> Result<Revised<B>> {
        let embeddings = self.embeddings(config, context, tape);
        let embeddings = tape.shared(embeddings);
        if config.sparse {
            sparse(config, context, tape, embeddings)
        } else {
            Ok(dense(config, context, tape, embeddings))
        }
    }
}

fn dense<B: AutodiffBackend>(
    config: &GrcnConfig,
    context: &Context<B::InnerBackend>,
    tape: &mut Tape<B>,
    embeddings: Tensor<B, 2>,
) -> Revised<B> {
    let nodes = context.features.rows();
    let similarity = embeddings.clone().matmul(embeddings.transpose());
    let values: Vec<f32> = similarity.clone().inner().into_data().iter::<f32>().collect();
    let mut kept = vec![0.0_f32; nodes * nodes];
    let mut order: Vec<u32> = (0..nodes as u32).collect();
    for row in 0..nodes {
        let of_row = &values[row * nodes..(row + 1) * nodes];
        let nearer = |a: &u32, b: &u32| of_row[*b as usize].total_cmp(&of_row[*a as usize]).then(a.cmp(b));
        order.select_nth_unstable_by(config.k - 1, nearer);
        for &column in &order[..config.k] {
            kept[row * nodes + column as usize] = 1.0;
            kept[column as usize * nodes + row] = 1.0;
        }
    }
    let kept = Tensor::<B, 2>::from_data(TensorData::new(kept, [nodes, nodes]), &similarity.device());
    let revised = similarity.clone() * kept;
    let given = context.given.adjacency().to_dense();
    let given = Tensor::from_data(TensorData::new(given, [nodes, nodes]), &similarity.device());
    let mut adjacency: Tensor<B, 2> = revised.clone() + given;
    if let Some(restoration) = &config.restoration {
        let Context { labelled, is_labelled, .. } = context;
        adjacency = restored_dense(restoration, labelled, is_labelled, adjacency, similarity);
    }
    let normalised = normalise_dense(adjacency, config.normalization);
    Revised { adjacency: Adjacency::Dense(tape.shared(normalised)), similarity: Adjacency::Dense(revised) }
}

fn sparse<B: AutodiffBackend>(
    config: &GrcnConfig,
    context: &Context<B::InnerBackend>,
    tape: &mut Tape<B>,
    embeddings: Tensor<B, 2>,
) -> Result<Revised<B>> {
    let nodes = context.features.rows();
    let width = embeddings.dims()[1];
    let values: Vec<f32> = embeddings.clone().inner().into_data().iter::<f32>().collect();
    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::data(
            format!("embedding of node {}", place / width),
            "finite numbers",
            values[place],
        ));
    }
    let on_host = Features::Dense { values, columns: width };
    let all: Vec<usize> = (0..nodes).collect();
    let search = Search {
        features: &on_host,
        candidates: &all,
        metric: Metric::InnerProduct,
        k: config.k,
        not_itself: false,
        ties: crate::knn::Ties::First,
    };
    let nearest = search.run::<B::InnerBackend>(&context.device)?.graph();
    // The union of both directions, each entry once.
    let mut places = nearest.adjacency().weighted_sum(1.0, &nearest.adjacency().transpose(), 1.0);
    places.values.fill(1.0);
    let matrix = LearnedMatrix::new(&places, &context.device);
    let similarities = tape.inner_products(&matrix, embeddings.clone(), embeddings.clone());
    let similarities = tape.shared(similarities);
    let given = context.given.adjacency();
    let of_given = TensorData::new(given.values.clone(), [given.entries()]);
    let of_given = Tensor::<B, 1>::from_data(of_given, &similarities.device());
    let mut values = vec![similarities.clone(), of_given];
    let mut terms = Vec::new();
    let mut count = 0;
    let mut add = |matrix: &Csr, factor: f32| {
        for row in 0..nodes {
            for place in matrix.offsets[row]..matrix.offsets[row + 1] {
                terms.push((row as u32, matrix.columns[place], (count + place) as u32, factor));
            }
        }
        count += matrix.entries();
    };
    add(&places, 1.0);
    add(given, 1.0);
    if let Some(restoration) = &config.restoration {
        let reaches = |row: usize| {
            let linked =
                |matrix: &Csr| matrix.row(row).0.iter().any(|&column| context.is_labelled[column as usize]);
            linked(&places) || linked(given)
        };
        let filled = restoration.filled_rows(&context.is_labelled, reaches);
        let device = &context.device;
        let ties = LabelledTies::by_embeddings::<B::InnerBackend>(
            restoration,
            &on_host,
            context.labelled,
            &filled,
            device,
        )?;
        let entries = ties.entries.iter().map(|&(row, column, _)| (row, column, 1.0)).collect();
        let added = Csr::from_entries(nodes, nodes, entries);
        let restored =
            tape.inner_products(&LearnedMatrix::new(&added, device), embeddings.clone(), embeddings);
        let restored = tape.shared(restored);
        let sums =
            |values: &Tensor<B, 1>| values.clone().inner().into_data().iter::<f64>().collect::<Vec<f64>>();
        let of_filled = |matrix: &Csr, values: &[f64]| -> f64 {
            let rows = (0..nodes).filter(|&row| filled[row]);
            rows.flat_map(|row| &values[matrix.offsets[row]..matrix.offsets[row + 1]]).sum()
        };
        let own = of_filled(&places, &sums(&values[0])) + of_filled(given, &sums(&values[1]));
        let alpha = restoration.alpha(own, sums(&restored).iter().sum());
        add(&added, alpha as f32);
        values.push(restored);
    }
    let combination = Combination::new(nodes, count, &terms);
    let (matrix_all, values) = combination.adjacency(tape, Tensor::cat(values, 0), &context.device);
    let normalised = normalise_sparse(tape, &matrix_all, values, config.normalization);
    let adjacency = Adjacency::Sparse(matrix_all, tape.shared(normalised));
    Ok(Revised { similarity: Adjacency::Sparse(matrix, similarities), adjacency })
}

impl<B: AutodiffBackend> Base<B> {
    /// Logits along a revised graph.
    ///
    /// - probability: of dropout
    /// - output: `[nodes, classes]`
    pub fn forward(
        &self,
        context: &Context<B::InnerBackend>,
        adjacency: &Adjacency<B>,
        probability: f64,
        generator: &mut Generator,
        tape: &mut Tape<B>,
    ) -> Tensor<B, 2> {
        let first = context.input.linear_train(&self.conv1.linear, tape);
        let hidden = dropout(relu(adjacency.product(tape, first)), probability, generator);
        adjacency.product(tape, self.conv2.linear.forward(hidden))
    }
}

/// Networks and a graph, as they were trained.
#[derive(Debug, Clone)]
pub struct GrcnModel<B: Backend> {
    /// The networks.
    pub networks: Grcn<B>,
    /// The revised graph.
    pub graph: LearnedGraph<B>,
    /// Logits of all nodes, `[nodes, classes]`, row by row.
    pub logits: Vec<f32>,
}

impl GrcnConfig {
    /// Trains both networks on `set`.
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
    ) -> Result<(GrcnModel<B::InnerBackend>, History)> {
        self.validate(set)?;
        train::check_records_gradients::<B>(device)?;
        let given = self.knn.graph::<B::InnerBackend>(&set.features, device.inner())?;
        let context = Context::new(self, &set.features, given, &set.split.train, device.inner())?;
        let mut weights = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
        let adam = || AdamConfig::new().with_epsilon(1e-8);
        let mut learner = GrcnLearner::<B> {
            config: self,
            networks: self.init(set.features.columns(), set.classes, &mut weights, device),
            base_optimizer: adam().with_weight_decay(Some(WeightDecayConfig::new(self.weight_decay))).init(),
            graph_optimizer: adam().init(),
            targets: targets(set, device),
            generator: Generator::stream(self.seed, streams::DROPOUT),
            evaluated: None,
            context,
        };
        protocol::run(&mut learner, set, self.epochs, progress)
    }
}

struct GrcnLearner<'a, B: AutodiffBackend> {
    config: &'a GrcnConfig,
    context: Context<'a, B::InnerBackend>,
    networks: Grcn<B>,
    base_optimizer: OptimizerAdaptor<Adam, Base<B>, B>,
    graph_optimizer: OptimizerAdaptor<Adam, Branch<B>, B>,
    targets: Tensor<B, 2>,
    generator: Generator,
    evaluated: Option<(LearnedGraph<B::InnerBackend>, Vec<f32>)>,
}

impl<B: AutodiffBackend> Learner for GrcnLearner<'_, B> {
    type Model = GrcnModel<B::InnerBackend>;

    fn step(&mut self, _epoch: usize) -> Result<f32> {
        let Self { config, context, networks, .. } = self;
        let mut tape = Tape::new();
        let adjacency = networks.graph.revise(config, context, &mut tape)?.adjacency;
        let logits =
            networks.base.forward(context, &adjacency, config.dropout, &mut self.generator, &mut tape);
        let loss = labelled_loss(logits, self.targets.clone());
        let (of_base, of_graph) = tape.backward_two(loss.clone(), &networks.base, &networks.graph);
        let base = self.base_optimizer.step(config.learning_rate, networks.base.clone(), of_base);
        let graph = self.graph_optimizer.step(config.learning_rate_graph, networks.graph.clone(), of_graph);
        self.networks = Grcn { base, graph };
        Ok(loss.into_data().iter::<f32>().next().expect("the loss is a number"))
    }

    fn logits(&mut self) -> Result<Vec<f32>> {
        let mut tape = Tape::new();
        let adjacency = self.networks.graph.revise(self.config, &self.context, &mut tape)?.adjacency;
        let logits =
            self.networks.base.forward(&self.context, &adjacency, 0.0, &mut self.generator, &mut tape);
        let sum = logits.clone().sum();
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        // A graph that no pass goes through would be in the way of the next step's gradients.
        tape.backward_two(sum, &self.networks.base, &self.networks.graph);
        self.evaluated = Some((adjacency.valid(), logits.clone()));
        Ok(logits)
    }

    fn model(&self) -> Self::Model {
        let (graph, logits) = self.evaluated.clone().expect("the epoch was evaluated");
        GrcnModel { networks: self.networks.valid(), graph, logits }
    }
}
