use burn::{config::Config, tensor::backend::Backend};
use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::starvation::{Starvation, row_mask};
use crate::{
    Csr, Features, Graph,
    knn::{Metric, Search},
};

/// Above this share of a node's message (`rho`), restored connections drown its neighbours.
const LARGEST_RHO: f64 = 4.0;

/// Which nodes get connections to labelled ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rows {
    /// All nodes: the variant `R`.
    All,
    /// All nodes without a label: the variant `U` of the official code.
    Unlabelled,
    /// The starved nodes alone: with one hop, the variant `U` as the paper writes it.
    Starved,
}

/// What a connection to a labelled node weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weight {
    /// The inner product of the raw features, as in the official code; it depends on their scale.
    InnerProduct,
    /// The cosine of the features.
    Cosine,
    /// 1, for the nearest by inner product.
    One,
}

/// How strongly connections are restored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Strength {
    /// The paper's `alpha`, the factor of `B`. What is good depends on the scale of the features.
    Alpha(f64),
    /// The weight of a node's restored connections over that of its others, whatever the scale of the features:
    /// `alpha = rho` times the sum of `A` over that of `B`, both of the filled rows and without signs.
    Rho(f64),
}

/// Which of the blocks of a CUR decomposition is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    /// `B = U`, padded with zeros.
    U,
    /// `B = C U^T R`: what neighbours in common with labelled nodes weigh. The paper names and drops it as slow; the
    /// result can have an entry for every pair of nodes.
    Cur,
}

/// Restores connections to labelled nodes that a sparse graph has cut (section 3.3 of the paper): `A + alpha B`, where
/// `B` ties a node to the labelled nodes that are most like it.
#[derive(Config, Debug)]
pub struct RestorationConfig {
    /// Which nodes get connections. Default: `Rows::Unlabelled`
    #[config(default = "Rows::Unlabelled")]
    pub rows: Rows,
    /// Within how many hops starved nodes have no labelled one, for `Rows::Starved`; models that learn their graph take 1.
    /// Default: 1
    #[config(default = 1)]
    pub hops: usize,
    /// To how many labelled nodes each is tied (`klabel` in the official code). Default: 30
    #[config(default = 30)]
    pub tau: usize,
    /// How strongly. Default: `Strength::Alpha(100.0)`, the published setting of Pubmed; on binary features, whose
    /// inner products are hundreds of times larger, it is ruinous
    #[config(default = "Strength::Alpha(100.0)")]
    pub strength: Strength,
    /// What a connection weighs. Default: `Weight::InnerProduct`
    #[config(default = "Weight::InnerProduct")]
    pub weight: Weight,
    /// Whether negative weights, which the official code keeps, are left out. Default: true
    #[config(default = true)]
    pub clip: bool,
    /// Which block. Default: `Block::U`
    #[config(default = "Block::U")]
    pub block: Block,
}

/// A graph whose connections were restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// `A + alpha B`
    pub graph: Graph,
    /// `B`
    pub regularisation: Graph,
    /// The factor of `B`.
    pub alpha: f64,
    /// The weight of restored connections over that of the others, of the filled rows and without signs.
    pub rho: f64,
}

impl Restored {
    /// What to tell the user when restored connections outweigh the graph.
    pub fn warning(&self) -> Option<String> {
        warning(self.rho)
    }
}

/// As [`Restored::warning`].
pub(crate) fn warning(rho: f64) -> Option<String> {
    (rho > LARGEST_RHO).then(|| {
        format!(
            "restored connections weigh {rho:.1} times as much as all others (rho); above {LARGEST_RHO} accuracy \
             collapses: lower alpha, or set rho instead"
        )
    })
}

impl RestorationConfig {
    /// Restores connections in `graph`.
    ///
    /// - labelled: the nodes whose labels are known in training, ascending
    ///
    /// # Errors
    ///
    /// When no node is labelled, `tau` is 0 or larger than their number, a node is not in the graph, the strength is
    /// negative or not finite, or the features are not those of the graph's nodes.
    pub fn restore<B: Backend>(
        &self,
        graph: &Graph,
        features: &Features,
        labelled: &[usize],
        device: &B::Device,
    ) -> Result<Restored> {
        self.validate(graph.nodes(), labelled)?;
        if features.rows() != graph.nodes() {
            let expected = format!("{} rows, the nodes of the graph", graph.nodes());
            return Err(Error::data("features", expected, features.rows()));
        }
        let mask = mask(graph.nodes(), labelled);
        let fills = match self.rows {
            Rows::Starved if self.hops == 1 => row_mask(graph, &mask),
            Rows::Starved => Starvation::new(graph, &mask, self.hops).starved.pop().expect("one a hop"),
            _ => self.filled(&mask, |_| true),
        };
        let metric = match self.weight {
            Weight::InnerProduct | Weight::One => Metric::InnerProduct,
            Weight::Cosine => Metric::Cosine,
        };
        let nearest = Search {
            features,
            candidates: labelled,
            metric,
            k: self.tau,
            not_itself: false,
            ties: crate::knn::Ties::First,
        }
        .run::<B>(device)?;
        let mut entries = Vec::with_capacity(graph.nodes() * self.tau);
        for row in (0..graph.nodes()).filter(|&row| fills[row]) {
            let (chosen, similarities) = nearest.row(row);
            for (&place, &similarity) in chosen.iter().zip(similarities) {
                // A similarity of 0 ties nothing.
                if similarity == 0.0 || self.clip && similarity < 0.0 {
                    continue;
                }
                let weight = if self.weight == Weight::One { 1.0 } else { similarity };
                entries.push((row as u32, labelled[place as usize] as u32, weight));
            }
        }
        let mut regularisation = Graph::new(Csr::from_entries(graph.nodes(), graph.nodes(), entries))?;
        if self.block == Block::Cur {
            regularisation = cur(graph, &regularisation, &mask)?;
        }

        // The filled rows, but `C U^T R` has entries in others.
        let counted = |row: usize| match self.block {
            Block::U => fills[row],
            Block::Cur => !regularisation.adjacency().row(row).0.is_empty(),
        };
        let total = |of: &Graph| {
            let rows = (0..of.nodes()).filter(|&row| counted(row));
            rows.flat_map(|row| of.adjacency().row(row).1).map(|&weight| f64::from(weight).abs()).sum()
        };
        let (own, restored) = (total(graph), total(&regularisation));
        let alpha = self.alpha(own, restored);
        let rho = if own == 0.0 { 0.0 } else { alpha * restored / own };
        let graph = graph.plus(alpha as f32, &regularisation);
        let restored = Restored { graph, regularisation, alpha, rho };
        if let Some(warning) = restored.warning() {
            log::warn!("{warning}");
        }
        Ok(restored)
    }

    /// Checks the settings against the labelled nodes.
    pub(crate) fn validate(&self, nodes: usize, labelled: &[usize]) -> Result<()> {
        if labelled.is_empty() {
            return Err(Error::data("labelled nodes", "at least one", "none"));
        }
        if !labelled.is_sorted_by(|a, b| a < b) || labelled[labelled.len() - 1] >= nodes {
            let expected = format!("ascending nodes below {nodes}, each once");
            return Err(Error::data("labelled nodes", expected, "others"));
        }
        if self.tau == 0 || self.tau > labelled.len() {
            let expected = format!("1 to {}, the number of labelled nodes", labelled.len());
            return Err(Error::setting("tau", expected, self.tau));
        }
        if self.hops == 0 {
            return Err(Error::setting("hops", "at least 1", 0));
        }
        let (Strength::Alpha(strength) | Strength::Rho(strength)) = self.strength;
        if !(0.0..=f64::from(f32::MAX)).contains(&strength) {
            return Err(Error::setting("strength", "0 or a positive number in single precision", strength));
        }
        Ok(())
    }

    /// Checks the settings against the labelled nodes, for a model that learns its graph.
    pub(crate) fn validate_learned(&self, nodes: usize, labelled: &[usize]) -> Result<()> {
        if self.rows == Rows::Starved && self.hops != 1 {
            return Err(Error::setting("hops", "1 for a graph that is learned", self.hops));
        }
        self.validate(nodes, labelled)
    }

    /// The factor of the restored weights.
    ///
    /// - own, restored: sums of the weights of the filled rows, whatever their signs
    pub(crate) fn alpha(&self, own: f64, restored: f64) -> f64 {
        match self.strength {
            Strength::Alpha(alpha) => alpha,
            Strength::Rho(_) if restored == 0.0 => 0.0,
            Strength::Rho(rho) => rho * own / restored,
        }
    }

    /// Which rows are filled.
    ///
    /// - labelled: whether each node is
    /// - `reaches_labelled`: whether a node of the present graph has a labelled neighbour; asked for starved rows alone
    pub(crate) fn filled(&self, labelled: &[bool], reaches_labelled: impl Fn(usize) -> bool) -> Vec<bool> {
        (0..labelled.len())
            .map(|node| match self.rows {
                Rows::All => true,
                Rows::Unlabelled => !labelled[node],
                Rows::Starved => !labelled[node] && !reaches_labelled(node),
            })
            .collect()
    }
}

/// Whether each node is among `nodes`.
pub(crate) fn mask(count: usize, nodes: &[usize]) -> Vec<bool> {
    let mut mask = vec![false; count];
    for &node in nodes {
        mask[node] = true;
    }
    mask
}

/// `C U^T R`: the labelled columns of the graph, the restored weights, and the rows without a labelled neighbour.
fn cur(graph: &Graph, restored: &Graph, labelled: &[bool]) -> Result<Graph> {
    let nodes = graph.nodes();
    let starved = row_mask(graph, labelled);
    // [labelled, starved]: which starved nodes a labelled one is tied to.
    let back = restored.adjacency().transpose();
    let mut entries = Vec::new();
    for row in 0..nodes {
        let mut of_row = std::collections::BTreeMap::<u32, f32>::new();
        let (columns, values) = graph.adjacency().row(row);
        for (&through, &first) in columns.iter().zip(values).filter(|(c, _)| labelled[**c as usize]) {
            let (tied, weights) = back.row(through as usize);
            for (&node, &second) in tied.iter().zip(weights).filter(|(node, _)| starved[**node as usize]) {
                let (ends, thirds) = graph.adjacency().row(node as usize);
                for (&end, &third) in ends.iter().zip(thirds) {
                    *of_row.entry(end).or_default() += first * second * third;
                }
            }
        }
        entries.extend(of_row.into_iter().map(|(end, weight)| (row as u32, end, weight)));
    }
    Graph::new(Csr::from_entries(nodes, nodes, entries))
}
