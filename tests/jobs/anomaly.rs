//! What SLA2P promises of any table. The sets are small; the published results are in `published`.

use leanburn::{
    anomaly::{
        baselines::{Baseline, IsolationForestConfig},
        sla2p::{Architecture, ScoreKind, Step, StopReason},
    },
    core::{metrics::mean_std, random::Generator},
    prelude::*,
};
use leanburn_datasets::angular;

fn training() -> DispatchDevice {
    leanburn::device::autodiff(leanburn_tests::device().unwrap())
}

fn small() -> Sla2pConfig {
    Sla2pConfig::new().with_projections(16).with_width(16).with_epsilon(50.0)
}

fn fit(config: &Sla2pConfig, table: &Table) -> Sla2p<Dispatch> {
    config.fit::<Dispatch>(table, &training()).unwrap()
}

fn close(ours: &[f64], theirs: &[f64]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-5)
}

#[test]
fn angular_anomalies_are_found_where_isolation_forest_fails() {
    let table = angular(7);
    let labels = table.labels().unwrap();
    let auroc = |scores: &Scores| 100.0 * scores.evaluate(labels).unwrap().auroc;
    let config = Sla2pConfig::new().with_projections(32).with_width(32);
    let (mut sla, mut weak, mut strong, mut forest) = (vec![], vec![], vec![], vec![]);
    for seed in 0..5 {
        let detector = fit(&config.clone().with_seed(seed), &table);
        assert_eq!(detector.report().stop, StopReason::ThresholdReached);
        assert!((50..=110).contains(&detector.report().steps), "{} steps", detector.report().steps);
        let detector = detector.with_step(Step::None, 0.0).unwrap();
        sla.push(auroc(&detector.score(&table).unwrap()));
        let detector = detector.with_step(Step::PerSample, 10.0).unwrap();
        weak.push(auroc(&detector.score(&table).unwrap()));
        let detector = detector.with_step(Step::PerSample, 100.0).unwrap();
        strong.push(auroc(&detector.score(&table).unwrap()));
        forest
            .push(auroc(&IsolationForestConfig::default().fit(&table, seed).unwrap().score(&table).unwrap()));
    }
    for (name, values) in [("SLA", &sla), ("epsilon 10", &weak), ("epsilon 100", &strong)] {
        assert!(mean_std(values).0 > 93.0, "{name}: {values:?}");
    }
    assert!((67.0..75.0).contains(&mean_std(&forest).0), "isolation forest: {forest:?}");
}

#[test]
fn a_score_does_not_depend_on_the_other_rows() {
    let table = angular(7);
    let detector = fit(&small(), &table);
    let scores = detector.score(&table).unwrap();

    let order = Generator::new(1).permutation(table.rows());
    let shuffled = detector.score(&table.select_rows(&order)).unwrap();
    let expected: Vec<f64> = order.iter().map(|&row| scores.normality()[row]).collect();
    assert!(close(shuffled.normality(), &expected));

    for size in [1, 7, 128, 439] {
        let rows: Vec<usize> = (0..table.rows()).collect();
        let chunks = rows.chunks(size).take(20);
        let parts =
            chunks.flat_map(|chunk| detector.score(&table.select_rows(chunk)).unwrap().normality().to_vec());
        let parts: Vec<f64> = parts.collect();
        assert!(close(&parts, &scores.normality()[..parts.len()]), "chunks of {size}");
    }
}

#[test]
fn the_official_step_depends_on_the_order() {
    let table = angular(7);
    let detector = fit(&small().with_step(Step::OfficialBatchMean), &table);
    let scores = detector.score(&table).unwrap();
    let reversed: Vec<usize> = (0..table.rows()).rev().collect();
    let other = detector.score(&table.select_rows(&reversed)).unwrap();
    let expected: Vec<f64> = reversed.iter().map(|&row| scores.normality()[row]).collect();
    assert!(!close(other.normality(), &expected));
}

#[test]
fn no_step_and_a_step_of_zero_are_sla() {
    let table = angular(7);
    let detector = fit(&small(), &table).with_step(Step::None, 0.0).unwrap();
    let sla = detector.score(&table).unwrap();
    let zero = detector.with_step(Step::PerSample, 0.0).unwrap().score(&table).unwrap();
    assert_eq!(sla, zero);
}

#[test]
fn the_same_seed_gives_the_same_scores() {
    let table = angular(7);
    // The architecture with dropout, which draws most.
    let config = small().with_architecture(Architecture::FcnDrop);
    let scores = |seed| fit(&config.clone().with_seed(seed), &table).score(&table).unwrap();
    assert_eq!(scores(3), scores(3));
    assert_ne!(scores(3), scores(4));
}

#[test]
fn a_saved_detector_scores_the_same() {
    let table = angular(7);
    let folder = tempfile::tempdir().unwrap();
    for architecture in
        [Architecture::Fcn, Architecture::Fcn4, Architecture::FcnDrop, Architecture::OneLinear]
    {
        let path = folder.path().join(format!("{architecture:?}"));
        let preprocessing = PreprocessingConfig::new().with_standardise(true).with_bias_column(true);
        let config =
            small().with_architecture(architecture).with_preprocessing(preprocessing).with_max_steps(40);
        let detector = fit(&config, &table);
        assert!(detector.flag(&table).unwrap_err().to_string().contains("with_threshold"));
        let scores = detector.score(&table).unwrap();
        let detector = detector.with_threshold(scores.threshold(0.1).unwrap()).unwrap();
        assert_eq!(detector.flag(&table).unwrap(), scores.predict(0.1).unwrap());
        detector.save(&path).unwrap();
        let loaded = Sla2p::<Dispatch>::load(&path, &leanburn_tests::device().unwrap()).unwrap();
        assert_eq!(loaded.report(), detector.report());
        assert_eq!(loaded.score(&table).unwrap(), scores);
        assert_eq!(loaded.threshold(), detector.threshold());
        assert!(matches!(detector.save(&path), Err(Error::Exists { .. })));
    }
    let broken = folder.path().join("Fcn");
    let config = std::fs::read_to_string(broken.join("config.json")).unwrap();
    let load =
        || Sla2p::<Dispatch>::load(&broken, &leanburn_tests::device().unwrap()).unwrap_err().to_string();
    for (from, to, named) in [
        ("\"projections\": 16", "\"projections\": 0", "projections"),
        ("\"projections\": 16", "\"projections\": 17", "fc3.weight"),
        ("\"projections\": 16", "\"projections\": 16000000", "values in classifier.safetensors"),
        ("\"seed\": 0", "\"seed\": 1", "first_projected"),
        ("\"width\": 16", "\"width\": 16000000", "first_projected"),
    ] {
        assert!(config.contains(from), "{config}");
        std::fs::write(broken.join("config.json"), config.replace(from, to)).unwrap();
        assert!(load().contains(named), "{}", load());
    }
    std::fs::write(broken.join("config.json"), config).unwrap();
    std::fs::write(broken.join("state.json"), "{}").unwrap();
    assert!(load().contains("state.json"), "{}", load());
}

#[test]
fn explanations_average_to_the_score() {
    let table = angular(7);
    let detector = fit(&small(), &table);
    let scores = detector.score(&table).unwrap();
    let means: Vec<f64> = detector
        .explain(&table)
        .unwrap()
        .iter()
        .map(|row| row.iter().map(|&score| f64::from(score)).sum::<f64>() / row.len() as f64)
        .collect();
    assert!(close(&means, scores.normality()));
}

#[test]
fn all_kinds_of_score_rank_alike_without_perturbation() {
    let table = angular(7);
    let labels = table.labels().unwrap();
    let mut detector = fit(&small(), &table).with_step(Step::None, 0.0).unwrap();
    for kind in [ScoreKind::Brier, ScoreKind::PseudoLabel, ScoreKind::Max, ScoreKind::NegativeEntropy] {
        detector = detector.with_score(kind.clone());
        let auroc = detector.score(&table).unwrap().evaluate(labels).unwrap().auroc;
        assert!(auroc > 0.85, "{kind:?}: {auroc}");
    }
}

#[test]
fn training_always_ends() {
    let table = angular(7);
    // More than can be learnt in so few steps.
    let config = small().with_accuracy_threshold(0.99).with_max_steps(5);
    let report = fit(&config, &table).report().clone();
    assert_eq!((report.stop, report.steps, report.losses.len()), (StopReason::StepLimit, 5, 5));

    // 440 rows x 16 projections make 55 batches of 128.
    let config = small().with_accuracy_threshold(0.99).with_max_epochs(Some(1));
    let report = fit(&config, &table).report().clone();
    assert_eq!((report.stop, report.steps), (StopReason::EpochLimit, 55));
}

#[test]
fn odd_tables_are_scored_or_refused() {
    // A constant column, a row of zeros, and a last batch of a single row: 43 x 3 = 129.
    let mut values: Vec<f64> = angular(1).values()[..43 * 4].to_vec();
    values[..4].fill(0.0);
    for row in values.chunks_mut(4) {
        row[2] = 0.0;
    }
    let table = Table::new(values, 4).unwrap();
    let config = small().with_projections(3).with_width(4).with_max_epochs(Some(2));
    let scores = fit(&config.clone().with_accuracy_threshold(0.999), &table).score(&table).unwrap();
    assert!(scores.normality().iter().all(|score| score.is_finite()));

    let refused = |config: Sla2pConfig, table: &Table| {
        config.fit::<Dispatch>(table, &training()).unwrap_err().to_string()
    };
    let one_row = Table::new(vec![1.0, 2.0], 2).unwrap();
    assert!(refused(config.clone(), &one_row).contains("at least 2 rows"));
    assert!(refused(config.clone().with_projections(1), &table).contains("projections"));
    assert!(refused(config.clone().with_accuracy_threshold(1.0), &table).contains("accuracy_threshold"));
    assert!(refused(config.clone().with_epsilon(f64::NAN), &table).contains("epsilon"));
    assert!(refused(config.clone().with_learning_rate(1e30), &table).contains("loss of step"));
    let plain = leanburn_tests::device().unwrap();
    assert!(config.fit::<Dispatch>(&table, &plain).unwrap_err().to_string().contains("autodiff"));

    let error = fit(&config, &table).with_step(Step::PerSample, f64::INFINITY).unwrap_err().to_string();
    assert!(error.contains("epsilon"), "{error}");
    let error = fit(&config, &table).score(&one_row).unwrap_err().to_string();
    assert!(error.contains("4 columns") && error.contains("2 columns"), "{error}");
}
