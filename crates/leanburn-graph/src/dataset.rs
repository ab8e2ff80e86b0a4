//! Nodes with features, labels and a split.

use std::path::Path;

use leanburn_core::{Error, Result, checkpoint::Checkpoint, random::Generator};

use crate::{Features, Graph, storage};

/// The label of a node whose class is not known.
pub const UNKNOWN: i64 = -1;

/// Which nodes are trained on, which select, and which are evaluated; ascending, no node twice in one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// The labelled nodes.
    pub train: Vec<usize>,
    /// The nodes that select epochs and settings; may be empty.
    pub validation: Vec<usize>,
    /// The nodes that accuracy is reported of; may be empty.
    pub test: Vec<usize>,
}

impl Split {
    /// A random split of the nodes of known class: `per_class` labelled nodes of each class, `validation` others that
    /// select, and the rest to be evaluated.
    ///
    /// # Errors
    ///
    /// When `per_class` is 0, or a class has fewer nodes.
    pub fn random(labels: &[i64], per_class: usize, validation: usize, seed: u64) -> Result<Self> {
        if per_class == 0 {
            return Err(Error::setting("nodes per class", "at least 1", 0));
        }
        check_labels(labels)?;
        let mut counts = vec![0; labels.iter().max().map_or(0, |&label| (label + 1).max(0) as usize)];
        let order = Generator::new(seed).permutation(labels.len());
        let known = order.into_iter().filter(|&node| labels[node] >= 0);
        let (mut train, others): (Vec<usize>, Vec<usize>) = known.partition(|&node| {
            let count = &mut counts[labels[node] as usize];
            *count += 1;
            *count <= per_class
        });
        if let Some(class) = counts.iter().position(|&count| count < per_class) {
            let expected = format!("at least {per_class} nodes");
            return Err(Error::data(format!("class {class}"), expected, counts[class]));
        }
        let (validation, test) = others.split_at(validation.min(others.len()));
        let (mut validation, mut test) = (validation.to_vec(), test.to_vec());
        train.sort_unstable();
        validation.sort_unstable();
        test.sort_unstable();
        Ok(Self { train, validation, test })
    }

    /// The split in which a class keeps its first `count` labelled nodes (`half_train` of the official code, with 10).
    ///
    /// # Errors
    ///
    /// When `count` is 0.
    pub fn first_of_each_class(&self, labels: &[i64], count: usize) -> Result<Self> {
        if count == 0 {
            return Err(Error::setting("nodes per class", "at least 1", 0));
        }
        let mut kept = std::collections::HashMap::new();
        let train = self.train.iter().copied().filter(|&node| {
            let of_class = kept.entry(labels[node]).or_insert(0);
            *of_class += 1;
            *of_class <= count
        });
        Ok(Self { train: train.collect(), ..self.clone() })
    }

    /// The split in which the first half of the validation nodes is trained on too (`half_val_as_train` of the official
    /// code).
    pub fn half_validation_as_train(&self) -> Self {
        let (moved, validation) = self.validation.split_at(self.validation.len() / 2);
        let mut train = [&self.train[..], moved].concat();
        train.sort_unstable();
        Self { train, validation: validation.to_vec(), test: self.test.clone() }
    }
}

/// Checks that labels are classes or unknown.
fn check_labels(labels: &[i64]) -> Result<()> {
    match labels.iter().position(|&label| label < UNKNOWN || label > i64::from(u16::MAX)) {
        Some(node) => {
            let expected = format!("-1 (unknown) or a class from 0 to {}", u16::MAX);
            Err(Error::data(format!("label of node {node}"), expected, labels[node]))
        }
        None => Ok(()),
    }
}

/// Nodes to classify.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSet {
    /// One row a node.
    pub features: Features,
    /// The class of each node, from 0, or [`UNKNOWN`].
    pub labels: Vec<i64>,
    /// Number of classes.
    pub classes: usize,
    /// Which nodes are for what.
    pub split: Split,
    /// The graph that came with the nodes, such as citations. Latent graph inference does not look at it.
    pub graph: Option<Graph>,
}

impl NodeSet {
    /// Your own nodes: those of known class are the labelled ones, none is held out.
    ///
    /// # Errors
    ///
    /// As [`with_split`](Self::with_split).
    pub fn new(features: Features, labels: Vec<i64>) -> Result<Self> {
        let train = (0..labels.len()).filter(|&node| labels[node] >= 0).collect();
        Self::with_split(features, labels, Split { train, ..Split::default() })
    }

    /// Nodes with a split.
    ///
    /// - labels: the class of each node, from 0, or [`UNKNOWN`]
    ///
    /// # Errors
    ///
    /// When the number of labels is not that of nodes, a label is below -1, no node is labelled, a class has no
    /// labelled node, or a part of the split names a node that does not exist, has no label, or comes twice.
    pub fn with_split(features: Features, labels: Vec<i64>, mut split: Split) -> Result<Self> {
        for nodes in [&mut split.train, &mut split.validation, &mut split.test] {
            nodes.sort_unstable();
        }
        let classes = labels.iter().max().map_or(0, |&label| label + 1).max(0) as usize;
        let set = Self { features, labels, classes, split, graph: None };
        set.check()?;
        Ok(set)
    }

    /// Checks that the parts fit each other, which whoever changes one of them can break.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { features, labels, classes, split, graph } = self;
        if features.columns() == 0 {
            return Err(Error::data("features", "at least one column", 0));
        }
        let nodes = features.rows();
        if labels.len() != nodes {
            return Err(Error::data("labels", format!("{nodes}, one a node"), labels.len()));
        }
        check_labels(labels)?;
        if let Some(graph) = graph
            && graph.nodes() != nodes
        {
            return Err(Error::data("graph", format!("{nodes} nodes"), graph.nodes()));
        }
        let mut taken = vec![""; nodes];
        for (part, nodes_of) in
            [("train", &split.train), ("validation", &split.validation), ("test", &split.test)]
        {
            if !nodes_of.is_sorted() {
                return Err(Error::data(format!("{part} nodes"), "ascending nodes", "others"));
            }
            for &node in nodes_of {
                let location = format!("{part} nodes");
                if node >= nodes {
                    return Err(Error::data(location, format!("nodes below {nodes}"), node));
                }
                if labels[node] == UNKNOWN {
                    return Err(Error::data(
                        location,
                        "nodes of known class",
                        format!("node {node}, of none"),
                    ));
                }
                if !taken[node].is_empty() {
                    let found = format!("node {node}, which is among the {} nodes", taken[node]);
                    return Err(Error::data(location, "each node in one part, once", found));
                }
                taken[node] = part;
            }
        }
        if split.train.is_empty() {
            return Err(Error::data("labelled nodes", "at least one", "none"));
        }
        if let Some(node) = labels.iter().position(|&label| label >= *classes as i64) {
            let expected = format!("below {classes}, the number of classes");
            return Err(Error::data(format!("label of node {node}"), expected, labels[node]));
        }
        for class in 0..*classes {
            if !split.train.iter().any(|&node| labels[node] == class as i64) {
                return Err(Error::data(format!("class {class}"), "a labelled node", "none"));
            }
        }
        Ok(())
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.labels.len()
    }

    /// Reads the portable form of a Planetoid set: safetensors with `features.*` in compressed rows, `labels`, `edges`,
    /// `train`, `val`, `test`.
    ///
    /// # Errors
    ///
    /// When the file is absent or broken, or its parts do not fit each other.
    pub fn open_safetensors(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Checkpoint::open(path)?;
        let features = Features::Sparse(storage::read_csr(&file, path, "features")?);
        let labels = file.read("labels")?;
        if !labels.dtype.is_int() && !labels.dtype.is_uint() {
            return Err(Error::format(path, "`labels`", "whole numbers", format!("{:?}", labels.dtype)));
        }
        let labels = labels.iter::<i64>().collect();
        let sizes = |name| storage::sizes(&file, path, name);
        let split = Split { train: sizes("train")?, validation: sizes("val")?, test: sizes("test")? };
        if !matches!(file.shape("edges"), Some(&[_, 2])) {
            let found = format!("{:?}", file.shape("edges"));
            return Err(Error::format(path, "`edges`", "the shape [edges, 2]", found));
        }
        let edges: Vec<(usize, usize)> =
            sizes("edges")?.chunks_exact(2).map(|edge| (edge[0], edge[1])).collect();
        Self::with_split(features, labels, split)?.with_edges(&edges)
    }

    /// The nodes with the undirected edges that came with them.
    ///
    /// # Errors
    ///
    /// When an edge names a node that does not exist.
    pub fn with_edges(mut self, edges: &[(usize, usize)]) -> Result<Self> {
        self.graph = Some(Graph::from_edges(self.nodes(), edges)?);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: usize) -> Features {
        Features::new(vec![1.0; rows * 2], 2).unwrap()
    }

    #[test]
    fn labels_and_splits_are_checked() {
        let set = NodeSet::new(features(4), vec![1, -1, 0, -1]).unwrap();
        assert_eq!((set.split.train, set.classes), (vec![0, 2], 2));
        let message = |labels: &[i64], train: &[usize], test: &[usize]| {
            let split = Split { train: train.to_vec(), test: test.to_vec(), ..Split::default() };
            NodeSet::with_split(features(4), labels.to_vec(), split).unwrap_err().to_string()
        };
        let labels = [1, -1, 0, 0];
        assert!(message(&[0, 1], &[0], &[]).contains("4, one a node"));
        assert!(message(&[0, -2, 0, 0], &[0], &[]).contains("label of node 1"));
        assert!(message(&labels, &[], &[]).contains("labelled nodes"));
        assert!(message(&labels, &[0], &[]).contains("class 0: expected a labelled node"));
        assert!(message(&labels, &[0, 4], &[]).contains("nodes below 4"));
        assert!(message(&labels, &[0, 1], &[]).contains("node 1, of none"));
        assert!(message(&labels, &[0, 2], &[2]).contains("node 2, which is among the train nodes"));
        assert!(message(&[-1; 4], &[], &[]).contains("labelled nodes"));
    }

    #[test]
    fn random_splits_hold_every_known_node_once() {
        let labels: Vec<i64> = (0..50).map(|node| if node % 10 == 9 { UNKNOWN } else { node % 3 }).collect();
        let split = Split::random(&labels, 4, 10, 1).unwrap();
        assert_eq!([split.train.len(), split.validation.len(), split.test.len()], [12, 10, 23]);
        for class in 0..3 {
            assert_eq!(split.train.iter().filter(|&&node| labels[node] == class).count(), 4);
        }
        assert_ne!(Split::random(&labels, 4, 10, 2).unwrap(), split);
        assert!(NodeSet::with_split(features(50), labels.clone(), split).is_ok());
        assert!(Split::random(&labels, 20, 0, 0).unwrap_err().to_string().contains("class"));
        assert!(Split::random(&labels, 0, 0, 0).is_err());
    }

    #[test]
    fn splits_are_changed_as_the_official_code_does() {
        let labels = [0, 0, 1, 0, 1, 1, 0, 1];
        let split = Split { train: vec![0, 1, 2, 3], validation: vec![4, 5, 6], test: vec![7] };
        assert_eq!(split.first_of_each_class(&labels, 1).unwrap().train, [0, 2]);
        assert!(split.first_of_each_class(&labels, 0).is_err());
        let half = split.half_validation_as_train();
        assert_eq!((half.train, half.validation), (vec![0, 1, 2, 3, 4], vec![5, 6]));
    }
}
