//! Isolation forest.

use leanburn_core::{Error, Result, random::Generator, table::Table};
use rand::{RngExt, seq::index};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Baseline, check_columns, check_rows};

/// Rows that one task scores tree by tree, so that a tree stays in the fastest cache.
const BLOCK: usize = 256;

/// Settings of an isolation forest (Liu, Ting and Zhou, "Isolation Forest", ICDM 2008).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IsolationForestConfig {
    /// Number of trees, at least 1; 100 by default.
    pub trees: usize,
    /// Rows drawn for a tree without replacement, at least 2; 256 by default. All rows where there are fewer.
    pub subsample: usize,
}

impl Default for IsolationForestConfig {
    fn default() -> Self {
        Self { trees: 100, subsample: 256 }
    }
}

impl IsolationForestConfig {
    /// Grows the forest on `table`, [rows, columns]. The same seed gives the same forest, whatever the number of
    /// threads.
    ///
    /// A tree cuts its rows at a column drawn among those that vary there, at a threshold drawn uniformly over their
    /// range, until a row is alone, all are equal, or the tree is as deep as a balanced tree of the subsample.
    ///
    /// scikit-learn rounds cells to `f32` and holds a column for constant where it varies by at most 1e-7; here cells
    /// stay as they are, and only equal ones are constant.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range or `table` has one row.
    pub fn fit(&self, table: &Table, seed: u64) -> Result<IsolationForest> {
        if self.trees == 0 {
            return Err(Error::setting("trees", "at least 1", self.trees));
        }
        if self.subsample < 2 {
            return Err(Error::setting("subsample", "at least 2", self.subsample));
        }
        check_rows(table)?;
        let subsample = self.subsample.min(table.rows());
        let trees = (0..self.trees as u64)
            .into_par_iter()
            .map(|tree| {
                let mut generator = Generator::stream(seed, tree);
                let rows = index::sample(generator.rng(), table.rows(), subsample).into_vec();
                let columns = (0..table.columns()).collect();
                // The logarithm rounded up.
                let max_depth = subsample.next_power_of_two().ilog2();
                Grower { table, columns, max_depth, generator }.grow(&rows, 0)
            })
            .collect();
        Ok(IsolationForest { trees, subsample, columns: table.columns() })
    }
}

/// A fitted isolation forest.
///
/// The score is `2^(-E[h] / c(subsample))`: `h` is the depth of the row's leaf plus `c(rows in it)`, and `c(n)` the mean
/// depth of a search that fails in a random binary tree of `n` keys. It is near 1 for an anomaly and below 0.5 for a
/// normal row.
#[derive(Debug, Clone)]
pub struct IsolationForest {
    trees: Vec<Node>,
    subsample: usize,
    columns: usize,
}

impl Baseline for IsolationForest {
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>> {
        check_columns(table, self.columns)?;
        let scale = self.trees.len() as f64 * mean_path(self.subsample);
        let scores = table.values().par_chunks(BLOCK * self.columns).flat_map_iter(|block| {
            let mut paths = vec![0.0; block.len() / self.columns];
            for tree in &self.trees {
                for (path, row) in paths.iter_mut().zip(block.chunks_exact(self.columns)) {
                    *path += tree.path(row);
                }
            }
            paths.into_iter().map(|path| (-path / scale).exp2())
        });
        Ok(scores.collect())
    }
}

/// A node of a tree.
#[derive(Debug, Clone)]
enum Node {
    /// Rows up to the threshold go to the first child, the others to the second.
    Split { column: usize, threshold: f64, children: Box<[Node; 2]> },
    /// The path length of the rows that end here.
    Leaf { path: f64 },
}

impl Node {
    /// The path length of `row`.
    fn path(&self, row: &[f64]) -> f64 {
        let mut node = self;
        loop {
            match node {
                Self::Split { column, threshold, children } => {
                    node = &children[usize::from(row[*column] > *threshold)];
                }
                Self::Leaf { path } => return *path,
            }
        }
    }
}

/// What the growth of one tree needs.
struct Grower<'a> {
    table: &'a Table,
    /// All columns, in an order that the draws change.
    columns: Vec<usize>,
    max_depth: u32,
    generator: Generator,
}

impl Grower<'_> {
    /// The tree of `rows` at `depth`.
    fn grow(&mut self, rows: &[usize], depth: u32) -> Node {
        let split = if depth < self.max_depth && rows.len() > 1 { self.draw_split(rows) } else { None };
        let Some((column, threshold)) = split else {
            return Node::Leaf { path: f64::from(depth) + mean_path(rows.len()) };
        };
        let (low, high): (Vec<_>, Vec<_>) =
            rows.iter().partition(|&&row| self.table.row(row)[column] <= threshold);
        let children = Box::new([self.grow(&low, depth + 1), self.grow(&high, depth + 1)]);
        Node::Split { column, threshold, children }
    }

    /// A column drawn among those that vary in `rows`, and a threshold from its least value (included) to its
    /// greatest (excluded); none when all rows are equal.
    fn draw_split(&mut self, rows: &[usize]) -> Option<(usize, f64)> {
        let count = self.columns.len();
        for drawn in 0..count {
            self.columns.swap(drawn, drawn + self.generator.below(count - drawn));
            let column = self.columns[drawn];
            let values = rows.iter().map(|&row| self.table.row(row)[column]);
            let (low, high) =
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
            if low < high {
                let threshold = low + self.generator.rng().random::<f64>() * (high - low);
                // Rounding, or an overflow of the range, could leave no row above.
                return Some((column, if threshold < high { threshold } else { low }));
            }
        }
        None
    }
}

/// `c(n)`: the mean depth of a search that fails in a random binary tree of `n` keys.
fn mean_path(n: usize) -> f64 {
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    let n = n as f64;
    match n {
        ..=1.0 => 0.0,
        2.0 => 1.0,
        _ => 2.0 * ((n - 1.0).ln() + EULER_GAMMA) - 2.0 * (n - 1.0) / n,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, assert_refuses_another_width, one_row, table};
    use super::*;

    fn scores(config: &IsolationForestConfig, table: &Table, seed: u64) -> Vec<f64> {
        config.fit(table, seed).unwrap().anomaly_score(table).unwrap()
    }

    #[test]
    fn scores_agree_with_scikit_learn() {
        // -IsolationForest(n_estimators=20000, random_state=0).fit(X).score_samples(X)
        let expected = [0.486_55, 0.419_34, 0.420_94, 0.446_64, 0.393_44, 0.698_05];
        let config = IsolationForestConfig { trees: 20_000, ..Default::default() };
        assert_close(&scores(&config, &table(), 3), &expected, 0.005);
        // The same with [[0], [1], [10]]; the exact values are 2^(-[1.9, 2, 1.1] / c(3)).
        let table = Table::new(vec![0.0, 1.0, 10.0], 1).unwrap();
        assert_close(&scores(&config, &table, 3), &[0.335_50, 0.317_22, 0.532_53], 0.005);
    }

    #[test]
    fn a_subsample_smaller_than_the_table() {
        // -IsolationForest(n_estimators=4000, max_samples=16).fit(X).score_samples(X[[0, 5, 20, 63]]), X[i] = [i, i*i%7],
        // means of random_state 0 and 1.
        let cells = (0..64).flat_map(|i| [f64::from(i), f64::from(i * i % 7)]).collect();
        let config = IsolationForestConfig { trees: 8000, subsample: 16 };
        let scores = scores(&config, &Table::new(cells, 2).unwrap(), 0);
        assert_close(&[0, 5, 20, 63].map(|row| scores[row]), &[0.617, 0.591, 0.488, 0.617], 0.008);
    }

    #[test]
    fn equal_rows_cannot_be_isolated() {
        let scores = scores(&IsolationForestConfig::default(), &Table::new(vec![7.0; 30], 3).unwrap(), 0);
        assert_close(&scores, &[0.5; 10], 1e-12);
    }

    #[test]
    fn the_seed_decides_whatever_the_threads() {
        let config = IsolationForestConfig { trees: 20, subsample: 4 };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = pool.install(|| scores(&config, &table(), 5));
        assert_eq!(scores(&config, &table(), 5), alone);
        assert_ne!(scores(&config, &table(), 6), alone);
    }

    #[test]
    fn splits_survive_the_whole_range_of_floats() {
        let table = Table::new(vec![f64::MAX, f64::MIN, 0.0, f64::MIN_POSITIVE], 1).unwrap();
        assert!(scores(&IsolationForestConfig::default(), &table, 0).iter().all(|score| score.is_finite()));
    }

    #[test]
    fn unusable_settings_and_tables_are_refused() {
        let config = IsolationForestConfig::default();
        let error = IsolationForestConfig { trees: 0, ..config.clone() }.fit(&table(), 0).unwrap_err();
        assert_eq!(error.to_string(), "setting `trees`: expected at least 1, found 0");
        let error = IsolationForestConfig { subsample: 1, ..config.clone() }.fit(&table(), 0).unwrap_err();
        assert_eq!(error.to_string(), "setting `subsample`: expected at least 2, found 1");
        assert!(config.fit(&one_row(), 0).is_err());
        assert_refuses_another_width(&config.fit(&table(), 0).unwrap());
    }
}
