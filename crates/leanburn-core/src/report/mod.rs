//! What a run leaves behind: a folder with its configuration, metrics and plots, written whole or not at all.

#[cfg(feature = "plot")]
mod plot;

#[cfg(feature = "plot")]
pub use plot::{Plot, Style};

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result};

/// A folder for one run's files. Files in it are written under a temporary name and renamed, and never overwritten.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Creates the folder, with its parents.
    ///
    /// # Errors
    ///
    /// When it exists and is not empty, or cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        if fs::read_dir(&path).map_err(Error::io(&path))?.next().is_some() {
            return Err(Error::Exists { path });
        }
        Ok(Self { path })
    }

    /// A folder that is there already, to go on with what was begun in it.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if path.is_dir() {
            return Ok(Self { path });
        }
        Err(Error::data(path.display(), "a folder", "none"))
    }

    /// Creates `parent/name`, or the first of `parent/name-2`, `parent/name-3`, ... that is not taken.
    ///
    /// # Errors
    ///
    /// When it cannot be created.
    pub fn create_numbered(parent: impl AsRef<Path>, name: &str) -> Result<Self> {
        let parent = parent.as_ref();
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        for number in 1.. {
            let path = if number == 1 { parent.join(name) } else { parent.join(format!("{name}-{number}")) };
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(path)(error)),
            }
        }
        unreachable!("some number is not taken")
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of file `name` in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes `value` as JSON into file `name`.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        write_json(self.file(name), value)
    }

    /// Writes rows as CSV, with a header from their fields' names, into file `name`.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written.
    pub fn write_csv(&self, name: &str, rows: impl IntoIterator<Item = impl Serialize>) -> Result<()> {
        write_csv(self.file(name), rows)
    }

    /// Writes `plot` as SVG into file `name`.
    ///
    /// # Errors
    ///
    /// When the file exists or cannot be written, or the plot has no finite point.
    #[cfg(feature = "plot")]
    pub fn write_plot(&self, name: &str, plot: &Plot) -> Result<()> {
        let svg = plot.svg()?;
        write_bytes(&self.file(name), svg.as_bytes())
    }
}

/// What lies in a folder, sorted by name.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn entries(folder: impl AsRef<Path>) -> Result<Vec<PathBuf>> {
    let folder = folder.as_ref();
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<std::io::Result<Vec<_>>>().map_err(Error::io(folder))?;
    paths.sort();
    Ok(paths)
}

/// Writes `value` as indented JSON.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn write_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
    let path = path.as_ref();
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::format(path, "value", "what JSON can hold", error))?;
    text.push('\n');
    write_bytes(path, text.as_bytes())
}

/// Reads what [`write_json`] wrote.
///
/// # Errors
///
/// When the file cannot be read, or is not JSON of what is asked for.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::format(path, "file", "JSON with the fields asked for", error))
}

/// Writes rows as CSV, with a header from their fields' names.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn write_csv(path: impl AsRef<Path>, rows: impl IntoIterator<Item = impl Serialize>) -> Result<()> {
    let path = path.as_ref();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let unfit = |error: String| Error::format(path, "row", "what CSV can hold", error);
    for row in rows {
        writer.serialize(row).map_err(|error| unfit(error.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|error| unfit(error.to_string()))?;
    write_bytes(path, &bytes)
}

/// Writes a text.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn write_text(path: impl AsRef<Path>, text: &str) -> Result<()> {
    write_bytes(path.as_ref(), text.as_bytes())
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_new(path, |temporary| {
        fs::File::options()
            .write(true)
            .open(temporary)
            .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
            .map_err(Error::io(path))
    })
}

/// Lets `write` fill a temporary file beside `path`, then gives it that name: the file appears complete or not at all.
///
/// # Errors
///
/// When `path` exists, when its folder cannot be written to, or the error of `write`.
pub fn write_new(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Err(Error::Exists { path: path.to_owned() });
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut builder = tempfile::Builder::new();
    // Otherwise only the owner could read the result.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    // Closed before it is written by name, which Windows requires.
    let temporary = builder.tempfile_in(folder).map_err(Error::io(path))?.into_temp_path();
    write(&temporary)?;
    temporary.persist_noclobber(path).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
        _ => Error::Io { path: path.to_owned(), source: error.error },
    })
}

/// Lets `write` fill a temporary folder beside `path`, then gives it that name: the folder appears complete or not at all.
///
/// # Errors
///
/// When `path` exists and is not an empty folder, when its parent cannot be written to, or the error of `write`.
pub fn write_new_folder(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        if !path.is_dir() || !entries(path)?.is_empty() {
            return Err(Error::Exists { path: path.to_owned() });
        }
        fs::remove_dir(path).map_err(Error::io(path))?;
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let temporary =
        tempfile::Builder::new().prefix(".unfinished-").tempdir_in(parent).map_err(Error::io(parent))?;
    // Of a folder in it, since the temporary one is for its owner alone.
    let whole = temporary.path().join("whole");
    fs::create_dir(&whole).map_err(Error::io(&whole))?;
    write(&whole)?;
    fs::rename(&whole, path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        value: f64,
    }

    #[test]
    fn folders_appear_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("model");
        let fails = |folder: &Path| {
            write_text(folder.join("a"), "half")?;
            Err(Error::data("weights", "some", "none"))
        };
        assert!(write_new_folder(&path, fails).is_err());
        assert_eq!(entries(parent.path()).unwrap(), Vec::<PathBuf>::new());
        fs::create_dir(&path).unwrap();
        write_new_folder(&path, |folder| write_text(folder.join("a"), "whole")).unwrap();
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "whole");
        assert!(matches!(write_new_folder(&path, |_| Ok(())), Err(Error::Exists { .. })));
        assert_eq!(entries(parent.path()).unwrap(), [path]);
    }

    #[test]
    fn a_run_folder_is_never_reused() {
        let parent = tempfile::tempdir().unwrap();
        let first = RunFolder::create_numbered(parent.path(), "run").unwrap();
        let second = RunFolder::create_numbered(parent.path(), "run").unwrap();
        assert_ne!(first.path(), second.path());
        first.write_json("report.json", &1).unwrap();
        assert!(matches!(RunFolder::create(first.path()), Err(Error::Exists { .. })));
    }

    #[test]
    fn files_are_whole_and_never_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let run = RunFolder::create(parent.path().join("run")).unwrap();
        let rows = [Row { name: "a, b", value: 0.5 }, Row { name: "c", value: 2.0 }];
        run.write_csv("rows.csv", &rows).unwrap();
        let text = fs::read_to_string(run.file("rows.csv")).unwrap();
        assert_eq!(text, "name,value\n\"a, b\",0.5\nc,2.0\n");
        assert!(matches!(run.write_csv("rows.csv", &rows), Err(Error::Exists { .. })));
        // A failed write leaves nothing behind.
        let failed = write_new(&run.file("broken"), |_| Err(Error::data("row", "x", "y")));
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1);
    }
}
