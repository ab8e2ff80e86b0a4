//! Speed of the graph parts: `cargo bench -p leanburn-graph`.

use burn::{
    backend::Autodiff,
    tensor::{IndexingUpdateOp, Int, Tensor, TensorData},
};
use burn_flex::Flex;
use divan::{Bencher, counter::ItemsCount};
use leanburn_core::random::Generator;
use leanburn_graph::{
    Features, Graph, NodeSet, Normalization, Split,
    knn::KnnConfig,
    lgi::{LgiConfig, RestorationConfig, Starvation, Strength},
    sparse::SparseMatrix,
};

fn main() {
    divan::main();
}

/// 1797 digits, of each class ten labelled.
fn digits() -> NodeSet {
    let table = leanburn_datasets::digits();
    let labels = table.labels().unwrap().to_vec();
    let split = Split::random(&labels, 10, 300, 0).unwrap();
    NodeSet::with_split(Features::from_table(&table).unwrap(), labels, split).unwrap()
}

fn graph(set: &NodeSet) -> Graph {
    let graph = KnnConfig::new().graph::<Flex>(&set.features, &Default::default()).unwrap();
    graph.normalised(Normalization::Symmetric).unwrap()
}

/// The product of the normalised graph by a dense matrix of this width.
#[divan::bench(args = [8, 32, 256])]
fn sparse_product(bencher: Bencher, width: usize) {
    let set = digits();
    let device = Default::default();
    let graph = graph(&set);
    let matrix = SparseMatrix::<Flex>::new(graph.adjacency(), &device);
    let x: Tensor<Flex, 2> = Generator::new(0).normal([set.nodes(), width], &device);
    bencher.counter(ItemsCount::new(graph.adjacency().entries() * width)).bench(|| matrix.product(x.clone()));
}

/// The same by gathering rows, scaling them and scattering them into the result.
#[divan::bench(args = [8, 32, 256])]
fn gather_and_scatter(bencher: Bencher, width: usize) {
    let set = digits();
    let device = Default::default();
    let graph = graph(&set);
    let adjacency = graph.adjacency();
    let (mut rows, mut columns, mut values) = (vec![], vec![], vec![]);
    for row in 0..set.nodes() {
        let (of_row, weights) = adjacency.row(row);
        rows.extend(of_row.iter().map(|_| row as i64));
        columns.extend(of_row.iter().map(|&column| i64::from(column)));
        values.extend_from_slice(weights);
    }
    let entries = values.len();
    let ints =
        |values: Vec<i64>| Tensor::<Flex, 1, Int>::from_data(TensorData::new(values, [entries]), &device);
    let (rows, columns) = (ints(rows), ints(columns));
    let values = Tensor::<Flex, 2>::from_data(TensorData::new(values, [entries, 1]), &device);
    let x: Tensor<Flex, 2> = Generator::new(0).normal([set.nodes(), width], &device);
    bencher.counter(ItemsCount::new(entries * width)).bench(|| {
        let gathered = x.clone().select(0, columns.clone()) * values.clone();
        let zeros = Tensor::<Flex, 2>::zeros([set.nodes(), width], &device);
        zeros.select_assign(0, rows.clone(), gathered, IndexingUpdateOp::Add)
    });
}

/// The same with the graph as a dense matrix.
#[divan::bench(args = [8, 32, 256])]
fn dense_product(bencher: Bencher, width: usize) {
    let set = digits();
    let device = Default::default();
    let nodes = set.nodes();
    let dense = TensorData::new(graph(&set).adjacency().to_dense(), [nodes, nodes]);
    let dense = Tensor::<Flex, 2>::from_data(dense, &device);
    let x: Tensor<Flex, 2> = Generator::new(0).normal([nodes, width], &device);
    bencher.bench(|| dense.clone().matmul(x.clone()));
}

/// 15 nearest neighbours of the digits.
#[divan::bench]
fn neighbours(bencher: Bencher) {
    let set = digits();
    bencher.bench(|| KnnConfig::new().neighbours::<Flex>(&set.features, &Default::default()).unwrap());
}

/// Connections of the digits to 30 labelled nodes each.
#[divan::bench]
fn restoration(bencher: Bencher) {
    let set = digits();
    let device = Default::default();
    let graph = KnnConfig::new().graph::<Flex>(&set.features, &device).unwrap();
    let config = RestorationConfig::new().with_strength(Strength::Rho(1.0));
    bencher.bench(|| config.restore::<Flex>(&graph, &set.features, &set.split.train, &device).unwrap());
}

/// Starved nodes of the digits for 1 to 4 hops.
#[divan::bench]
fn starvation(bencher: Bencher) {
    let set = digits();
    let graph = graph(&set);
    let labelled: Vec<bool> = (0..set.nodes()).map(|node| set.split.train.contains(&node)).collect();
    bencher.bench(|| Starvation::new(&graph, &labelled, 4));
}

/// Ten epochs on the digits, graph included.
#[divan::bench]
fn ten_epochs(bencher: Bencher) {
    let set = digits();
    let config = LgiConfig::new().with_epochs(10);
    bencher.bench(|| config.fit::<Autodiff<Flex>>(&set, &Default::default()).unwrap());
}
