//! The workspace's vocabulary of errors.
//!
//! Everything that reads a user's files or settings returns [`Result`]. An error names the file, the tensor, the
//! cell or the field, what was expected and what was found, and, where it helps, what to do.

use std::{fmt, path::PathBuf};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a user's files, data or settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file is not what its format requires.
    #[error("{}: {location}: expected {expected}, found {found}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in the file: a byte offset, a line, a variable, a key.
        location: String,
        /// What the format or the reader requires there.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A cell or a part of a data set cannot be used.
    #[error("{location}: expected {expected}, found {found}")]
    Data {
        /// Which part: a row and column, a column, the whole table.
        location: String,
        /// What is required.
        expected: String,
        /// What is there.
        found: String,
    },

    /// A setting is out of its range or contradicts another.
    #[error("setting `{field}`: expected {expected}, found {found}")]
    Setting {
        /// The field's name in the configuration.
        field: String,
        /// Its range or the contradiction.
        expected: String,
        /// Its value.
        found: String,
    },

    /// A checkpoint does not fit the module it is loaded into.
    #[error("{}: the checkpoint does not fit the model\n{mismatch}", path.display())]
    Checkpoint {
        /// The file or the folder of shards.
        path: PathBuf,
        /// The names that do not fit.
        mismatch: Box<Mismatch>,
    },

    /// Something is already there, and nothing is overwritten silently.
    #[error("{}: already there; choose another place, or remove it first", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },

    /// A device is not available in this build or on this machine.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name asked for.
        name: String,
        /// Why it is not available, and what to do.
        reason: String,
    },

    /// A download did not give the file that the catalogue describes.
    #[error("{url}: {reason}")]
    Download {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
}

impl Error {
    /// An [`Error::Io`] at `path`, for `map_err`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Format`].
    pub fn format(
        path: impl Into<PathBuf>,
        location: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::Format {
            path: path.into(),
            location: location.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// An [`Error::Data`].
    pub fn data(location: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::Data {
            location: location.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// An [`Error::Setting`].
    pub fn setting(field: impl fmt::Display, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self::Setting { field: field.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Checks settings that count something.
///
/// # Errors
///
/// When one is 0; the first such field is named.
pub fn at_least_one<'a>(settings: impl IntoIterator<Item = (&'a str, usize)>) -> Result<()> {
    match settings.into_iter().find(|(_, value)| *value == 0) {
        Some((field, _)) => Err(Error::setting(field, "at least 1", 0)),
        None => Ok(()),
    }
}

/// The names in which a checkpoint and a module differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// In the module, not in the checkpoint.
    pub missing: Vec<String>,
    /// In the checkpoint, not in the module.
    pub unexpected: Vec<String>,
    /// In both, but with another shape or an unreadable value: the name and the reason.
    pub misshaped: Vec<(String, String)>,
}

impl Mismatch {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshaped.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More names than this are counted, not listed.
        const LISTED: usize = 20;
        let mut list = |title: &str, names: &[String]| -> fmt::Result {
            if names.is_empty() {
                return Ok(());
            }
            writeln!(f, "  {title} ({}):", names.len())?;
            for name in names.iter().take(LISTED) {
                writeln!(f, "    {name}")?;
            }
            if names.len() > LISTED {
                writeln!(f, "    ... and {} more", names.len() - LISTED)?;
            }
            Ok(())
        };
        list("missing in the file", &self.missing)?;
        list("unexpected in the file", &self.unexpected)?;
        let misshaped: Vec<String> =
            self.misshaped.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        list("mis-shaped", &misshaped)
    }
}
