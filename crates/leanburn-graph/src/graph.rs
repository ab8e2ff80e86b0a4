//! Graphs over nodes, as weighted adjacency matrices.

use std::path::Path;

use leanburn_core::{
    Error, Result,
    checkpoint::{self, Checkpoint},
};
use serde::{Deserialize, Serialize};

use crate::{Csr, storage};

/// Added to divisors in [`Graph::normalised`], as in the official code (`EOS`).
const NORM_EPSILON: f64 = 1e-10;

/// A directed, weighted graph: entry `(i, j)` is the weight with which node `i` gathers from node `j`.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    adjacency: Csr,
}

/// How an adjacency matrix is scaled before features are propagated along it; `d` are its row sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// `A_ij / (sqrt(d_i) sqrt(d_j))`; row sums serve both sides, although `A` need not be symmetric.
    Symmetric,
    /// `A_ij / d_i`
    Row,
}

impl Graph {
    /// The graph of an adjacency matrix.
    ///
    /// # Errors
    ///
    /// When it is not square.
    pub fn new(adjacency: Csr) -> Result<Self> {
        if adjacency.rows() != adjacency.width() {
            let found = format!("{} rows and {} columns", adjacency.rows(), adjacency.width());
            return Err(Error::data("adjacency", "as many columns as rows", found));
        }
        Ok(Self { adjacency })
    }

    /// The undirected graph of edges with weight 1. Edges may be repeated and in either direction; a node may be linked to
    /// itself.
    ///
    /// # Errors
    ///
    /// When an edge names a node that is not below `nodes`.
    pub fn from_edges(nodes: usize, edges: &[(usize, usize)]) -> Result<Self> {
        if let Some((number, (u, v))) =
            edges.iter().enumerate().find(|(_, (u, v))| *u >= nodes || *v >= nodes)
        {
            let expected = format!("nodes below {nodes}");
            return Err(Error::data(format!("edge {number}"), expected, format!("{u} and {v}")));
        }
        let both = edges.iter().flat_map(|&(u, v)| {
            let (u, v) = (u as u32, v as u32);
            [(u, v, 1.0), (v, u, 1.0)]
        });
        let mut adjacency = Csr::from_entries(nodes, nodes, both.collect());
        adjacency.values.fill(1.0);
        Ok(Self { adjacency })
    }

    /// The graph without edges.
    pub fn empty(nodes: usize) -> Self {
        Self { adjacency: Csr { width: nodes, offsets: vec![0; nodes + 1], columns: vec![], values: vec![] } }
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.adjacency.rows()
    }

    /// The adjacency matrix.
    pub fn adjacency(&self) -> &Csr {
        &self.adjacency
    }

    /// The graph without weights of nodes for themselves.
    pub fn without_self_loops(&self) -> Self {
        let entries = (0..self.nodes() as u32).flat_map(|row| {
            let (columns, values) = self.adjacency.row(row as usize);
            let others = columns.iter().zip(values).filter(move |(column, _)| **column != row);
            others.map(move |(&column, &value)| (row, column, value))
        });
        Self { adjacency: Csr::from_entries(self.nodes(), self.nodes(), entries.collect()) }
    }

    /// The graph with 1 added to the weight of each node for itself.
    pub fn with_self_loops(&self) -> Self {
        let nodes = self.nodes();
        let identity = Csr {
            width: nodes,
            offsets: (0..=nodes).collect(),
            columns: (0..nodes as u32).collect(),
            values: vec![1.0; nodes],
        };
        Self { adjacency: self.adjacency.weighted_sum(1.0, &identity, 1.0) }
    }

    /// `(A + A^T) / 2`
    pub fn symmetrised(&self) -> Self {
        Self { adjacency: self.adjacency.weighted_sum(0.5, &self.adjacency.transpose(), 0.5) }
    }

    /// `A + weight B`
    ///
    /// # Panics
    ///
    /// When the numbers of nodes differ.
    pub fn plus(&self, weight: f32, other: &Self) -> Self {
        Self { adjacency: self.adjacency.weighted_sum(1.0, &other.adjacency, weight) }
    }

    /// The scaled adjacency, as networks propagate along it.
    ///
    /// # Errors
    ///
    /// When the weights of a node have a negative sum, whose root is none, or with [`Normalization::Row`] the sum 0.
    pub fn normalised(&self, normalization: Normalization) -> Result<Self> {
        let sums = self.adjacency.row_sums();
        let mut adjacency = self.adjacency.clone();
        let scales: Vec<f64> = match normalization {
            Normalization::Symmetric => {
                if let Some(node) = sums.iter().position(|&sum| sum < 0.0) {
                    return Err(Error::data(
                        format!("weights of node {node}"),
                        "a sum of at least 0; clip negative similarities",
                        sums[node],
                    ));
                }
                let gathered =
                    |&(&column, &value): &(&u32, &f32)| value != 0.0 && sums[column as usize] == 0.0;
                if let Some((node, _)) = adjacency.columns.iter().zip(&adjacency.values).find(gathered) {
                    let expected = "a sum above 0, as others gather from it; add self-loops";
                    return Err(Error::data(format!("weights of node {node}"), expected, 0));
                }
                sums.iter().map(|sum| 1.0 / (sum.sqrt() + NORM_EPSILON)).collect()
            }
            Normalization::Row => {
                let is_empty = |node: usize| adjacency.row(node).0.is_empty();
                if let Some(node) =
                    (0..sums.len()).find(|&node| sums[node].abs() < NORM_EPSILON && !is_empty(node))
                {
                    let location = format!("weights of node {node}");
                    return Err(Error::data(location, "a sum other than 0", sums[node]));
                }
                sums.iter().map(|sum| 1.0 / (sum + NORM_EPSILON)).collect()
            }
        };
        for row in 0..adjacency.rows() {
            for place in adjacency.offsets[row]..adjacency.offsets[row + 1] {
                let other = match normalization {
                    Normalization::Symmetric => scales[adjacency.columns[place] as usize],
                    Normalization::Row => 1.0,
                };
                let value = &mut adjacency.values[place];
                *value = (f64::from(*value) * scales[row] * other) as f32;
            }
        }
        Ok(Self { adjacency })
    }

    /// Writes the graph as safetensors: `graph.indptr`, `graph.indices`, `graph.values`, `graph.shape`.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        checkpoint::save_tensors(storage::csr_tensors(&self.adjacency, "graph"), path)
    }

    /// Reads a graph that [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// When the file is absent or broken.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(storage::read_csr(&Checkpoint::open(path)?, path, "graph")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node 0 gathers from 1 and 2, node 1 from 0, node 2 from none.
    fn graph() -> Graph {
        Graph::new(Csr::new(3, vec![0, 2, 3, 3], vec![1, 2, 0], vec![1.0, 1.0, 1.0]).unwrap()).unwrap()
    }

    fn close(found: &Graph, expected: [f64; 9]) {
        for (found, expected) in found.adjacency().to_dense().iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
    }

    #[test]
    fn loops_sums_and_scales() {
        let looped = graph().with_self_loops();
        close(&looped, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        close(&graph().symmetrised(), [0.0, 1.0, 0.5, 1.0, 0.0, 0.0, 0.5, 0.0, 0.0]);
        close(&graph().plus(2.0, &graph()), [0.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let third = 1.0 / 3.0;
        let row = looped.normalised(Normalization::Row).unwrap();
        close(&row, [third, third, third, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0]);
        let (a, b, c) = (1.0 / 6.0_f64.sqrt(), 1.0 / 3.0_f64.sqrt(), 0.5);
        let symmetric = looped.normalised(Normalization::Symmetric).unwrap();
        close(&symmetric, [third, a, b, a, c, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn edges_are_undirected_and_counted_once() {
        let graph = Graph::from_edges(3, &[(0, 1), (1, 0), (0, 1), (2, 2), (1, 2)]).unwrap();
        close(&graph, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
        close(&graph.without_self_loops(), [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        assert!(Graph::from_edges(3, &[(0, 1), (1, 3)]).unwrap_err().to_string().contains("edge 1"));
    }

    #[test]
    fn negative_sums_and_other_shapes_are_refused() {
        let negative = Graph::new(Csr::new(2, vec![0, 1, 1], vec![1], vec![-1.0]).unwrap()).unwrap();
        let error = negative.normalised(Normalization::Symmetric).unwrap_err().to_string();
        assert!(error.contains("node 0"), "{error}");
        // Nodes gather from node 2, which has no weights.
        let error = graph().normalised(Normalization::Symmetric).unwrap_err().to_string();
        assert!(error.contains("node 2") && error.contains("self-loops"), "{error}");
        let error = Graph::new(Csr::new(2, vec![0], vec![], vec![]).unwrap()).unwrap_err().to_string();
        assert!(error.contains("0 rows and 2 columns"), "{error}");
    }

    #[test]
    fn a_saved_graph_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("graph.safetensors");
        graph().save(&path).unwrap();
        assert_eq!(Graph::load(&path).unwrap(), graph());
        assert!(matches!(graph().save(&path), Err(Error::Exists { .. })));
    }
}
