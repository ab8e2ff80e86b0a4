//! Local outlier factor.

use leanburn_core::{Error, Result, table::Table};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Baseline, check_columns, check_finite, check_rows};

/// Queries that one task serves together, so that a panel is read from memory once for all of them.
const BLOCK: usize = 64;
/// Rows of a panel: their distances to a query are summed side by side in vector registers.
const LANES: usize = 16;

/// Settings of the local outlier factor (Breunig, Kriegel, Ng and Sander, "LOF: Identifying Density-Based Local
/// Outliers", SIGMOD 2000).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LofConfig {
    /// Size of a neighbourhood, at least 1; 20 by default. All other rows where there are fewer.
    pub neighbours: usize,
}

impl Default for LofConfig {
    fn default() -> Self {
        Self { neighbours: 20 }
    }
}

impl LofConfig {
    /// Finds the neighbours of every row of `table`, [rows, columns], and the density around it.
    ///
    /// Distances are Euclidean and exact, each row against all: the time grows with the square of the rows, the memory
    /// with rows times neighbours. Of rows at the same distance the first counts as nearer.
    ///
    /// # Errors
    ///
    /// When `neighbours` is 0 or `table` has one row.
    pub fn fit(&self, table: &Table) -> Result<LocalOutlierFactor> {
        if self.neighbours == 0 {
            return Err(Error::setting("neighbours", "at least 1", self.neighbours));
        }
        check_rows(table)?;
        let neighbours = self.neighbours.min(table.rows() - 1);
        let nearest = nearest(table, table, neighbours, true);
        let radii: Vec<f64> = nearest.chunks_exact(neighbours).map(|near| near[neighbours - 1].0).collect();
        let densities: Vec<f64> =
            nearest.chunks_exact(neighbours).map(|near| density(near, &radii)).collect();
        let factors = nearest
            .chunks_exact(neighbours)
            .zip(&densities)
            .map(|(near, &own)| factor(near, &densities, own));
        let fitted = factors.collect();
        Ok(LocalOutlierFactor { table: table.clone(), neighbours, radii, densities, fitted })
    }
}

/// A fitted local outlier factor.
///
/// The score is the mean density of a row's neighbours over its own density: about 1 inside a cluster, more outside.
/// The density is `1 / (mean reachability distance + 1e-10)`; the reachability distance to a neighbour is the distance,
/// but at least the neighbour's own distance to its last neighbour.
///
/// [`Baseline::anomaly_score`] of the very table that was fitted takes no row for its own neighbour. The rows of any
/// other table are new ones: they are compared with the fitted rows alone, and a copy of a fitted row has that row as
/// its nearest neighbour.
#[derive(Debug, Clone)]
pub struct LocalOutlierFactor {
    table: Table,
    neighbours: usize,
    /// The distance of each fitted row to its last neighbour.
    radii: Vec<f64>,
    densities: Vec<f64>,
    /// The fitted rows' own scores.
    fitted: Vec<f64>,
}

impl Baseline for LocalOutlierFactor {
    fn anomaly_score(&self, table: &Table) -> Result<Vec<f64>> {
        check_columns(table, self.table.columns())?;
        if table.values() == self.table.values() {
            return check_finite(self.fitted.clone());
        }
        let nearest = nearest(&self.table, table, self.neighbours, false);
        let nearest = nearest.chunks_exact(self.neighbours);
        check_finite(nearest.map(|near| factor(near, &self.densities, density(near, &self.radii))).collect())
    }
}

/// A fitted row near a query: its distance and its number.
type Neighbour = (f64, usize);

/// The local reachability density of a row with these neighbours.
fn density(nearest: &[Neighbour], radii: &[f64]) -> f64 {
    let reach: f64 = nearest.iter().map(|&(distance, row)| distance.max(radii[row])).sum();
    // As scikit-learn: more copies of a row than neighbours would give an infinite density.
    1.0 / (reach / nearest.len() as f64 + 1e-10)
}

/// The local outlier factor of a row of density `own` with these neighbours.
fn factor(nearest: &[Neighbour], densities: &[f64], own: f64) -> f64 {
    nearest.iter().map(|&(_, row)| densities[row]).sum::<f64>() / (nearest.len() as f64 * own)
}

/// The `count` nearest fitted rows of every query, [queries, count], nearest first.
///
/// With `exclude_self` the queries are the fitted rows, and none is its own neighbour.
fn nearest(fitted: &Table, queries: &Table, count: usize, exclude_self: bool) -> Vec<Neighbour> {
    let columns = fitted.columns();
    let panels = panels(fitted);
    let blocks = queries.values().par_chunks(BLOCK * columns).enumerate();
    blocks
        .flat_map_iter(|(block, queries)| {
            let mut found = vec![Vec::new(); queries.len() / columns];
            for (panel, first) in panels.chunks_exact(LANES * columns).zip((0..).step_by(LANES)) {
                for (query, (values, found)) in queries.chunks_exact(columns).zip(&mut found).enumerate() {
                    let query = exclude_self.then_some(block * BLOCK + query);
                    let rows = first..fitted.rows();
                    for (row, squared) in rows.zip(squared_distances(values, panel)) {
                        if query != Some(row) {
                            keep_nearest(found, count, (squared, row));
                        }
                    }
                }
            }
            found.into_iter().flatten().map(|(squared, row)| (squared.sqrt(), row))
        })
        .collect()
}

/// The rows in panels of `LANES`, each panel column by column: [panels, columns, LANES], padded with zeros.
fn panels(table: &Table) -> Vec<f64> {
    let columns = table.columns();
    let mut panels = vec![0.0; table.rows().div_ceil(LANES) * LANES * columns];
    for (row, values) in table.values().chunks_exact(columns).enumerate() {
        let panel = &mut panels[row / LANES * LANES * columns..];
        for (lanes, value) in panel.chunks_exact_mut(LANES).zip(values) {
            lanes[row % LANES] = *value;
        }
    }
    panels
}

/// The squared distances of a query to the rows of a panel.
fn squared_distances(query: &[f64], panel: &[f64]) -> [f64; LANES] {
    let mut squared = [0.0; LANES];
    for (value, lanes) in query.iter().zip(panel.chunks_exact(LANES)) {
        for (squared, lane) in squared.iter_mut().zip(lanes) {
            *squared += (value - lane) * (value - lane);
        }
    }
    squared
}

/// Inserts a neighbour into an ascending list of at most `count`. Rows come in order, so the first of equals stays.
fn keep_nearest(nearest: &mut Vec<Neighbour>, count: usize, new: Neighbour) {
    if nearest.len() == count {
        if new.0 >= nearest[count - 1].0 {
            return;
        }
        nearest.pop();
    }
    let at = nearest.partition_point(|known| known.0 <= new.0);
    nearest.insert(at, new);
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{assert_close, assert_refuses_another_width, one_row, queries, table};
    use super::*;

    fn fit(neighbours: usize, table: &Table) -> LocalOutlierFactor {
        LofConfig { neighbours }.fit(table).unwrap()
    }

    #[test]
    fn fitted_rows_agree_with_scikit_learn() {
        // -LocalOutlierFactor(n_neighbors=2).fit(X).negative_outlier_factor_
        let expected = [
            0.988_208_024_362,
            0.850_569_612_143,
            0.850_569_612_143,
            1.175_682_725_698,
            1.175_682_725_698,
            4.457_006_969_519,
        ];
        assert_close(&fit(2, &table()).anomaly_score(&table()).unwrap(), &expected, 1e-11);
        // The same with n_neighbors=20, which is clipped to 5.
        let expected = [
            0.964_404_901_266,
            1.013_979_056_364,
            1.008_321_621_192,
            1.053_793_105_827,
            0.999_798_921_072,
            0.964_404_901_266,
        ];
        assert_close(&fit(20, &table()).anomaly_score(&table()).unwrap(), &expected, 1e-11);
    }

    #[test]
    fn new_rows_agree_with_scikit_learn() {
        // -LocalOutlierFactor(n_neighbors=2, novelty=True).fit(X).score_samples(Q)
        let expected = [0.915_512_987_443, 1.890_837_930_855, 2.548_555_571_488];
        assert_close(&fit(2, &table()).anomaly_score(&queries()).unwrap(), &expected, 1e-11);
    }

    #[test]
    fn copies_have_a_large_finite_density() {
        let table = Table::new(vec![0.0, 0.0, 0.0, 0.0, 1.0, 3.0], 1).unwrap();
        // -LocalOutlierFactor(n_neighbors=2).fit(X).negative_outlier_factor_, of the rows that are copies.
        assert_close(&fit(2, &table).anomaly_score(&table).unwrap()[..4], &[1.0; 4], 1e-12);
    }

    #[test]
    fn neighbours_are_the_nearest_and_the_first_of_equals() {
        // 131 rows: more than two blocks of queries, and a last panel that is not full.
        let cells: Vec<f64> = (0..131 * 3).map(|i| f64::from(i * i % 11)).collect();
        let table = Table::new(cells, 3).unwrap();
        let found = nearest(&table, &table, 7, true);
        for (query, found) in found.chunks_exact(7).enumerate() {
            let distance = |row| super::super::squared_distance(table.row(query), table.row(row)).sqrt();
            let mut all: Vec<_> = (0..131).filter(|&row| row != query).collect();
            all.sort_by(|&a, &b| distance(a).total_cmp(&distance(b)));
            let expected: Vec<_> = all[..7].iter().map(|&row| (distance(row), row)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn unusable_settings_and_tables_are_refused() {
        let error = LofConfig { neighbours: 0 }.fit(&table()).unwrap_err();
        assert_eq!(error.to_string(), "setting `neighbours`: expected at least 1, found 0");
        assert!(LofConfig::default().fit(&one_row()).is_err());
        assert_refuses_another_width(&fit(2, &table()));
        let huge = Table::new(vec![1e300, -1e300, 1.0], 1).unwrap();
        assert!(fit(2, &huge).anomaly_score(&huge).is_err());
    }
}
