//! The command line, and what comes of it.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use leanburn::{
    core::{at_least_one, checkpoint::Checkpoint},
    prelude::*,
    video::{
        Branches,
        ffn::{Method, Recipe},
        sampling::Sampling,
        schedule::EpochSchedule,
        transform::{ClipPreprocessing, Crop, Flip, mirrored},
        videos::{Layout, Published},
    },
};
use leanburn_examples::Common;
use serde::Serialize;

/// Trains one video network for several frame counts, and evaluates it at any.
#[derive(Parser, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "the command line's switches")]
pub(crate) struct Options {
    /// The videos.
    #[arg(long, value_enum, default_value = "moving-digits")]
    pub(crate) data: Data,
    /// The folder of a published data set, laid out as its code expects.
    #[arg(long)]
    pub(crate) root: Option<PathBuf>,
    /// Another layout of it: a JSON file with `frames`, `train_list`, `valid_list`, `classes` and `template`.
    #[arg(long)]
    pub(crate) layout: Option<PathBuf>,
    /// The network.
    #[arg(long, value_enum, default_value = "tsm18")]
    pub(crate) network: Network,
    /// Channels of the stem, where it is not the published number; for moving digits 24.
    #[arg(long)]
    pub(crate) width: Option<usize>,
    /// The number of blocks of each stage, of a residual network that is not the published one; for moving digits 1,1.
    #[arg(long, value_delimiter = ',')]
    pub(crate) blocks: Vec<usize>,
    /// What is trained, separated by commas: `ffn`, `distillation`, `norms`, `sharing`, `mixed`, `proportional`, or a
    /// frame count for a network of that count alone. Several counts are put together as an ensemble as well.
    #[arg(long, value_delimiter = ',', default_value = "ffn")]
    pub(crate) method: Vec<String>,
    /// The frame counts that FFN is trained for, ascending.
    #[arg(long, value_delimiter = ',', default_value = "4,8,16")]
    pub(crate) counts: Vec<usize>,
    /// The frame counts of the evaluation; those of the training when absent.
    #[arg(long, value_delimiter = ',')]
    pub(crate) frames: Vec<usize>,
    /// Trains as published for the network (on Kinetics-400, TSM as published for it): frame counts, epochs, learning
    /// rate, batch, decay, dropout, clipping, mixing and flips are the recipe's, whatever the options say.
    #[arg(long)]
    pub(crate) published: bool,
    /// Weights to start from, a PyTorch or safetensors file: of an image network, or of a plain video network.
    #[arg(long)]
    pub(crate) start: Option<PathBuf>,
    /// Whether the classifier of `--start` learns as the other layers do, and not as a new one, at several times their rate:
    /// for going on with the same classes (TSN, TSM and TEA).
    #[arg(long)]
    pub(crate) fine_tune: bool,
    /// Whether all batch norms but the first stay as they are (TSN's partial batch norm).
    #[arg(long)]
    pub(crate) partial_norms: bool,
    /// Weights of the trained network, of leanburn or as published with FFN: nothing is trained.
    #[arg(long)]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Epochs.
    #[arg(long, default_value_t = 8)]
    pub(crate) epochs: usize,
    /// The learning rate.
    #[arg(long, default_value_t = 0.02)]
    pub(crate) learning_rate: f64,
    /// Epochs from which the rate is a tenth of what it was; half a cosine when there is none.
    #[arg(long, value_delimiter = ',')]
    pub(crate) milestones: Vec<usize>,
    /// The weight decay.
    #[arg(long, default_value_t = 5e-4)]
    pub(crate) weight_decay: f64,
    /// The probability of dropout.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) dropout: f64,
    /// The largest norm of all gradients.
    #[arg(long)]
    pub(crate) clip_norm: Option<f64>,
    /// Videos of a batch.
    #[arg(long, default_value_t = 8)]
    pub(crate) batch_size: usize,
    /// How many batches make a step.
    #[arg(long, default_value_t = 1)]
    pub(crate) accumulation: usize,
    /// Height and width of the clips; 224 of files, and the frames as they are of moving digits.
    #[arg(long, default_value_t = 224)]
    pub(crate) side: usize,
    /// Whether clips are flipped with their labels, where a class has a mirror image.
    #[arg(long)]
    pub(crate) flip: bool,
    /// Whether a missing or broken frame is replaced by the video's first, and counted.
    #[arg(long)]
    pub(crate) lenient: bool,
    /// Parts of the frames that are evaluated, whose probabilities are averaged: 1, or for SlowFast and UniFormer 3.
    #[arg(long, default_value_t = 1)]
    pub(crate) crops: usize,
    /// Of moving digits: how many videos are trained with; half as many others are evaluated.
    #[arg(long, default_value_t = 480)]
    pub(crate) videos: usize,
    /// Of moving digits: the number of directions.
    #[arg(long, default_value_t = 8)]
    pub(crate) directions: usize,
    /// Of moving digits: factors of the way; each direction with each of them is a class.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) speeds: Vec<f64>,
    /// Whether the temporal shift mixes videos in training, as the published one does.
    #[arg(long)]
    pub(crate) published_shift: bool,
    /// Whether burn-train's dashboard is shown, in a terminal.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) dashboard: bool,
    /// Whether trainings keep checkpoints in the output folder, from which they go on when they were interrupted.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Where to write; a numbered folder under `runs` when absent.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Data {
    /// Handwritten digits that move, generated: the class is the direction.
    MovingDigits,
    #[value(name = "something-v1")]
    SomethingV1,
    #[value(name = "something-v2")]
    SomethingV2,
    Jester,
    Kinetics400,
    MiniKinetics,
    /// HMDB51, split 1.
    Hmdb51,
    /// UCF101, split 1.
    Ucf101,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Network {
    #[value(name = "tsm18")]
    Tsm18,
    #[value(name = "tsm50")]
    Tsm50,
    #[value(name = "tsm101")]
    Tsm101,
    /// Without a shift.
    #[value(name = "tsn18")]
    Tsn18,
    #[value(name = "tsn50")]
    Tsn50,
    Tea,
    #[value(name = "slowfast")]
    SlowFast,
    #[value(name = "uniformer")]
    UniFormer,
}

impl Options {
    /// How the network is trained.
    pub(crate) fn recipe(&self) -> Recipe {
        if self.published {
            return match self.network {
                Network::SlowFast => Recipe::slowfast(),
                Network::UniFormer => Recipe::uniformer(),
                Network::Tea => Recipe::tea(),
                _ if self.data == Data::Kinetics400 => Recipe::tsm_kinetics(),
                _ => Recipe::tsm_something(),
            };
        }
        let schedule = match self.milestones.as_slice() {
            // A cosine by epoch would leave much at the start of few epochs.
            [] => {
                EpochSchedule { every_step: true, ..EpochSchedule::cosine(self.learning_rate, self.epochs) }
            }
            milestones => EpochSchedule::steps(self.learning_rate, self.epochs, milestones),
        };
        Recipe {
            counts: self.counts.clone(),
            schedule,
            batch_size: self.batch_size,
            weight_decay: self.weight_decay,
            dropout: self.dropout,
            clip_norm: self.clip_norm,
            // UniFormer's optimiser is AdamW.
            momentum: (self.network != Network::UniFormer).then_some(0.9),
            start: self.start.as_ref().map_or("random".to_owned(), |path| path.display().to_string()),
            ..Recipe::tsm_something()
        }
    }

    /// What can be told before anything is read or written.
    pub(crate) fn check(&self) -> Result<()> {
        self.methods()?;
        for (place, name) in self.method.iter().enumerate() {
            if self.method[..place].contains(name) {
                return Err(Error::setting("method", "each method once", name));
            }
        }
        Branches { counts: self.recipe().counts, ..Branches::single(1) }.check()?;
        at_least_one([
            ("epochs", self.epochs),
            ("batch_size", self.batch_size),
            ("accumulation", self.accumulation),
            ("side", self.side),
            ("frames", self.frames.iter().copied().min().unwrap_or(1)),
            ("width", self.width.unwrap_or(1)),
            ("blocks", self.blocks.iter().copied().min().unwrap_or(1)),
        ])?;
        let number = |field: &str, valid: bool, expected: &str, found: f64| {
            if valid { Ok(()) } else { Err(Error::setting(field, expected, found)) }
        };
        let (rate, decay) = (self.learning_rate, self.weight_decay);
        number("learning_rate", rate.is_finite() && rate > 0.0, "a positive number", rate)?;
        number("weight_decay", decay.is_finite() && decay >= 0.0, "0 or a positive number", decay)?;
        number("dropout", (0.0..1.0).contains(&self.dropout), "from 0 to below 1", self.dropout)?;
        let norm = self.clip_norm.unwrap_or(1.0);
        number("clip_norm", norm.is_finite() && norm > 0.0, "a positive number", norm)?;
        if !self.milestones.is_sorted_by(|a, b| a < b) {
            return Err(Error::setting("milestones", "ascending epochs", format!("{:?}", self.milestones)));
        }
        let pathways = matches!(self.network, Network::SlowFast | Network::UniFormer);
        if !self.blocks.is_empty() && pathways {
            return Err(Error::setting("blocks", "a residual network (tsn, tsm, tea)", "another"));
        }
        if !(self.crops == 1 || self.crops == 3 && pathways && self.data != Data::MovingDigits) {
            let expected = "1, or 3 with SlowFast and UniFormer on files";
            return Err(Error::setting("crops", expected, self.crops));
        }
        if self.data == Data::MovingDigits {
            if self.layout.is_some() {
                return Err(Error::setting("layout", "a data set in files", "moving-digits"));
            }
        } else {
            self.root()?;
        }
        for path in [&self.start, &self.checkpoint].into_iter().flatten() {
            Checkpoint::open(path)?;
        }
        Ok(())
    }

    pub(crate) fn methods(&self) -> Result<Vec<Method>> {
        let counts = self.recipe().counts;
        let method = |name: &String| match name.as_str() {
            "ffn" => Ok(Method::Ffn(Branches::ffn(&counts))),
            "distillation" => Ok(Method::Distillation),
            "norms" => Ok(Method::SpecialisedNorms),
            "sharing" => Ok(Method::Sharing),
            "mixed" => Ok(Method::Mixed),
            "proportional" => Ok(Method::Proportional),
            count => count.parse().map(Method::Single).map_err(|_| {
                let expected = "ffn, distillation, norms, sharing, mixed, proportional or a frame count";
                Error::setting("method", expected, count)
            }),
        };
        self.method.iter().map(method).collect()
    }

    /// The folder of the data set.
    pub(crate) fn root(&self) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| Error::setting("root", "the folder of the data set", "none"))
    }

    pub(crate) fn layout(&self) -> Result<Layout> {
        if let Some(path) = &self.layout {
            return leanburn::core::report::read_json(path);
        }
        let published = match self.data {
            Data::SomethingV1 => Published::SomethingV1,
            Data::SomethingV2 => Published::SomethingV2,
            Data::Jester => Published::Jester,
            Data::Kinetics400 => Published::Kinetics400,
            Data::MiniKinetics => Published::MiniKinetics,
            Data::Hmdb51 => Published::Hmdb51 { split: 1 },
            Data::Ucf101 => Published::Ucf101,
            Data::MovingDigits => return Err(Error::setting("data", "one in files", "moving-digits")),
        };
        Ok(published.layout())
    }

    /// Whether clips are flipped. Published networks were, where a class does not tell left from right.
    fn flips(&self) -> bool {
        let actions =
            matches!(self.data, Data::Kinetics400 | Data::MiniKinetics | Data::Hmdb51 | Data::Ucf101);
        if self.published { actions } else { self.flip }
    }

    /// What is done to the frames of training and of validation.
    pub(crate) fn preprocessing(&self, classes: &[String]) -> [ClipPreprocessing; 2] {
        let flip = match (self.flips(), mirrored(classes)) {
            (false, _) => Flip::None,
            (true, pairs) if pairs.is_empty() => Flip::Random,
            (true, pairs) => Flip::LabelAware { pairs },
        };
        if self.data == Data::MovingDigits {
            // The frames as they are: a part of one would not show where the digit is.
            let crop = Crop::Center { scale: 32, side: 32 };
            let whole = ClipPreprocessing { crop, ..ClipPreprocessing::tsn_valid(32) };
            return [whole.clone().with_flip(flip), whole];
        }
        match self.network {
            Network::SlowFast => [ClipPreprocessing::slowfast_train().with_flip(flip), self.view(1)],
            Network::UniFormer => [ClipPreprocessing::uniformer_train().with_flip(flip), self.view(1)],
            _ => [
                ClipPreprocessing::tsn_train(self.side).with_flip(flip),
                ClipPreprocessing::tsn_valid(self.side),
            ],
        }
    }

    /// One of three parts of the frames, of SlowFast and UniFormer.
    pub(crate) fn view(&self, view: usize) -> ClipPreprocessing {
        if self.network == Network::SlowFast {
            ClipPreprocessing::slowfast_test(view)
        } else {
            ClipPreprocessing::uniformer_test(view)
        }
    }

    pub(crate) fn sampling(&self) -> Sampling {
        match self.network {
            Network::SlowFast | Network::UniFormer => Sampling::Intervals,
            _ => Sampling::Segments,
        }
    }
}
