//! GRCN (Yu, Zhang, Jiang and Yang, ECML 2020): graph-revised convolutional networks. A graph branch embeds the nodes
//! along a given graph, here that of nearest neighbours, and similar ones are linked in addition.

use burn::{
    config::Config,
    module::{AutodiffModule, Module, Param},
    optim::{Adam, Optimizer, adaptor::OptimizerAdaptor},
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
        Adjacency, Combination, Labelled, labelled_ties, normalise_dense, normalise_sparse, on_host,
        unit_rows,
    },
    classifier::Input,
    model::{GraphModel, LARGEST_DENSE, LearnedGraph, Sizes, Trained},
    slaps::Diagonal,
};
use crate::{
    Csr, Features, Graph, NodeSet, Normalization, checks,
    gcn::GcnLayer,
    knn::{KnnConfig, Metric, Search},
    lgi::{RestorationConfig, Varied, labelled_loss, targets},
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
        checks::dropouts(&[("dropout", self.dropout)])?;
        if self.k == 0 || self.k > set.nodes() {
            return Err(Error::setting("k", format!("1 to {}, the number of nodes", set.nodes()), self.k));
        }
        if !self.sparse && set.nodes() > LARGEST_DENSE {
            let expected = format!("true for more than {LARGEST_DENSE} nodes");
            return Err(Error::setting("sparse", expected, "false"));
        }
        let [first, second] = self.hidden_graph;
        checks::counts(&[
            ("epochs", self.epochs),
            ("hidden", self.hidden),
            ("hidden_graph", first),
            ("hidden_graph", second),
        ])?;
        checks::not_negative(&[
            ("learning_rate", self.learning_rate),
            ("learning_rate_graph", self.learning_rate_graph),
            ("weight_decay", self.weight_decay.into()),
        ])?;
        match &self.restoration {
            Some(restoration) => restoration.validate_learned(set.nodes(), &set.split.train),
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

/// Features, the given graph and the labelled nodes, on a device.
pub struct Context<'a, B: Backend> {
    features: &'a Features,
    input: Input<B>,
    /// All features, which layers that scale each one need: `[nodes, features]`.
    dense: Option<Tensor<B, 2>>,
    given: Graph,
    /// The given graph, `[nodes, nodes]`, where the revised one is dense.
    given_dense: Option<Tensor<B, 2>>,
    normalised: SparseMatrix<B>,
    labelled: Labelled<'a>,
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
        let nodes = features.rows();
        let given_dense = (!config.sparse).then(|| {
            Tensor::from_data(TensorData::new(given.adjacency().to_dense(), [nodes, nodes]), device)
        });
        Ok(Self {
            features,
            input: Input::new(features, device),
            dense: (config.layers == LayerKind::Diag).then(|| features.to_tensor(device)),
            normalised: SparseMatrix::new(normalised.adjacency(), device),
            given,
            given_dense,
            labelled: Labelled::new(nodes, labelled),
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
                let x = context.dense.clone().expect("a context of layers that scale has them");
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
        match &context.given_dense {
            Some(given) => Ok(dense(config, context, given, tape, embeddings)),
            None => sparse(config, context, tape, embeddings),
        }
    }
}

fn dense<B: AutodiffBackend>(
    config: &GrcnConfig,
    context: &Context<B::InnerBackend>,
    given: &Tensor<B::InnerBackend, 2>,
    tape: &mut Tape<B>,
    embeddings: Tensor<B, 2>,
) -> Revised<B> {
    let nodes = context.features.rows();
    let similarity = tape.gram(embeddings);
    let values = on_host(&similarity);
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
    let mut adjacency: Tensor<B, 2> = revised.clone() + Tensor::from_inner(given.clone());
    if let Some(restoration) = &config.restoration {
        adjacency = context.labelled.restored_dense(restoration, adjacency, similarity);
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
    let values = on_host(&embeddings);
    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
        return Err(Error::data(
            format!("embedding of node {}", place / width),
            "finite numbers",
            values[place],
        ));
    }
    let embedded = Features::Dense { values, columns: width };
    let all: Vec<usize> = (0..nodes).collect();
    let search = Search {
        features: &embedded,
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
        let sums =
            |values: &Tensor<B, 1>| values.clone().inner().into_data().iter::<f64>().collect::<Vec<f64>>();
        let weights = [sums(&values[0]), sums(&values[1])];
        let Context { labelled, device, .. } = context;
        let filled = labelled.filled(restoration, |row| {
            [&places, given].iter().zip(&weights).any(|(matrix, weights)| {
                let mut entries = matrix.offsets[row]..matrix.offsets[row + 1];
                entries.any(|place| labelled.contains(matrix.columns[place] as usize) && weights[place] > 0.0)
            })
        });
        let added = labelled_ties::<B::InnerBackend>(restoration, &embedded, labelled, &filled, device)?;
        let restored =
            tape.inner_products(&LearnedMatrix::new(&added, device), embeddings.clone(), embeddings);
        let of_filled = |matrix: &Csr, values: &[f64]| -> f64 {
            let rows = (0..nodes).filter(|&row| filled[row]);
            rows.flat_map(|row| &values[matrix.offsets[row]..matrix.offsets[row + 1]])
                .map(|value| value.abs())
                .sum()
        };
        let own = of_filled(&places, &weights[0]) + of_filled(given, &weights[1]);
        let alpha = labelled.alpha(restoration, own, sums(&restored).iter().map(|value| value.abs()).sum());
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

impl GraphModel for GrcnConfig {
    type Networks<B: Backend> = Grcn<B>;

    fn varied_settings(&mut self) -> Varied<'_> {
        Varied { seed: &mut self.seed, k: &mut self.k, restoration: &mut self.restoration }
    }

    fn networks<B: Backend>(&self, sizes: Sizes, device: &B::Device) -> Result<Grcn<B>> {
        Ok(self.init(sizes.features, sizes.classes, &mut Generator::new(0), device))
    }

    fn weights(&self, sizes: Sizes) -> impl Iterator<Item = [usize; 2]> {
        let Sizes { features, classes, .. } = sizes;
        let [first, second] = self.hidden_graph;
        let branch = match self.layers {
            LayerKind::Dense => [[features, first], [first, second]],
            LayerKind::Diag => [[1, features]; 2],
        };
        [[features, self.hidden], [self.hidden, classes]].into_iter().chain(branch)
    }

    fn published_name(path: &str) -> String {
        let path = path.strip_prefix("base.").or_else(|| path.strip_prefix("graph.")).unwrap_or(path);
        path.strip_suffix(".w").map_or(path.to_owned(), |layer| format!("{layer}.W"))
    }

    fn logits<B: Backend>(
        &self,
        networks: &Grcn<B>,
        features: &Features,
        graph: &LearnedGraph<B>,
    ) -> Tensor<B, 2> {
        let Base { conv1, conv2 } = &networks.base;
        let input = Input::new(features, &conv1.linear.weight.val().device());
        let hidden = relu(graph.product(input.linear(&conv1.linear)));
        graph.product(conv2.linear.forward(hidden))
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
        let given = self.knn.graph::<B::InnerBackend>(&set.features, device.inner())?;
        let context = Context::new(self, &set.features, given, &set.split.train, device.inner())?;
        let mut weights = Generator::stream(self.seed, streams::INITIAL_WEIGHTS);
        let mut learner = GrcnLearner::<B> {
            config: self,
            networks: self.init(set.features.columns(), set.classes, &mut weights, device),
            base_optimizer: protocol::adam(self.weight_decay).init(),
            graph_optimizer: protocol::adam(0.0).init(),
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
    /// The graph of the last evaluation.
    evaluated: Option<LearnedGraph<B::InnerBackend>>,
}

impl<B: AutodiffBackend> Learner for GrcnLearner<'_, B> {
    type Model = Trained<GrcnConfig, B::InnerBackend>;

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
        Ok(protocol::number(loss))
    }

    fn logits(&mut self) -> Result<Vec<f32>> {
        let networks = self.networks.clone().no_grad();
        let mut tape = Tape::blank();
        let adjacency = networks.graph.revise(self.config, &self.context, &mut tape)?.adjacency;
        let logits = networks.base.forward(&self.context, &adjacency, 0.0, &mut self.generator, &mut tape);
        self.evaluated = Some(adjacency.valid());
        Ok(on_host(&logits))
    }

    fn model(&self) -> Self::Model {
        (self.networks.valid(), self.evaluated.clone().expect("the epoch was evaluated"))
    }
}
