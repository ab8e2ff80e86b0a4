//! Node sets of the Open Graph Benchmark (Hu et al., NeurIPS 2020) as they are published: CSV packed by gzip.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    str::FromStr,
};

use flate2::read::GzDecoder;
use leanburn_core::{Error, Result};

use crate::{Features, NodeSet, Split};

/// Most bytes that one packed file may hold: ogbn-arxiv's largest has about 200 million.
const MAX_UNPACKED: u64 = 4 << 30;

/// Reads `raw/node-feat.csv.gz`, `raw/node-label.csv.gz`, `raw/edge.csv.gz` and `split/NAME/{train,valid,test}.csv.gz`.
///
/// - split: the folder's name, `time` for ogbn-arxiv
///
/// # Errors
///
/// When a file is absent, a line does not parse, which is named, or the files do not fit each other.
pub fn open(folder: impl AsRef<Path>, split: &str) -> Result<NodeSet> {
    let folder = folder.as_ref();
    let raw = |file: &str| folder.join("raw").join(file);
    let (values, columns) = rows::<f32>(&raw("node-feat.csv.gz"))?;
    let (labels, _) = rows::<i64>(&raw("node-label.csv.gz"))?;
    let edges_file = raw("edge.csv.gz");
    let (edges, width) = rows::<usize>(&edges_file)?;
    if width != 2 {
        return Err(Error::format(edges_file, "lines", "two nodes", format!("{width} numbers")));
    }
    let part = |name: &str| Ok(rows::<usize>(&folder.join("split").join(split).join(name))?.0);
    let split =
        Split { train: part("train.csv.gz")?, validation: part("valid.csv.gz")?, test: part("test.csv.gz")? };
    let edges: Vec<(usize, usize)> = edges.chunks_exact(2).map(|edge| (edge[0], edge[1])).collect();
    NodeSet::with_split(Features::new(values, columns)?, labels, split)?.with_edges(&edges)
}

/// All numbers of a file without a header, and how many each line has.
fn rows<T: FromStr>(path: &Path) -> Result<(Vec<T>, usize)> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut unpacked = GzDecoder::new(BufReader::new(file)).take(MAX_UNPACKED);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&mut unpacked);
    let (mut values, mut columns, mut line) = (Vec::new(), 0, 0);
    let mut record = csv::StringRecord::new();
    loop {
        line += 1;
        let error =
            |expected: String, found: String| Error::format(path, format!("line {line}"), expected, found);
        let more = reader
            .read_record(&mut record)
            .map_err(|reason| error("CSV packed by gzip".to_owned(), reason.to_string()))?;
        if !more {
            break;
        }
        if line == 1 {
            columns = record.len();
        }
        if record.len() != columns {
            return Err(error(format!("{columns} numbers, as in line 1"), record.len().to_string()));
        }
        for field in &record {
            let value = field.trim().parse::<T>();
            values.push(value.map_err(|_| error("numbers of its kind".to_owned(), format!("{field:?}")))?);
        }
    }
    drop(reader);
    if unpacked.limit() == 0 {
        return Err(Error::format(path, "file", format!("less than {MAX_UNPACKED} bytes unpacked"), "more"));
    }
    if values.is_empty() {
        return Err(Error::format(path, "file", "at least one line", "none"));
    }
    Ok((values, columns))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use flate2::{Compression, write::GzEncoder};

    const FILES: [(&str, &str); 6] = [
        ("raw/node-feat.csv.gz", "0.5,-1\n1,2\n3,4\n5,6\n"),
        ("raw/node-label.csv.gz", "1\n0\n1\n0\n"),
        ("raw/edge.csv.gz", "0,1\n3,1\n"),
        ("split/time/train.csv.gz", "0\n1\n"),
        ("split/time/valid.csv.gz", "2\n"),
        ("split/time/test.csv.gz", "3\n"),
    ];

    fn folder(changed: &str, text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, original) in FILES {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(if file == changed { text } else { original }.as_bytes()).unwrap();
            std::fs::write(path, encoder.finish().unwrap()).unwrap();
        }
        folder
    }

    #[test]
    fn reads_a_published_folder() {
        let set = open(folder("", "").path(), "time").unwrap();
        assert_eq!((set.nodes(), set.features.columns(), set.classes), (4, 2, 2));
        assert_eq!((set.split.train, set.split.validation, set.split.test), (vec![0, 1], vec![2], vec![3]));
        assert_eq!(set.graph.unwrap().adjacency().entries(), 4);
    }

    #[test]
    fn broken_lines_are_named() {
        let message =
            |file: &str, text: &str| open(folder(file, text).path(), "time").unwrap_err().to_string();
        assert!(message("raw/node-feat.csv.gz", "1,2\n1,x\n").contains("node-feat.csv.gz: line 2"));
        assert!(message("raw/node-feat.csv.gz", "1,2\n1\n").contains("2 numbers, as in line 1"));
        assert!(message("raw/node-feat.csv.gz", "1,2\n1,nan\n1,2\n1,2\n").contains("row 1, column 1"));
        assert!(message("raw/node-label.csv.gz", "").contains("at least one line"));
        assert!(message("raw/edge.csv.gz", "0\n").contains("two nodes"));
        assert!(message("raw/edge.csv.gz", "0,9\n").contains("edge 0"));
        assert!(message("split/time/test.csv.gz", "7\n").contains("nodes below 4"));
        let empty = tempfile::tempdir().unwrap();
        assert!(open(empty.path(), "time").unwrap_err().to_string().contains("node-feat.csv.gz"));
    }
}
