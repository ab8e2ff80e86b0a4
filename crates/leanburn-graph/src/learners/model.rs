//! What all models that learn their graph have in common.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{
        Tensor, TensorData,
        activation::softmax,
        backend::{AutodiffBackend, Backend},
    },
};
use derive_new::new;
use leanburn_core::{
    Error, Result,
    checkpoint::{self, Checkpoint},
    report::{self, RunFolder},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::adjacency::on_host;
use crate::{
    Csr, Features, Graph, NodeSet,
    lgi::{Experiment, Varied},
    protocol::{self, History},
    sparse::LearnedMatrix,
    storage,
};

/// Most nodes of a graph that has an entry for each pair: 1.6 GB for each matrix of an epoch.
pub(crate) const LARGEST_DENSE: usize = 20_000;

/// The adjacency of a learned graph as networks propagate along it, in evaluation.
#[derive(Debug, Clone)]
pub enum LearnedGraph<B: Backend> {
    /// `[nodes, nodes]`
    Dense(Tensor<B, 2>),
    /// The places of the entries, and their values `[entries]`.
    Sparse(LearnedMatrix<B>, Tensor<B, 1>),
    /// A sparse part as above, and products of `[nodes, anchors]` by `[anchors, nodes]` that are added to it.
    Anchored(LearnedMatrix<B>, Tensor<B, 1>, Vec<[Tensor<B, 2>; 2]>),
}

const MATRIX: &str = "graph";

impl<B: Backend> LearnedGraph<B> {
    /// The graph of a sparse matrix.
    pub(crate) fn sparse(matrix: &Csr, device: &B::Device) -> Self {
        let values = TensorData::new(matrix.values.clone(), [matrix.entries()]);
        Self::Sparse(LearnedMatrix::new(matrix, device), Tensor::from_data(values, device))
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        match self {
            Self::Dense(adjacency) => adjacency.dims()[0],
            Self::Sparse(matrix, _) | Self::Anchored(matrix, ..) => matrix.rows(),
        }
    }

    /// `A x`
    ///
    /// - x, output: `[nodes, width]`
    pub fn product(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self {
            Self::Dense(adjacency) => adjacency.clone().matmul(x),
            Self::Sparse(matrix, values) => matrix.product(values.clone(), x),
            Self::Anchored(matrix, values, factors) => {
                factors.iter().fold(matrix.product(values.clone(), x.clone()), |sum, [left, right]| {
                    sum + left.clone().matmul(right.clone().matmul(x.clone()))
                })
            }
        }
    }

    /// All entries, `[nodes, nodes]`.
    pub fn to_dense(&self) -> Tensor<B, 2> {
        match self {
            Self::Dense(adjacency) => adjacency.clone(),
            Self::Sparse(_, values) | Self::Anchored(_, values, _) => {
                self.product(Tensor::eye(self.nodes(), &values.device()))
            }
        }
    }

    /// The graph on the host, for use without the model that learned it.
    ///
    /// # Errors
    ///
    /// When every pair of nodes has an entry, as through anchors, and there are more than 20,000 nodes.
    pub fn to_graph(&self) -> Result<Graph> {
        let nodes = self.nodes();
        Graph::new(match self {
            Self::Sparse(matrix, values) => matrix.to_csr(values.clone()),
            Self::Anchored(..) if nodes > LARGEST_DENSE => {
                let expected = format!("at most {LARGEST_DENSE} nodes, as each is linked to all others");
                return Err(Error::data("graph through anchors", expected, nodes));
            }
            Self::Dense(_) | Self::Anchored(..) => Csr::from_dense(&on_host(&self.to_dense()), nodes),
        })
    }

    /// Writes what [`load`](Self::load) reads. That of a graph without anchors is what [`Graph::load`] reads, too.
    fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (matrix, factors) = match self {
            Self::Dense(adjacency) => (Csr::from_dense(&on_host(adjacency), self.nodes()), &[][..]),
            Self::Sparse(matrix, values) => (matrix.to_csr(values.clone()), &[][..]),
            Self::Anchored(matrix, values, factors) => (matrix.to_csr(values.clone()), &factors[..]),
        };
        let mut tensors = storage::csr_tensors(&matrix, MATRIX);
        for (number, factor) in factors.iter().enumerate() {
            for (side, tensor) in SIDES.iter().zip(factor) {
                tensors.push((format!("{side}.{number}"), tensor.clone().into_data()));
            }
        }
        checkpoint::save_tensors(tensors, path)
    }

    fn load(path: &Path, device: &B::Device) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let matrix = storage::read_csr(&file, path, MATRIX)?;
        let nodes = matrix.rows();
        if matrix.width() != nodes {
            let location = format!("`{MATRIX}.shape`");
            return Err(Error::format(path, location, format!("{nodes} columns"), matrix.width()));
        }
        let mut factors = Vec::new();
        while file.shape(&format!("{}.{}", SIDES[0], factors.len())).is_some() {
            let number = factors.len();
            let read = |side: &str, of: fn(&[usize]) -> Option<usize>| -> Result<Tensor<B, 2>> {
                let name = format!("{side}.{number}");
                let data = file.read(&name)?;
                if data.shape.num_dims() != 2 || of(&data.shape) != Some(nodes) {
                    let expected = format!("a matrix with a side of {nodes} nodes");
                    return Err(Error::format(
                        path,
                        format!("`{name}`"),
                        expected,
                        format!("{:?}", data.shape),
                    ));
                }
                Ok(Tensor::from_data(data.convert::<f32>(), device))
            };
            let [left, right] =
                [read(SIDES[0], |s| s.first().copied())?, read(SIDES[1], |s| s.last().copied())?];
            if left.dims()[1] != right.dims()[0] {
                let location = format!("`{}.{number}`", SIDES[1]);
                let expected = format!("{} rows, one an anchor", left.dims()[1]);
                return Err(Error::format(path, location, expected, right.dims()[0]));
            }
            factors.push([left, right]);
        }
        // Where many pairs have an entry, the places of entries would take more than all cells.
        if factors.is_empty() && matrix.entries() > nodes * nodes / 4 {
            let cells = TensorData::new(matrix.to_dense(), [nodes, nodes]);
            return Ok(Self::Dense(Tensor::from_data(cells, device)));
        }
        Ok(match Self::sparse(&matrix, device) {
            Self::Sparse(places, values) if !factors.is_empty() => Self::Anchored(places, values, factors),
            graph => graph,
        })
    }
}

/// The names of the two factors of a product.
const SIDES: [&str; 2] = ["left", "right"];

/// What a model's layers depend on beside its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Number of nodes.
    pub nodes: usize,
    /// Number of features of a node.
    pub features: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Sizes {
    fn new(set: &NodeSet) -> Self {
        Self { nodes: set.nodes(), features: set.features.columns(), classes: set.classes }
    }
}

/// Networks and a graph, as they were trained.
pub type Trained<M, B> = (<M as GraphModel>::Networks<B>, LearnedGraph<B>);

/// The settings of a model that learns its graph: what [`fit`](Self::fit) trains, and what a saved one is read by.
pub trait GraphModel: Clone + Serialize + DeserializeOwned {
    /// All networks of the model.
    type Networks<B: Backend>: Module<B>;

    /// What trials and searches vary: [`Experiment::varied`].
    fn varied_settings(&mut self) -> Varied<'_>;

    /// Networks of these settings, to be filled with saved values.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range.
    fn networks<B: Backend>(&self, sizes: Sizes, device: &B::Device) -> Result<Self::Networks<B>>;

    /// The shapes of the networks' weights.
    fn weights(&self, sizes: Sizes) -> impl Iterator<Item = [usize; 2]>;

    /// The published name of a parameter.
    fn published_name(path: &str) -> String;

    /// Logits of all nodes along a learned graph, `[nodes, classes]`.
    fn logits<B: Backend>(
        &self,
        networks: &Self::Networks<B>,
        features: &Features,
        graph: &LearnedGraph<B>,
    ) -> Tensor<B, 2>;

    /// Trains the networks and the graph; they are those of the epoch with the best validation accuracy, or of the last
    /// epoch without validation nodes.
    ///
    /// - progress: is told of each epoch, counted from 1, with its history so far
    ///
    /// # Errors
    ///
    /// When a setting is out of its range or does not fit `set`, the device does not record gradients, or training
    /// diverges.
    fn train<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<(Trained<Self, B::InnerBackend>, History)>;

    /// Trains the model on `set`.
    ///
    /// # Errors
    ///
    /// As [`train`](Self::train).
    fn fit<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        device: &B::Device,
    ) -> Result<Learned<Self, B::InnerBackend>> {
        self.fit_with::<B>(set, device, |_, _| ())
    }

    /// [`fit`](Self::fit), telling `progress` of every epoch, counted from 1, with the history so far.
    ///
    /// # Errors
    ///
    /// As [`train`](Self::train).
    fn fit_with<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<Learned<Self, B::InnerBackend>> {
        let ((networks, graph), history) = self.train::<B>(set, device, progress)?;
        Ok(Learned::new(self.clone(), Sizes::new(set), networks, graph, history))
    }
}

impl<M: GraphModel> Experiment for M {
    /// Nothing: each trial learns its own graph.
    type Shared = ();

    fn varied(&mut self) -> Varied<'_> {
        self.varied_settings()
    }

    fn share<B: AutodiffBackend>(&self, _set: &NodeSet, _device: &B::Device) -> Result<()> {
        Ok(())
    }

    fn trial<B: AutodiffBackend>(
        &self,
        set: &NodeSet,
        (): &(),
        device: &B::Device,
        progress: impl FnMut(usize, &History),
    ) -> Result<History> {
        Ok(self.train::<B>(set, device, progress)?.1)
    }
}

/// A model and the graph that it learned.
#[derive(Debug, new)]
#[new(visibility = "")]
pub struct Learned<M: GraphModel, B: Backend> {
    config: M,
    sizes: Sizes,
    networks: M::Networks<B>,
    graph: LearnedGraph<B>,
    history: History,
}

const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
const GRAPH: &str = "graph.safetensors";
const NETWORKS: &str = "networks.safetensors";

/// What a saved model holds beside its settings, its graph and its networks.
#[derive(Serialize, Deserialize)]
struct State {
    sizes: Sizes,
    history: History,
}

impl<M: GraphModel, B: Backend> Learned<M, B> {
    /// The settings it was trained with.
    pub fn config(&self) -> &M {
        &self.config
    }

    /// The networks.
    pub fn networks(&self) -> &M::Networks<B> {
        &self.networks
    }

    /// The graph that nodes are classified along, scaled.
    pub fn graph(&self) -> &LearnedGraph<B> {
        &self.graph
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
        let Sizes { nodes, features: columns, classes } = self.sizes;
        if (features.rows(), features.columns()) != (nodes, columns) {
            let found = format!("{} of {}", features.rows(), features.columns());
            return Err(Error::data("features", format!("{nodes} rows of {columns}, as trained"), found));
        }
        let logits = self.config.logits(&self.networks, features, &self.graph);
        Ok(on_host(&softmax(logits, 1)).chunks(classes).map(<[f32]>::to_vec).collect())
    }

    /// The class of each node.
    ///
    /// # Errors
    ///
    /// As [`probabilities`](Self::probabilities).
    pub fn predict(&self, features: &Features) -> Result<Vec<usize>> {
        Ok(self.probabilities(features)?.iter().map(|row| protocol::predicted(row)).collect())
    }

    /// Writes the model into a new folder: `config.json`, `state.json` (sizes and history), `graph.safetensors`, and
    /// `networks.safetensors` under the published names.
    ///
    /// # Errors
    ///
    /// When the folder exists or cannot be written.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = RunFolder::create(folder.as_ref())?;
        folder.write_json(CONFIG, &self.config)?;
        folder.write_json(STATE, &State { sizes: self.sizes, history: self.history.clone() })?;
        self.graph.save(folder.file(GRAPH))?;
        // Last, so that a folder with networks is complete.
        checkpoint::save(&self.networks, folder.file(NETWORKS), M::published_name)
    }

    /// Reads a model that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// When a file is absent, broken, or does not fit the others.
    pub fn load(folder: impl AsRef<Path>, device: &B::Device) -> Result<Self> {
        let folder = folder.as_ref();
        let config: M = report::read_json(folder.join(CONFIG))?;
        let State { sizes, history } = report::read_json(folder.join(STATE))?;
        let graph = LearnedGraph::load(&folder.join(GRAPH), device)?;
        if graph.nodes() != sizes.nodes {
            let expected = format!("{}, as in {GRAPH}", graph.nodes());
            return Err(Error::format(folder.join(STATE), "`nodes`", expected, sizes.nodes));
        }
        let checkpoint = Checkpoint::open(folder.join(NETWORKS))?;
        storage::check_weights(config.weights(sizes), &checkpoint, &folder.join(STATE))?;
        let networks = checkpoint.load_into(config.networks(sizes, device)?, M::published_name)?;
        Ok(Self::new(config, sizes, networks, graph, history))
    }
}
