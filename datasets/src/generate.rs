//! Tables that are made rather than read.

use crate::recipe;
use leanburn_core::{Error, Result, random::Generator, table::Table};

/// Sequences of an affine map of tokens, for trying language models: from a first token `t` on, each next one is
/// `(multiplier * (t - 3) + offset) mod 509 + 3`, of a vocabulary of 512.
///
/// The first tokens, and the noise, are those of the [`recipe`] under the names `exp:SET`, `exp:SET.u` and `exp:SET.r`.
///
/// - set: the name of the set, such as `N.train`
/// - noise: the share of tokens, the first ones too, that are others instead
pub fn affine_tokens(
    set: &str,
    [multiplier, offset]: [u32; 2],
    rows: usize,
    length: usize,
    noise: f64,
) -> Vec<Vec<u32>> {
    let first = recipe::integer(&format!("exp:{set}"), rows, 3, 512, 0);
    let draws = recipe::real(&format!("exp:{set}.u"), rows * length, 0.0, 1.0, 0);
    let others = recipe::integer(&format!("exp:{set}.r"), rows * length, 3, 512, 0);
    let sequence = |first: i64| {
        std::iter::successors(Some(first as u32), move |token| {
            Some((multiplier * (token - 3) + offset) % 509 + 3)
        })
    };
    let rows = first.into_iter().enumerate().map(|(row, first)| {
        let tokens = sequence(first).take(length).enumerate().map(|(column, token)| {
            let place = row * length + column;
            if f64::from(draws[place]) < noise { others[place] as u32 } else { token }
        });
        tokens.collect()
    });
    rows.collect()
}

/// The synthetic angular set: 400 normal rows around a centre and 40 anomalies of about the same length and coordinate
/// ranges, which differ mainly in direction. 440 x 32, label 1 for an anomaly; row `i` is one when `i mod 11 = 10`.
///
/// With `real(name, .., -1, 1, seed)` of the [`recipe`]: `c` = `synthetic:centre` \[32], `u` = `synthetic:noise`
/// \[400, 32], `a` = `synthetic:anomaly` \[40, 32]; the normal rows are `c + u[j]`, the anomalous ones `0.5 c + a[j]`,
/// computed in `f32`. The reference figures are for seed 7.
///
/// Distances to a mean or to neighbours rank it poorly (AUROC 0.72 to 0.74), directions rank it well (0.95).
pub fn angular(seed: u64) -> Table {
    const COLUMNS: usize = 32;
    const PERIOD: usize = 11;
    const ROWS: usize = 440;
    const ANOMALIES: usize = ROWS / PERIOD;
    let is_anomaly = |i: usize| i % PERIOD == PERIOD - 1;
    let draw = |name: &str, rows: usize| recipe::real(name, rows * COLUMNS, -1.0, 1.0, seed);
    let centre = draw("synthetic:centre", 1);
    let noise = draw("synthetic:noise", ROWS - ANOMALIES);
    let anomaly = draw("synthetic:anomaly", ANOMALIES);

    let mut values = Vec::with_capacity(ROWS * COLUMNS);
    for i in 0..ROWS {
        let before = i / PERIOD;
        let (scale, offsets, row) =
            if is_anomaly(i) { (0.5, &anomaly, before) } else { (1.0, &noise, i - before) };
        let offsets = &offsets[row * COLUMNS..(row + 1) * COLUMNS];
        values.extend(centre.iter().zip(offsets).map(|(c, o)| f64::from(scale * c + o)));
    }
    let labels = (0..ROWS).map(|i| i64::from(is_anomaly(i))).collect();
    labelled(values, (0..COLUMNS).map(|i| format!("x{i}")).collect(), labels)
}

/// An anomaly set made of a table of classes: the rows of all other classes are normal (label 0), the first `keep` rows
/// of `anomalous_class` are anomalies (label 1), and its further rows are left out.
///
/// The anomalies are spread evenly among the normal rows, both in their order in `table`. Appended at the end they could
/// be told from their place alone: a method that works in batches treats a last, shorter batch otherwise, and a score
/// that depends on the batch then looks better than it is.
///
/// # Errors
///
/// When the table has no labels, no row of another class, or fewer than `keep` rows of `anomalous_class`, and when
/// `keep` is 0.
pub fn anomaly_set(table: &Table, anomalous_class: i64, keep: usize) -> Result<Table> {
    let labels = table.labels().ok_or_else(|| Error::data("table", "class labels", "none"))?;
    let (anomalies, normal): (Vec<usize>, Vec<usize>) =
        (0..table.rows()).partition(|&i| labels[i] == anomalous_class);
    if normal.is_empty() {
        return Err(Error::data("labels", format!("a class other than {anomalous_class}"), "none"));
    }
    if keep == 0 || keep > anomalies.len() {
        return Err(Error::setting(
            "keep",
            format!("1 to {}, the rows of class {anomalous_class}", anomalies.len()),
            keep,
        ));
    }

    let rows = normal.len() + keep;
    // Row i is an anomaly when the count that is due, keep (i + 1) / rows rounded down, has grown.
    let is_anomaly = |i: usize| (i + 1) * keep / rows > i * keep / rows;
    let order: Vec<usize> = (0..rows)
        .map(|i| {
            let before = i * keep / rows;
            if is_anomaly(i) { anomalies[before] } else { normal[i - before] }
        })
        .collect();
    table.select_rows(&order).with_labels((0..rows).map(|i| i64::from(is_anomaly(i))).collect())
}

/// The contaminated set of the published evaluations: all rows of `normal_class` (label 0), and
/// `ratio` anomalies for each of them, drawn from the other classes without replacement (label 1), in random order.
///
/// The ratio counts anomalies per normal row, not per row: of 0.1, one row in eleven is an anomaly.
///
/// # Errors
///
/// When the table has no labels, no row of `normal_class`, or not so many other rows, and when there would be no
/// anomaly.
pub fn contaminated_set(table: &Table, normal_class: i64, ratio: f64, seed: u64) -> Result<Table> {
    let labels = table.labels().ok_or_else(|| Error::data("table", "class labels", "none"))?;
    let (normal, others): (Vec<usize>, Vec<usize>) =
        (0..table.rows()).partition(|&i| labels[i] == normal_class);
    if normal.is_empty() {
        return Err(Error::data("labels", format!("the class {normal_class}"), "none"));
    }
    // NaN and negative ratios give 0, infinite ones too many.
    let anomalies = (normal.len() as f64 * ratio) as usize;
    if anomalies == 0 || anomalies > others.len() {
        let expected = format!("1 to {} anomalies among {} normal rows", others.len(), normal.len());
        return Err(Error::setting("ratio", expected, ratio));
    }
    let mut generator = Generator::new(seed);
    let drawn = generator.permutation(others.len()).into_iter().take(anomalies).map(|i| (others[i], 1));
    let rows: Vec<(usize, i64)> = normal.iter().map(|&row| (row, 0)).chain(drawn).collect();
    let order = generator.permutation(rows.len());
    let (rows, labels): (Vec<usize>, Vec<i64>) = order.into_iter().map(|i| rows[i]).unzip();
    table.select_rows(&rows).with_labels(labels)
}

/// A table whose parts are known to be right: one that is part of the program.
pub(crate) fn labelled(values: Vec<f64>, names: Vec<String>, labels: Vec<i64>) -> Table {
    Table::new(values, names.len())
        .and_then(|table| table.with_names(names))
        .and_then(|table| table.with_labels(labels))
        .expect("finite numbers, one name a column and one label a row")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published file prints nine significant digits, enough to give each `f32` back.
    #[test]
    fn angular_is_the_published_set() {
        let table = angular(7);
        assert_eq!((table.rows(), table.columns()), (440, 32));
        assert_eq!(table.names().unwrap()[31], "x31");
        let labels = table.labels().unwrap();
        assert!(labels.iter().enumerate().all(|(i, &label)| (label == 1) == (i % 11 == 10)));
        for (row, column, printed) in PUBLISHED {
            let printed: f32 = printed.parse().unwrap();
            assert_eq!(table.row(row)[column], f64::from(printed), "row {row}, column {column}");
        }
        assert_ne!(angular(8), table);
    }

    #[test]
    fn a_contaminated_set_has_its_ratio_and_a_random_order() {
        let values = (0..300).map(f64::from).collect();
        let classes = (0..300).map(|i| i % 3).collect();
        let table = Table::new(values, 1).unwrap().with_labels(classes).unwrap();
        let set = contaminated_set(&table, 1, 0.3, 0).unwrap();
        assert_eq!(set.rows(), 130);
        let labels = set.labels().unwrap();
        assert_eq!(labels.iter().sum::<i64>(), 30);
        assert!(set.values().iter().zip(labels).all(|(&value, &label)| (value % 3.0 == 1.0) == (label == 0)));
        assert!(!labels.is_sorted());
        assert_eq!(contaminated_set(&table, 1, 0.3, 0).unwrap(), set);
        assert_ne!(contaminated_set(&table, 1, 0.3, 1).unwrap(), set);
        for ratio in [0.0, -1.0, f64::NAN, 3.0, f64::INFINITY] {
            assert!(contaminated_set(&table, 1, ratio, 0).unwrap_err().to_string().contains("ratio"));
        }
        assert!(contaminated_set(&table, 7, 0.3, 0).is_err());
    }

    const PUBLISHED: [(usize, usize, &str); 10] = [
        (0, 0, "0.91376245"),
        (0, 31, "-0.1246562"),
        (9, 4, "-1.13724852"),
        (10, 0, "0.916197836"),
        (10, 31, "0.660045266"),
        (11, 16, "-0.143070221"),
        (219, 2, "-0.680415988"),
        (230, 7, "0.702926755"),
        (439, 0, "0.585472286"),
        (439, 31, "0.0648522377"),
    ];

    fn classes(labels: &[i64]) -> Table {
        Table::new((0..labels.len()).map(|i| i as f64).collect(), 1)
            .unwrap()
            .with_labels(labels.to_vec())
            .unwrap()
    }

    #[test]
    fn anomalies_are_interleaved() {
        let set = anomaly_set(&classes(&[3, 3, 3, 0, 0, 1, 1, 0, 1]), 3, 2).unwrap();
        assert_eq!(set.values(), [3.0, 4.0, 5.0, 0.0, 6.0, 7.0, 8.0, 1.0]);
        assert_eq!(set.labels().unwrap(), [0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(set.names(), None);
    }

    #[test]
    fn more_anomalies_than_normal_rows() {
        let set = anomaly_set(&classes(&[0, 1, 1, 1]), 1, 3).unwrap();
        assert_eq!(set.labels().unwrap(), [0, 1, 1, 1]);
        assert_eq!(set.values(), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn impossible_anomaly_sets() {
        let table = classes(&[0, 1, 1]);
        for (class, keep) in [(1, 3), (1, 0), (2, 1)] {
            assert!(matches!(anomaly_set(&table, class, keep), Err(Error::Setting { .. })));
        }
        assert!(matches!(anomaly_set(&classes(&[1, 1]), 1, 1), Err(Error::Data { .. })));
        let unlabelled = Table::new(vec![1.0], 1).unwrap();
        assert!(matches!(anomaly_set(&unlabelled, 1, 1), Err(Error::Data { .. })));
    }
}
