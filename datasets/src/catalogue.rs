//! What can be downloaded.

use leanburn_core::{Error, Result};

/// How to get one of the packs of RSRAE, which lie where a program cannot fetch them, and how to convert it.
macro_rules! rsrae_note {
    ($name:literal, $id:literal) => {
        concat!(
            "Open https://drive.google.com/open?id=",
            $id,
            " (linked from github.com/dmzou/RSRAE) in a browser and save the file as rsrae/",
            $name,
            ".data in the data folder. ",
            "It is a Python pickle of `X` and `y`; to read it here, convert it once: python -c \"import pickle, numpy; ",
            "d = pickle.load(open('",
            $name,
            ".data', 'rb')); numpy.save('",
            $name,
            "_x.npy', d['X']); numpy.save('",
            $name,
            "_y.npy', d['y'])\". A pickle can run any program: trust its source first."
        )
    };
}

/// One file of the catalogue.
///
/// A checksum stands here only where it is known for certain. A file without one is checked by its size alone, and one
/// without either only for having arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The name to ask for, see [`find`].
    pub name: &'static str,
    /// What it holds, with its shape.
    pub description: &'static str,
    /// The file's address; without one it is fetched by hand, as `note` says.
    pub url: Option<&'static str>,
    /// The licence, or what stands in its place.
    pub licence: &'static str,
    /// Whom to cite.
    pub citation: &'static str,
    /// The size in bytes, when known.
    pub bytes: Option<u64>,
    /// The SHA-256 of the file in hexadecimal digits, when known.
    pub sha256: Option<&'static str>,
    /// The path in the data folder, with `/` between its parts.
    pub file: &'static str,
    /// What to know before using it, and, where `url` is missing, how to get it.
    pub note: &'static str,
}

/// Everything that can be downloaded.
pub fn catalogue() -> &'static [Entry] {
    &CATALOGUE
}

/// The entry of a name.
///
/// # Errors
///
/// When there is none; the error lists the names.
pub fn find(name: &str) -> Result<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        Error::setting("data set", format!("one of {}", names.join(", ")), format!("`{name}`"))
    })
}

const CC_BY: &str = "CC BY 4.0 (UCI Machine Learning Repository)";
const UNSTATED: &str = "not stated with the file";
const CIFAR_LICENCE: &str = "none stated; the authors ask for the citation";
const CIFAR_CITATION: &str = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, Technical report, \
                              University of Toronto (2009)";
const KDD_CITATION: &str =
    "S. Stolfo, W. Fan, W. Lee, A. Prodromidis, P. Chan, KDD Cup 1999 Data (1999), doi 10.24432/C51C7N";
const RSRAE_CITATION: &str = "C.-H. Lai, D. Zou, G. Lerman, Robust Subspace Recovery Layer for Unsupervised Anomaly \
                              Detection, ICLR 2020";

static CATALOGUE: [Entry; 9] = [
    Entry {
        name: "arrhythmia",
        description: "Arrhythmia in its ODDS form: 452 x 274, 66 anomalies (14.6 %), unscaled",
        url: Some("https://raw.githubusercontent.com/wyzjack/SLA2P/3240c09/data/arrhythmia.mat"),
        licence: CC_BY,
        citation: "H. Guvenir, B. Acar, H. Muderrisoglu, R. Quinlan, Arrhythmia (1997), doi 10.24432/C5BS32; \
                   S. Rayana, ODDS Library, Stony Brook University (2016)",
        bytes: Some(105_540),
        sha256: Some("e4d47e499591ae31e5d7f0cd983367092353eac240f48e14c9b36457edb3460d"),
        file: "anomaly/arrhythmia.mat",
        note: "MATLAB level 5: `X` are the rows, `y` is 1 for an anomaly. 17 columns are constant.",
    },
    Entry {
        name: "thyroid",
        description: "Thyroid (ann-thyroid) in its ODDS form: 3772 x 6, 93 anomalies (2.5 %), scaled to 0..1",
        url: Some("https://raw.githubusercontent.com/lironber/GOAD/3655b86/data/thyroid.mat"),
        licence: CC_BY,
        citation: "R. Quinlan, Thyroid Disease (1986), doi 10.24432/C5D010; \
                   S. Rayana, ODDS Library, Stony Brook University (2016)",
        bytes: Some(39_704),
        sha256: Some("49155d7861b977e90808faf68343ff67a67f63090c2744d514dbb67ac68e7e33"),
        file: "anomaly/thyroid.mat",
        note: "MATLAB level 5: `X` are the rows, `y` is 1 for an anomaly.",
    },
    Entry {
        name: "kddcup99",
        description: "KDD Cup 1999, the 10 % file: 494021 connections x 41, of which 97278 are `normal.`",
        url: Some("https://kdd.ics.uci.edu/databases/kddcup99/kddcup.data_10_percent.gz"),
        licence: CC_BY,
        citation: KDD_CITATION,
        bytes: None,
        // As scikit-learn's `fetch_kddcup99` has it for its copy of the same file.
        sha256: Some("8045aca0d84e70e622d1148d7df782496f6333bf6eb979a1b0837c42a9fd9561"),
        file: "kddcup99/kddcup.data_10_percent.gz",
        note: "CSV without a header, packed with gzip; 7 columns are symbolic, the last one is the class. The columns' \
               names are in `kddcup99-names`. In anomaly detection the attacks, being the majority, usually count as \
               normal and the rows `normal.` as anomalies.",
    },
    Entry {
        name: "kddcup99-names",
        description: "KDD Cup 1999, the names of the columns and whether they are continuous or symbolic",
        url: Some("https://kdd.ics.uci.edu/databases/kddcup99/kddcup.names"),
        licence: CC_BY,
        citation: KDD_CITATION,
        bytes: None,
        sha256: None,
        file: "kddcup99/kddcup.names",
        note: "The first line lists the classes; every other line is `name: continuous.` or `name: symbolic.`",
    },
    Entry {
        name: "20news",
        description: "20 Newsgroups as TF-IDF vectors: 20 classes, 10000 columns",
        url: None,
        licence: UNSTATED,
        citation: RSRAE_CITATION,
        bytes: None,
        sha256: None,
        file: "rsrae/20news.data",
        note: rsrae_note!("20news", "1Cc53BQF39XT0VWJhDTaRBUopQ6Vg75q_"),
    },
    Entry {
        name: "reuters",
        description: "Reuters-21578 as TF-IDF vectors: the 5 largest classes, 26147 columns",
        url: None,
        licence: UNSTATED,
        citation: RSRAE_CITATION,
        bytes: None,
        sha256: None,
        file: "rsrae/reuters.data",
        note: rsrae_note!("reuters", "11Jg7UewpVRwp40V5yTuKeeARS0K2XMzF"),
    },
    Entry {
        name: "caltech101",
        description: "Caltech 101: 11 classes of 100 images, 32 x 32 x 3 numbers from 0 to 255",
        url: None,
        licence: UNSTATED,
        citation: RSRAE_CITATION,
        bytes: None,
        sha256: None,
        file: "rsrae/caltech101.data",
        note: rsrae_note!("caltech101", "1qSGEy3EMwD7XcndMjJvb-TexAaDwWBy8"),
    },
    Entry {
        name: "cifar10",
        description: "CIFAR-10, binary version: 60000 images of 32 x 32 x 3 bytes, 10 classes",
        url: Some("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        licence: CIFAR_LICENCE,
        citation: CIFAR_CITATION,
        bytes: Some(170_052_171),
        // As TensorFlow Datasets has it; the authors' page gives the MD5 c32a1d4ab5d03f1284b67883e8d87530.
        sha256: Some("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        file: "cifar/cifar-10-binary.tar.gz",
        note: "A record is the class, then 1024 bytes each of red, green and blue, row by row. Five training files \
               and one of tests, 10000 records each.",
    },
    Entry {
        name: "cifar100",
        description: "CIFAR-100, binary version: 60000 images of 32 x 32 x 3 bytes, 100 classes in 20 groups",
        url: Some("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"),
        licence: CIFAR_LICENCE,
        citation: CIFAR_CITATION,
        bytes: Some(168_513_733),
        // As TensorFlow Datasets has it; the authors' page gives the MD5 03b5dce01913d631647c71ecec9e9cb8.
        sha256: Some("58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
        file: "cifar/cifar-100-binary.tar.gz",
        note: "A record is the group, the class, then 1024 bytes each of red, green and blue, row by row; 50000 for \
               training, 10000 for tests.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, path::Path};

    #[test]
    fn entries_are_well_formed() {
        let names: HashSet<_> = catalogue().iter().map(|entry| entry.name).collect();
        let files: HashSet<_> = catalogue().iter().map(|entry| entry.file).collect();
        assert_eq!((names.len(), files.len()), (catalogue().len(), catalogue().len()));
        for entry in catalogue() {
            let parts: Vec<_> = Path::new(entry.file).components().collect();
            assert!(
                parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))),
                "{}",
                entry.file
            );
            assert!(entry.url.is_none_or(|url| url.starts_with("https://")), "{}", entry.name);
            if let Some(sha256) = entry.sha256 {
                assert_eq!(sha256.len(), 64, "{}", entry.name);
                assert!(sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{}", entry.name);
            }
        }
    }

    #[test]
    fn find_by_name() {
        assert_eq!(find("thyroid").unwrap().file, "anomaly/thyroid.mat");
        let message = find("thyriod").unwrap_err().to_string();
        assert!(message.contains("thyroid, kddcup99") && message.contains("`thyriod`"), "{message}");
    }
}
