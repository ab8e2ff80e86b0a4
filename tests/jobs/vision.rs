//! Image networks trained on the embedded digits.

use std::{path::Path, sync::Arc};

use leanburn::{
    burn::{
        optim::{SgdConfig, decay::WeightDecayConfig, momentum::MomentumConfig},
        tensor::TensorData,
        train::{
            Interrupter,
            metric::{AccuracyMetric, LossMetric},
        },
    },
    core::{
        checkpoint,
        random::Generator,
        schedule::{Decay, Schedule},
        train::{Hook, ParameterGroups, Trained, Training, TrainingConfig},
    },
    prelude::*,
    vision::{
        Architecture,
        resnet::{ResNet, ResNetConfig},
        train::{Samples, Supervised, image_loader},
        transform::Sample,
    },
};

type Model = Supervised<Dispatch, ResNet<Dispatch>>;

/// Digits as a network for colour images takes them: 8x8 pixels, three times.
fn digits(rows: std::ops::Range<usize>) -> Samples {
    let table = leanburn_datasets::digits();
    let pixels = |row: usize| table.values()[row * 64..][..64].iter().map(|value| (value / 16.0) as f32);
    let sample = |row| Sample { shape: [3, 8, 8], values: (0..3).flat_map(|_| pixels(row)).collect() };
    let labels = table.labels().unwrap();
    let labels = rows.clone().map(|row| labels[row] as usize).collect();
    Samples::new(rows.map(sample).collect(), labels).unwrap()
}

/// Interrupts after a number of steps of this run.
struct Kill {
    left: usize,
    interrupter: Interrupter,
}

impl Hook<Dispatch, Model> for Kill {
    fn stepped(&mut self, _step: usize, model: Model) -> Result<Model> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.interrupter.stop(None);
        }
        Ok(model)
    }
}

/// Trains a ResNet-20 for three epochs of 8 batches; killed after some steps, if they are given.
fn train(folder: Option<&Path>, kill: Option<usize>) -> Trained<Dispatch, Model> {
    let device = leanburn::device::autodiff(leanburn::device::parse("flex").unwrap());
    let config = ResNetConfig::cifar(20, 10, false).unwrap();
    let network = config.init::<Dispatch>(&mut Generator::new(1), &device).unwrap();
    let sgd = |decay: f32| {
        SgdConfig::new()
            .with_momentum(Some(MomentumConfig::new().with_dampening(0.0)))
            .with_weight_decay(Some(WeightDecayConfig::new(decay)))
            .build()
    };
    let groups = ParameterGroups::new(sgd(5e-4)).with_group(|path| path.contains("bn"), 2.0, sgd(0.0));
    let schedule = Schedule::new(0.05, 24, 4, Decay::Cosine { minimum: 0.0 }).unwrap();
    let settings = TrainingConfig::new(3).with_clip_norm(Some(2.0)).with_average(Some(0.9));
    let training = Training::new(settings, groups, schedule).unwrap().with(|training| {
        training.metric_valid_numeric(LossMetric::new()).metric_valid_numeric(AccuracyMetric::new())
    });
    let training = match kill {
        Some(left) => {
            let interrupter = training.interrupter();
            training.with_hook(Kill { left, interrupter })
        }
        None => training,
    };
    let batches = image_loader::<Dispatch, _>(digits(0..256), 32, &device).unwrap().shuffled(5);
    let inner = leanburn::device::parse("flex").unwrap();
    let valid = image_loader::<Dispatch, _>(digits(1000..1128), 64, &inner).unwrap();
    let model = Supervised::new(network);
    training.resumed().run(folder, model, &device, Arc::new(batches), Arc::new(valid)).unwrap()
}

fn weights(model: &Model) -> Vec<(String, TensorData)> {
    checkpoint::tensors(model, str::to_owned).unwrap()
}

#[test]
fn a_resnet_killed_and_resumed_ends_with_the_same_weights() {
    let whole = train(None, None);
    assert_eq!((whole.steps, whole.epochs), (24, 3));
    let folder = tempfile::tempdir().unwrap();
    // Steps 5, 8 (the end of an epoch) and 21 of the whole.
    for kill in [5, 3, 13] {
        assert!(train(Some(folder.path()), Some(kill)).interrupted);
    }
    let resumed = train(Some(folder.path()), None);
    assert_eq!((resumed.steps, resumed.epochs, resumed.interrupted), (24, 3, false));
    let differing = weights(&whole.model).into_iter().zip(weights(&resumed.model)).find(|(a, b)| a != b);
    assert!(differing.is_none(), "{:?}", differing.map(|(a, _)| a.0));
    assert_eq!(whole.history.curve("valid", "Loss"), resumed.history.curve("valid", "Loss"));
    let last = whole.history.curve("valid", "Loss");
    assert!(last.len() == 3 && last[2].1 < last[0].1, "{last:?}");
}
