use burn::{
    backend::Autodiff,
    optim::{GradientsParams, Sgd, SgdConfig},
    tensor::{Int, Tensor},
};
use burn_flex::Flex;
use leanburn_core::{
    loss::cross_entropy,
    random::Generator,
    schedule::{Decay, Schedule},
    train::{Hook, ParameterGroups, Training, TrainingConfig},
};
use leanburn_vision::{
    Architecture, Classifier,
    sequential::{Sequential, SequentialConfig},
    train::{Samples, Supervised, image_loader},
    transform::Sample,
};
use std::{path::Path, sync::Arc};

use super::*;
use crate::{
    Ratios, Selection, State,
    orthogonality::{Scheme, column_drift, column_products, decorrelation, isometry, weighted_decorrelation},
    unstructured::WeightSelection,
};

type B = Autodiff<Flex>;
type Model = Supervised<B, Sequential<B>>;

fn config() -> SequentialConfig {
    SequentialConfig::mlp([1, 3, 3], &[8, 6, 2], true)
}

fn network() -> Sequential<B> {
    config().init(&mut Generator::new(4), &Default::default()).unwrap()
}

fn ratios() -> Ratios {
    Ratios::patterns([("net.0", 0.5), ("net.2", 0.3)])
}

fn samples() -> Samples {
    let mut generator = Generator::new(7);
    let samples = (0..24).map(|_| Sample { shape: [1, 3, 3], values: generator.normals(9) }).collect();
    Samples::new(samples, (0..24).map(|index| index % 2).collect()).unwrap()
}

/// Trains with a hook, up to a step if it is given, and gives the weights.
fn train<H: Hook<B, Model> + 'static>(
    hook: H,
    folder: Option<&Path>,
    network: Sequential<B>,
    until: Option<usize>,
) -> State {
    struct Kill(usize, burn::train::Interrupter);
    impl Hook<B, Model> for Kill {
        fn stepped(&mut self, step: usize, model: Model) -> Result<Model> {
            if step + 1 == self.0 {
                self.1.stop(None);
            }
            Ok(model)
        }
    }
    let device = Default::default();
    let schedule = Schedule::new(0.05, 1000, 0, Decay::Constant).unwrap();
    let groups: ParameterGroups<Sgd<Flex>, Model, B> = ParameterGroups::new(SgdConfig::new().build());
    let mut training = Training::new(TrainingConfig::new(100), groups, schedule).unwrap().with_hook(hook);
    if let Some(until) = until {
        let interrupter = training.interrupter();
        training = training.with_hook(Kill(until, interrupter));
    }
    let batches = image_loader::<B, _>(samples(), 8, &device).unwrap().shuffled(3);
    let valid = image_loader::<Flex, _>(samples(), 24, &device).unwrap();
    let model = Supervised::new(network);
    let trained = training.resumed().run(folder, model, &device, Arc::new(batches), Arc::new(valid)).unwrap();
    State::of::<_, B>(&config(), &trained.model.network).unwrap()
}

/// A hook is resumed exactly: killed at a step, and gone on with, the weights are those of a run at one go.
fn resumes<H: Hook<B, Model> + 'static>(hook: impl Fn(&Sequential<B>) -> H, kills: &[usize]) {
    let whole = network();
    let whole = train(hook(&whole), None, whole, None);
    let folder = tempfile::tempdir().unwrap();
    for &kill in kills {
        let network = network();
        train(hook(&network), Some(folder.path()), network, Some(kill));
    }
    let network = network();
    assert_eq!(train(hook(&network), Some(folder.path()), network, None), whole);
}

fn tpp() -> TppConfig {
    TppConfig::new()
        .with_granularity(0.02)
        .with_limit(0.1)
        .with_update_every(2)
        .with_stabilise(12)
        .with_zero_out_every(4)
        .with_decorrelation(10.0)
}

fn greg(growth: Growth) -> GregConfig {
    GregConfig::new(growth).with_granularity(0.2).with_limit(1.0).with_update_every(2).with_stabilise(6)
}

const TWO: Growth = Growth::Two { pick: 0.02, pick_limit: 0.06, recover: -0.02 };

#[test]
fn hooks_are_resumed_exactly() {
    let selection = Selection::new();
    for growth in [Growth::One, TWO, Growth::Fixed] {
        let hook = |network: &Sequential<B>| {
            greg(growth).init::<_, B>(&config(), network, [3, 3], &ratios(), &selection).unwrap()
        };
        resumes(hook, &[3, 8, 13]);
        let hook = |network: &Sequential<B>| {
            let selection = WeightSelection::default();
            greg(growth).init_weights::<_, B>(&config(), network, [3, 3], &ratios(), &selection).unwrap()
        };
        resumes(hook, &[3, 8, 13]);
    }
    for scheme in [Scheme::Decorrelate, Scheme::OrthonormalWithColumns] {
        let hook = |network: &Sequential<B>| {
            tpp().with_scheme(scheme).init::<_, B>(&config(), network, [3, 3], &ratios(), &selection).unwrap()
        };
        resumes(hook, &[3, 12, 17]);
    }
}

#[test]
fn filters_that_go_vanish_and_the_others_do_not() {
    let start = network();
    let graph = config().graph([3, 3]).unwrap();
    let hook = tpp().init::<_, B>(&config(), &start, [3, 3], &ratios(), &Selection::new()).unwrap();
    let kept = hook.kept(&graph).unwrap();
    let state = train(hook, None, start, None);
    let (weights, columns) = state.weight(graph.layer("net.0").unwrap()).unwrap();
    for (filter, row) in weights.chunks(columns).enumerate() {
        let is_gone = !kept.outputs("net.0").unwrap().contains(&filter);
        assert_eq!(row.iter().all(|weight| *weight == 0.0), is_gone, "filter {filter}");
    }
    assert_eq!(kept.width("net.0").unwrap(), 4);
}

#[test]
fn gaps_give_layers_ratios_of_their_own() {
    let start = network();
    let graph = config().graph([3, 3]).unwrap();
    let hook = |by_gap| {
        let config = greg(TWO).with_by_gap(by_gap);
        config.init::<_, B>(&super::tests::config(), &start, [3, 3], &ratios(), &Selection::new()).unwrap()
    };
    for (by_gap, expected) in [(false, Some(4)), (true, None)] {
        let mut greg = hook(by_gap);
        for step in 0..20 {
            greg.gradients::<B, _>(step, &start, GradientsParams::new());
        }
        let scores = magnitudes::<B, _>(&start, &sites_of(&start), 2).remove(0);
        let mut sorted = scores;
        sorted.sort_by(f32::total_cmp);
        let goes = expected.unwrap_or_else(|| greg::below_gap(&sorted));
        assert_eq!(greg.kept(&graph).unwrap().width("net.0").unwrap(), 8 - goes, "{by_gap}");
    }
}

/// The gradients that TPP adds are those of the losses, as autodiff has them.
#[test]
fn gradients_in_closed_form_are_those_of_the_losses() {
    let start = network();
    let device = Default::default();
    let images: Tensor<B, 4> = Generator::new(1).normal([6, 1, 3, 3], &device);
    let labels: Tensor<B, 1, Int> = Tensor::from_data([0, 1, 0, 1, 0, 1], &device);
    let plain = || {
        let loss = cross_entropy(start.forward(images.clone()), labels.clone());
        GradientsParams::from_grads(loss.backward(), &start)
    };
    let schemes = [
        Scheme::Decorrelate,
        Scheme::Orthonormal,
        Scheme::Isometric,
        Scheme::OrthonormalWithColumns,
        Scheme::Weighted { orthogonal: 0.3 },
    ];
    for scheme in schemes {
        let config = tpp().with_scheme(scheme).with_granularity(0.04).with_update_every(1).with_limit(9.0);
        let config = config.with_stabilise(400);
        let mut tpp = config
            .init::<_, B>(&super::tests::config(), &start, [3, 3], &ratios(), &Selection::new())
            .unwrap();
        // The weight is 10 times a penalty of 0.2. Columns are compared with those of other weights.
        let weight = 10.0 * 0.2;
        let other: Sequential<B> = super::tests::config().init(&mut Generator::new(5), &device).unwrap();
        tpp.columns = match scheme {
            Scheme::OrthonormalWithColumns => {
                rows_of::<B, _>(&other, &sites_of(&other), 2).into_iter().map(column_products).collect()
            }
            _ => Vec::new(),
        };
        let added = tpp.decorrelate::<B, _>(5, &start, plain());
        let graph = super::tests::config().graph([3, 3]).unwrap();
        let mut expected = plain();
        let id = weight_of(&start);
        let m = Tensor::<B, 2>::from_inner(rows_of::<B, _>(&start, &sites_of(&start), 2).remove(0))
            .require_grad();
        let pruned = tpp.kept(&graph).unwrap().pruned("net.0").unwrap().to_vec();
        let loss = match scheme {
            Scheme::Isometric => isometry(m.clone()) * weight,
            Scheme::Weighted { orthogonal } => weighted_decorrelation(m.clone(), &pruned, weight, orthogonal),
            Scheme::OrthonormalWithColumns => {
                let columns = Tensor::from_inner(tpp.columns[0].clone());
                (decorrelation(m.clone(), &pruned, scheme) + column_drift(m.clone(), columns)) * weight
            }
            _ => decorrelation(m.clone(), &pruned, scheme) * weight,
        };
        let of_loss = m.grad(&loss.backward()).unwrap().transpose();
        let expected = expected.remove::<Flex, 2>(id).unwrap() + of_loss;
        let mut added = added;
        let found = added.remove::<Flex, 2>(id).unwrap();
        let difference = (found - expected).abs().max().into_scalar();
        assert!(difference < 1e-4, "{scheme:?}: {difference}");
    }
}

fn sites_of(network: &Sequential<B>) -> Sites {
    let graph = config().graph([3, 3]).unwrap();
    let names = ["net.0".to_owned(), "net.2".to_owned()];
    Sites::new::<_, B>(&config(), &graph, network, &names).unwrap()
}

/// The parameter of the first layer's weight.
fn weight_of(network: &Sequential<B>) -> ParamId {
    let sites = sites_of(network);
    let weight = sites.0.iter().find(|(_, site)| matches!(site, (0, Part::Weight(_))));
    *weight.unwrap().0
}
