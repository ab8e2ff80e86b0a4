use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Record, TrainingRecord};

/// The paper's ladder of comparison setups (its table 2): what two runs hold equal. From `S3_2` on, a comparison is one of
/// pruning methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Data, network, and compression or speedup.
    S1,
    /// And the base model.
    S2,
    /// And the epochs of retraining.
    #[serde(rename = "S3.1")]
    S3_1,
    /// And its learning rates, and its other settings.
    #[serde(rename = "S3.2")]
    S3_2,
    /// And the epochs of pruning.
    #[serde(rename = "S4.1")]
    S4_1,
    /// And its learning rates.
    #[serde(rename = "S4.2")]
    S4_2,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3_1 => "S3.1",
            Self::S3_2 => "S3.2",
            Self::S4_1 => "S4.1",
            Self::S4_2 => "S4.2",
        })
    }
}

/// What pruning and scratch training have in common beside a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Total {
    /// All epochs: of the base model, of pruning and of retraining (`SX-A`).
    #[serde(rename = "SX-A")]
    Epochs,
    /// All computation (`SX-B`).
    #[serde(rename = "SX-B")]
    Computation,
}

/// What is declared equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Up to which level.
    pub level: Level,
    /// What else.
    #[serde(default)]
    pub total: Option<Total>,
    /// Whether networks are as small as each other by their parameters, and not by their MACs.
    #[serde(default)]
    pub by_sparsity: bool,
}

impl Default for Setup {
    /// What the paper recommends: the same base model and the same retraining.
    fn default() -> Self {
        Self { level: Level::S3_2, total: None, by_sparsity: false }
    }
}

/// What two runs may have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// The data.
    Data,
    /// The dense network.
    Architecture,
    /// Speedup or sparsity.
    Budget,
    /// The base model.
    Base,
    /// Epochs of retraining.
    RetrainingEpochs,
    /// Learning rates of retraining, epoch by epoch.
    RetrainingRates,
    /// Its optimiser, decay, batch, augmentation, smoothing, teacher and average.
    RetrainingOther,
    /// Epochs of pruning.
    PruningEpochs,
    /// Learning rates of pruning.
    PruningRates,
}

impl Item {
    const ALL: [Self; 9] = [
        Self::Data,
        Self::Architecture,
        Self::Budget,
        Self::Base,
        Self::RetrainingEpochs,
        Self::RetrainingRates,
        Self::RetrainingOther,
        Self::PruningEpochs,
        Self::PruningRates,
    ];

    /// The lowest level that asks for it.
    pub fn level(self) -> Level {
        match self {
            Self::Data | Self::Architecture | Self::Budget => Level::S1,
            Self::Base => Level::S2,
            Self::RetrainingEpochs => Level::S3_1,
            Self::RetrainingRates | Self::RetrainingOther => Level::S3_2,
            Self::PruningEpochs => Level::S4_1,
            Self::PruningRates => Level::S4_2,
        }
    }
}

/// Whether two runs have something in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// They have.
    Equal,
    /// They have not.
    Differs,
    /// Of one of them it is not known.
    Unknown,
}

/// What speaks against a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Flag {
    /// The base models are not the same.
    BaseDiffers,
    /// Weights are compared with filters.
    GranularityDiffers,
    /// Speedup, or sparsity, differs by more than 2 %.
    BudgetDiffers,
    /// The epochs of retraining differ.
    FtEpochsDiffer,
    /// The learning rates of retraining differ.
    FtLrDiffers,
    /// Other settings of retraining differ.
    FtOtherDiffers,
    /// The last learning rates differ.
    FinalLrDiffers,
    /// The epochs of pruning differ.
    PruneEpochsDiffer,
    /// The learning rates of pruning differ.
    PruneLrDiffers,
    /// All epochs together differ.
    TotalEpochsDiffer,
    /// All computation together differs by more than 2 %.
    TotalFlopsDiffer,
    /// Scratch training for filter pruning was of a masked large network.
    ScratchLargeSparse,
    /// When the learning rate first fell, accuracy was still rising.
    NotConverged,
    /// And the learning rate was 1e-3 or less, at a ratio of 0.5 or more: a larger one would look better.
    LrTooSmall,
    /// There are fewer than three seeds, or the difference is within a standard deviation.
    FewSeeds,
    /// The accuracy is that of the best epoch on the test data.
    BestOnTest,
    /// What the level asks for is not known.
    Unreported,
}

impl Flag {
    /// What it says.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BaseDiffers => "the base models are not the same",
            Self::GranularityDiffers => {
                "what is removed at a time is not the same: weights are easier than filters"
            }
            Self::BudgetDiffers => "the networks are not as small as each other (more than 2 % apart)",
            Self::FtEpochsDiffer => "retraining takes more epochs in one",
            Self::FtLrDiffers => "the learning rates of retraining are not the same",
            Self::FtOtherDiffers => "optimiser, decay, batch, augmentation or the like of retraining differ",
            Self::FinalLrDiffers => "the last learning rates are not the same",
            Self::PruneEpochsDiffer => "pruning itself takes more epochs in one",
            Self::PruneLrDiffers => "the learning rates of pruning are not the same",
            Self::TotalEpochsDiffer => "base model, pruning and retraining together take more epochs in one",
            Self::TotalFlopsDiffer => {
                "base model, pruning and retraining together take more computation in one"
            }
            Self::ScratchLargeSparse => {
                "scratch training was of a masked large network, whose initial weights do not fit the small one"
            }
            Self::NotConverged => "accuracy was still rising when the learning rate first fell",
            Self::LrTooSmall => "a learning rate of 1e-3 or less has not had the epochs that it needs",
            Self::FewSeeds => "fewer than three seeds, or a difference within one standard deviation",
            Self::BestOnTest => "the accuracy is that of the best epoch, selected on the test data",
            Self::Unreported => "something that the level asks for is not known",
        }
    }

    /// The lowest level, or the total, under which it speaks against a comparison.
    fn matters(self, setup: &Setup) -> bool {
        let from = match self {
            // Against scratch training the last rate counts from the start (the paper's first rule).
            Self::BaseDiffers | Self::FinalLrDiffers => Level::S2,
            Self::FtEpochsDiffer => Level::S3_1,
            Self::FtLrDiffers | Self::FtOtherDiffers => Level::S3_2,
            Self::PruneEpochsDiffer => Level::S4_1,
            Self::PruneLrDiffers => Level::S4_2,
            Self::TotalEpochsDiffer => return setup.total == Some(Total::Epochs),
            Self::TotalFlopsDiffer => return setup.total == Some(Total::Computation),
            _ => Level::S1,
        };
        setup.level >= from
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The name is that of the variant, `BaseDiffers`, as the paper's tables would write it.
        let name = format!("{self:?}");
        for (place, letter) in name.char_indices() {
            if place > 0 && letter.is_uppercase() {
                f.write_str("_")?;
            }
            write!(f, "{}", letter.to_ascii_uppercase())?;
        }
        Ok(())
    }
}

/// What two runs have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Item by item.
    pub items: Vec<(Item, Agreement)>,
    /// The highest level all of whose items are known and equal.
    pub level: Option<Level>,
    /// What speaks against comparing them as declared.
    pub flags: Vec<Flag>,
}

/// Compares two runs.
pub fn compare(a: &Record, b: &Record, setup: &Setup) -> Comparison {
    let items: Vec<(Item, Agreement)> =
        Item::ALL.into_iter().map(|item| (item, agreement(item, a, b, setup))).collect();
    let holds = |level: Level| {
        items.iter().filter(|(item, _)| item.level() <= level).all(|(_, found)| *found == Agreement::Equal)
    };
    let levels = [Level::S1, Level::S2, Level::S3_1, Level::S3_2, Level::S4_1, Level::S4_2];
    let level = levels.into_iter().take_while(|level| holds(*level)).last();

    let mut flags = Vec::new();
    let mut raise = |flag: Flag, holds: bool| {
        if holds && flag.matters(setup) && !flags.contains(&flag) {
            flags.push(flag);
        }
    };
    for &(item, found) in &items {
        let flag = match item {
            Item::Data | Item::Architecture => None,
            Item::Budget => Some(Flag::BudgetDiffers),
            Item::Base => Some(Flag::BaseDiffers),
            Item::RetrainingEpochs => Some(Flag::FtEpochsDiffer),
            Item::RetrainingRates => Some(Flag::FtLrDiffers),
            Item::RetrainingOther => Some(Flag::FtOtherDiffers),
            Item::PruningEpochs => Some(Flag::PruneEpochsDiffer),
            Item::PruningRates => Some(Flag::PruneLrDiffers),
        };
        if let Some(flag) = flag {
            raise(flag, found == Agreement::Differs);
        }
        raise(Flag::Unreported, found == Agreement::Unknown && item.level() <= setup.level);
    }
    let granularity = |record: &Record| record.pruning.granularity;
    raise(Flag::GranularityDiffers, agree(granularity(a), granularity(b)) == Agreement::Differs);
    let last = |record: &Record| record.retraining.by_epoch().and_then(|rates| rates.last().copied());
    raise(Flag::FinalLrDiffers, near(last(a), last(b), TOLERANCE) == Agreement::Differs);
    let epochs = near(a.total_epochs(), b.total_epochs(), 1e-9);
    raise(Flag::TotalEpochsDiffer, epochs == Agreement::Differs);
    let computation = near(a.total_computation(), b.total_computation(), TOLERANCE);
    raise(Flag::TotalFlopsDiffer, computation == Agreement::Differs);
    let total = match setup.total {
        Some(Total::Epochs) => epochs,
        Some(Total::Computation) => computation,
        None => Agreement::Equal,
    };
    raise(Flag::Unreported, total == Agreement::Unknown);
    for flag in [a, b].into_iter().flat_map(own_flags) {
        raise(flag, true);
    }
    flags.sort_unstable();
    Comparison { items, level, flags }
}

/// By how much numbers that are declared equal may differ.
const TOLERANCE: f64 = 0.02;

/// What speaks against a run, whatever it is compared with.
pub(super) fn own_flags(record: &Record) -> Vec<Flag> {
    let mut flags = Vec::new();
    let filters = record.pruning.granularity == Some(super::Granularity::Filter);
    if filters && record.pruning.scratch == Some(super::Scratch::LargeSparse) {
        flags.push(Flag::ScratchLargeSparse);
    }
    let TrainingRecord { epochs, rates, .. } = &record.retraining;
    if let (Some(epochs), Some(rates)) = (epochs, rates) {
        let first = rates.first_stage(*epochs);
        // A schedule that never falls is judged at its end.
        if still_rising(&record.accuracy.by_epoch, first) == Some(true) {
            flags.push(Flag::NotConverged);
            let ratio =
                record.pruning.ratios.as_ref().and_then(|ratios| ratios.values().copied().reduce(f64::max));
            let small = rates.by_epoch(*epochs).first().is_some_and(|rate| *rate <= 1e-3);
            if small && ratio.or(record.sparsity()).is_some_and(|ratio| ratio >= 0.5) {
                flags.push(Flag::LrTooSmall);
            }
        }
    }
    if record.accuracy.best_on_test == Some(true) {
        flags.push(Flag::BestOnTest);
    }
    flags
}

/// Whether accuracy was still rising at the end of the first stage: the mean of its last fifth is above that of the fifth
/// before by more than 0.3 points. Not known when epochs are missing, or the stage has fewer than two.
///
/// - accuracies: by epoch, in percent
pub fn still_rising(accuracies: &[f64], first_stage: usize) -> Option<bool> {
    let window = (first_stage / 5).max(1);
    if accuracies.len() < first_stage || first_stage < 2 * window {
        return None;
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (before, last) = accuracies[first_stage - 2 * window..first_stage].split_at(window);
    Some(mean(last) - mean(before) > 0.3)
}

fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> Agreement {
    match (a, b) {
        (Some(a), Some(b)) if a == b => Agreement::Equal,
        (Some(_), Some(_)) => Agreement::Differs,
        _ => Agreement::Unknown,
    }
}

/// Whether two numbers are equal but for a part of the larger one.
fn near(a: Option<f64>, b: Option<f64>, tolerance: f64) -> Agreement {
    match (a, b) {
        (Some(a), Some(b)) if (a - b).abs() <= tolerance * a.abs().max(b.abs()) => Agreement::Equal,
        (Some(_), Some(_)) => Agreement::Differs,
        _ => Agreement::Unknown,
    }
}

fn rates_agree(a: Option<Vec<f64>>, b: Option<Vec<f64>>) -> Agreement {
    match (a, b) {
        (Some(a), Some(b)) => {
            let same = |(a, b): (&f64, &f64)| near(Some(*a), Some(*b), 1e-6) == Agreement::Equal;
            if a.len() == b.len() && a.iter().zip(&b).all(same) {
                Agreement::Equal
            } else {
                Agreement::Differs
            }
        }
        _ => Agreement::Unknown,
    }
}

/// A difference counts most, then what is not known.
fn all(agreements: impl IntoIterator<Item = Agreement>) -> Agreement {
    let mut result = Agreement::Equal;
    for agreement in agreements {
        match agreement {
            Agreement::Differs => return agreement,
            Agreement::Unknown => result = agreement,
            Agreement::Equal => {}
        }
    }
    result
}

fn agreement(item: Item, a: &Record, b: &Record, setup: &Setup) -> Agreement {
    // Scratch training has no base model and no retraining to compare: what counts is the recipe of the base model.
    let mixed = a.is_scratch() != b.is_scratch();
    match item {
        Item::Data => {
            // What is told of split and samples must agree; papers rarely tell.
            let told = |agreement| if agreement == Agreement::Unknown { Agreement::Equal } else { agreement };
            all([
                agree(a.data.name.as_ref(), b.data.name.as_ref()),
                told(agree(a.data.split.as_ref(), b.data.split.as_ref())),
                told(agree(a.data.hash.as_ref(), b.data.hash.as_ref())),
            ])
        }
        Item::Architecture => agree(a.architecture.as_ref(), b.architecture.as_ref()),
        Item::Budget if setup.by_sparsity => near(a.sparsity(), b.sparsity(), TOLERANCE),
        Item::Budget => near(a.speedup(), b.speedup(), TOLERANCE),
        Item::Base if mixed => {
            let (scratch, pruned) = if a.is_scratch() { (a, b) } else { (b, a) };
            match setup.total {
                // The recipe is stretched to what is declared equal.
                Some(Total::Epochs) => near(a.total_epochs(), b.total_epochs(), 1e-9),
                Some(Total::Computation) => near(a.total_computation(), b.total_computation(), TOLERANCE),
                None => recipe_of_base(&scratch.retraining, pruned),
            }
        }
        Item::Base if a.is_scratch() => Agreement::Equal,
        Item::Base => match agree(a.base.hash.as_ref(), b.base.hash.as_ref()) {
            Agreement::Unknown => match (a.base.accuracy, b.base.accuracy) {
                (Some(a), Some(b)) if (a - b).abs() < 0.05 + 1e-9 => Agreement::Equal,
                (Some(_), Some(_)) => Agreement::Differs,
                _ => Agreement::Unknown,
            },
            known => known,
        },
        Item::RetrainingOther if mixed => {
            let (scratch, pruned) = if a.is_scratch() { (a, b) } else { (b, a) };
            others_agree(&scratch.retraining, &pruned.base.training)
        }
        _ if mixed => Agreement::Equal,
        Item::RetrainingEpochs => agree(a.retraining.epochs, b.retraining.epochs),
        Item::RetrainingRates => rates_agree(a.retraining.by_epoch(), b.retraining.by_epoch()),
        Item::RetrainingOther => others_agree(&a.retraining, &b.retraining),
        Item::PruningEpochs => agree(a.pruning.epochs, b.pruning.epochs),
        Item::PruningRates => agree(a.pruning.rates.as_ref(), b.pruning.rates.as_ref()),
    }
}

/// Whether two trainings agree in all but epochs and rates.
fn others_agree(a: &TrainingRecord, b: &TrainingRecord) -> Agreement {
    all([
        agree(a.warm_up, b.warm_up),
        agree(a.optimizer.as_ref(), b.optimizer.as_ref()),
        agree(a.momentum, b.momentum),
        agree(a.weight_decay, b.weight_decay),
        agree(a.batch_size, b.batch_size),
        agree(a.augmentation.as_ref(), b.augmentation.as_ref()),
        agree(a.label_smoothing, b.label_smoothing),
        agree(a.distillation.as_ref(), b.distillation.as_ref()),
        agree(a.average, b.average),
    ])
}

/// Whether scratch training took the recipe of a base model, or, where a schedule goes on after pruning, the whole one.
fn recipe_of_base(scratch: &TrainingRecord, pruned: &Record) -> Agreement {
    let own = scratch.by_epoch();
    let base = pruned.base.training.by_epoch();
    let whole = base.clone().zip(pruned.retraining.by_epoch()).map(|(mut base, retraining)| {
        base.extend(retraining);
        base
    });
    match (rates_agree(own.clone(), base), rates_agree(own, whole)) {
        (Agreement::Equal, _) | (_, Agreement::Equal) => Agreement::Equal,
        (recipe, _) => recipe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        comparison::{BaseRecord, DataSet, Granularity, PruningRecord, Scratch},
        schedules::Rates,
    };

    fn training(epochs: usize, rates: &str) -> TrainingRecord {
        TrainingRecord {
            epochs: Some(epochs),
            rates: Some(rates.parse::<Rates>().unwrap()),
            warm_up: Some(0),
            optimizer: Some("SGD".to_owned()),
            momentum: Some(0.9),
            weight_decay: Some(5e-4),
            batch_size: Some(128),
            augmentation: Some("crop, flip".to_owned()),
            label_smoothing: Some(0.0),
            distillation: Some("none".to_owned()),
            average: Some(0.0),
        }
    }

    fn record() -> Record {
        Record {
            name: "L1".to_owned(),
            data: DataSet { name: Some("CIFAR-10".to_owned()), ..DataSet::default() },
            architecture: Some("ResNet-56".to_owned()),
            base: BaseRecord {
                hash: Some("a".to_owned()),
                accuracy: Some(93.78),
                training: training(200, "0:0.1,100:0.01,150:0.001"),
            },
            pruning: PruningRecord {
                granularity: Some(Granularity::Filter),
                epochs: Some(0.0),
                rates: Some("none".to_owned()),
                ..PruningRecord::default()
            },
            retraining: training(120, "0:0.01,60:0.001,90:1e-4"),
            speedup: Some(1.993),
            ..Record::default()
        }
    }

    #[test]
    fn levels_end_where_runs_differ() {
        let setup = Setup::default();
        let a = record();
        let level = |b: &Record| compare(&a, b, &setup).level;
        let flags = |b: &Record| compare(&a, b, &setup).flags;
        assert_eq!((level(&a), flags(&a)), (Some(Level::S4_2), vec![]));

        let mut rates = record();
        rates.retraining = training(120, "0:0.001,60:0.0001,90:0.00001");
        assert_eq!(level(&rates), Some(Level::S3_1));
        assert_eq!(flags(&rates), [Flag::FtLrDiffers, Flag::FinalLrDiffers]);
        let mut base = rates.clone();
        base.base.hash = Some("b".to_owned());
        assert_eq!(level(&base), Some(Level::S1));
        assert_eq!(flags(&base), [Flag::BaseDiffers, Flag::FtLrDiffers, Flag::FinalLrDiffers]);
        // Without hashes, accuracies tell.
        base.base = BaseRecord { hash: None, accuracy: Some(93.80), ..base.base };
        assert_eq!(level(&base), Some(Level::S3_1));
        base.base.accuracy = Some(93.36);
        assert_eq!(level(&base), Some(Level::S1));
        base.base.accuracy = None;
        assert!(flags(&base).contains(&Flag::Unreported));

        let mut other = record();
        other.retraining.distillation = Some("ResNet-110".to_owned());
        assert_eq!((level(&other), flags(&other)), (Some(Level::S3_1), vec![Flag::FtOtherDiffers]));
        let mut longer = record();
        longer.retraining.epochs = Some(180);
        assert_eq!(level(&longer), Some(Level::S2));
        let mut growing = record();
        growing.pruning.epochs = Some(60.0);
        growing.pruning.rates = Some("0:0.001".to_owned());
        assert_eq!((level(&growing), flags(&growing)), (Some(Level::S3_2), vec![]));
        let strict = Setup { level: Level::S4_2, ..setup.clone() };
        let found = compare(&a, &growing, &strict).flags;
        assert_eq!(found, [Flag::PruneEpochsDiffer, Flag::PruneLrDiffers]);
        let mut faster = record();
        faster.speedup = Some(2.31);
        faster.pruning.granularity = Some(Granularity::Weight);
        assert_eq!(level(&faster), None);
        assert_eq!(flags(&faster), [Flag::GranularityDiffers, Flag::BudgetDiffers]);
    }

    #[test]
    fn scratch_training_is_compared_by_the_recipe_of_the_base_model() {
        let pruned = record();
        let mut scratch = Record {
            name: "scratch".to_owned(),
            base: BaseRecord::default(),
            pruning: PruningRecord {
                granularity: Some(Granularity::Filter),
                scratch: Some(Scratch::SmallDense),
                ..PruningRecord::default()
            },
            retraining: training(200, "0:0.1,100:0.01,150:0.0001"),
            ..record()
        };
        let setup = |total| Setup { total, ..Setup::default() };
        assert_eq!(compare(&pruned, &scratch, &setup(None)).level, Some(Level::S1));
        scratch.retraining = TrainingRecord { epochs: Some(200), ..pruned.base.training.clone() };
        let found = compare(&pruned, &scratch, &setup(None));
        // The paper's first rule: the last rates of a comparison with scratch training must be equal.
        assert_eq!((found.level, found.flags), (Some(Level::S4_2), vec![Flag::FinalLrDiffers]));
        let found = compare(&pruned, &scratch, &setup(Some(Total::Epochs)));
        assert!(found.flags.contains(&Flag::TotalEpochsDiffer), "{:?}", found.flags);
        let mut heavier = scratch.clone();
        heavier.retraining.weight_decay = Some(1e-4);
        let found = compare(&pruned, &heavier, &setup(None));
        assert_eq!(found.level, Some(Level::S3_1));
        assert!(found.flags.contains(&Flag::FtOtherDiffers));
        scratch.pruning.scratch = Some(Scratch::LargeSparse);
        assert!(compare(&pruned, &scratch, &setup(None)).flags.contains(&Flag::ScratchLargeSparse));

        // One schedule, in which the network is pruned after 30 epochs.
        let mut early = record();
        early.base.training = training(30, "0:0.1");
        early.retraining = training(90, "0:0.01,30:0.001,60:1e-4,75:1e-5");
        scratch.pruning.scratch = Some(Scratch::SmallDense);
        scratch.retraining = training(120, "0:0.1,30:0.01,60:0.001,90:1e-4,105:1e-5");
        let found = compare(&early, &scratch, &setup(Some(Total::Epochs)));
        assert_eq!((found.level, found.flags), (Some(Level::S4_2), vec![]));
        let found = compare(&early, &scratch, &setup(Some(Total::Computation)));
        assert_eq!(found.flags, [Flag::BaseDiffers, Flag::TotalFlopsDiffer]);
    }

    #[test]
    fn a_run_that_was_cut_short_is_flagged() {
        let rising: Vec<f64> = (0..30).map(f64::from).collect();
        assert_eq!(still_rising(&rising, 15), Some(true));
        assert_eq!(still_rising(&[90.0; 30], 15), Some(false));
        assert_eq!(still_rising(&rising, 31), None);
        assert_eq!(still_rising(&rising, 1), None);
        let mut record = record();
        record.accuracy.by_epoch = (0..120).map(|epoch| 0.5 * f64::from(epoch)).collect();
        assert_eq!(own_flags(&record), [Flag::NotConverged]);
        record.retraining = training(120, "0:0.001,60:0.0001");
        record.pruning.ratios = Some([("conv1".to_owned(), 0.5)].into());
        record.accuracy.best_on_test = Some(true);
        assert_eq!(own_flags(&record), [Flag::NotConverged, Flag::LrTooSmall, Flag::BestOnTest]);
        assert_eq!(Flag::FtLrDiffers.to_string(), "FT_LR_DIFFERS");
        assert_eq!(serde_json::to_string(&Flag::FtLrDiffers).unwrap(), "\"FT_LR_DIFFERS\"");
    }
}
