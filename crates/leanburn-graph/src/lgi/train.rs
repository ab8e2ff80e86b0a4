use std::path::Path;

use burn::{
    module::AutodiffModule,
    optim::{Adam, Optimizer, adaptor::OptimizerAdaptor},
    tensor::{
        Tensor, TensorData,
        activation::log_softmax,
        backend::{AutodiffBackend, Backend, DeviceOps},
    },
};
use derive_new::new;
use leanburn_core::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    random::{Generator, streams},
    report::{self, RunFolder},
    train,
};
use serde::{Deserialize, Serialize};

use super::{LgiConfig, Restored};
use crate::{
    Features, Graph, NodeSet,
    gcn::{FixedGraph, Gcn, GcnConfig},
    learners::{Adjacency, Input, classify},
    protocol::{self, History, Learner},
    sparse::{LearnedMatrix, Tape},
    storage,
};

/// A graph and a network trained on it.
#[derive(Debug, new)]
#[new(visibility = "pub(super)")]
pub struct Lgi<B: Backend> {
    config: LgiConfig,
    network: GcnConfig,
    graph: Graph,
    gcn: Gcn<B>,
    history: History,
}

const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
const GRAPH: &str = "graph.safetensors";
const GCN: &str = "gcn.safetensors";

/// What a saved model holds beside its configuration, its graph and its network.
#[derive(Serialize, Deserialize)]
struct State {
    network: GcnConfig,
    history: History,
}

impl LgiConfig {
    /// Makes the graph of `set`, restores its connections, and trains a network on it.
    ///
    /// The model is that of the epoch with the best validation accuracy, or of the last epoch without validation nodes.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range or does not fit `set`, the device does not record gradients, or training
    /// diverges.
    pub fn fit<B: AutodiffBackend>(&self, set: &NodeSet, device: &B::Device) -> Result<Lgi<B::InnerBackend>> {
        self.fit_with::<B>(set, device, |_, _| ())
    }

    /// [`fit`](Self::fit), telling `progress` of every epoch, counted from 1, with the history so far.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit).
    pub fn fit_with<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<Lgi<B::InnerBackend>> {
        let Restored { graph, .. } = self.restored::<B::InnerBackend>(set, device.inner())?;
        self.fit_graph::<B>(set, &graph, device, progress)
    }

    /// Trains a network on a graph that is already made, before normalisation.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit), and when the graph has another number of nodes.
    pub fn fit_graph<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        graph: &Graph,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<Lgi<B::InnerBackend>> {
        set.check()?;
        self.validate()?;
        train::check_records_gradients::<B>(device)?;
        let mut learner = GcnLearner::<B>::new(self, set, &graph.normalised(self.normalization)?, device)?;
        let (gcn, history) = protocol::run(&mut learner, set, self.epochs, progress)?;
        Ok(Lgi::new(self.clone(), self.gcn(set), graph.clone(), gcn, history))
    }
}

impl<B: Backend> Lgi<B> {
    /// The settings it was trained with.
    pub fn config(&self) -> &LgiConfig {
        &self.config
    }

    /// The graph, with restored connections, before normalisation.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The network.
    pub fn gcn(&self) -> &Gcn<B> {
        &self.gcn
    }

    /// How training went.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The probabilities of all nodes, one row a node and one column a class.
    ///
    /// # Errors
    ///
    /// When the features are not those of the graph's nodes.
    pub fn probabilities(&self, features: &Features) -> Result<Vec<Vec<f32>>> {
        if features.columns() != self.network.features {
            let expected = format!("{} columns, as trained", self.network.features);
            return Err(Error::data("features", expected, features.columns()));
        }
        let device = self.gcn.layers[0].linear.weight.val().device();
        let fixed = FixedGraph::new(features, &self.graph.normalised(self.config.normalization)?, &device)?;
        let logits = fixed.logits(&self.gcn, fixed.first(&self.gcn));
        let probabilities = burn::tensor::activation::softmax(logits, 1).into_data();
        let values: Vec<f32> = probabilities.iter::<f32>().collect();
        Ok(values.chunks(self.network.classes).map(<[f32]>::to_vec).collect())
    }

    /// The class of each node.
    ///
    /// # Errors
    ///
    /// As [`probabilities`](Self::probabilities).
    pub fn predict(&self, features: &Features) -> Result<Vec<usize>> {
        Ok(self.probabilities(features)?.iter().map(|row| protocol::predicted(row)).collect())
    }

    /// Writes the model into a new folder: `config.json`, `state.json` (network and history), `graph.safetensors`, and
    /// `gcn.safetensors` under PyTorch's names.
    ///
    /// # Errors
    ///
    /// When the folder exists or cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = RunFolder::create(folder.as_ref())?;
        folder.write_json(CONFIG, &self.config)?;
        let state = State { network: self.network.clone(), history: self.history.clone() };
        folder.write_json(STATE, &state)?;
        self.graph.save(folder.file(GRAPH))?;
        // Last, so that a folder with a network is complete.
        checkpoint::save(&self.gcn, folder.file(GCN), str::to_owned)
    }

    /// Reads a model that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// When a file is absent, broken, or does not fit the others.
    pub fn load(folder: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let folder = folder.as_ref();
        let config: LgiConfig = report::read_json(folder.join(CONFIG))?;
        let State { network, history } = report::read_json(folder.join(STATE))?;
        let graph = Graph::load(folder.join(GRAPH))?;
        let checkpoint = Checkpoint::open(folder.join(GCN))?;
        storage::check_weights(network.weights(), &checkpoint, &folder.join(STATE))?;
        // The values drawn here are replaced by the file's.
        let gcn = network.init(&mut Generator::new(0), device)?;
        let gcn = checkpoint.load_into(gcn, str::to_owned)?;
        Ok(Self::new(config, network, graph, gcn, history))
    }
}

/// A GCN in training on a fixed graph.
struct GcnLearner<B: AutodiffBackend> {
    fixed: FixedGraph<B::InnerBackend>,
    /// With dropout of edges, the graph whose edges they are.
    edges: Option<Edges<B>>,
    gcn: Gcn<B>,
    optimizer: OptimizerAdaptor<Adam, Gcn<B>, B>,
    learning_rate: f64,
    generator: Generator,
    targets: Tensor<B, 2>,
    /// The first layer's output with the present weights: the evaluation of an epoch and the step of the next one share
    /// it, since dropout comes after.
    first: Tensor<B::InnerBackend, 2>,
}

struct Edges<B: AutodiffBackend> {
    adjacency: Adjacency<B>,
    input: Input<B::InnerBackend>,
    dropout: f64,
}

impl<B: AutodiffBackend> GcnLearner<B> {
    fn new(config: &LgiConfig, set: &NodeSet, normalised: &Graph, device: &B::Device) -> Result<Self> {
        let fixed = FixedGraph::new(&set.features, normalised, device.inner())?;
        let gcn: Gcn<B> =
            config.gcn(set).init(&mut Generator::stream(config.seed, streams::INITIAL_WEIGHTS), device)?;
        let edges = (config.dropout_adj > 0.0).then(|| {
            let adjacency = normalised.adjacency();
            let values = TensorData::new(adjacency.values.clone(), [adjacency.entries()]);
            let matrix = LearnedMatrix::new(adjacency, device.inner());
            Edges {
                adjacency: Adjacency::Sparse(matrix, Tensor::from_data(values, device)),
                input: Input::new(&set.features, device.inner()),
                dropout: config.dropout_adj,
            }
        });
        let first = fixed.first(&gcn.valid());
        Ok(Self {
            fixed,
            edges,
            gcn,
            optimizer: protocol::adam(config.weight_decay).init(),
            learning_rate: config.learning_rate,
            generator: Generator::stream(config.seed, streams::DROPOUT),
            targets: targets(set, device),
            first,
        })
    }
}

impl<B: AutodiffBackend> Learner for GcnLearner<B> {
    type Model = Gcn<B::InnerBackend>;

    fn step(&mut self, _epoch: usize) -> Result<f32> {
        let Self { fixed, edges, gcn, generator, targets, .. } = self;
        let (loss, gradients) = match edges {
            None => fixed.gradients(gcn, self.first.clone(), generator, |logits| {
                labelled_loss(logits, targets.clone())
            }),
            Some(Edges { adjacency, input, dropout }) => {
                let mut tape = Tape::new();
                let adjacency = adjacency.dropout(*dropout, generator, &mut tape);
                let logits = classify(gcn, input, &adjacency, generator, &mut tape);
                let loss = labelled_loss(logits, targets.clone());
                let gradients = tape.backward(loss.clone(), gcn);
                (loss, gradients)
            }
        };
        self.gcn = self.optimizer.step(self.learning_rate, self.gcn.clone(), gradients);
        self.first = self.fixed.first(&self.gcn.valid());
        Ok(protocol::number(loss))
    }

    fn logits(&mut self) -> Result<Vec<f32>> {
        Ok(self.fixed.logits(&self.gcn.valid(), self.first.clone()).into_data().iter::<f32>().collect())
    }

    fn model(&self) -> Gcn<B::InnerBackend> {
        self.gcn.valid()
    }
}

/// One row a node: 1 over the number of labelled nodes at a labelled one's class, and otherwise 0.
pub(crate) fn targets<B: Backend>(set: &NodeSet, device: &B::Device) -> Tensor<B, 2> {
    targets_of(set, &set.split.train, device)
}

/// As [`targets`], of other nodes than the labelled ones.
pub(crate) fn targets_of<B: Backend>(set: &NodeSet, nodes: &[usize], device: &B::Device) -> Tensor<B, 2> {
    let mut targets = vec![0.0_f32; set.nodes() * set.classes];
    for &node in nodes {
        targets[node * set.classes + set.labels[node] as usize] = 1.0 / nodes.len() as f32;
    }
    Tensor::from_data(TensorData::new(targets, [set.nodes(), set.classes]), device)
}

/// The mean cross-entropy of the labelled nodes, `[1]`: products, since gathering rows would be scattered back.
///
/// - logits: `[nodes, classes]`
/// - targets: `[nodes, classes]`, of [`targets`]
pub(crate) fn labelled_loss<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 2>) -> Tensor<B, 1> {
    (log_softmax(logits, 1) * targets).sum().neg()
}
