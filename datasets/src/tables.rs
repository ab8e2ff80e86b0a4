//! Tables embedded in the program, as scikit-learn packages them.
//!
//! The folder `data` holds the files with their sources, creators and licences.

use crate::generate::labelled;
use flate2::read::GzDecoder;
use leanburn_core::table::Table;
use std::io::Read;

/// The Wisconsin diagnostic breast cancer table: 569 masses x 30 measures of the cell nuclei in a fine-needle aspirate.
///
/// Label 0 is malignant (212 rows), 1 benign (357). Of ten measures of the nuclei come the means, then the standard
/// errors, then the means of the three largest values. The source states no units.
///
/// Source: Wolberg, Mangasarian, Street and Street (1995), UCI Machine Learning Repository,
/// [10.24432/C5DW2B](https://doi.org/10.24432/C5DW2B), CC BY 4.0.
pub fn breast_cancer() -> Table {
    const MEASURES: [&str; 10] = [
        "radius",
        "texture",
        "perimeter",
        "area",
        "smoothness",
        "compactness",
        "concavity",
        "concave points",
        "symmetry",
        "fractal dimension",
    ];
    let names = MEASURES
        .map(|m| format!("mean {m}"))
        .into_iter()
        .chain(MEASURES.map(|m| format!("{m} error")))
        .chain(MEASURES.map(|m| format!("worst {m}")));
    table(without_header(include_str!("../data/breast_cancer.csv")), names.collect())
}

/// The wine table: 178 wines of one Italian region x 13 chemical measures.
///
/// The label is the cultivar, 0 to 2 (59, 71 and 48 rows). The source states no units.
///
/// Source: Aeberhard and Forina (1992), UCI Machine Learning Repository,
/// [10.24432/C5PC7J](https://doi.org/10.24432/C5PC7J), CC BY 4.0.
pub fn wine() -> Table {
    const NAMES: [&str; 13] = [
        "alcohol",
        "malic_acid",
        "ash",
        "alcalinity_of_ash",
        "magnesium",
        "total_phenols",
        "flavanoids",
        "nonflavanoid_phenols",
        "proanthocyanins",
        "color_intensity",
        "hue",
        "od280/od315_of_diluted_wines",
        "proline",
    ];
    table(without_header(include_str!("../data/wine_data.csv")), NAMES.map(String::from).into())
}

/// The handwritten digits: 1797 images of 8x8 pixels, row by row, each pixel a count of ink from 0 to 16.
///
/// The label is the digit, 0 to 9 (174 to 183 rows each). Columns are named `pixel_ROW_COLUMN`.
///
/// Source: Alpaydin and Kaynak (1998), the test part of Optical Recognition of Handwritten Digits, UCI Machine Learning
/// Repository, [10.24432/C50P49](https://doi.org/10.24432/C50P49), CC BY 4.0.
pub fn digits() -> Table {
    table(
        &unpacked(include_bytes!("../data/digits.csv.gz")),
        (0..64).map(|i| format!("pixel_{}_{}", i / 8, i % 8)).collect(),
    )
}

/// The [`digits`] as MNIST's networks take images: 32x32 pixels, row by row, each of the 8x8 pixels four by four; all
/// together have mean 0 and deviation 1. With each its class.
pub fn digit_images() -> Vec<(Vec<f32>, usize)> {
    let table = digits();
    let (mean, std) = leanburn_core::metrics::mean_std(table.values());
    let labels = table.labels().expect("the digits are labelled");
    let image = |row: &[f64]| {
        let pixel = |place: usize| ((row[place / 128 * 8 + place % 32 / 4] - mean) / std) as f32;
        (0..1024).map(pixel).collect()
    };
    table.values().chunks(64).zip(labels).map(|(row, &label)| (image(row), label as usize)).collect()
}

/// The text of a gzip file.
fn unpacked(packed: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(packed).read_to_string(&mut text).expect("the embedded file is whole");
    text
}

/// The rows after scikit-learn's first line, which holds the shape and the classes.
fn without_header(text: &str) -> &str {
    text.split_once('\n').map_or(text, |(_, rows)| rows)
}

/// A table of lines of numbers, the last one the class. The files are part of the program: a wrong one is a bug in it.
fn table(text: &str, names: Vec<String>) -> Table {
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let (cells, label) = line.rsplit_once(',').expect("cells and a label");
        values.extend(cells.split(',').map(|cell| cell.parse::<f64>().expect("a number")));
        labels.push(label.parse().expect("a class number"));
    }
    labelled(values, names, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(table: &Table, classes: i64) -> Vec<usize> {
        let labels = table.labels().unwrap();
        (0..classes).map(|class| labels.iter().filter(|&&label| label == class).count()).collect()
    }

    fn sum(table: &Table) -> f64 {
        table.values().iter().sum()
    }

    // Sums and counts as scikit-learn 1.9 gives them.

    #[test]
    fn breast_cancer_as_published() {
        let table = breast_cancer();
        assert_eq!((table.rows(), table.columns()), (569, 30));
        assert_eq!(counts(&table, 2), [212, 357]);
        assert_eq!(table.row(0)[..3], [17.99, 10.38, 122.8]);
        let names = table.names().unwrap();
        assert_eq!(
            [&names[0], &names[17], &names[29]],
            ["mean radius", "concave points error", "worst fractal dimension"]
        );
        assert!((sum(&table) - 1_056_474.459_635_6).abs() < 1e-6);
    }

    #[test]
    fn wine_as_published() {
        let table = wine();
        assert_eq!((table.rows(), table.columns()), (178, 13));
        assert_eq!(counts(&table, 3), [59, 71, 48]);
        assert_eq!(table.row(177)[12], 560.0);
        assert!((sum(&table) - 159_975.295_999).abs() < 1e-6);
    }

    #[test]
    fn digits_as_published() {
        let table = digits();
        assert_eq!((table.rows(), table.columns()), (1797, 64));
        assert_eq!(counts(&table, 10), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!(table.names().unwrap()[63], "pixel_7_7");
        assert!(table.values().iter().all(|v| (0.0..=16.0).contains(v)));
        assert_eq!(sum(&table), 561_718.0);
    }
}
