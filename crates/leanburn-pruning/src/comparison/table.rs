use std::{collections::BTreeSet, fmt::Write};

use leanburn_core::{Error, Result, metrics::mean_std};
use serde::{Deserialize, Serialize};

use super::{Flag, Level, Record, Setup, compare};

/// Runs of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Their name.
    pub name: String,
    /// How many there are; a record of a paper's mean counts as many as it is of.
    pub runs: usize,
    /// Mean and population deviation of the last epoch's accuracy, in percent.
    pub accuracy: Option<(f64, f64)>,
    /// That of the best epoch, which the test data selects.
    pub best: Option<(f64, f64)>,
    /// That right after pruning.
    pub after_pruning: Option<(f64, f64)>,
    /// The mean over the first stage of retraining.
    pub trainability: Option<(f64, f64)>,
    /// The mean singular value of the Jacobian right after pruning, and a reinitialisation.
    pub mean_jsv: Option<(f64, f64)>,
    /// Parameters of convolutions and linear layers.
    pub params: Option<usize>,
    /// Multiply-accumulate operations of an image.
    pub macs: Option<usize>,
    /// MACs of the dense network over those of the pruned one.
    pub speedup: Option<f64>,
    /// The part of parameters that is gone.
    pub sparsity: Option<f64>,
    /// Bytes of the weights.
    pub weight_bytes: Option<usize>,
    /// The median time of a batch, in milliseconds.
    pub latency: Option<f64>,
    /// The dense network's time over this one's.
    pub measured_speedup: Option<f64>,
    /// The highest level that all runs have in common with those of the reference.
    pub level: Option<Level>,
    /// Whether that is as high as declared.
    pub is_fair: bool,
    /// What speaks against comparing them with the reference.
    pub flags: Vec<Flag>,
}

/// Runs under a declared setup, compared with those of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What is declared equal.
    pub setup: Setup,
    /// The name of the runs that all others are compared with.
    pub reference: String,
    /// One for each name, in order of names.
    pub rows: Vec<Row>,
}

impl Table {
    /// Compares all runs with those called `reference`, or with those of the first one's name.
    ///
    /// # Errors
    ///
    /// When there is no run, or none of the reference's name.
    pub fn new(records: &[Record], setup: &Setup, reference: Option<&str>) -> Result<Self> {
        let first = records.first().ok_or_else(|| Error::data("records", "at least one", "none"))?;
        let reference = reference.unwrap_or(&first.name);
        let runs_of = |name: &str| records.iter().filter(|record| record.name == name).collect::<Vec<_>>();
        let of_reference = runs_of(reference);
        let names: BTreeSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
        if of_reference.is_empty() {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::setting("reference", format!("one of {names}"), reference));
        }
        let rows = names.into_iter().map(|name| row(name, &runs_of(name), &of_reference, setup)).collect();
        Ok(Self { setup: setup.clone(), reference: reference.to_owned(), rows })
    }

    /// The cells of each row, below their headings.
    fn cells(&self) -> Vec<Vec<String>> {
        let headings = [
            "method",
            "runs",
            "accuracy",
            "best",
            "after pruning",
            "TA",
            "mean JSV",
            "params",
            "MACs",
            "speedup",
            "sparsity",
            "MB",
            "ms",
            "measured",
            "level",
        ];
        let mut cells = vec![headings.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let spread = |value: Option<(f64, f64)>, digits: usize| {
                value.map_or(String::new(), |(mean, std)| format!("{mean:.digits$} +- {std:.digits$}"))
            };
            let number =
                |value: Option<f64>, digits: usize| value.map_or(String::new(), |v| format!("{v:.digits$}"));
            let count = |value: Option<usize>| value.map_or(String::new(), |v| v.to_string());
            let times = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.2}x"));
            let level = row.level.map_or("none".to_owned(), |level| level.to_string());
            let mark = if row.name == self.reference {
                "reference".to_owned()
            } else if row.is_fair {
                level
            } else {
                format!("{level} (!)")
            };
            cells.push(vec![
                row.name.clone(),
                row.runs.to_string(),
                spread(row.accuracy, 2),
                spread(row.best, 2),
                spread(row.after_pruning, 2),
                number(row.trainability.map(|(mean, _)| mean), 1),
                spread(row.mean_jsv, 3),
                count(row.params),
                count(row.macs),
                times(row.speedup),
                number(row.sparsity.map(|part| 100.0 * part), 2),
                number(row.weight_bytes.map(|bytes| bytes as f64 / 1e6), 3),
                number(row.latency, 2),
                times(row.measured_speedup),
                mark,
            ]);
        }
        // A column that no row has something in is left out.
        let used: Vec<usize> =
            (0..headings.len()).filter(|&c| cells[1..].iter().any(|row| !row[c].is_empty())).collect();
        cells.into_iter().map(|row| used.iter().map(|&column| row[column].clone()).collect()).collect()
    }

    /// What is told below a table: the setup, and each row's flags with their reasons.
    fn remarks(&self) -> Vec<String> {
        let total = self.setup.total.map_or("", |total| match total {
            super::Total::Epochs => " and SX-A (all epochs)",
            super::Total::Computation => " and SX-B (all computation)",
        });
        let mut remarks = vec![format!(
            "declared: {}{total}, against {}; (!) marks rows that hold less in common",
            self.setup.level, self.reference
        )];
        let raised: BTreeSet<Flag> = self.rows.iter().flat_map(|row| row.flags.iter().copied()).collect();
        for row in self.rows.iter().filter(|row| !row.flags.is_empty()) {
            let flags: Vec<String> = row.flags.iter().map(Flag::to_string).collect();
            remarks.push(format!("{}: {}", row.name, flags.join(", ")));
        }
        remarks.extend(raised.into_iter().map(|flag| format!("{flag}: {}", flag.reason())));
        remarks
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let cells = self.cells();
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
        let mut text = String::new();
        for row in &cells {
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let cell = if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
                text.push_str(&cell);
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for remark in self.remarks() {
            let _ = writeln!(text, "{remark}");
        }
        text
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (place, row) in self.cells().iter().enumerate() {
            let row: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if place == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
        text.push('\n');
        for remark in self.remarks() {
            let _ = writeln!(text, "- {}", remark.replace('_', "\\_"));
        }
        text
    }

    /// The rows as records of one line each, for [`write_csv`](leanburn_core::report::write_csv).
    pub fn lines(&self) -> impl Iterator<Item = impl Serialize> {
        /// A row whose fields are single cells.
        #[derive(Serialize)]
        struct Line<'a> {
            method: &'a str,
            runs: usize,
            accuracy: Option<f64>,
            accuracy_std: Option<f64>,
            best: Option<f64>,
            best_std: Option<f64>,
            after_pruning: Option<f64>,
            trainability_accuracy: Option<f64>,
            mean_jsv: Option<f64>,
            params: Option<usize>,
            macs: Option<usize>,
            speedup: Option<f64>,
            sparsity: Option<f64>,
            weight_bytes: Option<usize>,
            latency_ms: Option<f64>,
            measured_speedup: Option<f64>,
            level: Option<Level>,
            is_fair: bool,
            flags: String,
        }
        let mean = |value: Option<(f64, f64)>| value.map(|(mean, _)| mean);
        let std = |value: Option<(f64, f64)>| value.map(|(_, std)| std);
        self.rows.iter().map(move |row| Line {
            method: &row.name,
            runs: row.runs,
            accuracy: mean(row.accuracy),
            accuracy_std: std(row.accuracy),
            best: mean(row.best),
            best_std: std(row.best),
            after_pruning: mean(row.after_pruning),
            trainability_accuracy: mean(row.trainability),
            mean_jsv: mean(row.mean_jsv),
            params: row.params,
            macs: row.macs,
            speedup: row.speedup,
            sparsity: row.sparsity,
            weight_bytes: row.weight_bytes,
            latency_ms: row.latency,
            measured_speedup: row.measured_speedup,
            level: row.level,
            is_fair: row.is_fair,
            flags: row.flags.iter().map(Flag::to_string).collect::<Vec<_>>().join(" "),
        })
    }
}

/// Mean and deviation of what is known of some runs.
pub(super) fn spread(records: &[&Record], of: impl Fn(&Record) -> Option<f64>) -> Option<(f64, f64)> {
    let known: Vec<f64> = records.iter().filter_map(|record| of(record)).collect();
    (!known.is_empty()).then(|| mean_std(&known))
}

fn row(name: &str, records: &[&Record], reference: &[&Record], setup: &Setup) -> Row {
    let accuracy = |records: &[&Record]| match records {
        // What a paper prints is a mean with its deviation already.
        [one] if one.accuracy.std.is_some() => one.accuracy.last.zip(one.accuracy.std),
        _ => spread(records, |record| record.accuracy.last),
    };
    let mut flags = BTreeSet::new();
    let mut levels = Vec::new();
    let is_reference = reference.iter().any(|other| other.name == name);
    for record in records {
        // The reference's run of the same seed has the same base model.
        let same_seed = reference.iter().find(|other| other.seed.is_some() && other.seed == record.seed);
        let found = compare(record, same_seed.unwrap_or(&reference[0]), setup);
        if is_reference {
            flags.extend(super::fairness::own_flags(record));
        } else {
            levels.push(found.level);
            flags.extend(found.flags);
        }
    }
    // Runs of one seed are one.
    let seeds = |records: &[&Record]| {
        let known: BTreeSet<u64> = records.iter().filter_map(|record| record.seed).collect();
        let unknown = records.iter().filter(|record| record.seed.is_none());
        known.len() + unknown.map(|record| record.accuracy.runs.unwrap_or(1)).sum::<usize>()
    };
    let few = seeds(records) < 3 || seeds(reference) < 3;
    let close = match (accuracy(records), accuracy(reference)) {
        (Some((a, a_std)), Some((b, b_std))) if !is_reference => (a - b).abs() <= a_std.max(b_std),
        _ => false,
    };
    if few || close {
        flags.insert(Flag::FewSeeds);
    }
    let level = if is_reference { Some(Level::S4_2) } else { levels.into_iter().min().flatten() };
    let first = records[0];
    let latency = spread(records, |record| record.latency.map(|latency| latency.median));
    let dense = spread(records, |record| record.dense_latency.map(|latency| latency.median));
    Row {
        name: name.to_owned(),
        runs: records.iter().map(|record| record.accuracy.runs.unwrap_or(1)).sum(),
        accuracy: accuracy(records),
        best: spread(records, |record| record.accuracy.best),
        after_pruning: spread(records, |record| record.accuracy.after_pruning),
        trainability: spread(records, Record::trainability_accuracy),
        mean_jsv: spread(records, |record| record.mean_jsv[1]),
        params: first.pruned.map(|cost| cost.params),
        macs: first.pruned.map(|cost| cost.macs),
        speedup: first.speedup(),
        sparsity: first.sparsity(),
        weight_bytes: first.weight_bytes,
        latency: latency.map(|(mean, _)| mean),
        measured_speedup: dense.zip(latency).map(|((dense, _), (pruned, _))| dense / pruned),
        level,
        is_fair: level.is_some_and(|level| level >= setup.level)
            && !flags.contains(&Flag::TotalEpochsDiffer)
            && !flags.contains(&Flag::TotalFlopsDiffer),
        flags: flags.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Accuracies;

    fn run(name: &str, seed: u64, accuracy: f64) -> Record {
        let mut record = Record { name: name.to_owned(), seed: Some(seed), ..Record::default() };
        record.accuracy = Accuracies { last: Some(accuracy), ..Accuracies::default() };
        record.data.name = Some("digits".to_owned());
        record.architecture = Some("LeNet-5".to_owned());
        record.speedup = Some(2.0);
        record.base.hash = Some(format!("base of seed {seed}"));
        record
    }

    #[test]
    fn rows_have_means_levels_and_reasons() {
        let mut records: Vec<Record> = (0..3).map(|seed| run("L1", seed, 97.0 + seed as f64)).collect();
        records.extend((0..3).map(|seed| run("TPP", seed, 92.0)));
        let setup = Setup { level: Level::S2, ..Setup::default() };
        let table = Table::new(&records, &setup, None).unwrap();
        let [l1, tpp] = &table.rows[..] else { panic!("{table:?}") };
        assert_eq!((l1.runs, l1.accuracy.unwrap().0, table.reference.as_str()), (3, 98.0, "L1"));
        assert!((l1.accuracy.unwrap().1 - (2.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        // Runs of one seed have one base model.
        assert_eq!((tpp.level, tpp.is_fair, tpp.flags.as_slice()), (Some(Level::S2), true, &[][..]));
        let strict = Table::new(&records, &Setup::default(), Some("TPP")).unwrap();
        assert!(!strict.rows[0].is_fair);
        assert_eq!(strict.rows[0].flags, [Flag::Unreported]);
        let text = strict.text();
        assert!(text.contains("S2 (!)") && text.contains("98.00 +- 0.82"), "{text}");
        assert!(text.contains("UNREPORTED: something"), "{text}");
        assert!(!text.contains("params"), "{text}");
        assert!(strict.markdown().starts_with("| method | runs |"), "{}", strict.markdown());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        leanburn_core::report::write_csv(&path, table.lines()).unwrap();
        let csv = std::fs::read_to_string(path).unwrap();
        assert!(csv.contains("L1,3,98.0") && csv.lines().count() == 3, "{csv}");
        let close: Vec<Record> = [run("a", 0, 90.0), run("b", 0, 91.0)].into();
        assert_eq!(Table::new(&close, &setup, None).unwrap().rows[1].flags, [Flag::FewSeeds]);
        // A paper's mean is of as many runs as it says.
        let mut printed: Vec<Record> = [run("a", 0, 90.0), run("b", 0, 92.0)].into();
        for (record, std) in printed.iter_mut().zip([0.25, 0.5]) {
            (record.seed, record.accuracy.std, record.accuracy.runs) = (None, Some(std), Some(3));
            record.base.hash = Some("one".to_owned());
        }
        let table = Table::new(&printed, &setup, None).unwrap();
        assert_eq!((table.rows[1].runs, table.rows[1].accuracy), (3, Some((92.0, 0.5))));
        assert!(table.rows[1].flags.is_empty(), "{:?}", table.rows[1].flags);
        printed[1].accuracy.last = Some(90.5);
        assert_eq!(Table::new(&printed, &setup, None).unwrap().rows[1].flags, [Flag::FewSeeds]);
        let error = Table::new(&close, &setup, Some("c")).unwrap_err().to_string();
        assert!(error.contains("a, b"), "{error}");
        assert!(Table::new(&[], &setup, None).is_err());
    }

    #[test]
    fn records_are_json_in_which_what_is_absent_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        std::fs::write(&path, r#"[{"name": "SSL", "retraining": {"rates": {"stages": "0:0.01"}}}, {}]"#)
            .unwrap();
        let records = Record::open(&path).unwrap();
        assert_eq!((records.len(), records[0].name.as_str()), (2, "SSL"));
        assert_eq!((records[0].retraining.epochs, records[0].total_epochs()), (None, None));
        for (text, expected) in
            [(r#"{"nam": "x"}"#, "nam"), (r#"[{"retraining": {"rates": {"stages": "x"}}}]"#, "record 1")]
        {
            let path = folder.path().join("bad.json");
            std::fs::write(&path, text).unwrap();
            let error = Record::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let path = folder.path().join("whole.json");
        leanburn_core::report::write_json(&path, &records).unwrap();
        assert_eq!(Record::open(&path).unwrap(), records);
    }
}
