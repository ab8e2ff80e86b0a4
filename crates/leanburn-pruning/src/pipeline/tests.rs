use burn::backend::Autodiff;
use burn_flex::Flex;
use leanburn_core::random::Generator;
use leanburn_vision::{
    Architecture, resnet::ResNetConfig, sequential::SequentialConfig, train::Samples, transform::Sample,
};

use super::*;
use crate::{
    Criterion, Kept, Prunable, Ratios, Selection, State,
    comparison::{Flag, Level, Record, Setup, Table, Total, compare},
    orthogonality::Penalty,
    regularised::{GregConfig, Growth, TppConfig},
    reinit::Activation,
    selection::{Pick, Scope},
    unstructured::WeightSelection,
};

type B = Autodiff<Flex>;

/// Images of three classes: bright on the left, on the right, or above; with noise.
fn images(count: usize, channels: usize, seed: u64) -> Samples {
    let mut generator = Generator::new(seed);
    let labels: Vec<usize> = (0..count).map(|index| index % 3).collect();
    let sample = |&label: &usize| {
        let noise = generator.normals(channels * 16);
        let bright = |place: usize| match label {
            0 => place % 4 < 2,
            1 => place % 4 >= 2,
            _ => place % 16 < 8,
        };
        let pixel = |(place, noise): (usize, f32)| noise * 0.6 + f32::from(u8::from(bright(place)));
        Sample { shape: [channels, 4, 4], values: noise.into_iter().enumerate().map(pixel).collect() }
    };
    let samples = labels.iter().map(sample).collect();
    Samples::new(samples, labels).unwrap()
}

fn pipeline<A: Prunable>(architecture: A, channels: usize, ratios: Ratios) -> Pipeline<A, Samples> {
    let recipe = |epochs, rates: &str| Recipe::new(epochs, rates.parse().unwrap()).with_batch_size(16);
    Pipeline {
        name: "a network".to_owned(),
        architecture,
        data: ImageSets::new("bars", "96/48", "none", images(96, channels, 1), images(48, channels, 2))
            .unwrap(),
        ratios,
        base: recipe(6, "0:0.05,4:0.005"),
        retraining: recipe(4, "0:0.02,2:0.002"),
        jsv_images: 5,
        jsv_every: 2,
        latency_batch: 0,
        dashboard: false,
        checkpoints: None,
    }
}

fn mlp() -> Pipeline<SequentialConfig, Samples> {
    let layers = Ratios::patterns([("net.[02]", 0.5)]);
    pipeline(SequentialConfig::mlp([1, 4, 4], &[12, 10, 3], true), 1, layers)
}

fn run<A: Prunable + 'static>(pipeline: &Pipeline<A, Samples>, base: &Base, method: &Method) -> Outcome<A>
where
    A::Network<B>: burn::module::AutodiffModule<B, InnerModule = A::Network<Flex>>,
{
    pipeline.run::<B>(base, method, 0, &Default::default(), |_, _| ()).unwrap()
}

#[test]
fn methods_leave_records_that_can_be_compared() {
    let pipeline = mlp();
    let device = Default::default();
    let base = pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap();
    assert_eq!(base.accuracies.len(), 6);
    assert!(base.record.accuracy.unwrap() > 80.0, "{:?}", base.record.accuracy);
    let greg =
        GregConfig::one().with_granularity(0.05).with_limit(0.5).with_update_every(1).with_stabilise(5);
    let tpp = TppConfig::new()
        .with_granularity(0.05)
        .with_limit(0.3)
        .with_update_every(1)
        .with_stabilise(6)
        .with_zero_out_every(1)
        .with_norm_penalty(false);
    let random = Selection::new().with_pick(Pick::Random { seed: 1 });
    let taylor = Selection::new().with_criterion(Criterion::Taylor);
    let methods = [
        Method::l1(),
        Method::orth_p(Activation::Relu),
        Method::new("random", Pruner::Filters(random)),
        Method::new("Taylor", Pruner::Filters(taylor)),
        Method::new("GReg-1", Pruner::Greg { config: greg, selection: Selection::new(), rate: 0.01 }),
        Method::new("TPP", Pruner::Tpp { config: tpp, selection: Selection::new(), rate: 0.01 }),
        Method::new("scratch", Pruner::Scratch(ScratchEpochs::Base)),
    ];
    let mut records = Vec::new();
    for method in &methods {
        let outcome = run(&pipeline, &base, method);
        let widths = outcome.config.layers.iter().filter_map(|layer| match layer {
            leanburn_vision::sequential::LayerConfig::Linear { width, .. } => Some(*width),
            _ => None,
        });
        assert_eq!(widths.collect::<Vec<_>>(), [6, 5, 3], "{}", method.name);
        let record = outcome.record;
        assert!(record.accuracy.last.unwrap() > 60.0, "{}: {:?}", method.name, record.accuracy);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{}", method.name);
        let curve: Vec<usize> = record.mean_jsv_by_epoch.iter().map(|(epoch, _)| *epoch).collect();
        assert_eq!(curve, if record.is_scratch() { vec![] } else { vec![2, 4] });
        assert!(record.condition_number[2].unwrap() > 1.0 && record.weight_bytes == Some(4 * 155));
        if ["L1", "L1 + OrthP"].contains(&method.name.as_str()) {
            assert_eq!(record.pruning.overlap_with_l1, Some(1.0));
        }
        let last = record.mean_jsv_by_epoch.last().map_or(record.mean_jsv[2].unwrap(), |(_, jsv)| *jsv);
        assert!(last > 0.0 && (last - record.mean_jsv[2].unwrap()).abs() < 1e-6 * last);
        records.push(record);
    }
    let table = Table::new(&records, &Setup::default(), Some("L1")).unwrap();
    for row in &table.rows {
        let fair = [Flag::FewSeeds, Flag::NotConverged, Flag::LrTooSmall, Flag::FinalLrDiffers];
        assert!(row.is_fair && row.flags.iter().all(|flag| fair.contains(flag)), "{row:?}");
    }
    // GReg and TPP take epochs of their own, and are told so.
    let of = |name: &str| records.iter().find(|record| record.name == name).unwrap();
    let strict = Setup { level: Level::S4_1, ..Setup::default() };
    assert_eq!(compare(of("L1"), of("Taylor"), &strict).level, Some(Level::S4_2));
    assert!(compare(of("L1"), of("TPP"), &strict).flags.contains(&Flag::PruneEpochsDiffer));
    assert!(of("GReg-1").pruning.epochs.unwrap() > 2.0, "{:?}", of("GReg-1").pruning.epochs);
    assert_eq!(of("scratch").total_epochs(), Some(6.0));
    assert_eq!(of("L1").total_epochs(), Some(10.0));
}

#[test]
fn filters_are_inherited_and_adam_trains_them() {
    let mut pipeline = mlp();
    pipeline.base.momentum = 0.0;
    pipeline.retraining.optimizer = Optimizer::Adam;
    pipeline.retraining.rates = "0:0.01,2:0.001".parse().unwrap();
    let device = Default::default();
    let base = pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap();
    // Of two rounds the filters are still those of the dense network.
    let first = run(&pipeline, &base, &Method::l1().with_rounds(2));
    assert_eq!(first.record.retraining.optimizer.as_deref(), Some("Adam"));
    assert!(first.record.accuracy.last.unwrap() > 80.0, "{:?}", first.record.accuracy);
    assert_eq!(first.removed.values().map(Vec::len).collect::<Vec<_>>(), [6, 5]);
    let inherited = Method::new("inherited", Pruner::Inherited(first.removed.clone()));
    // Whatever the ratios.
    pipeline.ratios = Ratios::Uniform(0.1);
    let second = run(&pipeline, &base, &inherited);
    assert_eq!(second.removed, first.removed);
    assert_eq!(second.record.pruning.ratios.as_ref().unwrap()["net.0"], 0.5);
    let l1 = Kept::without(&pipeline.architecture.graph([4, 4]).unwrap(), &first.removed).unwrap();
    assert_eq!(l1.pruned("net.0").unwrap().len(), 6);
    let ratios = second.record.pruning.magnitude_ratios.unwrap();
    assert!(ratios.len() == 2 && ratios.values().all(|ratio| *ratio > 1.0), "{ratios:?}");
    let overlap = second.record.pruning.overlap_with_l1.unwrap();
    assert!(overlap > 0.5 && overlap <= 1.0, "{overlap}");

    for (method, expected) in [
        (inherited.with_rounds(2), "rounds"),
        (Method::new("other", Pruner::Inherited([("net.9".to_owned(), vec![0])].into())), "net.9"),
        (Method::new("other", Pruner::Inherited([("net.0".to_owned(), vec![12])].into())), "12"),
        (Method::new("other", Pruner::Inherited([("net.4".to_owned(), vec![1])].into())), "may go"),
    ] {
        let error = pipeline.run::<B>(&base, &method, 0, &device, |_, _| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn layers_are_ranked_together_and_blocks_are_masked() {
    let mut pipeline = mlp();
    let device = Default::default();
    let base = pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap();
    let global = Selection::new().with_scope(Scope::Global).with_at_most(Some(0.9));
    for rounds in [1, 2] {
        let method = Method::new("global", Pruner::Filters(global.clone())).with_rounds(rounds);
        let record = run(&pipeline, &base, &method).record;
        assert!(record.pruned.unwrap().params < 250 && record.accuracy.last.unwrap() > 50.0, "{record:?}");
    }
    let blocks =
        Method::new("2 of 4", Pruner::Blocks { removed: 2, block: 4, skip: vec!["net.4".to_owned()] });
    let outcome = run(&pipeline, &base, &blocks);
    assert_masked(&outcome);
    let masks = outcome.masks.unwrap();
    assert!(
        masks
            .layer("net.0")
            .unwrap()
            .chunks(4)
            .all(|block| block.iter().filter(|stays| **stays).count() == 2)
    );
    assert!(masks.layer("net.4").unwrap().iter().all(|stays| *stays));
    assert_eq!(outcome.record.pruning.granularity, Some(crate::comparison::Granularity::Block));
    let sparse = Pruner::SparseScratch(WeightSelection::default(), ScratchEpochs::Base);
    let outcome = run(&pipeline, &base, &Method::new("sparse scratch", sparse));
    assert_masked(&outcome);
    assert!(outcome.record.accuracy.last.unwrap() > 60.0);
    // Images of another number of channels are refused before anything is trained.
    pipeline.data = ImageSets::new("bars", "96/48", "none", images(96, 3, 1), images(48, 3, 2)).unwrap();
    let error = pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("3 x 4 x 4"), "{error}");
}

#[test]
fn what_goes_on_is_the_same_training() {
    let folder = tempfile::tempdir().unwrap();
    let mut pipeline = mlp();
    pipeline.checkpoints = Some(folder.path().to_owned());
    let device = Default::default();
    let base = pipeline.train_base::<B>(0, &[0, 2], &device, |_, _| ()).unwrap();
    let again = pipeline.train_base::<B>(0, &[0, 2], &device, |_, _| ()).unwrap();
    assert_eq!(again.snapshots, base.snapshots);
    let first = run(&pipeline, &base, &Method::l1()).record;
    pipeline.retraining.rates = "0:0.005".parse().unwrap();
    assert_ne!(run(&pipeline, &base, &Method::l1()).record.accuracy.by_epoch, first.accuracy.by_epoch);
    pipeline.base.epochs = 7;
    assert_eq!(pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap().accuracies.len(), 7);
}

#[test]
fn training_that_diverges_is_an_error() {
    let mut pipeline = mlp();
    pipeline.base = Recipe::new(3, "0:1e30".parse().unwrap()).with_batch_size(16);
    let error = pipeline.train_base::<B>(0, &[], &Default::default(), |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("diverged") || error.contains("finite"), "{error}");
}

#[test]
fn scratch_training_takes_the_epochs_of_its_budget() {
    let pipeline = mlp();
    let base = pipeline.train_base::<B>(0, &[], &Default::default(), |_, _| ()).unwrap();
    let l1 = run(&pipeline, &base, &Method::l1()).record;
    let scratch = |epochs| run(&pipeline, &base, &Method::new("scratch", Pruner::Scratch(epochs))).record;
    let equal = scratch(ScratchEpochs::Equal);
    let setup = Setup { total: Some(Total::Epochs), ..Setup::default() };
    let found = compare(&l1, &equal, &setup);
    assert!(found.level == Some(Level::S4_2) && !found.flags.contains(&Flag::TotalEpochsDiffer), "{found:?}");
    let computation = Setup { total: Some(Total::Computation), ..setup };
    assert!(compare(&l1, &equal, &computation).flags.contains(&Flag::TotalFlopsDiffer));
    // Epochs are whole.
    let budget = scratch(ScratchEpochs::Budget);
    let difference = budget.total_computation().unwrap() - l1.total_computation().unwrap();
    assert!(difference.abs() <= 0.5 / l1.speedup().unwrap(), "{difference}");
}

#[test]
fn rounds_end_where_one_round_does_and_lottery_tickets_go_back() {
    let pipeline = mlp();
    let device = Default::default();
    let base = pipeline.train_base::<B>(0, &[0, 2], &device, |_, _| ()).unwrap();
    assert_eq!(base.snapshots.keys().copied().collect::<Vec<_>>(), [0, 2]);
    let rounds = run(&pipeline, &base, &Method::l1().with_rounds(3));
    let once = run(&pipeline, &base, &Method::l1());
    assert_eq!(rounds.record.pruned, once.record.pruned);
    assert_eq!((rounds.record.pruning.epochs, once.record.pruning.epochs), (Some(8.0), Some(0.0)));
    let computation = rounds.record.pruning.computation.unwrap();
    assert!(computation < 8.0 && computation > 4.0, "{computation}");

    // What a ticket keeps is what the initial network had there.
    let weights = WeightSelection::default();
    for (rewind, rounds) in [(0, 2), (2, 1)] {
        let method =
            Method::new("ticket", Pruner::Weights(weights.clone())).with_rounds(rounds).with_rewind(rewind);
        let mut short = mlp();
        short.retraining = Recipe::new(1, "0:1e-12".parse().unwrap()).with_weight_decay(0.0);
        let ticket = run(&short, &base, &method);
        let masks = ticket.masks.unwrap();
        let early = masks.apply(base.snapshots[&rewind].clone()).unwrap();
        for (name, data) in early.tensors() {
            let kept = ticket.state.tensor(name).unwrap();
            let same = data.iter::<f32>().zip(kept.iter::<f32>()).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(same, "{name}");
        }
    }
    let filters = run(&pipeline, &base, &Method::l1().with_rewind(2).with_rounds(2));
    assert_eq!(filters.record.pruned, once.record.pruned);
    assert!(filters.record.accuracy.last.unwrap() > 45.0, "{:?}", filters.record.accuracy);
    let error = pipeline.run::<B>(&base, &Method::l1().with_rewind(5), 0, &device, |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("0, 2"), "{error}");
    let error = pipeline.run::<B>(&base, &Method::l1().with_rounds(0), 0, &device, |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("rounds"), "{error}");
}

/// Weights that are gone are zeros, of whatever sign.
fn assert_masked<A>(outcome: &Outcome<A>) {
    let masked = outcome.masks.as_ref().unwrap().apply(outcome.state.clone()).unwrap();
    for (name, data) in masked.tensors() {
        assert!(data.iter::<f32>().eq(outcome.state.tensor(name).unwrap().iter::<f32>()), "{name}");
    }
}

#[test]
fn masked_weights_stay_zero() {
    let mut pipeline = pipeline(ResNetConfig::cifar_blocks(&[1, 1], 4, 3, false), 3, Ratios::Uniform(0.8));
    pipeline.retraining.average = Some(0.5);
    let base = pipeline.train_base::<B>(0, &[], &Default::default(), |_, _| ()).unwrap();
    for rounds in [1, 2] {
        let method =
            Method::new("magnitude", Pruner::Weights(WeightSelection::default())).with_rounds(rounds);
        let outcome = run(&pipeline, &base, &method);
        assert_masked(&outcome);
        let masks = outcome.masks.unwrap();
        assert!((outcome.record.sparsity.unwrap() - 0.8).abs() < 0.01);
        assert_eq!(outcome.record.speedup(), Some(1.0));
        // They have been trained.
        assert_ne!(outcome.state, masks.apply(base.state.clone()).unwrap());
    }
}

#[test]
fn the_oracle_is_no_worse_than_a_criterion_and_weights_can_grow_apart() {
    let mut pipeline = mlp();
    pipeline.ratios = Ratios::patterns([("net.2", 0.3)]);
    // What is compared is the training loss.
    pipeline.data = ImageSets::new("bars", "96/96", "none", images(96, 1, 1), images(96, 1, 1)).unwrap();
    let base = pipeline.train_base::<B>(0, &[], &Default::default(), |_, _| ()).unwrap();
    let oracle = Method::new("oracle", Pruner::Oracle { skip: Vec::new(), most: 200 });
    let oracle = run(&pipeline, &base, &oracle).record.accuracy.after_pruning.unwrap();
    let l1 = run(&pipeline, &base, &Method::l1()).record.accuracy.after_pruning.unwrap();
    assert!(oracle >= l1 - 3.0, "{oracle} and {l1}");
    let few = Method::new("oracle", Pruner::Oracle { skip: Vec::new(), most: 100 });
    let error = pipeline.run::<B>(&base, &few, 0, &Default::default(), |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("100 ways"), "{error}");

    for growth in [Growth::One, Growth::Two { pick: 0.05, pick_limit: 0.2, recover: -0.01 }, Growth::Fixed] {
        let config = GregConfig::new(growth)
            .with_granularity(0.1)
            .with_limit(1.0)
            .with_update_every(2)
            .with_stabilise(10);
        let selection = WeightSelection::default();
        let method = Method::new("GReg", Pruner::GregWeights { config, selection, rate: 0.01 });
        let outcome = run(&pipeline, &base, &method);
        assert!(
            (outcome.record.sparsity.unwrap() - 0.3 * 120.0 / 352.0).abs() < 0.01,
            "{:?}",
            outcome.record.sparsity
        );
        assert!(outcome.record.accuracy.after_pruning.unwrap() > 60.0, "{growth:?}");
        assert_masked(&outcome);
    }
}

#[test]
fn penalties_bring_weights_nearer_to_orthogonality() {
    let distance = |state: &State| {
        let data = state.tensor("net.2.weight").unwrap();
        let rows = burn::tensor::Tensor::<Flex, 2>::from_data(data.clone(), &Default::default());
        crate::orthogonality::kernel_orthogonality(rows).into_scalar()
    };
    let of = |penalty| {
        let mut pipeline = mlp();
        pipeline.base.penalty = penalty;
        distance(&pipeline.train_base::<B>(0, &[], &Default::default(), |_, _| ()).unwrap().state)
    };
    let plain = of(None);
    for penalty in [Penalty::Kernel { weight: 0.5 }, Penalty::Convolution { weight: 0.5, stride: 1 }] {
        let penalised = of(Some(penalty));
        assert!(penalised < 0.8 * plain, "{penalty:?}: {penalised} and {plain}");
    }
    // Convolutions have a penalty of their own.
    let mut convolutions = pipeline(ResNetConfig::cifar_blocks(&[1], 4, 3, false), 3, Ratios::Uniform(0.0));
    convolutions.base.penalty = Some(Penalty::Convolution { weight: 0.1, stride: 1 });
    convolutions.train_base::<B>(0, &[], &Default::default(), |_, _| ()).unwrap();
}

#[test]
fn outcomes_are_saved_and_runs_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut pipeline = mlp();
    pipeline.checkpoints = Some(folder.path().join("checkpoints"));
    pipeline.latency_batch = 4;
    let device = Default::default();
    let base = pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap();
    let again = pipeline.train_base::<B>(0, &[], &device, |_, _| ()).unwrap();
    assert_eq!((&base.state, &base.accuracies), (&again.state, &again.accuracies));
    let outcome = run(&pipeline, &base, &Method::l1());
    assert_eq!(run(&pipeline, &base, &Method::l1()).state, outcome.state);
    let latency = outcome.record.latency.unwrap();
    assert!(latency.median > 0.0 && latency.lower_quartile <= latency.upper_quartile && latency.batch == 4);
    let path = folder.path().join("outcome");
    outcome.save::<Flex>(&path, &device).unwrap();
    assert!(outcome.save::<Flex>(&path, &device).is_err());
    let removed: std::collections::BTreeMap<String, Vec<usize>> =
        leanburn_core::report::read_json(path.join("removed.json")).unwrap();
    assert_eq!(removed, outcome.removed);
    let records = crate::comparison::Record::open(path.join("record.json")).unwrap();
    assert_eq!(records, [outcome.record]);
    // A base model that is there already gives the same record but for what is not known of it.
    let loaded = pipeline.loaded_base::<Flex>(base.state.clone(), Default::default(), &device).unwrap();
    assert_eq!(loaded.record.hash, base.record.hash);
    assert!((loaded.record.accuracy.unwrap() - base.record.accuracy.unwrap()).abs() < 1e-6);
}
