use std::{collections::BTreeMap, fmt::Write};

use leanburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Record, table::spread};

/// Methods under each other's retraining: `A + FT_A`, `B + FT_A`, `A + FT_B`, `B + FT_B` (section 6 of the paper). A
/// method that wins under every retraining is better; where they disagree, method and retraining interact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CrossValidation {
    /// The methods.
    pub methods: Vec<String>,
    /// The retrainings: their epochs and learning rates.
    pub retrainings: Vec<String>,
    /// By retraining and method: mean and deviation of the accuracy, in percent.
    pub accuracies: Vec<Vec<(f64, f64)>>,
    /// What follows.
    pub verdict: Verdict,
}

/// What a cross-validation tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// One method wins under every retraining, by more than a deviation.
    Better(String),
    /// Other methods win under other retrainings: method and retraining interact. The highest accuracy is this method's.
    Interacts(String),
    /// No method wins by more than a deviation everywhere.
    Undecided,
}

impl CrossValidation {
    /// Takes apart runs by their name, the method's, and by their retraining.
    ///
    /// # Errors
    ///
    /// When there are fewer than two methods or retrainings, a run's retraining or accuracy is not known, or a method
    /// was not run under a retraining.
    pub fn new(records: &[Record]) -> Result<Self> {
        let mut cells: BTreeMap<(String, String), Vec<&Record>> = BTreeMap::new();
        let (mut methods, mut retrainings): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for record in records {
            let unknown = |what: &str| Error::data(format!("record `{}`", record.name), what, "unknown");
            let epochs = record.retraining.epochs.ok_or_else(|| unknown("the epochs of its retraining"))?;
            let rates = record.retraining.rates.as_ref().ok_or_else(|| unknown("its learning rates"))?;
            record.accuracy.last.ok_or_else(|| unknown("its accuracy"))?;
            let retraining = format!("{epochs} epochs, {rates}");
            if !methods.contains(&record.name) {
                methods.push(record.name.clone());
            }
            if !retrainings.contains(&retraining) {
                retrainings.push(retraining.clone());
            }
            cells.entry((retraining, record.name.clone())).or_default().push(record);
        }
        if methods.len() < 2 || retrainings.len() < 2 {
            let found = format!("{} and {}", methods.len(), retrainings.len());
            return Err(Error::data("records", "at least two methods and two retrainings", found));
        }
        let mut accuracies = Vec::new();
        for retraining in &retrainings {
            let of_retraining = methods.iter().map(|method| {
                let runs = cells.get(&(retraining.clone(), method.clone()));
                runs.and_then(|runs| spread(runs, |record| record.accuracy.last)).ok_or_else(|| {
                    Error::data(format!("method `{method}`"), format!("a run of {retraining}"), "none")
                })
            });
            accuracies.push(of_retraining.collect::<Result<Vec<_>>>()?);
        }
        let verdict = verdict(&methods, &accuracies);
        Ok(Self { methods, retrainings, accuracies, verdict })
    }

    /// The matrix and the verdict, for a terminal.
    pub fn text(&self) -> String {
        let first = self.retrainings.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = self.methods.iter().map(|name| name.chars().count().max(15)).collect();
        let mut text = format!("{:first$}", "");
        for (method, width) in self.methods.iter().zip(&widths) {
            let _ = write!(text, "  {method:>width$}");
        }
        text.push('\n');
        for (retraining, row) in self.retrainings.iter().zip(&self.accuracies) {
            let _ = write!(text, "{retraining:first$}");
            for ((mean, std), width) in row.iter().zip(&widths) {
                let _ = write!(text, "  {:>width$}", format!("{mean:.2} +- {std:.2}"));
            }
            text.push('\n');
        }
        let verdict = match &self.verdict {
            Verdict::Better(method) => format!("{method} is better under every retraining"),
            Verdict::Interacts(method) => {
                format!(
                    "method and retraining interact: others win elsewhere; the highest accuracy is that of {method}"
                )
            }
            Verdict::Undecided => "no method wins by more than a deviation under every retraining".to_owned(),
        };
        text + &verdict + "\n"
    }
}

fn verdict(methods: &[String], accuracies: &[Vec<(f64, f64)>]) -> Verdict {
    let best = |row: &[(f64, f64)]| {
        (0..row.len()).fold(0, |best, method| if row[method].0 > row[best].0 { method } else { best })
    };
    let wins = |row: &[(f64, f64)]| {
        let winner = best(row);
        let clear = |other: &usize| row[winner].0 - row[*other].0 > row[winner].1.max(row[*other].1);
        (0..row.len()).filter(|other| *other != winner).all(|other| clear(&other)).then_some(winner)
    };
    let winners: Vec<Option<usize>> = accuracies.iter().map(|row| wins(row)).collect();
    let mut decided = winners.iter().flatten();
    let Some(first) = decided.next() else { return Verdict::Undecided };
    if decided.any(|other| other != first) {
        let highest = accuracies.iter().max_by(|a, b| a[best(a)].0.total_cmp(&b[best(b)].0));
        return Verdict::Interacts(methods[highest.map_or(0, |row| best(row))].clone());
    }
    if winners.iter().all(Option::is_some) {
        Verdict::Better(methods[*first].clone())
    } else {
        Verdict::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(name: &str, rates: &str, accuracy: f64) -> Vec<Record> {
        let run = |seed: u64| {
            let mut record = Record { name: name.to_owned(), seed: Some(seed), ..Record::default() };
            record.retraining.epochs = Some(30);
            record.retraining.rates = Some(rates.parse().unwrap());
            record.accuracy.last = Some(accuracy + 0.1 * seed as f64);
            record
        };
        (0..3).map(run).collect()
    }

    fn verdict_of(a: [f64; 2], b: [f64; 2]) -> CrossValidation {
        let (large, small) = ("0:0.01,15:0.001", "0:0.001,15:0.0001");
        let all =
            [runs("A", large, a[0]), runs("A", small, a[1]), runs("B", large, b[0]), runs("B", small, b[1])];
        CrossValidation::new(&all.concat()).unwrap()
    }

    #[test]
    fn a_method_is_better_when_it_wins_under_every_retraining() {
        let better = verdict_of([95.0, 93.0], [94.0, 92.0]);
        assert_eq!(better.verdict, Verdict::Better("A".to_owned()));
        assert!(
            better.text().contains("95.10 +- 0.08") && better.text().contains("A is better"),
            "{}",
            better.text()
        );
        assert_eq!(verdict_of([95.0, 91.0], [94.0, 92.0]).verdict, Verdict::Interacts("A".to_owned()));
        assert_eq!(verdict_of([95.0, 91.0], [94.0, 96.0]).verdict, Verdict::Interacts("B".to_owned()));
        assert_eq!(verdict_of([95.0, 92.0], [94.0, 92.0]).verdict, Verdict::Undecided);
        let one = runs("A", "0:0.1", 90.0);
        assert!(CrossValidation::new(&one).is_err());
        let missing = [runs("A", "0:0.1", 90.0), runs("A", "0:0.2", 90.0), runs("B", "0:0.1", 90.0)].concat();
        let error = CrossValidation::new(&missing).unwrap_err().to_string();
        assert!(error.contains("`B`") && error.contains("0:0.2"), "{error}");
    }
}
