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

/// One of the eight files of a Planetoid set.
macro_rules! planetoid {
    ($name:literal, $part:literal, $bytes:literal, $sha256:literal) => {
        Entry {
            name: concat!($name, "-", $part),
            description: concat!("Planetoid, ", $name, ": the part `", $part, "` of eight"),
            url: Some(concat!(
                "https://raw.githubusercontent.com/kimiyoung/planetoid/master/data/ind.",
                $name,
                ".",
                $part
            )),
            licence: "MIT",
            citation: "Z. Yang, W. Cohen, R. Salakhutdinov, Revisiting Semi-Supervised Learning with Graph Embeddings, \
                       ICML 2016",
            bytes: Some($bytes),
            sha256: Some($sha256),
            file: concat!("planetoid/raw/ind.", $name, ".", $part),
            note: "A pickle of Python 2, but for `test.index`, which is text. All eight parts belong together.",
        }
    };
}

static CATALOGUE: [Entry; 34] = [
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
    planetoid!("cora", "x", 22_119, "23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab"),
    planetoid!("cora", "y", 4_054, "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1"),
    planetoid!("cora", "tx", 148_025, "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a"),
    planetoid!("cora", "ty", 28_135, "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad"),
    planetoid!("cora", "allx", 257_305, "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543"),
    planetoid!("cora", "ally", 47_959, "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71"),
    planetoid!("cora", "graph", 59_847, "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d"),
    planetoid!(
        "cora",
        "test.index",
        5_000,
        "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875"
    ),
    planetoid!("citeseer", "x", 31_087, "d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6"),
    planetoid!("citeseer", "y", 3_014, "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924"),
    planetoid!("citeseer", "tx", 260_321, "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21"),
    planetoid!("citeseer", "ty", 24_135, "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce"),
    planetoid!(
        "citeseer",
        "allx",
        595_021,
        "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668"
    ),
    planetoid!(
        "citeseer",
        "ally",
        55_623,
        "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95"
    ),
    planetoid!(
        "citeseer",
        "graph",
        61_987,
        "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7"
    ),
    planetoid!(
        "citeseer",
        "test.index",
        5_000,
        "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4"
    ),
    planetoid!("pubmed", "x", 23_172, "fbe9cb5c47200d1b7769a26e579be3b7130b556831f9d850e77c4c74f2599b33"),
    planetoid!("pubmed", "y", 854, "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3"),
    planetoid!("pubmed", "tx", 405_505, "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d"),
    planetoid!("pubmed", "ty", 12_135, "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd"),
    planetoid!(
        "pubmed",
        "allx",
        7_578_385,
        "508e538e2abdccdd54c4d3e9f49d638b4af7107d85845f66ddea5a5152658b7e"
    ),
    planetoid!("pubmed", "ally", 224_739, "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e"),
    planetoid!(
        "pubmed",
        "graph",
        471_808,
        "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9"
    ),
    planetoid!(
        "pubmed",
        "test.index",
        6_000,
        "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5"
    ),
    Entry {
        name: "ogbn-arxiv",
        description: "ogbn-arxiv: 169343 papers x 128 features, 40 classes, 1166243 citations",
        url: Some("https://snap.stanford.edu/ogb/data/nodeproppred/arxiv.zip"),
        licence: "ODC-BY",
        citation: "W. Hu et al., Open Graph Benchmark: Datasets for Machine Learning on Graphs, NeurIPS 2020",
        bytes: None,
        sha256: None,
        file: "ogb/arxiv.zip",
        note: "Unpack it; the folder `arxiv` with `raw` and `split` is what is read.",
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
