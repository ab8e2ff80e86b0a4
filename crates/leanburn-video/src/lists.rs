//! List files: which videos there are, how many frames each has, and its class.

use std::{collections::HashMap, fmt, fs, path::Path};

use leanburn_core::{
    Error, Result,
    report::{read_json, write_new},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::videos::Template;

/// A line of a list: a video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The folder of its frames, below the data set's.
    pub path: String,
    /// How many frames it has.
    pub frames: usize,
    /// Its class.
    pub label: usize,
}

impl Entry {
    /// The last two fields are numbers; what is before them is the path, whatever spaces it has.
    fn parse(line: &str) -> Option<Self> {
        let (rest, label) = line.rsplit_once(char::is_whitespace)?;
        let (path, frames) = rest.trim_end().rsplit_once(char::is_whitespace)?;
        let path = path.trim_end().to_owned();
        // No video has more frames than this type counts, and sums of them stay in range.
        let frames: u32 = frames.parse().ok()?;
        Some(Self { path, frames: frames as usize, label: label.parse().ok()? })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.path, self.frames, self.label)
    }
}

/// Reads a list of lines `path frames label`, as TSM's are. The path may have spaces.
///
/// Whether labels and frame counts make sense is for [`validate`].
///
/// # Errors
///
/// When the file cannot be read, a line is another, or there is none. Empty lines are nothing only at the end.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Entry>> {
    parse(path.as_ref(), "`path frames label`", Entry::parse)
}

/// Writes a list.
///
/// # Errors
///
/// When the file exists or cannot be written, there is no entry, or a path cannot be read back, because it has several
/// lines or spaces around it.
pub fn write(path: impl AsRef<Path>, entries: &[Entry]) -> Result<()> {
    let path = path.as_ref();
    if entries.is_empty() {
        return Err(Error::data("list", "at least one video", "none"));
    }
    let mut text = String::new();
    for (place, entry) in entries.iter().enumerate() {
        let line = entry.to_string();
        if line.contains(['\n', '\r']) || Entry::parse(line.trim()).as_ref() != Some(entry) {
            let expected = "a path of one line, without spaces around it";
            return Err(Error::data(format!("entry {place}"), expected, format!("{:?}", entry.path)));
        }
        text.push_str(&line);
        text.push('\n');
    }
    write_new(path, |temporary| fs::write(temporary, &text).map_err(Error::io(path)))
}

/// Reads the names of classes, one a line. Their order makes the labels. Numbers before them are left out where they
/// count the lines, as in UCF101's `1 ApplyEyeMakeup`.
///
/// # Errors
///
/// When the file cannot be read, or a line is empty or there already; only the end may have empty lines.
pub fn categories(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let names = parse(path, "the name of a class", |line| (!line.is_empty()).then(|| line.to_owned()))?;
    let without_numbers = |first: usize| -> Option<Vec<String>> {
        let name = |(place, line): (usize, &String)| {
            let (number, name) = line.split_once(char::is_whitespace)?;
            (number.parse::<usize>() == Ok(first + place)).then(|| name.trim().to_owned())
        };
        names.iter().enumerate().map(name).collect()
    };
    let numbered = without_numbers(1).or_else(|| without_numbers(0));
    let names = numbered.unwrap_or(names);
    for (place, name) in names.iter().enumerate() {
        if let Some(other) = names[..place].iter().position(|other| other == name) {
            let found = format!("`{name}`, as in line {}", other + 1);
            return Err(Error::format(path, format!("line {}", place + 1), "another class", found));
        }
    }
    Ok(names)
}

/// Reads a list of lines `video.mp4,label`, as SlowFast's and UniFormer's video data sets have them.
///
/// - separator: between the two, a comma or a space
///
/// # Errors
///
/// When the file cannot be read, a line is another, or there is none.
pub fn csv(path: impl AsRef<Path>, separator: char) -> Result<Vec<(String, usize)>> {
    parse(path.as_ref(), &format!("`video{separator}label`"), |line| {
        let (video, label) = line.rsplit_once(separator)?;
        let video = video.trim();
        (!video.is_empty()).then_some((video.to_owned(), label.trim().parse().ok()?))
    })
}

/// What each line of a file says.
fn parse<T>(path: &Path, expected: &str, parse_line: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        Error::format(path, format!("line {line}"), "text in UTF-8", "other bytes")
    })?;
    // The mark that some editors begin a file with.
    let lines = text.trim_start_matches('\u{feff}').trim_end().lines().enumerate();
    let parsed = lines.map(|(place, line)| {
        parse_line(line.trim())
            .ok_or_else(|| Error::format(path, format!("line {}", place + 1), expected, format!("{line:?}")))
    });
    let parsed = parsed.collect::<Result<Vec<T>>>()?;
    if parsed.is_empty() {
        return Err(Error::format(path, "file", format!("lines of {expected}"), "none"));
    }
    Ok(parsed)
}

/// Checks that each label is one of the classes, and that each video has frames.
///
/// - classes: how many there are
/// - source: the list's file, of which each entry is a line
///
/// # Errors
///
/// When one is not so; the line is named.
pub fn validate(entries: &[Entry], classes: usize, source: &Path) -> Result<()> {
    check(entries, classes, |place, expected, found| {
        Error::format(source, format!("line {}", place + 1), expected, found)
    })
}

/// - error: of the entry at a place, counted from 0, with what is expected and found there
pub(crate) fn check(
    entries: &[Entry],
    classes: usize,
    error: impl Fn(usize, &str, &str) -> Error,
) -> Result<()> {
    for (place, Entry { path, frames, label }) in entries.iter().enumerate() {
        if *label >= classes {
            let expected = format!("a label below {classes}, the number of classes");
            return Err(error(place, &expected, &format!("label {label} of video `{path}`")));
        }
        if *frames == 0 {
            return Err(error(place, "at least one frame", &format!("none of video `{path}`")));
        }
    }
    Ok(())
}

/// The files in which data sets are published that name each video's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Annotation {
    /// Something-Something V1: lines `id;class`. Frames lie in `id`.
    SomethingV1,
    /// Something-Something V2: a JSON list of objects with `id` and `template`, the class with square brackets. Frames
    /// lie in `id`.
    SomethingV2,
    /// Kinetics: CSV with the header `label,youtube_id,time_start,time_end,split`. Frames lie in `label/youtube_id`,
    /// with underscores for the label's spaces.
    Kinetics,
}

/// A video of an annotation file.
struct Annotated {
    /// Where in the file.
    location: String,
    path: String,
    class: String,
}

impl Annotation {
    fn read(self, file: &Path) -> Result<Vec<Annotated>> {
        match self {
            Self::SomethingV1 => {
                let videos = parse(file, "`id;class`", |line| {
                    let (id, class) = line.split_once(';')?;
                    (!id.is_empty()).then(|| (id.trim().to_owned(), class.trim().to_owned()))
                })?;
                let annotated = |(place, (path, class)): (usize, (String, String))| {
                    let location = format!("line {}", place + 1);
                    Annotated { location, path, class }
                };
                Ok(videos.into_iter().enumerate().map(annotated).collect())
            }
            Self::SomethingV2 => {
                #[derive(Deserialize)]
                struct Video {
                    id: String,
                    template: String,
                }
                let videos: Vec<Video> = read_json(file)?;
                let annotated = |(place, video): (usize, Video)| Annotated {
                    location: format!("object {} of the list", place + 1),
                    class: video.template.replace(['[', ']'], ""),
                    path: video.id,
                };
                Ok(videos.into_iter().enumerate().map(annotated).collect())
            }
            Self::Kinetics => kinetics(file),
        }
    }
}

fn kinetics(file: &Path) -> Result<Vec<Annotated>> {
    let lines = parse(file, "CSV", |line| Some(line.to_owned()))?;
    let header: Vec<&str> = lines[0].split(',').map(unquoted).collect();
    if !header.starts_with(&["label", "youtube_id"]) {
        let expected = "the header `label,youtube_id,time_start,time_end,split`";
        return Err(Error::format(file, "line 1", expected, format!("{:?}", lines[0])));
    }
    let annotated = |(place, line): (usize, &String)| {
        let location = format!("line {}", place + 1);
        // From the end, because labels may have commas.
        let fields: Vec<&str> = line.rsplitn(header.len(), ',').map(unquoted).collect();
        match fields[..] {
            [.., id, label] if fields.len() == header.len() && !id.is_empty() => {
                let path = format!("{}/{id}", label.replace(' ', "_"));
                Ok(Annotated { location, path, class: label.to_owned() })
            }
            _ => {
                let expected = format!("{} fields, of which the second names a video", header.len());
                Err(Error::format(file, location, expected, format!("{line:?}")))
            }
        }
    };
    lines.iter().enumerate().skip(1).map(annotated).collect()
}

fn unquoted(field: &str) -> &str {
    field.trim().trim_matches('"')
}

/// A list that was made of a folder of frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The videos that have frames, in the order of the annotation file.
    pub entries: Vec<Entry>,
    /// The paths of those that have none.
    pub missing: Vec<String>,
}

/// Makes a list: counts the frames that each annotated video has, from the first to the one before a gap.
///
/// - frames: the folder below which the videos' folders are
/// - categories: the classes' names, in the order of the labels; see [`categories`]
/// - template: the names of the frames' files
///
/// # Errors
///
/// When there is no such folder, the annotation file cannot be read, has no video or is not of the kind, or a class is
/// none of the categories.
pub fn build(
    frames: &Path,
    annotation_file: &Path,
    kind: Annotation,
    categories: &[String],
    template: &Template,
) -> Result<Built> {
    if !frames.is_dir() {
        return Err(Error::format(frames, "folder", "a folder for each video", "no folder"));
    }
    let annotated = kind.read(annotation_file)?;
    if annotated.is_empty() {
        return Err(Error::format(annotation_file, "file", "annotated videos", "none"));
    }
    let labels: HashMap<&str, usize> =
        categories.iter().enumerate().map(|(label, name)| (name.as_str(), label)).collect();
    let entry = |Annotated { location, path, class }: Annotated| -> Result<Entry> {
        let label = labels.get(class.as_str()).copied().ok_or_else(|| {
            let expected = format!("one of the {} categories", categories.len());
            Error::format(annotation_file, location, expected, format!("`{class}`"))
        })?;
        Ok(Entry { path, frames: 0, label })
    };
    let mut entries = annotated.into_iter().map(entry).collect::<Result<Vec<Entry>>>()?;
    entries.par_iter_mut().for_each(|entry| {
        let folder = frames.join(&entry.path);
        while folder.join(template.file(entry.frames + 1)).is_file() {
            entry.frames += 1;
        }
    });
    let (entries, missing): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.frames > 0);
    Ok(Built { entries, missing: missing.into_iter().map(|entry| entry.path).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A file of a text, in a folder that lives as long as the test.
    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.txt");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn entry(path: &str, frames: usize, label: usize) -> Entry {
        Entry { path: path.to_owned(), frames, label }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn lists_are_read_and_written() {
        let (folder, path) = file("100218 42 134\r\nimages/val 256/a b 180 0\n\n");
        let entries = read(&path).unwrap();
        assert_eq!(entries, [entry("100218", 42, 134), entry("images/val 256/a b", 180, 0)]);
        let copy = folder.path().join("copy.txt");
        write(&copy, &entries).unwrap();
        assert_eq!(read(&copy).unwrap(), entries);
        assert!(matches!(write(&copy, &entries), Err(Error::Exists { .. })));
        let other = folder.path().join("other.txt");
        for path in ["a\nb", " a", "", "a "] {
            assert!(
                write(&other, &[entry(path, 1, 0)]).unwrap_err().to_string().contains("entry 0"),
                "{path:?}"
            );
        }
        assert!(write(&other, &[]).is_err());
    }

    #[test]
    fn lines_that_are_no_entries_are_named() {
        for text in ["a 3 0\nb 3\n", "a 3 0\nb x 0", "a 3 0\nb 3 -1", "a 3 0\n\nb 3 0", "a 3 0\nb 3 0.5"] {
            let (_folder, path) = file(text);
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("file.txt") && error.contains("line 2"), "{error}");
        }
        let (folder, path) = file("\n\n");
        assert!(read(&path).unwrap_err().to_string().contains("none"));
        assert!(matches!(read(folder.path().join("absent")), Err(Error::Io { .. })));
    }

    #[test]
    fn entries_are_checked() {
        let check =
            |entries: &[Entry]| validate(entries, 2, Path::new("list.txt")).map_err(|e| e.to_string());
        assert_eq!(check(&[entry("a", 1, 0), entry("b", 1, 1)]), Ok(()));
        let error = check(&[entry("a", 1, 0), entry("b", 1, 2)]).unwrap_err();
        assert!(error.contains("list.txt: line 2") && error.contains("below 2"), "{error}");
        let error = check(&[entry("a", 1, 0), entry("b", 1, 1), entry("c d", 0, 0)]).unwrap_err();
        assert!(error.contains("list.txt: line 3") && error.contains("`c d`"), "{error}");
    }

    #[test]
    fn categories_are_lines() {
        let read = |text: &str| {
            let (_folder, path) = file(text);
            categories(&path).map_err(|error| error.to_string())
        };
        assert_eq!(
            read("Holding something\nTurning, left\n").unwrap(),
            ["Holding something", "Turning, left"]
        );
        assert_eq!(read("1 ApplyEyeMakeup\n2 Archery").unwrap(), ["ApplyEyeMakeup", "Archery"]);
        assert_eq!(read("0 a\n1 b").unwrap(), ["a", "b"]);
        assert_eq!(read("2 a\n1 b").unwrap(), ["2 a", "1 b"]);
        assert!(read("a\n\nb").unwrap_err().contains("line 2"));
        let error = read("a\nb\na").unwrap_err();
        assert!(error.contains("line 3") && error.contains("line 1"), "{error}");
        assert!(read("").is_err());
    }

    #[test]
    fn video_lists_have_a_separator() {
        let (_folder, path) = file("a b.mp4,3\nc.mp4, 0\n");
        assert_eq!(csv(&path, ',').unwrap(), [("a b.mp4".to_owned(), 3), ("c.mp4".to_owned(), 0)]);
        let (_folder, path) = file("a.mp4 3\nb.mp4\n");
        assert!(csv(&path, ' ').unwrap_err().to_string().contains("line 2"));
    }

    /// A folder of videos, each with frames of these numbers.
    fn videos(videos: &[(&str, &[usize])], template: &Template) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (video, frames) in videos {
            let path = folder.path().join(video);
            fs::create_dir_all(&path).unwrap();
            for frame in *frames {
                fs::write(path.join(template.file(*frame)), "").unwrap();
            }
        }
        folder
    }

    #[test]
    fn lists_are_built_of_something_something() {
        let template = Template::new("{:05d}.jpg").unwrap();
        let folder = videos(&[("7", &[1, 2, 3, 5]), ("8", &[2]), ("9", &[1])], &template);
        let classes = names(&["Holding something", "Moving something up"]);
        let (_first, csv) =
            file("9;Moving something up\n7;Holding something\n8;Holding something\n10;Holding something");
        let list_of = |annotations: &Path, kind, classes: &[String]| {
            build(folder.path(), annotations, kind, classes, &template)
        };
        let built = list_of(&csv, Annotation::SomethingV1, &classes).unwrap();
        assert_eq!(built.entries, [entry("9", 1, 1), entry("7", 3, 0)]);
        assert_eq!(built.missing, ["8", "10"]);
        let error = list_of(&csv, Annotation::SomethingV1, &classes[1..]).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`Holding something`"), "{error}");

        let (_second, json) = file(
            r#"[{"id": "7", "label": "x", "template": "Moving [something] up", "placeholders": ["x"]}]"#,
        );
        let built = list_of(&json, Annotation::SomethingV2, &classes).unwrap();
        assert_eq!(built, Built { entries: vec![entry("7", 3, 1)], missing: vec![] });
        let error = list_of(&json, Annotation::SomethingV2, &classes[..1]).unwrap_err().to_string();
        assert!(error.contains("object 1") && error.contains("`Moving something up`"), "{error}");
        assert!(list_of(&csv, Annotation::SomethingV2, &classes).is_err());
        let (_third, none) = file("[]");
        assert!(list_of(&none, Annotation::SomethingV2, &classes).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn lists_are_built_of_kinetics() {
        let template = Template::new("image_{:05d}.jpg").unwrap();
        let folder = videos(&[("washing_hands/-a_b", &[1, 2]), ("cut,_dry/x", &[1])], &template);
        let classes = names(&["washing hands", "cut, dry"]);
        let header = "label,youtube_id,time_start,time_end,split\n";
        let list_of = |text: &str| {
            let (_folder, path) = file(text);
            build(folder.path(), &path, Annotation::Kinetics, &classes, &template)
        };
        let built =
            list_of(&format!("{header}washing hands,-a_b,1,11,train\n\"cut, dry\",x,0,10,train\n")).unwrap();
        assert_eq!(built.entries, [entry("washing_hands/-a_b", 2, 0), entry("cut,_dry/x", 1, 1)]);
        assert!(list_of("washing hands,a,1,11,train\n").unwrap_err().to_string().contains("line 1"));
        let error = list_of(&format!("{header}washing hands,a\n")).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("5 fields"), "{error}");
        assert!(list_of(header).unwrap_err().to_string().contains("none"));
        let error = list_of(&format!("{header}dancing,a,1,11,train\n")).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`dancing`"), "{error}");
    }
}
