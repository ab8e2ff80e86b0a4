//! Tables in CSV files.

use std::{fs, io, path::Path};

use ::csv::{ByteRecord, Reader, ReaderBuilder, Trim};

use super::{Table, column_index, excerpt, in_file, integer, listed};
use crate::{Error, Result};

/// How to read a CSV file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// The column of class labels: its name, or, in a file without a header, its index from 0. Default: none.
    pub label_column: Option<String>,
    /// The byte between two cells. Default: a comma.
    pub delimiter: u8,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { label_column: None, delimiter: b',' }
    }
}

/// Reads a table: one row a line, one finite number a cell, blanks around it ignored, labels integers (`1` or
/// `1.0`).
///
/// The first line is a header when any of its cells is text and not a number; `?`, `NA` and `null` stand for a
/// missing number. Blank lines are skipped; a byte order mark is tolerated.
///
/// # Errors
///
/// When the file cannot be read, is empty or ragged, when a cell is empty or not a finite number, when the
/// label column is missing, ambiguous or the only one, or when a label is not an integer. Lines and columns
/// are counted from 1.
pub fn read(path: impl AsRef<Path>, options: &CsvOptions) -> Result<Table> {
    let path = path.as_ref();
    parse(path, &fs::read(path).map_err(Error::io(path))?, options)
}

fn parse(path: &Path, file: &[u8], options: &CsvOptions) -> Result<Table> {
    let open = || {
        ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(Trim::All)
            .delimiter(options.delimiter)
            .from_reader(file)
    };
    let mut reader = open();
    let mut record = ByteRecord::new();
    if !next(path, &mut reader, &mut record)? {
        return Err(Error::format(path, "line 1", "at least one row", "an empty file"));
    }
    let columns = record.len();
    let is_header = record.iter().any(|cell| !is_missing(cell) && number(cell).is_none());
    let names: Option<Vec<String>> =
        is_header.then(|| record.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect());
    let label = match &options.label_column {
        Some(label) => Some(label_index(path, label, names.as_deref(), columns)?),
        None => None,
    };

    let mut values = Vec::new();
    let mut more = !is_header || next(path, &mut reader, &mut record)?;
    while more {
        let line = || format!("line {}", line(file, &record));
        if record.len() != columns {
            let found = format!("{} cells", record.len());
            return Err(Error::format(path, line(), format!("{columns} cells, as in the first line"), found));
        }
        for (column, cell) in record.iter().enumerate() {
            let value = number(cell).filter(|value| value.is_finite());
            let value = if label == Some(column) { value.filter(|&v| integer(v).is_some()) } else { value };
            let Some(value) = value else {
                let name = names.as_ref().map(|names| format!(" ({})", excerpt(&names[column])));
                let location = format!("{}, column {}{}", line(), column + 1, name.unwrap_or_default());
                let expected = if label == Some(column) { "an integer label" } else { "a finite number" };
                let found = if !cell.is_empty() {
                    excerpt(cell)
                } else if is_empty_column(path, open(), column, is_header)? {
                    "an empty cell, as in the whole column".to_owned()
                } else {
                    "an empty cell".to_owned()
                };
                return Err(Error::format(path, location, expected, found));
            };
            values.push(value);
        }
        more = next(path, &mut reader, &mut record)?;
    }
    if values.is_empty() {
        return Err(Error::format(path, "the end of the file", "at least one row", "only a header"));
    }

    let mut table = Table::new(values, columns).map_err(in_file(path, "table"))?;
    if let Some(names) = names {
        table = table.with_names(names).map_err(in_file(path, "header"))?;
    }
    match label {
        Some(label) => table.with_label_column(label).map_err(in_file(path, "label column")),
        None => Ok(table),
    }
}

/// Reads the next record, if there is one.
fn next(path: &Path, reader: &mut Reader<&[u8]>, record: &mut ByteRecord) -> Result<bool> {
    reader.read_byte_record(record).map_err(io::Error::from).map_err(Error::io(path))
}

/// Whether a cell stands for a number that is not known.
fn is_missing(cell: &[u8]) -> bool {
    const MARKS: [&str; 6] = ["", "?", "na", "n/a", "null", "none"];
    MARKS.iter().any(|mark| cell.eq_ignore_ascii_case(mark.as_bytes()))
}

fn number(cell: &[u8]) -> Option<f64> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

fn label_index(path: &Path, label: &str, names: Option<&[String]>, columns: usize) -> Result<usize> {
    let error = |expected: String, found| Err(Error::format(path, "label column", expected, found));
    let Some(names) = names else {
        return column_index(label, columns)
            .or_else(|expected| error(format!("{expected}, as there is no header"), excerpt(label)));
    };
    let mut places = (0..columns).filter(|&i| names[i] == label);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (Some(_), Some(_)) => error(format!("one column {}", excerpt(label)), "several".to_owned()),
        (None, _) => error(format!("one of {}", listed(names)), excerpt(label)),
    }
}

/// Whether no row has anything in `column`.
fn is_empty_column(path: &Path, mut reader: Reader<&[u8]>, column: usize, is_header: bool) -> Result<bool> {
    let mut record = ByteRecord::new();
    let mut more = next(path, &mut reader, &mut record)?;
    if is_header {
        more = next(path, &mut reader, &mut record)?;
    }
    while more {
        if record.get(column).is_some_and(|cell| !cell.is_empty()) {
            return Ok(false);
        }
        more = next(path, &mut reader, &mut record)?;
    }
    Ok(true)
}

/// The line on which a record begins. The reader's own count is behind after `\r\n` and before blank lines.
fn line(file: &[u8], record: &ByteRecord) -> usize {
    let start = record.position().map_or(0, |position| position.byte() as usize).min(file.len());
    let blank = file[start..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let before = &file[..start + blank];
    let ends_line = |&i: &usize| match before[i] {
        b'\r' => before.get(i + 1) != Some(&b'\n'),
        byte => byte == b'\n',
    };
    1 + (0..before.len()).filter(ends_line).count()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;
    use crate::table::tests::{damaged, parts};

    fn read(text: impl AsRef<[u8]>, label: Option<&str>) -> Result<Table> {
        let options = CsvOptions { label_column: label.map(str::to_owned), ..CsvOptions::default() };
        parse(Path::new("a.csv"), text.as_ref(), &options)
    }

    #[test]
    fn reads_with_and_without_a_header() {
        let expected = Table::new(vec![1.0, -2.5, 3e4, 0.25], 2).unwrap();
        assert_eq!(read("1,-2.5\n3e4,.25", None).unwrap(), expected);
        assert_eq!(read("\u{feff} 1 ,-2.5\r\n\r\n\"3e4\",+.25\r\n", None).unwrap(), expected);
        let named = expected.with_names(vec!["a".into(), "1".into()]).unwrap();
        assert_eq!(read("a,1\n1,-2.5\n3e4,.25\n", None).unwrap(), named);
        assert_eq!(read("\u{feff}a, 1\n1,-2.5\n3e4,.25\n", None).unwrap(), named);
        // The first column of a data frame's index has no name.
        assert_eq!(read(",a\n0,1\n", None).unwrap().names().unwrap(), ["", "a"]);
    }

    #[test]
    fn reads_labels_by_name_or_index() {
        let expected = Table::new(vec![1.0, 2.0, 3.0, 4.0], 2).unwrap().with_labels(vec![0, -1]).unwrap();
        assert_eq!(read("1,0,2\n3,-1.0,4\n", Some("1")).unwrap(), expected);
        let named = expected.with_names(vec!["a".into(), "a".into()]).unwrap();
        assert_eq!(read("a,y,a\n1,0,2\n3,-1.0,4\n", Some("y")).unwrap(), named);
    }

    #[test]
    fn refuses_what_is_not_a_table() {
        for (text, label, expected) in [
            ("", None, "line 1: expected at least one row, found an empty file"),
            ("\n\n", None, "an empty file"),
            ("\u{feff}", None, "an empty file"),
            ("a,b\n", None, "only a header"),
            ("a,b\n1,2\n\n3\n", None, "line 4: expected 2 cells, as in the first line, found 1 cells"),
            ("1,2\r\n3,4\r\n1,2,3", None, "line 3: expected 2 cells"),
            ("1\r2\r3,4", None, "line 3: expected 1 cells"),
            ("a,b\n1,2\n3,x\n", None, "line 3, column 2 (\"b\"): expected a finite number, found \"x\""),
            ("1,2\r\n\r\n3,x", None, "line 3, column 2: expected a finite number, found \"x\""),
            (
                "\"a\nb\",c\n1,2\n3,NaN",
                None,
                "line 4, column 2 (\"c\"): expected a finite number, found \"NaN\"",
            ),
            ("1,2\ninf,2", None, "line 2, column 1: expected a finite number, found \"inf\""),
            ("1,2\n1e999,2", None, "found \"1e999\""),
            ("1,2\n,2", None, "line 2, column 1: expected a finite number, found an empty cell"),
            ("1,\n2,3", None, "line 1, column 2: expected a finite number, found an empty cell"),
            ("a,b\n1,2\n,2", None, "line 3, column 1 (\"a\"): expected a finite number, found an empty cell"),
            (
                "a,\n1,\n2, \n",
                None,
                "line 2, column 2 (\"\"): expected a finite number, found an empty cell, as in the whole column",
            ),
            ("a,y\n1,1.5", Some("y"), "line 2, column 2 (\"y\"): expected an integer label, found \"1.5\""),
            ("a,y\n1,", Some("y"), "expected an integer label, found an empty cell, as in the whole column"),
            ("a,y\n1,1e17", Some("y"), "expected an integer label"),
            ("a,b\n1,2", Some("y"), "label column: expected one of \"a\", \"b\", found \"y\""),
            ("a,b\n1,2", Some("0"), "label column: expected one of \"a\", \"b\", found \"0\""),
            ("a,y,y\n1,2,3", Some("y"), "label column: expected one column \"y\", found several"),
            ("1,2", Some("y"), "the index of a column, from 0 to 1, as there is no header, found \"y\""),
            ("1,2", Some("2"), "from 0 to 1"),
            ("y\n1", Some("y"), "a column beside the labels"),
        ] {
            let error = read(text, label).unwrap_err().to_string();
            assert!(error.starts_with("a.csv: ") && error.contains(expected), "{text:?}: {error}");
        }
        let error = read(b"1,2\n3,\xff\n", None).unwrap_err().to_string();
        assert!(error.contains("line 2, column 2"), "{error}");
    }

    proptest! {
        #[test]
        fn round_trips(
            columns in 2_usize..5,
            cells in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO, 4..40),
            header in any::<bool>(),
            delimiter in prop::sample::select(vec![b',', b';', b'\t']),
            end in prop::sample::select(vec!["\n", "\r\n"]),
        ) {
            let rows: Vec<&[f64]> = cells.chunks_exact(columns).collect();
            prop_assume!(!rows.is_empty());
            let names: Vec<String> = (0..columns).map(|i| format!("x{i}")).chain(["y".to_owned()]).collect();
            let separator = char::from(delimiter).to_string();
            let mut text = if header { names.join(&separator) + end } else { String::new() };
            for (label, row) in rows.iter().enumerate() {
                for cell in *row {
                    write!(text, "{cell:e}{separator}").unwrap();
                }
                write!(text, "{label}{end}").unwrap();
            }
            let label_column = Some(if header { "y".to_owned() } else { columns.to_string() });
            let options = CsvOptions { label_column, delimiter };
            let table = parse(Path::new("a"), text.as_bytes(), &options).unwrap();
            prop_assert_eq!(table.values(), rows.concat());
            prop_assert_eq!(table.labels().unwrap(), (0..rows.len() as i64).collect::<Vec<_>>());
            prop_assert_eq!(table.names(), header.then_some(&names[..columns]));
        }

        #[test]
        fn survives_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), delimiter in any::<u8>()) {
            let _ = parse(Path::new("a"), &bytes, &CsvOptions { label_column: Some("0".into()), delimiter });
        }

        #[test]
        fn survives_any_cells(
            text in parts(&["0", "7", "a", ",", ".", "\"", "\r", "\n", " "], 40),
            label in prop::option::of(prop::sample::select(vec!["0", "1", "a"])),
        ) {
            let _ = read(text, label);
        }

        #[test]
        fn survives_damage(
            file in damaged(vec![b"a,b,y\n1,2,0\n3,4,1\n".to_vec(), b"\xef\xbb\xbf1,2\r\n3,4".to_vec()]),
        ) {
            if let Ok(table) = read(&file, None) {
                prop_assert!(table.values().len() <= file.len());
            }
        }
    }
}
