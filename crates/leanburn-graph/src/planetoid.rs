//! The Planetoid citation sets (Yang, Cohen and Salakhutdinov, ICML 2016) as their publishers lay them out.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use leanburn_core::{
    Error, Result,
    pickle::{Pickle, Value},
};

use crate::{Csr, Features, NodeSet, dataset::Split, dataset::UNKNOWN};

/// Nodes between the labelled ones and the test nodes that select.
const VALIDATION: usize = 500;

/// Most edges of a graph; lists that are named again and again could make as many as a file has bytes, squared.
const MAX_EDGES: usize = 1 << 26;

/// The classes and functions of these files.
const ALLOWED: [&str; 7] = [
    "scipy.sparse.csr csr_matrix",
    "scipy.sparse._csr csr_matrix",
    "numpy.core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
    "collections defaultdict",
    "__builtin__ list",
];

/// Reads `ind.NAME.{tx,allx,y,ty,ally,graph,test.index}` from a folder, with the fixed split of the publishers: the
/// nodes of `y` are labelled, the 500 after them select, and those of `test.index` are evaluated. (`ind.NAME.x` is the
/// first part of `allx`.)
///
/// Nodes that `test.index` skips (15 of Citeseer) have no features and no label; they are in no part of the split.
///
/// # Errors
///
/// When a file is absent, is not what its format requires, or does not fit the others.
pub fn open(folder: impl AsRef<Path>, name: &str) -> Result<NodeSet> {
    let path = |part: &str| folder.as_ref().join(format!("ind.{name}.{part}"));
    let train = one_hot(&path("y"))?.len();
    let features = csr(&path("allx"))?;
    let mut labels = one_hot(&path("ally"))?;
    let (test_features, test_labels) = (csr(&path("tx"))?, one_hot(&path("ty"))?);
    let index_file = path("test.index");
    let order = index(&index_file)?;

    let expect = |file: PathBuf, expected: usize, found: usize| {
        let rows = |count| format!("{count} rows");
        if expected == found {
            Ok(())
        } else {
            Err(Error::format(file, "array", rows(expected), rows(found)))
        }
    };
    expect(path("ally"), features.rows(), labels.len())?;
    expect(path("tx"), order.len(), test_features.rows())?;
    expect(path("ty"), order.len(), test_labels.len())?;
    if test_features.width() != features.width() {
        let columns = |count| format!("{count} columns");
        return Err(Error::format(
            path("tx"),
            "array",
            columns(features.width()),
            columns(test_features.width()),
        ));
    }
    let first = features.rows();
    let count = order.iter().max().map_or(0, |&last| last.saturating_sub(first) + 1);
    // Those that are skipped are few; a single large number must not make as many nodes.
    if count > 2 * order.len() {
        let expected = format!("{} nodes, mostly one after another", order.len());
        return Err(Error::format(
            index_file,
            "lines",
            expected,
            format!("nodes up to {}", first + count - 1),
        ));
    }
    let mut row_of = vec![None; count];
    for (row, &node) in order.iter().enumerate() {
        let place = node.checked_sub(first).map(|place| &mut row_of[place]);
        match place {
            Some(place) if place.is_none() => *place = Some(row),
            _ => {
                let expected = format!("nodes from {first} on, each once");
                return Err(Error::format(index_file, format!("line {}", row + 1), expected, node));
            }
        }
    }

    let Csr { width, mut offsets, mut columns, mut values } = features;
    for row in row_of {
        if let Some(row) = row {
            columns.extend_from_slice(test_features.row(row).0);
            values.extend_from_slice(test_features.row(row).1);
        }
        offsets.push(columns.len());
        labels.push(row.map_or(UNKNOWN, |row| test_labels[row]));
    }
    let nodes = labels.len();
    let features = Features::Sparse(Csr::new(width, offsets, columns, values)?);
    let split = Split {
        train: (0..train).collect(),
        validation: (train..(train + VALIDATION).min(first)).filter(|&node| labels[node] >= 0).collect(),
        test: order,
    };
    let graph_file = path("graph");
    let edges = edges(&graph_file, nodes)?;
    NodeSet::with_split(features, labels, split)?.with_edges(&edges)
}

fn pickle(path: &Path) -> Result<Pickle> {
    let file = File::open(path).map_err(Error::io(path))?;
    Pickle::read(path, &mut BufReader::new(file), |name| ALLOWED.contains(&name))
}

/// A one-dimensional array of the state of a SciPy matrix, or a two-dimensional one.
struct Array<'a> {
    shape: Vec<usize>,
    kind: &'a str,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Of an object made by `numpy.core.multiarray._reconstruct`, whose state is
    /// `(1, shape, dtype, is_fortran, bytes)`.
    fn new(value: Value<'a>) -> Option<Self> {
        let (class, _, state) = value.object()?;
        let state: Vec<Value> = state?.items()?.collect();
        let &[_, shape, dtype, is_fortran, bytes] = &state[..] else { return None };
        let (dtype_class, arguments, dtype_state) = dtype.object()?;
        let order = dtype_state?.items()?.nth(1)?.text()?;
        let array = Self {
            shape: shape.items()?.map(Value::size).collect::<Option<_>>()?,
            kind: arguments.items()?.next()?.text()?,
            bytes: bytes.bytes()?,
        };
        let sound = class == "numpy.core.multiarray _reconstruct"
            && dtype_class == "numpy dtype"
            && order == "<"
            && (is_fortran.boolean() == Some(false) || array.shape.len() < 2)
            && array.shape.iter().try_fold(4_usize, |size, &n| size.checked_mul(n))
                == Some(array.bytes.len());
        sound.then_some(array)
    }

    fn ints(&self) -> Option<Vec<i32>> {
        let (bytes, _) = self.bytes.as_chunks::<4>();
        (self.kind == "i4").then(|| bytes.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect())
    }

    fn floats(&self) -> Option<Vec<f32>> {
        let (bytes, _) = self.bytes.as_chunks::<4>();
        (self.kind == "f4").then(|| bytes.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }
}

fn csr(path: &Path) -> Result<Csr> {
    let pickle = pickle(path)?;
    let read = || {
        let (class, _, state) = pickle.root().object()?;
        let state = state?;
        let shape: Vec<usize> = state.get("_shape")?.items()?.map(Value::size).collect::<Option<_>>()?;
        let &[rows, width] = &shape[..] else { return None };
        let array = |name| Array::new(state.get(name)?);
        let sizes = |name| -> Option<Vec<usize>> {
            array(name)?.ints()?.into_iter().map(|value| usize::try_from(value).ok()).collect()
        };
        let (offsets, columns, values) = (sizes("indptr")?, sizes("indices")?, array("data")?.floats()?);
        let is_csr = class.ends_with(" csr_matrix") && state.get("format")?.text()? == "csr";
        (is_csr && offsets.len().checked_sub(1) == Some(rows)).then_some((width, offsets, columns, values))
    };
    let (width, offsets, columns, values) = read().ok_or_else(|| {
        Error::format(path, "pickle", "a SciPy matrix in compressed rows, of f4", "another object")
    })?;
    let unfit = |error: Error| Error::format(path, "matrix", "sound compressed rows", error);
    // The publishers did not sort the columns of a row.
    let sound = offsets.first() == Some(&0)
        && offsets.last() == Some(&columns.len())
        && offsets.is_sorted()
        && columns.len() == values.len();
    if !sound {
        return Err(Error::format(path, "matrix", "sound compressed rows", "others"));
    }
    let (mut sorted_columns, mut sorted_values) = (Vec::new(), Vec::new());
    for row in offsets.windows(2) {
        let mut entries: Vec<(usize, f32)> =
            (row[0]..row[1]).map(|place| (columns[place], values[place])).collect();
        entries.sort_unstable_by_key(|entry| entry.0);
        sorted_columns.extend(entries.iter().map(|entry| u32::try_from(entry.0).unwrap_or(u32::MAX)));
        sorted_values.extend(entries.iter().map(|entry| entry.1));
    }
    Csr::new(width, offsets, sorted_columns, sorted_values).map_err(unfit)
}

/// The class of each row of a matrix of 0 and 1; a row without a 1 has none.
fn one_hot(path: &Path) -> Result<Vec<i64>> {
    let pickle = pickle(path)?;
    let read = || {
        let array = Array::new(pickle.root())?;
        let &[_, classes] = &array.shape[..] else { return None };
        Some((classes, array.ints()?))
    };
    let (classes, cells) = read()
        .filter(|(classes, _)| *classes > 0)
        .ok_or_else(|| Error::format(path, "pickle", "a NumPy matrix of i4", "another object"))?;
    cells
        .chunks(classes)
        .enumerate()
        .map(|(row, cells)| {
            let ones = cells.iter().filter(|&&cell| cell == 1).count();
            if ones > 1 || cells.iter().any(|cell| !(0..=1).contains(cell)) {
                return Err(Error::format(
                    path,
                    format!("row {row}"),
                    "one 1 and otherwise 0",
                    format!("{cells:?}"),
                ));
            }
            Ok(cells.iter().position(|&cell| cell == 1).map_or(UNKNOWN, |class| class as i64))
        })
        .collect()
}

fn index(path: &Path) -> Result<Vec<usize>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let node = line.trim().parse::<u32>().map(|node| node as usize);
            node.map_err(|_| {
                Error::format(path, format!("line {}", number + 1), "a node", format!("{line:?}"))
            })
        })
        .collect()
}

/// The pairs of nodes of a dictionary of lists.
fn edges(path: &Path, nodes: usize) -> Result<Vec<(usize, usize)>> {
    let pickle = pickle(path)?;
    let unfit =
        |found: String| Error::format(path, "pickle", "a dictionary from nodes to lists of nodes", found);
    let node = |value: Value| {
        value.size().filter(|&node| node < nodes).ok_or_else(|| {
            unfit(
                value.integer().map_or("another value".to_owned(), |node| format!("node {node} of {nodes}")),
            )
        })
    };
    let mut edges = Vec::new();
    for (from, list) in pickle.root().entries().ok_or_else(|| unfit("another object".to_owned()))? {
        let from = node(from)?;
        for to in list.items().ok_or_else(|| unfit(format!("another value for node {from}")))? {
            if edges.len() == MAX_EDGES {
                return Err(unfit(format!("more than {MAX_EDGES} edges")));
            }
            edges.push((from, node(to)?));
        }
    }
    Ok(edges)
}
