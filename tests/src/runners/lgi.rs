//! LGI-LS and the models that learn their graph. The kinds are described in `oracles/lgi/README.md`.

use leanburn::{
    burn::{
        module::AutodiffModule,
        optim::{AdamConfig, GradientsParams, Optimizer, decay::WeightDecayConfig},
        tensor::{Tensor, TensorData, activation::log_softmax},
    },
    core::{Error, Result, checkpoint, random::Generator},
    graph::{
        Csr, Features, Graph, NodeSet, Normalization, Split,
        gcn::{FixedGraph, Gcn, GcnConfig},
        knn::{KnnConfig, Metric},
        learners::{
            GraphModel, classify,
            grcn::{self, Grcn, GrcnConfig},
            idgl::{self, Idgl, IdglConfig},
            slaps::{self, DenoisingLoss, GeneratorKind, GraphGenerator, NonLinearity, Slaps, SlapsConfig},
        },
        lgi::{RestorationConfig, Rows, Starvation, Strength, two_hop_starved, walk_counts},
        protocol,
        sparse::Tape,
    },
    prelude::{Dispatch, DispatchDevice},
};
use serde::Deserialize;

use crate::{case::Case, comparison::Outputs, data, gradients};

/// `Dispatch` without gradients recorded.
type Plain = Dispatch;

fn metric(name: &str) -> Result<Metric> {
    match name {
        "cosine" => Ok(Metric::Cosine),
        "minkowski" => Ok(Metric::Euclidean),
        _ => Err(unknown("metric", name)),
    }
}

fn normalization(name: &str) -> Result<Normalization> {
    match name {
        "sym" => Ok(Normalization::Symmetric),
        "row" => Ok(Normalization::Row),
        _ => Err(unknown("normalization", name)),
    }
}

fn unknown(setting: &str, value: &str) -> Error {
    Error::setting(setting, "a value that the runner knows", format!("`{value}`"))
}

fn features_of(data: &TensorData) -> Result<Features> {
    Features::new(data.iter::<f32>().collect(), data.shape[1])
}

fn dense(graph: &Graph) -> TensorData {
    TensorData::new(graph.adjacency().to_dense(), [graph.nodes(), graph.nodes()])
}

/// The graph of a dense adjacency matrix.
fn graph_of(adjacency: &TensorData) -> Result<Graph> {
    let nodes = adjacency.shape[0];
    let cells: Vec<f32> = adjacency.iter::<f32>().collect();
    let (mut offsets, mut columns, mut values) = (vec![0], vec![], vec![]);
    for row in cells.chunks(nodes) {
        for (column, &value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            columns.push(column as u32);
            values.push(value);
        }
        offsets.push(columns.len());
    }
    Graph::new(Csr::new(nodes, offsets, columns, values)?)
}

fn flags(values: &[bool]) -> Vec<i64> {
    values.iter().map(|&value| i64::from(value)).collect()
}

#[derive(Deserialize)]
struct KnnGraph {
    k: usize,
    metrics: Vec<String>,
    self_loops: bool,
    non_linearities: Vec<String>,
    i: f64,
}

pub(super) fn knn_graph(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let config: KnnGraph = case.config()?;
    let features = features_of(&case.input("features")?)?;
    let mut outputs = Outputs::default();
    for name in &config.metrics {
        let knn = KnnConfig::new().with_k(config.k).with_metric(metric(name)?);
        let mut graph = knn.neighbours::<Plain>(&features, device)?.graph();
        if config.self_loops {
            graph = graph.with_self_loops();
        }
        outputs.data(format!("{name}.adj"), dense(&graph));
        outputs.data(format!("{name}.sym"), dense(&graph.normalised(Normalization::Symmetric)?));
        outputs.data(format!("{name}.row"), dense(&graph.normalised(Normalization::Row)?));
        let symmetrised = graph.symmetrised();
        outputs.data(format!("{name}.symmetrized"), dense(&symmetrised));
        let normalised = symmetrised.normalised(Normalization::Symmetric)?;
        outputs.data(format!("{name}.symmetrized_sym"), dense(&normalised));
    }

    // The graph of SLAPS' sparse mode, with features as embeddings.
    let training = leanburn::device::autodiff(device.clone());
    let mut tape = Tape::new();
    let embeddings = case.tensor::<Dispatch, 2>("features", &training)?;
    let similar = slaps::Similar::new(embeddings, config.k, true, device, &mut tape)?;
    let scaled = similar.scaled(device, &mut tape)?.inner();
    // From columns in ascending order to the nearest first.
    let mut places = Vec::new();
    let (mut rows, mut columns) = (Vec::new(), Vec::new());
    for row in 0..features.rows() {
        let (nearest, _) = similar.nearest.row(row);
        let mut ascending = nearest.to_vec();
        ascending.sort_unstable();
        for &column in nearest {
            let place = ascending.binary_search(&column).expect("it is one of them");
            places.push((row * nearest.len() + place) as i64);
            rows.push(row as i64);
            columns.push(i64::from(column));
        }
    }
    let count = places.len();
    let values: Tensor<Plain, 1> =
        scaled.select(0, Tensor::from_data(TensorData::new(places, [count]), device));
    outputs.ints("knn_fast.rows", rows);
    outputs.ints("knn_fast.cols", columns);
    for name in &config.non_linearities {
        outputs.tensor(format!("nonlin.{name}"), non_linearity(name)?.apply(values.clone(), config.i));
    }
    outputs.tensor("knn_fast.values", values);
    Ok(outputs)
}

fn non_linearity(name: &str) -> Result<NonLinearity> {
    match name {
        "elu" => Ok(NonLinearity::Elu),
        "relu" => Ok(NonLinearity::Relu),
        "exp" => Ok(NonLinearity::Exp),
        _ => Err(unknown("non_linearity", name)),
    }
}

/// A kNN graph, in the kinds that have one.
#[derive(Deserialize)]
struct Knn {
    k: usize,
    metric: String,
    #[serde(default)]
    self_loops: bool,
    normalization: String,
}

impl Knn {
    fn graph(&self, features: &Features, device: &DispatchDevice) -> Result<Graph> {
        let knn = KnnConfig::new().with_k(self.k).with_metric(metric(&self.metric)?);
        let graph = knn.neighbours::<Plain>(features, device)?.graph();
        Ok(if self.self_loops { graph.with_self_loops() } else { graph })
    }

    fn normalised(&self, graph: &Graph) -> Result<Graph> {
        graph.normalised(normalization(&self.normalization)?)
    }
}

/// The official restoration keeps negative similarities.
fn restoration(rows: Rows, tau: usize, alpha: f64) -> RestorationConfig {
    RestorationConfig::new()
        .with_rows(rows)
        .with_tau(tau)
        .with_strength(Strength::Alpha(alpha))
        .with_clip(false)
}

#[derive(Deserialize)]
struct Restore {
    #[serde(flatten)]
    knn: Knn,
    labelled_count: usize,
    klabel: usize,
    alphas: Vec<f64>,
    alpha_tags: Vec<String>,
    hops: usize,
}

pub(super) fn restore_graph(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let config: Restore = case.config()?;
    let features = features_of(&case.input("features")?)?;
    let graph = config.knn.graph(&features, device)?;
    let labelled: Vec<usize> = (0..config.labelled_count).collect();
    let mask: Vec<bool> = (0..graph.nodes()).map(|node| node < config.labelled_count).collect();
    let mut outputs = Outputs::default();
    outputs.data("adj", dense(&graph));
    outputs.data("base.normalised", dense(&config.knn.normalised(&graph)?));
    outputs.ints("col_mask", flags(&mask));
    let starvation = Starvation::new(&graph, &mask, config.hops);
    outputs.ints("row_mask", flags(&starvation.starved[0]));
    outputs.data("starved_exact", by_hops(&starvation));
    outputs.ints("starved_2hop_cur", flags(&two_hop_starved(&graph, &mask)));

    let restore = |rows: Rows, tau: usize, alpha: f64| {
        restoration(rows, tau, alpha).restore::<Plain>(&graph, &features, &labelled, device)
    };
    // All rows with all labelled nodes hold every similarity.
    for (name, tau) in [("similarity", labelled.len()), ("similarity_topk", config.klabel)] {
        let all = restore(Rows::All, tau, 1.0)?.regularisation.adjacency().to_dense();
        let values: Vec<f32> =
            all.chunks(graph.nodes()).flat_map(|row| &row[..labelled.len()]).copied().collect();
        outputs.data(name, TensorData::new(values, [graph.nodes(), labelled.len()]));
    }
    for (&alpha, tag) in config.alphas.iter().zip(&config.alpha_tags) {
        for (name, rows) in [("U", Rows::Unlabelled), ("R", Rows::All), ("U_starved", Rows::Starved)] {
            let restored = restore(rows, config.klabel, alpha)?.graph;
            outputs.data(format!("alpha{tag}.{name}.restored"), dense(&restored));
            outputs.data(format!("alpha{tag}.{name}.normalised"), dense(&config.knn.normalised(&restored)?));
        }
    }
    Ok(outputs)
}

fn by_hops(starvation: &Starvation) -> TensorData {
    let shape = [starvation.starved.len(), starvation.starved[0].len()];
    TensorData::new(starvation.starved.iter().flat_map(|nodes| flags(nodes)).collect::<Vec<i64>>(), shape)
}

fn counts(starvation: &Starvation) -> Vec<i64> {
    starvation.counts().into_iter().map(|count| count as i64).collect()
}

#[derive(Deserialize)]
struct StarvedNodes {
    graphs: Vec<String>,
    hops: usize,
    powers: Vec<usize>,
}

pub(super) fn starved_nodes(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let config: StarvedNodes = case.config()?;
    let mut outputs = Outputs::default();
    for name in &config.graphs {
        let graph = graph_of(&case.reference(&format!("given.{name}.adj"))?)?.with_self_loops();
        let labelled = case.reference(&format!("given.{name}.labelled"))?;
        let labelled: Vec<bool> = labelled.iter::<i64>().map(|flag| flag == 1).collect();
        let exact = Starvation::new(&graph, &labelled, config.hops);
        let official = Starvation::official_rule(&graph, &labelled, config.hops);
        outputs.ints(format!("{name}.exact_counts"), counts(&exact));
        outputs.ints(format!("{name}.official_counts"), counts(&official));
        outputs.data(format!("{name}.exact_mask"), by_hops(&exact));
        for &power in &config.powers {
            let nodes = graph.nodes();
            let mut walks = vec![0_i64; nodes * nodes];
            for node in 0..nodes {
                for &(other, count) in &walk_counts(&graph, node, power)[power - 1] {
                    walks[node * nodes + other as usize] = count as i64;
                }
            }
            outputs.data(format!("{name}.power{power}"), TensorData::new(walks, [nodes, nodes]));
        }
    }
    Ok(outputs)
}

/// Adam, in the kinds that train.
#[derive(Deserialize)]
struct OptimizerSettings {
    kind: String,
    lr: f64,
    betas: [f32; 2],
    eps: f32,
    weight_decay: f32,
}

impl OptimizerSettings {
    fn adam(&self) -> Result<AdamConfig> {
        if self.kind != "adam" {
            return Err(unknown("optimizer", &self.kind));
        }
        let decay = WeightDecayConfig::new(self.weight_decay);
        Ok(AdamConfig::new()
            .with_beta_1(self.betas[0])
            .with_beta_2(self.betas[1])
            .with_epsilon(self.eps)
            .with_weight_decay(Some(decay)))
    }
}

/// The mean cross-entropy of some nodes.
fn node_loss(logits: Tensor<Dispatch, 2>, labels: &[i64], nodes: &[usize]) -> Tensor<Dispatch, 1> {
    let [count, classes] = logits.dims();
    let mut targets = vec![0.0_f32; count * classes];
    for &node in nodes {
        targets[node * classes + labels[node] as usize] = 1.0 / nodes.len() as f32;
    }
    let targets = Tensor::from_data(TensorData::new(targets, [count, classes]), &logits.device());
    (log_softmax(logits, 1) * targets).sum().neg()
}

#[derive(Deserialize)]
struct GcnTrain {
    #[serde(flatten)]
    knn: Knn,
    features: usize,
    hidden: usize,
    classes: usize,
    nlayers: usize,
    labelled_count: usize,
    graph: String,
    alpha: f64,
    klabel: usize,
    optimizer: OptimizerSettings,
    steps: usize,
}

fn correct(logits: &Tensor<Dispatch, 2>, labels: &[i64], nodes: &[usize]) -> usize {
    let [_, classes] = logits.dims();
    let logits: Vec<f32> = logits.clone().into_data().iter::<f32>().collect();
    (protocol::accuracy(&logits, labels, classes, nodes) * nodes.len() as f64).round() as usize
}

pub(super) fn gcn_train(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let config: GcnTrain = case.config()?;
    let features = features_of(&case.input("features")?)?;
    let labels: Vec<i64> = case.input("labels")?.iter::<i64>().collect();
    let labelled: Vec<usize> = (0..config.labelled_count).collect();
    let rest: Vec<usize> = (config.labelled_count..labels.len()).collect();
    let mut graph = config.knn.graph(&features, device)?;
    let rows = match config.graph.as_str() {
        "GCN_KNN" => None,
        "GCN_KNN_U" => Some(Rows::Unlabelled),
        "GCN_KNN_R" => Some(Rows::All),
        other => return Err(unknown("graph", other)),
    };
    if let Some(rows) = rows {
        let restoration = restoration(rows, config.klabel, config.alpha);
        graph = restoration.restore::<Plain>(&graph, &features, &labelled, device)?.graph;
    }
    let normalised = config.knn.normalised(&graph)?;
    let fixed = FixedGraph::<Plain>::new(&features, &normalised, device)?;
    let training = leanburn::device::autodiff(device.clone());
    let network = GcnConfig::new(config.features, config.classes)
        .with_hidden(config.hidden)
        .with_layers(config.nlayers)
        .with_dropout(0.0);
    let mut gcn: Gcn<Dispatch> =
        case.load(network.init(&mut Generator::new(0), &training)?, str::to_owned)?;

    let mut outputs = Outputs::default();
    outputs.data("adj_norm", dense(&normalised));
    let first = fixed.first(&gcn.valid());
    outputs.tensor("hidden0", leanburn::burn::tensor::activation::relu(first.clone()));
    let logits = fixed.logits(&gcn.valid(), first.clone());
    outputs.tensor("hidden0_pre", first);
    outputs.tensor("log_softmax", log_softmax(logits.clone(), 1));
    for (name, nodes) in [("train", &labelled), ("rest", &rest)] {
        outputs.tensor(format!("{name}_loss"), node_loss(logits.clone(), &labels, nodes));
        let accuracy = correct(&logits, &labels, nodes) as f64 / nodes.len() as f64;
        outputs.list(format!("{name}_accuracy"), vec![accuracy]);
    }
    outputs.tensor("logits", logits);

    let mut optimizer = config.optimizer.adam()?.init();
    let mut losses = Vec::new();
    for step in 1..=config.steps {
        let first = fixed.first(&gcn.valid());
        let (loss, found) = fixed
            .gradients(&gcn, first, &mut Generator::new(0), |logits| node_loss(logits, &labels, &labelled));
        losses.extend(loss.into_data().iter::<f64>());
        if step == 1 {
            for (name, gradient) in gradients::by_name(&gcn, &found, str::to_owned)? {
                outputs.data(format!("grad.{name}"), gradient);
            }
        }
        gcn = optimizer.step(config.optimizer.lr, gcn, found);
        if step == 1 || step == config.steps {
            for (name, value) in checkpoint::tensors(&gcn.valid(), str::to_owned)? {
                outputs.data(format!("step{step}.{name}"), value);
            }
        }
    }
    outputs.list("losses", losses);
    Ok(outputs)
}

#[derive(Deserialize)]
struct PlanetoidGcn {
    dataset: String,
    #[serde(flatten)]
    knn: Knn,
    hidden: usize,
    classes: usize,
    nlayers: usize,
    hops: usize,
    tie_eps: f64,
    first_test: usize,
    steps: usize,
    optimizer: OptimizerSettings,
}

pub(super) fn planetoid_gcn(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let config: PlanetoidGcn = case.config()?;
    let file = data(&config.dataset)
        .ok_or_else(|| Error::data("data set", "a file below LEANBURN_DATA", &config.dataset))?;
    let set = NodeSet::open_safetensors(file)?;
    let ids = |nodes: &[usize]| nodes.iter().map(|&node| node as i64).collect::<Vec<i64>>();
    let mut outputs = Outputs::default();
    let half = set.split.first_of_each_class(&set.labels, 10)?;
    outputs.ints("half_train_nodes", ids(&half.train));
    let Split { train, validation, .. } = set.split.half_validation_as_train();
    outputs.ints("half_val_train_nodes", ids(&train));
    outputs.ints("half_val_val_nodes", ids(&validation));

    // Who is near does not depend on how ties are broken.
    let all = set.nodes() - 1;
    let knn = KnnConfig::new().with_k(all).with_metric(metric(&config.knn.metric)?);
    let nearest = knn.neighbours::<Plain>(&set.features, device)?;
    let (mut kth, mut closer, mut tied) = (vec![], vec![], vec![]);
    for node in 0..set.nodes() {
        let similarities: Vec<f64> = nearest.row(node).1.iter().map(|&s| f64::from(s)).collect();
        let last = similarities[config.knn.k - 1];
        // Single precision, in which the similarities are told, tells ties from others as well.
        let margin = config.tie_eps.max(1e-7);
        kth.push(last);
        closer.push(similarities.iter().filter(|&&s| s > last + margin).count() as i64);
        tied.push(similarities.iter().filter(|&&s| s >= last - margin).count() as i64);
    }
    outputs.list("kth_similarity", kth);
    outputs.ints("strictly_closer", closer);
    outputs.ints("tied_or_closer", tied);

    let neighbours = case.reference("given.neighbours")?;
    let columns: Vec<u32> = neighbours.iter::<i64>().map(|node| node as u32).collect();
    let k = neighbours.shape[1];
    let offsets = (0..=set.nodes()).map(|node| node * k).collect();
    let values = vec![1.0; columns.len()];
    let mut graph = Graph::new(Csr::new(set.nodes(), offsets, columns, values)?)?;
    if config.knn.self_loops {
        graph = graph.with_self_loops();
    }
    let labelled: Vec<bool> = (0..set.nodes()).map(|node| set.split.train.contains(&node)).collect();
    outputs.ints("starved_counts", counts(&Starvation::new(&graph, &labelled, config.hops)));

    let fixed = FixedGraph::<Plain>::new(&set.features, &config.knn.normalised(&graph)?, device)?;
    let training = leanburn::device::autodiff(device.clone());
    let network = GcnConfig::new(set.features.columns(), config.classes)
        .with_hidden(config.hidden)
        .with_layers(config.nlayers)
        .with_dropout(0.0);
    let mut gcn: Gcn<Dispatch> =
        case.load(network.init(&mut Generator::new(0), &training)?, str::to_owned)?;
    let logits = fixed.logits(&gcn.valid(), fixed.first(&gcn.valid())).into_data();
    let values: Vec<f32> = logits.iter::<f32>().collect();
    let of_test: Vec<f32> = set.split.test[..config.first_test]
        .iter()
        .flat_map(|&node| values[node * config.classes..(node + 1) * config.classes].to_vec())
        .collect();
    outputs.data("logits_first64_test", TensorData::new(of_test, [config.first_test, config.classes]));

    let mut optimizer = config.optimizer.adam()?.init();
    let (mut train_losses, mut test_losses, mut test_correct) = (vec![], vec![], vec![]);
    for _ in 0..config.steps {
        let first = fixed.first(&gcn.valid());
        let (loss, found) = fixed.gradients(&gcn, first, &mut Generator::new(0), |logits| {
            node_loss(logits, &set.labels, &set.split.train)
        });
        train_losses.extend(loss.into_data().iter::<f64>());
        gcn = optimizer.step(config.optimizer.lr, gcn, found);
        let logits = fixed.logits(&gcn.valid(), fixed.first(&gcn.valid()));
        test_correct.push(correct(&logits, &set.labels, &set.split.test) as i64);
        test_losses.extend(node_loss(logits, &set.labels, &set.split.test).into_data().iter::<f64>());
    }
    outputs.list("train_losses", train_losses);
    outputs.list("test_losses", test_losses);
    outputs.ints("test_correct", test_correct);
    Ok(outputs)
}

#[derive(Deserialize)]
struct SlapsLoss {
    generator: String,
    #[serde(flatten)]
    knn: Knn,
    hidden_adj: usize,
    hidden: usize,
    classes: usize,
    nlayers: usize,
    labelled_count: usize,
    non_linearity: String,
    i: f64,
    mlp_act: String,
    mlp_h: usize,
    lambda_: f64,
    feature_kind: String,
    feature_threshold: Option<f32>,
    mask_threshold: f32,
    dae_loss: String,
}

/// 1 where uniform numbers are below a threshold, otherwise 0.
fn below(draws: &TensorData, threshold: f32) -> TensorData {
    let values: Vec<f32> = draws.iter::<f32>().map(|draw| f32::from(u8::from(draw < threshold))).collect();
    TensorData::new(values, draws.shape.clone())
}

pub(super) fn slaps_loss(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let settings: SlapsLoss = case.config()?;
    let data = match settings.feature_kind.as_str() {
        "real" => case.input("features")?,
        "binary" => below(&case.input("features_u")?, settings.feature_threshold.unwrap_or_default()),
        other => return Err(unknown("feature_kind", other)),
    };
    let features = features_of(&data)?;
    let kind = match settings.generator.as_str() {
        "FullParam" => GeneratorKind::FullParam,
        "MLP" => GeneratorKind::Mlp,
        "MLP_Diag" => GeneratorKind::MlpDiag,
        other => return Err(unknown("generator", other)),
    };
    let config = SlapsConfig::new(kind)
        .with_k(settings.knn.k)
        .with_non_linearity(non_linearity(&settings.non_linearity)?)
        .with_i(settings.i)
        .with_activation(match settings.mlp_act.as_str() {
            "relu" => slaps::Activation::Relu,
            "tanh" => slaps::Activation::Tanh,
            other => return Err(unknown("mlp_act", other)),
        })
        .with_embedding(Some(settings.mlp_h))
        .with_official_ties(true)
        .with_normalization(normalization(&settings.knn.normalization)?)
        .with_hidden_adj(settings.hidden_adj)
        .with_hidden(settings.hidden)
        .with_layers(settings.nlayers)
        .with_dropout1(0.0)
        .with_dropout2(0.0)
        .with_dropout_adj1(0.0)
        .with_dropout_adj2(0.0)
        .with_lambda(settings.lambda_)
        .with_loss(match settings.dae_loss.as_str() {
            "bce" => DenoisingLoss::BinaryCrossEntropy,
            "mse" => DenoisingLoss::MeanSquared,
            other => return Err(unknown("dae_loss", other)),
        });
    let training = leanburn::device::autodiff(device.clone());
    let mut draws = Generator::new(0);
    let mut networks: Slaps<Dispatch> = Slaps {
        model1: config.init_denoiser(&features, &mut draws, &training)?,
        model2: config.classifier(features.columns(), settings.classes).init(&mut draws, &training)?,
    };
    // A parameter for every pair is no recipe's tensor: the neighbours' graph, and noise.
    let mut full = None;
    if let GraphGenerator::FullParam(parameters) = &networks.model1.graph_gen {
        let noise = Tensor::from_data(case.input("adj_noise")?, &training);
        let adj = (parameters.adj.val() + noise).into_data();
        full = Some(("model1.graph_gen.Adj".to_owned(), adj));
    }
    networks = case.load_with(networks, SlapsConfig::published_name, full.clone())?;

    let labelled: Vec<usize> = (0..settings.labelled_count).collect();
    let labels: Vec<i64> = case.input("labels")?.iter::<i64>().collect();
    let context = slaps::Context::new(&features, &labelled, device);
    let masked = below(&case.input("mask_u")?, settings.mask_threshold);
    let masked = slaps::Masked::new(masked_entries(&masked, &data)?);
    let mut outputs = Outputs::default();
    let mut tape = Tape::new();
    if let Some((_, adj)) = full {
        outputs.data("graph_gen.Adj", adj);
    }
    let Slaps { model1, model2 } = &networks;
    if let Some(embeddings) = model1.graph_gen.embeddings(&config, &context, &mut tape) {
        outputs.tensor("embeddings", embeddings.inner());
    }
    let mut tape = Tape::new();
    let generated = model1.graph_gen.generate(&config, &context, &mut tape)?;
    outputs.tensor("raw_adj", generated.raw.valid().to_dense());
    outputs.tensor("adj", generated.adjacency.valid().to_dense());
    let denoising = model1.loss(&config, &context, &masked, &generated.adjacency, &mut draws, &mut tape);
    let logits = classify(model2, context.input(), &generated.adjacency, &mut draws, &mut tape);
    outputs.tensor("logits", logits.clone().inner());
    let classifying = node_loss(logits, &labels, &labelled);
    outputs.tensor("loss_dae", denoising.clone().inner());
    outputs.tensor("loss_cls", classifying.clone().inner());
    let loss = denoising * config.lambda + classifying;
    outputs.tensor("loss", loss.clone().inner());
    let found = tape.backward(loss, &networks);
    for (name, gradient) in gradients::by_name(&networks, &found, SlapsConfig::published_name)? {
        outputs.data(format!("grad.{name}"), gradient);
    }
    // After the gradients: a graph that no pass goes through would be in their way.
    let restored = model1.reconstruction(&config, &context, &masked, &generated.adjacency, &mut draws);
    outputs.tensor("reconstruction", restored.inner());
    Ok(outputs)
}

/// The features at the masked places.
fn masked_entries(mask: &TensorData, features: &TensorData) -> Result<Csr> {
    let columns = mask.shape[1];
    let (mask, features): (Vec<f32>, Vec<f32>) =
        (mask.iter::<f32>().collect(), features.iter::<f32>().collect());
    let (mut offsets, mut places, mut values) = (vec![0], vec![], vec![]);
    for (row, flags) in mask.chunks(columns).enumerate() {
        for column in (0..columns).filter(|&column| flags[column] == 1.0) {
            places.push(column as u32);
            values.push(features[row * columns + column]);
        }
        offsets.push(places.len());
    }
    Csr::new(columns, offsets, places, values)
}

#[derive(Deserialize)]
struct SlapsMask {
    r: f64,
    nr: f64,
    feature_threshold: f32,
}

pub(super) fn slaps_mask(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let config: SlapsMask = case.config()?;
    let data = below(&case.input("features_u")?, config.feature_threshold);
    let (of_ones, of_zeros) = slaps::mask_probabilities(&features_of(&data)?, config.r, config.nr)?;
    let probability = |value: f32| if value == 0.0 { of_zeros } else { of_ones };
    let probabilities: Vec<f64> = data.iter::<f32>().map(probability).collect();
    let mut outputs = Outputs::default();
    outputs.data("probabilities", TensorData::new(probabilities, data.shape.clone()));
    Ok(outputs)
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
struct GrcnLoss {
    layertype: String,
    features: usize,
    nhid: usize,
    hid_graph: [usize; 2],
    classes: usize,
    #[serde(rename = "K")]
    k: usize,
    normalize: bool,
    labelled_count: usize,
    normalization: String,
}

pub(super) fn grcn_loss(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let settings: GrcnLoss = case.config()?;
    let config = GrcnConfig::new()
        .with_layers(match settings.layertype.as_str() {
            "dense" => grcn::LayerKind::Dense,
            "diag" => grcn::LayerKind::Diag,
            other => return Err(unknown("layertype", other)),
        })
        .with_hidden(settings.nhid)
        .with_hidden_graph(settings.hid_graph)
        .with_k(settings.k)
        .with_normalise(settings.normalize)
        .with_normalization(normalization(&settings.normalization)?)
        .with_dropout(0.0);
    let features = features_of(&case.input("features")?)?;
    let labels: Vec<i64> = case.input("labels")?.iter::<i64>().collect();
    let labelled: Vec<usize> = (0..settings.labelled_count).collect();
    let training = leanburn::device::autodiff(device.clone());
    let mut draws = Generator::new(0);
    let networks: Grcn<Dispatch> = config.init(settings.features, settings.classes, &mut draws, &training);
    let networks = case.load(networks, GrcnConfig::published_name)?;
    let given = graph_of(&case.reference("given.adj")?)?;
    let mut outputs = Outputs::default();
    let mut last = None;
    // The sparse graph is the dense one: both are compared, the dense one's numbers are told.
    for sparse in [true, false] {
        let config = config.clone().with_sparse(sparse);
        let context = grcn::Context::new(&config, &features, given.clone(), &labelled, device)?;
        let mut tape = Tape::new();
        outputs.tensor("embeddings", networks.graph.embeddings(&config, &context, &mut tape).inner());
        let mut tape = Tape::new();
        let revised = networks.graph.revise(&config, &context, &mut tape)?;
        outputs.tensor("sparse_similarity", revised.similarity.valid().to_dense());
        let adjacency: Tensor<Plain, 2> = revised.adjacency.valid().to_dense();
        agree("adj_new", &adjacency.clone().into_data(), &mut last)?;
        outputs.tensor("adj_new", adjacency);
        let logits = networks.base.forward(&context, &revised.adjacency, 0.0, &mut draws, &mut tape);
        outputs.tensor("log_probs", log_softmax(logits.clone().inner(), 1));
        let loss = node_loss(logits, &labels, &labelled);
        outputs.tensor("loss", loss.clone().inner());
        let found = tape.backward(loss, &networks);
        for (name, gradient) in gradients::by_name(&networks, &found, GrcnConfig::published_name)? {
            outputs.data(format!("grad.{name}"), gradient);
        }
        let embeddings: Tensor<Plain, 2> =
            networks.graph.embeddings(&config, &context, &mut Tape::new()).inner();
        outputs.tensor("similarity", embeddings.clone().matmul(embeddings.transpose()));
    }
    Ok(outputs)
}

/// Whether values are those of the last time.
fn agree(name: &str, values: &TensorData, last: &mut Option<Vec<f64>>) -> Result<()> {
    let values: Vec<f64> = values.iter::<f64>().collect();
    if let Some(last) = last
        && let Some(place) = (0..values.len()).find(|&place| (values[place] - last[place]).abs() > 1e-5)
    {
        let location = format!("`{name}`, value {place}, sparse and dense");
        return Err(Error::data(location, last[place], values[place]));
    }
    *last = Some(values);
    Ok(())
}

#[derive(Deserialize)]
struct IdglEpoch {
    num_feat: usize,
    num_class: usize,
    hidden_size: usize,
    graph_skip_conn: f64,
    update_adj_ratio: f64,
    smoothness_ratio: f64,
    degree_ratio: f64,
    sparsity_ratio: f64,
    graph_learn_ratio: f64,
    graph_learn_epsilon: f64,
    graph_learn_num_pers: usize,
    max_iter: usize,
    eps_adj: f64,
    labelled_count: usize,
    nodes: usize,
}

pub(super) fn idgl_epoch(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let settings: IdglEpoch = case.config()?;
    let config = IdglConfig::new()
        .with_hidden(settings.hidden_size)
        .with_graph_skip_conn(settings.graph_skip_conn)
        .with_update_adj_ratio(settings.update_adj_ratio)
        .with_smoothness_ratio(settings.smoothness_ratio)
        .with_degree_ratio(settings.degree_ratio)
        .with_sparsity_ratio(settings.sparsity_ratio)
        .with_graph_learn_ratio(settings.graph_learn_ratio)
        .with_epsilon(settings.graph_learn_epsilon)
        .with_perspectives(settings.graph_learn_num_pers)
        .with_max_iter(settings.max_iter)
        .with_eps_adj(settings.eps_adj)
        .with_dropout(0.0)
        .with_feat_adj_dropout(0.0);
    let training = leanburn::device::autodiff(device.clone());
    let networks: Idgl<Dispatch> =
        config.init(settings.num_feat, settings.num_class, &mut Generator::new(0), &training);
    // The published layout of the encoder is Burn's own.
    let networks: Idgl<Dispatch> = case.load(networks, str::to_owned)?;
    let graph = graph_of(&case.reference("given.adj01")?)?;
    let labels: Vec<i64> = case.input("labels")?.iter::<i64>().collect();
    let labelled: Vec<usize> = (0..settings.labelled_count).collect();
    let features = case.tensor::<Dispatch, 2>("features", &training)?;
    let context = idgl::Context::new(&config, features, &graph, &labelled)?;
    let mut targets = vec![0.0_f32; settings.nodes * settings.num_class];
    for &node in &labelled {
        targets[node * settings.num_class + labels[node] as usize] = 1.0 / labelled.len() as f32;
    }
    let targets = TensorData::new(targets, [settings.nodes, settings.num_class]);
    let targets = Tensor::from_data(targets, &training);
    let output = networks.forward(&config, &context, &targets, None, None);
    let mut outputs = Outputs::default();
    outputs.tensor("init_adj", context.initial().expect("there are no anchors").inner());
    outputs.tensor("raw_adj", output.first_raw.inner());
    let first = output.first.to_dense().expect("there are no anchors");
    outputs.tensor("adj", first.inner());
    outputs.tensor("graph_loss", output.graph_loss.inner());
    outputs.tensor("last_raw_adj", output.last_raw.inner());
    outputs.tensor("output_train", output.log_probabilities.inner().narrow(0, 0, labelled.len()));
    outputs.ints("iterations", vec![output.iterations as i64]);
    outputs.tensor("loss", output.loss.clone().inner());
    let found = GradientsParams::from_grads(output.loss.backward(), &networks);
    for (name, gradient) in gradients::by_name(&networks, &found, str::to_owned)? {
        outputs.data(format!("grad.{name}"), gradient);
    }
    Ok(outputs)
}
