//! SLA2P and its baselines. The kinds are described in `oracles/sla2p/README.md`.

use leanburn::{
    anomaly::{
        Scores,
        baselines::{Baseline, GoadConfig, GoadDepth, GoadNetwork, LofConfig, PcaConfig},
        preprocessing::PreprocessingConfig,
        sla2p::{
            Architecture, Classifier, ClassifierConfig, FrozenClassifier, Projections, RunningAccuracy,
            ScoreKind, Step,
        },
    },
    burn::{
        module::AutodiffModule,
        optim::{AdamConfig, GradientsParams, Optimizer, decay::WeightDecayConfig},
        tensor::{Int, Tensor, TensorData, activation::softmax},
    },
    core::{
        Error, Result, checkpoint, loss,
        metrics::{self, PrecisionRecall, Roc},
        random::Generator,
        table::Table,
    },
    prelude::{Dispatch, DispatchDevice},
    vision::{
        Architecture as _, Classifier as _,
        image::{Filter, Image},
        resnet::ResNetConfig,
        transform::{Preprocessing, Transform},
    },
};
use serde::Deserialize;

use crate::{case::Case, comparison::Outputs, gradients};

/// The settings of a classifier, in all kinds that have one.
#[derive(Deserialize)]
struct Network {
    #[serde(rename = "network")]
    architecture: String,
    d_out: usize,
    n_rots: usize,
    bn_eps: f64,
    leaky_slope: f64,
    #[serde(default)]
    droprate: f64,
    #[serde(default = "default_momentum")]
    bn_momentum: f64,
}

fn default_momentum() -> f64 {
    0.1
}

impl Network {
    fn config(&self) -> Result<ClassifierConfig> {
        let architecture = match self.architecture.as_str() {
            "fcn" => Architecture::Fcn,
            "fcn_4" => Architecture::Fcn4,
            "fcn_6" => Architecture::Fcn6,
            "fcn_drop" => Architecture::FcnDrop,
            "one_linear" => Architecture::OneLinear,
            other => return Err(Error::setting("network", "a network of SLA2P", other)),
        };
        Ok(ClassifierConfig::new(self.d_out, self.n_rots, architecture)
            .with_dropout(self.droprate)
            .with_leaky_slope(self.leaky_slope)
            .with_norm_epsilon(self.bn_eps)
            .with_norm_momentum(self.bn_momentum))
    }

    fn load(&self, case: &Case, device: &DispatchDevice) -> Result<Classifier<Dispatch>> {
        let config = self.config()?;
        let classifier = config.init(&mut Generator::new(0), device);
        case.load(classifier, |path| config.published_name(path))
    }
}

pub(super) fn fcn_eval(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(flatten)]
        network: Network,
        batch: usize,
        epsilon: f64,
    }
    let config: Config = case.config()?;
    let classifier = config.network.load(case, device)?;
    let x: Tensor<Dispatch, 2> = case.tensor("x", device)?;
    let targets = case.ints("targets", device)?;

    let mut outputs = Outputs::default();
    let layers = classifier.layers(x.clone());
    for (index, (normalised, activated)) in layers.normalised.into_iter().zip(layers.activated).enumerate() {
        outputs.tensor(format!("eval.bn{}", index + 1), normalised);
        outputs.tensor(format!("eval.act{}", index + 1), activated);
    }
    let logits = layers.logits;
    let predicted: Tensor<Dispatch, 1, Int> = logits.clone().argmax(1).squeeze_dim(1);
    outputs.tensor("eval.ce_targets", loss::cross_entropy(logits.clone(), targets));
    outputs.tensor("eval.ce_predicted", loss::cross_entropy(logits.clone(), predicted.clone()));
    outputs.tensor("eval.predicted", predicted);
    outputs.tensor("eval.probs", softmax(logits.clone(), 1));
    outputs.tensor("eval.logits", logits);

    let frozen = FrozenClassifier::new(&classifier);
    let step = Step::PerSample
        .lengths(config.epsilon, config.batch, 0..config.batch, config.batch, device)
        .expect("a perturbation has a length");
    let perturbed = frozen.perturb(x.clone(), step.clone());
    outputs.tensor("perturb.per_sample_gradient", frozen.gradient(x.clone()));
    outputs.tensor("perturb.logits", frozen.logits(perturbed.clone()));
    outputs.tensor("perturb.x", perturbed);
    outputs.tensor("perturb.probs", frozen.probabilities(x, Some(step)));
    Ok(outputs)
}

pub(super) fn fcn_train(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Adam {
        kind: String,
        lr: f64,
        betas: [f32; 2],
        eps: f32,
        weight_decay: f32,
        clip_global_norm: Option<f64>,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(flatten)]
        network: Network,
        batch: usize,
        steps: usize,
        optimizer: Adam,
    }
    /// Above this many entries only a part is stored.
    const WHOLE: usize = 4096;

    let Config { network, batch, steps, optimizer: adam } = case.config()?;
    if adam.kind != "adam" || adam.clip_global_norm.is_some() {
        return Err(Error::setting("optimizer", "adam without clipping", adam.kind));
    }
    let names = network.config()?;
    let published = |path: &str| names.published_name(path);
    let training = leanburn::device::autodiff(device.clone());
    let mut classifier = network.load(case, &training)?;
    let mut optimizer = AdamConfig::new()
        .with_beta_1(adam.betas[0])
        .with_beta_2(adam.betas[1])
        .with_epsilon(adam.eps)
        .with_weight_decay(Some(WeightDecayConfig::new(adam.weight_decay)))
        .init();
    let mut outputs = Outputs::default();
    for step in 0..steps {
        let x: Tensor<Dispatch, 2> = case.tensor(&format!("x{step}"), &training)?;
        let targets: Tensor<Dispatch, 1, Int> = case.ints(&format!("targets{step}"), &training)?;
        let logits = classifier.forward_train(x, &mut Generator::new(0));
        let hits = logits.clone().inner().argmax(1).squeeze_dim::<1>(1).equal(targets.clone().inner());
        outputs.tensor(format!("step{step}.accuracy"), hits.float().sum() / batch as f64);
        let loss = loss::cross_entropy(logits.clone(), targets);
        outputs.tensor(format!("step{step}.loss"), loss.clone().inner());
        let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
        if step == 0 {
            outputs.tensor("step0.logits", logits.inner());
            for (name, data) in gradients::by_name(&classifier, &gradients, published)? {
                if data.num_elements() > WHOLE {
                    let values: Vec<f64> = data.iter::<f64>().collect();
                    let norm = values.iter().map(|value| value * value).sum::<f64>().sqrt();
                    outputs.list(format!("gradnorm.{name}"), vec![norm]);
                    outputs.list(format!("gradhead.{name}"), values[..64].to_vec());
                } else {
                    outputs.data(format!("grad.{name}"), data);
                }
            }
        }
        classifier = optimizer.step(adam.lr, classifier, gradients);
        for (name, data) in checkpoint::tensors(&classifier, published)? {
            let after = step + 1;
            if name.contains("running") {
                outputs.data(format!("after{after}.{name}"), data);
            } else if data.num_elements() > WHOLE {
                let head = data.iter::<f64>().take(256).collect();
                outputs.list(format!("param_after{after}.{name}"), head);
            } else {
                outputs.data(format!("param_after{after}.{name}"), data);
            }
        }
    }
    let x_eval: Tensor<Dispatch, 2> = case.tensor("x_eval", device)?;
    outputs.tensor("final.eval_logits", classifier.valid().forward(x_eval));
    Ok(outputs)
}

pub(super) fn scores(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(flatten)]
        network: Network,
        n: usize,
        batch: usize,
        epsilon: f64,
        row_l2_normalise: bool,
    }
    let config: Config = case.config()?;
    let count = config.network.n_rots;
    let frozen = FrozenClassifier::new(&config.network.load(case, device)?);
    let table = table(case, "x")?;
    let preprocessing = PreprocessingConfig::new().with_unit_rows(config.row_l2_normalise).fit(&table);
    let projections = Projections::from_matrices(case.input("rots")?)?;

    let mut outputs = Outputs::default();
    let rows: Tensor<Dispatch, 2> = Tensor::from_data(preprocessing.rows(&table, 0..config.n)?, device);
    let projected: Vec<Tensor<Dispatch, 2>> =
        (0..count).map(|t| rows.clone().matmul(projections.matrix(t, device))).collect();
    outputs.tensor("normalised", rows);
    let transformed = Tensor::stack::<3>(projected.clone(), 1);
    outputs.tensor("transformed", transformed.reshape([config.n * count, config.network.d_out]));
    outputs.ints("pseudo_labels", (0..config.n * count).map(|row| (row % count) as i64).collect());
    for (variant, step) in [
        ("sla", Step::None),
        ("sla2p_batch_mean", Step::OfficialBatchMean),
        ("sla2p_per_sample", Step::PerSample),
    ] {
        let lengths = step.lengths(config.epsilon, config.batch, 0..config.n, config.n, device);
        let probabilities: Vec<Tensor<Dispatch, 2>> =
            projected.iter().map(|x| frozen.probabilities(x.clone(), lengths.clone())).collect();
        for (name, kind) in [
            ("score", ScoreKind::Brier),
            ("score_pl_mean", ScoreKind::PseudoLabel),
            ("score_max_mean", ScoreKind::Max),
            ("score_neg_entropy", ScoreKind::NegativeEntropy),
        ] {
            let each = probabilities.iter().enumerate().map(|(t, p)| kind.of(p.clone(), t)).collect();
            let each = Tensor::stack::<2>(each, 1);
            if kind == ScoreKind::Brier {
                outputs.tensor(format!("{variant}.brier"), each.clone());
            }
            outputs.tensor(format!("{variant}.{name}"), each.mean_dim(1).squeeze_dim::<1>(1));
        }
        outputs.tensor(format!("{variant}.probs"), Tensor::stack::<3>(probabilities, 0));
    }
    Ok(outputs)
}

pub(super) fn metrics(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Stop {
        batch: usize,
        thresholds: Vec<f64>,
    }
    #[derive(Deserialize)]
    struct Config {
        n: usize,
        n_anomalies: usize,
        score_levels: f64,
        stop: Stop,
    }
    let config: Config = case.config()?;
    let score: Vec<f64> =
        case.input("scores_q")?.iter::<f64>().map(|level| level / config.score_levels).collect();
    let normal: Vec<bool> = (0..config.n).map(|row| row < config.n - config.n_anomalies).collect();
    let anomalous: Vec<bool> = normal.iter().map(|normal| !normal).collect();
    let negated: Vec<f64> = score.iter().map(|score| -score).collect();

    let mut outputs = Outputs::default();
    let roc = Roc::new(&normal, &score)?;
    outputs.list("roc_auc", vec![roc.area()]);
    outputs.list("roc.fpr", roc.false_positive_rate);
    outputs.list("roc.tpr", roc.true_positive_rate);
    for (name, positive, score) in [("in", &normal, &score), ("out", &anomalous, &negated)] {
        let curve = PrecisionRecall::new(positive, score)?;
        outputs.list(format!("pr_auc_{name}"), vec![curve.area()]);
        outputs.list(format!("average_precision_{name}"), vec![curve.average_precision()]);
        outputs.list(format!("pr_{name}.precision"), curve.precision);
        outputs.list(format!("pr_{name}.recall"), curve.recall);
    }
    let share = config.n_anomalies as f64 / config.n as f64;
    let scores = Scores::from_normality(score);
    outputs.list("percentile_threshold", vec![scores.threshold(share)?]);
    outputs.list("f1_percentile", vec![metrics::f1(&anomalous, &scores.predict(share)?)?]);

    let correct = case.input("stop.correct")?;
    let mut accuracy = RunningAccuracy::default();
    let mut steps = vec![-1; config.stop.thresholds.len()];
    let mut running = Vec::new();
    for (step, correct) in correct.iter::<i64>().enumerate() {
        accuracy.add(correct as usize, config.stop.batch);
        running.push(accuracy.value());
        for (stop, &threshold) in steps.iter_mut().zip(&config.stop.thresholds) {
            if *stop == -1 && accuracy.exceeds(threshold) {
                *stop = step as i64 + 1;
            }
        }
    }
    outputs.list("stop.running_accuracy", running);
    outputs.ints("stop.steps", steps);
    Ok(outputs)
}

pub(super) fn goad(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        network: String,
        d_out: usize,
        ndf: usize,
        n_rots: usize,
        margin: f64,
        lmbda: f64,
        eps: f64,
        leaky_slope: f64,
    }
    let config: Config = case.config()?;
    let depth = match config.network.as_str() {
        "netC1" => GoadDepth::One,
        "netC5" => GoadDepth::Five,
        other => return Err(Error::setting("network", "netC1 or netC5", other)),
    };
    let goad = GoadConfig::new(config.n_rots, config.d_out, config.ndf, 1)
        .with_depth(depth)
        .with_margin(config.margin)
        .with_lambda(config.lmbda)
        .with_epsilon(config.eps)
        .with_leaky_slope(config.leaky_slope);
    let training = leanburn::device::autodiff(device.clone());
    let network = goad.init::<Dispatch>(&mut Generator::new(0), &training);
    let network = case.load(network, GoadNetwork::<Dispatch>::published_name)?;

    let mut outputs = Outputs::default();
    let x: Tensor<Dispatch, 3> = case.tensor("x", &training)?;
    let (embedding, logits) = network.forward(x);
    let losses = goad.loss(embedding.clone(), logits.clone());
    outputs.tensor("trunk", embedding.inner());
    outputs.tensor("logits", logits.inner());
    outputs.tensor("loss.triplet_centre", losses.triplet.inner());
    outputs.tensor("loss.ce", losses.cross_entropy.inner());
    outputs.tensor("loss.total", losses.total.clone().inner());
    let centres = losses.centres.inner();
    outputs.tensor("centres", centres.clone());
    let gradients = GradientsParams::from_grads(losses.total.backward(), &network);
    let published = GoadNetwork::<Dispatch>::published_name;
    for (name, data) in gradients::by_name(&network, &gradients, published)? {
        outputs.data(format!("grad.{name}"), data);
    }
    let x_test: Tensor<Dispatch, 3> = case.tensor("x_test", device)?;
    let (embedding, _) = network.valid().forward(x_test);
    outputs.tensor("anomaly_score", goad.score(embedding, centres));
    Ok(outputs)
}

pub(super) fn lof_pca(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    #[derive(Deserialize)]
    struct Config {
        n_neighbors: usize,
        pca_components: usize,
    }
    let config: Config = case.config()?;
    let table = table(case, "x")?;
    let mut outputs = Outputs::default();
    let lof = LofConfig { neighbours: config.n_neighbors }.fit(&table)?;
    outputs.list("negative_outlier_factor", lof.score(&table)?.normality().to_vec());
    let pca = PcaConfig { components: config.pca_components }.fit(&table)?;
    outputs.list("pca_reconstruction_error", pca.score(&table)?.anomaly());
    Ok(outputs)
}

fn table(case: &Case, input: &str) -> Result<Table> {
    let data: TensorData = case.input(input)?;
    let columns = data.shape[1];
    Table::new(data.iter::<f64>().collect(), columns)
}

#[derive(Deserialize)]
struct ImagePreprocess {
    height: usize,
    width: usize,
    size: usize,
    mean: Vec<f32>,
    std_official: Vec<f32>,
    std_imagenet: Vec<f32>,
    std_used: String,
    resample: String,
    corner: usize,
    grid_step: usize,
}

pub(super) fn image_preprocess(case: &Case, _device: &DispatchDevice) -> Result<Outputs> {
    let settings: ImagePreprocess = case.config()?;
    let filter = match settings.resample.as_str() {
        "bilinear" => Filter::Bilinear,
        "bicubic" => Filter::Bicubic,
        other => return Err(Error::setting("resample", "`bilinear` or `bicubic`", other)),
    };
    let std = match settings.std_used.as_str() {
        "std_official" => settings.std_official,
        "std_imagenet" => settings.std_imagenet,
        other => return Err(Error::setting("std_used", "`std_official` or `std_imagenet`", other)),
    };
    let values = case.input("image")?.iter::<i64>().map(|value| value as u8).collect();
    let image = Image::new([settings.height, settings.width], 3, values)?;
    let size = [settings.size; 2];
    let preprocessing = Preprocessing::new(vec![Transform::Resize { size, filter }], settings.mean, std);
    let resized = preprocessing.transformed(&image, &mut Generator::new(0))?;
    let sample = preprocessing.apply(&image, &mut Generator::new(0))?;

    let mut outputs = Outputs::default();
    let pixel = |row: usize, column: usize| {
        let first = (row * settings.size + column) * 3;
        resized.values()[first..first + 3].iter().map(|&value| i64::from(value))
    };
    let pixels = |places: &[usize]| {
        let count = places.len();
        let rows = places.iter().flat_map(|&row| places.iter().flat_map(move |&column| pixel(row, column)));
        TensorData::new(rows.collect::<Vec<i64>>(), [count, count, 3])
    };
    let grid: Vec<usize> = (0..settings.size).step_by(settings.grid_step).collect();
    outputs.data("resized.corner", pixels(&(0..settings.corner).collect::<Vec<_>>()));
    outputs.data("resized.grid", pixels(&grid));
    let count = grid.len();
    let values = (0..3).flat_map(|channel| {
        let plane = &sample.values[channel * settings.size * settings.size..];
        grid.iter().flat_map(move |&row| {
            let row = &plane[row * settings.size..];
            row.iter().step_by(settings.grid_step).take(count)
        })
    });
    let values: Vec<f32> = values.copied().collect();
    outputs.data("normalised.grid", TensorData::new(values, [3, count, count]));
    Ok(outputs)
}

#[derive(Deserialize)]
struct ResNetFeatures {
    arch: String,
}

pub(super) fn resnet_features(case: &Case, device: &DispatchDevice) -> Result<Outputs> {
    let settings: ResNetFeatures = case.config()?;
    let depth = settings.arch.strip_prefix("resnet").and_then(|depth| depth.parse().ok()).unwrap_or(0);
    let config = ResNetConfig::imagenet(depth, 1000)?;
    let network = config.init::<Dispatch>(&mut Generator::new(0), device)?;
    let network = case.load(network, |path| config.published_name(path))?;
    let features = network.fuse().forward_features(case.tensor("x", device)?);
    let norms = features.clone().square().sum_dim(1).sqrt();
    let mut outputs = Outputs::default();
    outputs.tensor("features", features.clone());
    outputs.tensor("features_l2", features / norms);
    Ok(outputs)
}
