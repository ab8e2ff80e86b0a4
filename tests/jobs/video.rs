//! Video networks trained on moving digits.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use leanburn::{
    burn::{module::AutodiffModule, optim::Sgd, tensor::TensorData, train::Interrupter},
    core::{
        checkpoint,
        train::{EpochReport, ParameterGroups, TrainingConfig},
    },
    prelude::*,
    video::{
        Branches, VideoArchitecture,
        evaluate::{EvaluationConfig, evaluate},
        ffn::{Alignment, Experiment, Method, Outcome},
        lists::{self, Entry},
        resnet::{FrameResNet, FrameResNetConfig},
        sampling::Sampling,
        schedule::EpochSchedule,
        train::tsn_groups,
        transform::{ClipPreprocessing, Crop},
        videos::{MemoryVideos, Template, VideoSource, Videos},
    },
    vision::image::Image,
};
use leanburn_datasets::MovingDigits;

const COUNTS: [usize; 3] = [4, 8, 16];

fn frames(digits: &MovingDigits, video: usize) -> Vec<Image> {
    let size = [digits.size(); 2];
    (0..digits.frames()).map(|frame| Image::new(size, 3, digits.frame(video, frame)).unwrap()).collect()
}

fn videos(digits: &MovingDigits) -> Arc<MemoryVideos> {
    let videos = (0..digits.len()).map(|video| (frames(digits, video), digits.label(video)));
    Arc::new(MemoryVideos::new(videos, digits.classes()).unwrap())
}

fn whole_frames() -> ClipPreprocessing {
    let crop = Crop::Center { scale: 32, side: 32 };
    ClipPreprocessing { crop, ..ClipPreprocessing::tsn_valid(32) }
}

/// A narrow TSM-ResNet-18.
fn experiment<S: VideoSource>(
    train: Arc<S>,
    valid: Arc<S>,
    width: usize,
    epochs: usize,
) -> Experiment<FrameResNetConfig, S> {
    let classes = train.classes().len();
    Experiment {
        architecture: FrameResNetConfig::tsm(18, classes, Branches::single(1))
            .unwrap()
            .with_width(width)
            .with_dropout(0.2),
        counts: COUNTS.to_vec(),
        train,
        valid,
        sampling: Sampling::Segments,
        preprocessing: [whole_frames(), whole_frames()],
        schedule: EpochSchedule { every_step: true, ..EpochSchedule::cosine(0.02, epochs) },
        batch_size: 8,
        copies: 1,
        alignment: Alignment::new(),
        mixing: None,
        training: TrainingConfig::new(epochs),
        seed: 0,
        start: None,
        partial_norms: false,
    }
}

fn groups<M: AutodiffModule<Dispatch>>() -> ParameterGroups<Sgd<Dispatch>, M, Dispatch> {
    tsn_groups(0.9, 5e-4, true, false)
}

type Trained = Outcome<FrameResNetConfig, FrameResNet<Dispatch>>;

fn flex() -> DispatchDevice {
    leanburn::device::parse("flex").unwrap()
}

#[test]
fn a_network_for_one_frame_count_fails_at_others_and_ffn_does_not() {
    let counts = [2, 4, 8];
    let train = videos(&MovingDigits::new(400, 0).with_digits(0..1200));
    let valid = videos(&MovingDigits::new(200, 1).with_digits(1200..1797));
    let mut experiment = Experiment { counts: counts.to_vec(), ..experiment(train, valid.clone(), 24, 8) };
    experiment.architecture.blocks = vec![1, 1];
    let device = leanburn::device::autodiff(flex());
    let run = |method: &Method| {
        let trained = experiment.run::<Dispatch, _>(method, groups(), None, &device, |_| {}, |_| {}).unwrap();
        let config = EvaluationConfig::new(counts.to_vec(), whole_frames());
        let scores =
            evaluate::<Dispatch, _>(&trained.network.valid(), valid.as_ref(), &config, &flex()).unwrap();
        scores.iter().map(|scores| scores.accuracy(1).unwrap()).collect::<Vec<f64>>()
    };
    let single = run(&Method::Single(8));
    let shared = run(&Method::Sharing);
    let separate = run(&Method::Single(2));
    let ffn = run(&Method::Ffn(Branches::ffn(&counts)));
    let found = format!("single {single:?}, shared {shared:?}, separate {separate:?}, FFN {ffn:?}");
    // The single network knows the task at its own count, and loses tens of points at the lowest.
    assert!(single[2] > 95.0 && single[0] < single[2] - 20.0, "{found}");
    assert!(ffn[2] > single[2] - 3.0 && ffn[1] > 95.0, "{found}");
    // At the lowest count sharing helps, FFN more, and it is no worse than a network for that count alone.
    assert!(single[0] < shared[0] && shared[0] < ffn[0] && ffn[0] > separate[0] - 5.0, "{found}");
}

/// When a training is stopped.
#[derive(Clone, Copy)]
enum Stop {
    Never,
    AfterEpoch(usize),
    /// After the step that is under way then.
    After(Duration),
}

/// Trains for three epochs of 4 batches, two of them a step.
fn train(folder: Option<&Path>, stop: Stop) -> Trained {
    let data = videos(&MovingDigits::new(32, 3));
    let experiment = Experiment {
        training: TrainingConfig::new(3).with_save_every(Some(1)).with_accumulation(2),
        ..experiment(data.clone(), data, 8, 3)
    };
    let device = leanburn::device::autodiff(flex());
    let method = Method::Ffn(Branches::ffn(&COUNTS));
    let handle = Arc::new(Mutex::new(None::<Interrupter>));
    let taken = handle.clone();
    let show = move |report: &EpochReport| {
        if matches!(stop, Stop::AfterEpoch(epoch) if epoch == report.epoch) {
            taken.lock().unwrap().as_ref().unwrap().stop(None);
        }
    };
    let take = |interrupter: Interrupter| {
        if let Stop::After(time) = stop {
            let interrupter = interrupter.clone();
            std::thread::spawn(move || {
                std::thread::sleep(time);
                interrupter.stop(None);
            });
        }
        *handle.lock().unwrap() = Some(interrupter);
    };
    experiment.run::<Dispatch, _>(&method, groups(), folder, &device, take, show).unwrap()
}

fn weights(trained: &Trained) -> Vec<(String, TensorData)> {
    checkpoint::tensors(&trained.network, |path| trained.architecture.published_name(path)).unwrap()
}

#[test]
fn ffn_killed_and_resumed_ends_with_the_same_weights() {
    let whole = train(None, Stop::Never);
    assert_eq!(whole.steps, 6);
    let folder = tempfile::tempdir().unwrap();
    // Within the first epoch, at the end of an epoch, and wherever it is then.
    train(Some(folder.path()), Stop::After(Duration::from_millis(1)));
    assert!(train(Some(folder.path()), Stop::AfterEpoch(1)).interrupted);
    train(Some(folder.path()), Stop::After(Duration::from_millis(300)));
    let resumed = train(Some(folder.path()), Stop::Never);
    assert_eq!((resumed.steps, resumed.interrupted), (6, false));
    let differing = weights(&whole).into_iter().zip(weights(&resumed)).find(|(a, b)| a != b);
    assert!(differing.is_none(), "{:?}", differing.map(|(a, _)| a.0));
    for count in COUNTS {
        let metric = format!("Accuracy at {count} frames");
        let curve = whole.history.curve("valid", &metric);
        assert_eq!(curve.len(), 3);
        assert_eq!(curve, resumed.history.curve("valid", &metric));
    }
}

#[test]
fn folders_of_frames_are_trained_on() {
    let digits = MovingDigits::new(12, 4).with_frames(12);
    let folder = tempfile::tempdir().unwrap();
    let template = Template::new("image_{:05d}.png").unwrap();
    let entries: Vec<Entry> = (0..digits.len())
        .map(|video| {
            let path = format!("some class/{video}");
            std::fs::create_dir_all(folder.path().join(&path)).unwrap();
            for (frame, image) in (1..).zip(frames(&digits, video)) {
                let file = folder.path().join(&path).join(template.file(frame));
                image::save_buffer(file, image.values(), 32, 32, image::ColorType::Rgb8).unwrap();
            }
            Entry { path, frames: digits.frames(), label: digits.label(video) }
        })
        .collect();
    let list = folder.path().join("list.txt");
    lists::write(&list, &entries).unwrap();
    let open = || Videos::open(folder.path(), &list, template.clone(), digits.classes()).unwrap();
    // What is read is what was written.
    let read = open().read(3, &[5]).unwrap();
    assert_eq!(read[0].values(), digits.frame(3, 4));

    let (train, valid) = (Arc::new(open()), Arc::new(open()));
    let experiment = experiment(train, valid, 8, 1);
    let device = leanburn::device::autodiff(flex());
    let run = || experiment.run::<Dispatch, _>(&Method::Mixed, groups(), None, &device, |_| {}, |_| {});
    let trained = run().unwrap();
    assert_eq!(trained.steps, 1);
    // A frame that is gone stops the training, and the error names video and file.
    std::fs::remove_file(folder.path().join("some class/7").join(template.file(1))).unwrap();
    let error = run().unwrap_err().to_string();
    assert!(error.contains("some class/7") && error.contains("image_00001.png"), "{error}");
}
