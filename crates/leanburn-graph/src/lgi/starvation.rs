use rayon::prelude::*;

use crate::Graph;

/// The k-hop starved nodes of a graph: those without a label that no labelled node reaches within k hops, so that the
/// weights of their edges take part in no supervised message of k layers (section 3.1 of the paper).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starvation {
    /// For 1, 2, ... hops, whether each node is starved.
    pub starved: Vec<Vec<bool>>,
}

impl Starvation {
    /// Starved nodes by the definition, for 1 to `hops` hops, by breadth-first search.
    ///
    /// - labelled: whether each node is
    ///
    /// # Panics
    ///
    /// When `labelled` has not one value a node.
    pub fn new(graph: &Graph, labelled: &[bool], hops: usize) -> Self {
        assert_eq!(labelled.len(), graph.nodes(), "one value a node");
        let mut reached = labelled.to_vec();
        let starved = (0..hops)
            .map(|_| {
                reached = (0..graph.nodes())
                    .map(|node| {
                        let (neighbours, weights) = graph.adjacency().row(node);
                        let mut linked = neighbours.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
                        reached[node] || linked.any(|(&other, _)| reached[other as usize])
                    })
                    .collect();
                reached.iter().map(|reached| !reached).collect()
            })
            .collect();
        Self { starved }
    }

    /// Starved nodes by the official program's rule, which its figures show: a node is a k-hop neighbour where exactly
    /// one walk of k steps, loops included, leads there. A link of two walks does not count, and a node to which no
    /// single walk leads from anywhere is not starved.
    ///
    /// The cost grows with the number of nodes within `hops` hops.
    ///
    /// - graph: with self-loops added to those that it lists, as [`walk_counts`] counts them
    /// - labelled: whether each node is
    ///
    /// # Panics
    ///
    /// When `labelled` has not one value a node.
    pub fn official_rule(graph: &Graph, labelled: &[bool], hops: usize) -> Self {
        assert_eq!(labelled.len(), graph.nodes(), "one value a node");
        let of_nodes: Vec<Vec<bool>> = (0..graph.nodes())
            .into_par_iter()
            .map(|node| {
                let mut starved = true;
                walk_counts(graph, node, hops)
                    .iter()
                    .enumerate()
                    .map(|(hop, counts)| {
                        let single = |&(_, count): &&(u32, u64)| *count == 1;
                        let is_labelled = |&(other, _): &(u32, u64)| labelled[other as usize];
                        starved &= if hop == 0 {
                            !counts.iter().any(is_labelled)
                        } else {
                            counts.iter().any(|walks| single(&walks))
                                && !counts.iter().filter(single).any(is_labelled)
                        };
                        starved
                    })
                    .collect()
            })
            .collect();
        Self { starved: (0..hops).map(|hop| of_nodes.iter().map(|node| node[hop]).collect()).collect() }
    }

    /// Number of starved nodes for 1, 2, ... hops.
    pub fn counts(&self) -> Vec<usize> {
        self.starved.iter().map(|nodes| nodes.iter().filter(|&&starved| starved).count()).collect()
    }
}

/// For 1, 2, ..., `steps` steps, the nodes that walks from `node` reach and how many walks do, nodes ascending. A weight
/// counts as so many edges, rounded up: a self-loop that a graph lists, and another that is added, are two.
///
/// # Panics
///
/// When there is no such node.
pub fn walk_counts(graph: &Graph, node: usize, steps: usize) -> Vec<Vec<(u32, u64)>> {
    let mut counts = vec![0_u64; graph.nodes()];
    let mut walks = vec![(node as u32, 1_u64)];
    (0..steps)
        .map(|_| {
            let mut reached = Vec::new();
            for &(from, count) in &walks {
                let (nodes, weights) = graph.adjacency().row(from as usize);
                for (&to, &weight) in nodes.iter().zip(weights).filter(|(_, weight)| **weight > 0.0) {
                    let total = &mut counts[to as usize];
                    if *total == 0 {
                        reached.push(to);
                    }
                    // Beyond any count that matters.
                    *total = total.saturating_add(count.saturating_mul(weight.ceil() as u64));
                }
            }
            reached.sort_unstable();
            walks = reached.into_iter().map(|to| (to, std::mem::take(&mut counts[to as usize]))).collect();
            walks.clone()
        })
        .collect()
}

/// Rows without a labelled neighbour, the paper's `row_mask`: with self-loops, the 1-hop starved nodes.
pub(super) fn row_mask(graph: &Graph, labelled: &[bool]) -> Vec<bool> {
    (0..graph.nodes())
        .map(|node| {
            let (neighbours, weights) = graph.adjacency().row(node);
            let to_labelled = neighbours.iter().zip(weights).filter(|(other, _)| labelled[**other as usize]);
            to_labelled.map(|(_, &weight)| f64::from(weight)).sum::<f64>() <= 0.0
        })
        .collect()
}

/// The nodes that are 2-hop starved by the paper's rule on the blocks of a CUR decomposition: 1-hop starved ones whose
/// neighbours all are.
///
/// - graph: with self-loops
/// - labelled: whether each node is
///
/// # Panics
///
/// When `labelled` has not one value a node.
pub fn two_hop_starved(graph: &Graph, labelled: &[bool]) -> Vec<bool> {
    assert_eq!(labelled.len(), graph.nodes(), "one value a node");
    let mask = row_mask(graph, labelled);
    (0..graph.nodes())
        .map(|node| {
            let (neighbours, weights) = graph.adjacency().row(node);
            let mut linked = neighbours.iter().zip(weights).filter(|(_, weight)| **weight > 0.0);
            mask[node] && linked.all(|(&other, _)| mask[other as usize])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's example: edges 1-3, 1-5, 2-3, 2-4, 3-6; nodes 2 and 4 are labelled.
    #[test]
    fn the_papers_example() {
        let graph =
            Graph::from_edges(6, &[(0, 2), (0, 4), (1, 2), (1, 3), (2, 5)]).unwrap().with_self_loops();
        let labelled = [false, true, false, true, false, false];
        let starvation = Starvation::new(&graph, &labelled, 3);
        assert_eq!(starvation.counts(), [3, 1, 0]);
        assert_eq!(starvation.starved[0], [true, false, false, false, true, true]);
        assert_eq!(starvation.starved[1], [false, false, false, false, true, false]);
        assert_eq!(two_hop_starved(&graph, &labelled), starvation.starved[1]);
        assert_eq!(row_mask(&graph, &labelled), starvation.starved[0]);
    }

    #[test]
    fn walks_are_powers_of_the_adjacency() {
        let graph = Graph::from_edges(3, &[(0, 1), (1, 2)]).unwrap().with_self_loops();
        let walks = walk_counts(&graph, 0, 3);
        assert_eq!(walks[0], [(0, 1), (1, 1)]);
        assert_eq!(walks[1], [(0, 2), (1, 2), (2, 1)]);
        assert_eq!(walks[2], [(0, 4), (1, 5), (2, 3)]);
    }
}
