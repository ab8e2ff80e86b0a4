use burn::{config::Config, tensor::backend::Backend};
use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{RestorationConfig, Restored, Rows, Strength};
use crate::{Graph, NodeSet, Normalization, checks, gcn::GcnConfig, knn::KnnConfig};

/// Which graph a network is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Each node gathers from its nearest neighbours and itself.
    Knn,
    /// The same, with each edge in both directions at half the weight.
    SymmetrisedKnn,
    /// The graph that came with the nodes, with self-loops.
    Given,
    /// Each node gathers from itself alone: a plain perceptron.
    None,
}

/// GCN on a graph that is made once, with or without restored connections (`GCN+KNN`, `GCN+KNN_U`, `GCN+KNN_R`).
#[derive(Config, Debug)]
pub struct LgiConfig {
    /// Which graph. Default: `Source::Knn`
    #[config(default = "Source::Knn")]
    pub source: Source,
    /// Neighbours. Default: 15 by cosine
    #[config(default = "KnnConfig::new()")]
    pub knn: KnnConfig,
    /// The connections to labelled nodes that are restored. Default: none
    pub restoration: Option<RestorationConfig>,
    /// How the graph is scaled. Default: `Normalization::Symmetric`
    #[config(default = "Normalization::Symmetric")]
    pub normalization: Normalization,
    /// Width of the hidden layers. Default: 32
    #[config(default = 32)]
    pub hidden: usize,
    /// Number of layers. Default: 2
    #[config(default = 2)]
    pub layers: usize,
    /// Dropout after each hidden layer. Default: 0.5
    #[config(default = 0.5)]
    pub dropout: f64,
    /// Dropout of edges, the same ones in all layers. Default: 0
    #[config(default = 0.0)]
    pub dropout_adj: f64,
    /// Passes over all nodes. Default: 2000
    #[config(default = 2000)]
    pub epochs: usize,
    /// Adam's learning rate. Default: 0.01
    #[config(default = 0.01)]
    pub learning_rate: f64,
    /// L2 penalty added to the gradient, of weights and biases. Default: 5e-4
    #[config(default = 5e-4)]
    pub weight_decay: f32,
    /// Seed of the initial weights and of dropout. Default: 42
    #[config(default = 42)]
    pub seed: u64,
}

impl LgiConfig {
    /// Pubmed with the published setting, `alpha` 100 and `tau` 30, and the rows of variant `U`.
    pub fn pubmed() -> Self {
        Self::new().with_restoration(Some(RestorationConfig::new()))
    }

    /// Cora and Citeseer, for which nothing was published: 200 epochs, and the largest `alpha` that does no harm to
    /// their binary features, 0.01.
    pub fn cora() -> Self {
        let restoration = RestorationConfig::new().with_strength(Strength::Alpha(0.01));
        Self::new().with_epochs(200).with_restoration(Some(restoration))
    }

    /// The same without restored connections (`GCN+KNN`).
    pub fn plain(self) -> Self {
        self.with_restoration(None)
    }

    /// The same with connections restored in other rows.
    pub fn with_rows(mut self, rows: Rows) -> Self {
        self.restoration = Some(self.restoration.unwrap_or_else(RestorationConfig::new).with_rows(rows));
        self
    }

    /// The network for `set`.
    pub fn gcn(&self, set: &NodeSet) -> GcnConfig {
        GcnConfig::new(set.features.columns(), set.classes)
            .with_hidden(self.hidden)
            .with_layers(self.layers)
            .with_dropout(self.dropout)
    }

    /// The graph before restoration, with self-loops.
    ///
    /// # Errors
    ///
    /// When `k` is 0 or not below the number of nodes, or `set` came with no graph where it is asked for.
    pub fn base_graph<B: Backend>(&self, set: &NodeSet, device: &B::Device) -> Result<Graph> {
        Ok(match self.source {
            Source::Knn => self.knn.graph::<B>(&set.features, device)?,
            Source::SymmetrisedKnn => {
                self.knn.neighbours::<B>(&set.features, device)?.graph().symmetrised().with_self_loops()
            }
            Source::Given => match &set.graph {
                Some(graph) => graph.without_self_loops().with_self_loops(),
                None => return Err(Error::setting("source", "nodes that came with a graph", "none")),
            },
            Source::None => Graph::empty(set.nodes()).with_self_loops(),
        })
    }

    /// The graph with restored connections, before normalisation.
    ///
    /// # Errors
    ///
    /// As [`base_graph`](Self::base_graph) and [`RestorationConfig::restore`].
    pub fn restored<B: Backend>(&self, set: &NodeSet, device: &B::Device) -> Result<Restored> {
        set.check()?;
        let graph = self.base_graph::<B>(set, device)?;
        if let Some(restoration) = &self.restoration {
            return restoration.restore::<B>(&graph, &set.features, &set.split.train, device);
        }
        let regularisation = Graph::empty(graph.nodes());
        Ok(Restored { graph, regularisation, alpha: 0.0, rho: 0.0 })
    }

    /// Checks the settings' ranges.
    pub(super) fn validate(&self) -> Result<()> {
        checks::counts(&[("epochs", self.epochs)])?;
        checks::dropouts(&[("dropout_adj", self.dropout_adj)])?;
        checks::positive(&[("learning_rate", self.learning_rate)])?;
        checks::not_negative(&[("weight_decay", self.weight_decay.into())])
    }
}
