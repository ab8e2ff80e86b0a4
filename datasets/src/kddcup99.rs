//! The KDD Cup 1999 table, as its publishers lay it out.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use flate2::read::GzDecoder;
use leanburn_core::{Error, Result, table::Table};

const NAMES: &str = "kddcup99/kddcup.names";
const RECORDS: &str = "kddcup99/kddcup.data_10_percent.gz";

/// Most bytes that the packed file may hold: five times what the whole published set of 5 million rows does.
const MAX_UNPACKED: u64 = 4 << 30;

/// Most values of one symbolic column; the published table has 70 services.
const MAX_SYMBOLS: usize = 1000;

/// The class of benign connections.
const NORMAL: &str = "normal.";

/// A column of the published table.
enum Column {
    /// Numbers.
    Continuous(Vec<f64>),
    /// The number of each row's value, and each value's number.
    Symbolic(Vec<usize>, BTreeMap<String, usize>),
}

/// Reads the 10 % file from a folder into which the catalogue's `kddcup99` and `kddcup99-names` were downloaded.
///
/// Continuous columns stay as they are; a symbolic one becomes a column of 0 and 1 for each of its values, in
/// alphabetic order, named `column=value`. The attacks are four in five rows and count as normal (label 0); the rows
/// `normal.` are the anomalies (label 1), as in the evaluations of SLA2P and GOAD. 494,021 rows take about 470 MB.
///
/// # Errors
///
/// When a file is absent or not as published: the line and the column are named.
pub fn kddcup99(folder: impl AsRef<Path>) -> Result<Table> {
    let names_file = folder.as_ref().join(NAMES);
    let records_file = folder.as_ref().join(RECORDS);
    let text = std::fs::read_to_string(&names_file).map_err(Error::io(&names_file))?;
    let mut columns = columns(&names_file, &text)?;
    let file = File::open(&records_file).map_err(Error::io(&records_file))?;
    let mut unpacked = GzDecoder::new(BufReader::new(file)).take(MAX_UNPACKED);
    let labels = read_records(&records_file, &mut unpacked, &mut columns)?;
    if unpacked.limit() == 0 {
        return Err(Error::format(
            records_file,
            "file",
            format!("less than {MAX_UNPACKED} bytes unpacked"),
            "more",
        ));
    }
    one_hot(&columns, labels.len())?.with_labels(labels)
}

/// The named columns, still without rows.
fn columns(path: &Path, text: &str) -> Result<Vec<(String, Column)>> {
    let lines = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let column = match line.split_once(':').map(|(name, kind)| (name.trim(), kind.trim())) {
                Some((name, "continuous.")) => (name.to_owned(), Column::Continuous(Vec::new())),
                Some((name, "symbolic.")) => (name.to_owned(), Column::Symbolic(Vec::new(), BTreeMap::new())),
                _ => {
                    let expected = "`name: continuous.` or `name: symbolic.`";
                    return Err(Error::format(
                        path,
                        format!("line {}", number + 1),
                        expected,
                        format!("{line:?}"),
                    ));
                }
            };
            Ok(column)
        })
        .collect()
}

/// Fills the columns and gives each row's label.
fn read_records(path: &Path, input: impl Read, columns: &mut [(String, Column)]) -> Result<Vec<i64>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input);
    let mut labels = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let line = labels.len() + 1;
        let error = |column: &str, expected: &str, found: String| {
            Error::format(path, format!("line {line}, {column}"), expected, found)
        };
        let more = reader
            .read_record(&mut record)
            .map_err(|e| error("record", "text packed by gzip", e.to_string()))?;
        if !more {
            break;
        }
        if record.len() != columns.len() + 1 {
            let expected = format!("{} fields, the names' and the class", columns.len() + 1);
            return Err(error("record", &expected, record.len().to_string()));
        }
        for ((name, column), field) in columns.iter_mut().zip(&record) {
            match column {
                Column::Continuous(values) => {
                    let value = field.parse::<f64>().ok().filter(|value| value.is_finite());
                    values.push(value.ok_or_else(|| error(name, "a finite number", format!("{field:?}")))?);
                }
                Column::Symbolic(values, numbers) => {
                    let next = numbers.len();
                    values.push(match numbers.get(field) {
                        Some(&number) => number,
                        None if next < MAX_SYMBOLS => *numbers.entry(field.to_owned()).or_insert(next),
                        None => {
                            let expected = format!("one of at most {MAX_SYMBOLS} symbols");
                            return Err(error(name, &expected, format!("{field:?}, one more")));
                        }
                    });
                }
            }
        }
        labels.push(i64::from(&record[columns.len()] == NORMAL));
    }
    if labels.is_empty() {
        return Err(Error::format(path, "file", "records", "none"));
    }
    Ok(labels)
}

/// The columns side by side, symbolic ones as a column a value.
fn one_hot(columns: &[(String, Column)], rows: usize) -> Result<Table> {
    let names: Vec<String> = columns
        .iter()
        .flat_map(|(name, column)| match column {
            Column::Continuous(_) => vec![name.clone()],
            Column::Symbolic(_, numbers) => numbers.keys().map(|value| format!("{name}={value}")).collect(),
        })
        .collect();
    let mut values = Vec::with_capacity(rows * names.len());
    for row in 0..rows {
        for (_, column) in columns {
            match column {
                Column::Continuous(numbers) => values.push(numbers[row]),
                Column::Symbolic(chosen, numbers) => {
                    values.extend(numbers.values().map(|&number| f64::from(chosen[row] == number)));
                }
            }
        }
    }
    Table::new(values, names.len())?.with_names(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    const COLUMNS: &str = "back,normal.\nduration: continuous.\nprotocol: symbolic.\nbytes: continuous.\n";

    fn folder(names: &str, records: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("kddcup99")).unwrap();
        std::fs::write(folder.path().join(NAMES), names).unwrap();
        std::fs::write(folder.path().join(RECORDS), records).unwrap();
        folder
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn message(names: &str, records: &[u8]) -> String {
        kddcup99(folder(names, records).path()).unwrap_err().to_string()
    }

    #[test]
    fn symbols_become_columns_and_normal_connections_anomalies() {
        let records = packed("0,udp,105,back.\n2,tcp,7,normal.\n1,udp,3,smurf.\n");
        let table = kddcup99(folder(COLUMNS, &records).path()).unwrap();
        assert_eq!(table.names().unwrap(), ["duration", "protocol=tcp", "protocol=udp", "bytes"]);
        assert_eq!(table.values(), [0.0, 0.0, 1.0, 105.0, 2.0, 1.0, 0.0, 7.0, 1.0, 0.0, 1.0, 3.0]);
        assert_eq!(table.labels().unwrap(), [0, 1, 0]);
    }

    #[test]
    fn broken_files_are_errors_that_name_the_place() {
        let good = packed("0,udp,105,back.\n");
        assert!(message("x\nduration continuous\n", &good).contains("line 2"));
        assert!(message(COLUMNS, &packed("0,udp,105,back.\n0,udp,x,back.\n")).contains("line 2, bytes"));
        assert!(message(COLUMNS, &packed("0,udp,back.\n")).contains("4 fields"));
        assert!(message(COLUMNS, &packed("")).contains("none"));
        let symbols: Vec<String> = (0..=MAX_SYMBOLS).map(|i| format!("0,{i},105,back.\n")).collect();
        assert!(
            message(COLUMNS, &packed(&symbols.concat()))
                .contains("line 1001, protocol: expected one of at most 1000")
        );
        assert!(message(COLUMNS, b"no gzip").contains("gzip"));
        assert!(message(COLUMNS, &good[..good.len() / 2]).contains("kddcup.data"));
    }
}
