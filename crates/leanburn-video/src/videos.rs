//! Videos as folders of numbered frames.

use std::{
    collections::HashMap,
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use leanburn_core::{Error, Result};
use leanburn_vision::image::Image;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::lists::{self, Entry};

/// The number of a video's first frame.
const FIRST: usize = 1;
/// The fewest frames of the videos that the published loaders train with.
const LEAST: usize = 3;

/// The names of a video's frames: text around a number with leading zeros, such as `image_{:05d}.jpg`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    before: String,
    digits: usize,
    after: String,
}

impl Template {
    /// - text: with `{:0Nd}` where the number stands, with at least `N` digits
    ///
    /// # Errors
    ///
    /// When there is not exactly one such place, or other braces.
    pub fn new(text: &str) -> Result<Self> {
        let parse = || {
            let (before, rest) = text.split_once("{:0")?;
            let (digits, after) = rest.split_once("d}")?;
            let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
            let digits =
                digits.parse::<usize>().ok().filter(|digits| is_number && (1..=20).contains(digits))?;
            let is_whole = !before.contains(['{', '}']) && !after.contains(['{', '}']);
            is_whole.then(|| Self { before: before.to_owned(), digits, after: after.to_owned() })
        };
        let expected = "one place for a number of N digits, `{:0Nd}`, and no other braces";
        parse().ok_or_else(|| Error::setting("template", expected, format!("`{text}`")))
    }

    /// The name of frame `index`.
    pub fn file(&self, index: usize) -> String {
        let digits = self.digits;
        format!("{}{index:0digits$}{}", self.before, self.after)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{:0{}d}}{}", self.before, self.digits, self.after)
    }
}

impl TryFrom<String> for Template {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.to_string()
    }
}

/// Videos as numbered frames.
///
/// All methods of an `index` panic when there are not as many videos.
pub trait VideoSource: Send + Sync + 'static {
    /// How many videos there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many frames video `index` has.
    fn frames(&self, index: usize) -> usize;

    /// Its class.
    fn label(&self, index: usize) -> usize;

    /// The classes' names, in the order of their numbers.
    fn classes(&self) -> &[String];

    /// What video `index` is called in errors.
    fn name(&self, index: usize) -> String {
        format!("video {index}")
    }

    /// Frames of video `index`, by number from 1. Frames that are asked for several times are decoded once.
    ///
    /// # Errors
    ///
    /// When a frame cannot be read.
    fn read(&self, index: usize, frames: &[usize]) -> Result<Vec<Arc<Image>>>;
}

impl<S: VideoSource + ?Sized> VideoSource for Arc<S> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn is_empty(&self) -> bool {
        (**self).is_empty()
    }

    fn frames(&self, index: usize) -> usize {
        (**self).frames(index)
    }

    fn label(&self, index: usize) -> usize {
        (**self).label(index)
    }

    fn classes(&self) -> &[String] {
        (**self).classes()
    }

    fn name(&self, index: usize) -> String {
        (**self).name(index)
    }

    fn read(&self, index: usize, frames: &[usize]) -> Result<Vec<Arc<Image>>> {
        (**self).read(index, frames)
    }
}

/// Videos in folders, whose frames are image files.
#[derive(Debug)]
pub struct Videos {
    folder: PathBuf,
    entries: Vec<Entry>,
    template: Template,
    /// Of the ways down, where flow is in two images.
    down: Option<Template>,
    classes: Vec<String>,
    lenient: bool,
    replaced: AtomicUsize,
}

impl Videos {
    /// Videos of entries. No frame is read here.
    ///
    /// - folder: below which the entries' folders are
    /// - template: the names of the frames' files
    /// - classes: their names
    ///
    /// # Errors
    ///
    /// When there is no such folder, no entry, a label that is none of the classes, or a video without frames.
    pub fn new(
        folder: impl Into<PathBuf>,
        entries: Vec<Entry>,
        template: Template,
        classes: Vec<String>,
    ) -> Result<Self> {
        let folder = folder.into();
        if !folder.is_dir() {
            return Err(Error::format(folder, "folder", "a folder for each video", "no folder"));
        }
        if entries.is_empty() {
            return Err(Error::data("videos", "at least one", "none"));
        }
        lists::check(&entries, classes.len(), |place, expected, found| {
            Error::data(format!("entry {place}"), expected, found)
        })?;
        let replaced = AtomicUsize::new(0);
        Ok(Self { folder, entries, template, down: None, classes, lenient: false, replaced })
    }

    /// The videos of a list; see [`lists::read`].
    ///
    /// # Errors
    ///
    /// When the list cannot be read, and as [`new`](Self::new); the list's line is named.
    pub fn open(
        folder: impl Into<PathBuf>,
        list: impl AsRef<Path>,
        template: Template,
        classes: Vec<String>,
    ) -> Result<Self> {
        let list = list.as_ref();
        let entries = lists::read(list)?;
        lists::validate(&entries, classes.len(), list)?;
        Self::new(folder, entries, template, classes)
    }

    /// Replaces frames that are missing or broken by the first one of the same video, as the published loaders do, and
    /// counts them; without this they are errors. A first frame that cannot be read remains an error: there, the
    /// published loaders silently take a random other video with its label.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    /// Frames of optical flow in two gray images each: those of the template hold the ways to the right, such as
    /// `flow_x_{:05d}.jpg`, and these the ways down. Where one image holds both, in red and green, nothing is to be said.
    pub fn with_flow_down(mut self, template: Template) -> Self {
        self.down = Some(template);
        self
    }

    /// Whether each video's last frame is there, which tells a wrong list, or frames that were not made, before a training
    /// comes to them. Nothing is decoded.
    ///
    /// # Errors
    ///
    /// When one is not; the first such video is named.
    pub fn check_frames(&self) -> Result<()> {
        self.entries.par_iter().try_for_each(|entry| {
            let path = self.folder.join(&entry.path).join(self.template.file(entry.frames));
            if path.is_file() {
                return Ok(());
            }
            let location = format!("frame {} of video `{}`", entry.frames, entry.path);
            Err(Error::format(
                path,
                location,
                "the last frame of the list's count",
                "no file: the frame is missing",
            ))
        })
    }

    /// How many frames were [replaced](Self::lenient) so far, each time that they were read.
    pub fn replaced(&self) -> usize {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Without the videos of fewer than `least` frames, which may be all of them. The published loaders train with
    /// those of 3 or more.
    pub fn without_short(mut self, least: usize) -> Self {
        self.entries.retain(|entry| entry.frames >= least);
        self
    }

    /// Some of the videos, with all classes. Their replaced frames are counted anew.
    ///
    /// # Errors
    ///
    /// When there is none, or an index is too large.
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        if let Some(index) = indices.iter().find(|index| **index >= self.entries.len()) {
            return Err(Error::data("subset", format!("indices below {}", self.entries.len()), index));
        }
        let entries = indices.iter().map(|&index| self.entries[index].clone()).collect();
        let subset = Self::new(self.folder.clone(), entries, self.template.clone(), self.classes.clone())?;
        Ok(Self { lenient: self.lenient, down: self.down.clone(), ..subset })
    }

    /// The videos' folders, frame counts and labels.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A frame from its file.
    fn decode(&self, index: usize, frame: usize) -> Result<Arc<Image>> {
        let image = self.open_frame(index, frame, &self.template)?;
        let Some(down) = &self.down else {
            return Ok(Arc::new(image));
        };
        let down = self.open_frame(index, frame, down)?;
        if down.size() != image.size() {
            let name = format!("ways down of frame {frame} of video `{}`", self.entries[index].path);
            return Err(Error::data(name, format!("{:?}", image.size()), format!("{:?}", down.size())));
        }
        let pixels = image.values().chunks_exact(3).zip(down.values().chunks_exact(3));
        let values = pixels.flat_map(|(right, down)| [right[0], down[0], 0]).collect();
        Image::new(image.size(), 3, values).map(Arc::new)
    }

    fn open_frame(&self, index: usize, frame: usize, template: &Template) -> Result<Image> {
        let video = &self.entries[index].path;
        let path = self.folder.join(video).join(template.file(frame));
        Image::open(&path).map_err(|error| {
            let found = match error {
                Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                    "no file: the frame is missing".to_owned()
                }
                Error::Io { source, .. } => source.to_string(),
                Error::Format { found, .. } => format!("a broken one: {found}"),
                other => other.to_string(),
            };
            let expected = "a whole JPEG, PNG, WebP or BMP";
            Error::format(path, format!("frame {frame} of video `{video}`"), expected, found)
        })
    }
}

/// An error of a video's frames with the video's name.
pub(crate) fn in_video(source: &impl VideoSource, index: usize) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Data { location, expected, found } => {
            Error::Data { location: format!("{}: {location}", source.name(index)), expected, found }
        }
        other => other,
    }
}

impl VideoSource for Videos {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn name(&self, index: usize) -> String {
        format!("video `{}`", self.entries[index].path)
    }

    fn frames(&self, index: usize) -> usize {
        self.entries[index].frames
    }

    fn label(&self, index: usize) -> usize {
        self.entries[index].label
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn read(&self, index: usize, frames: &[usize]) -> Result<Vec<Arc<Image>>> {
        let mut images: HashMap<usize, Arc<Image>> = HashMap::new();
        let mut image = |frame: usize| -> Result<Arc<Image>> {
            if let Some(image) = images.get(&frame) {
                return Ok(image.clone());
            }
            let image = match self.decode(index, frame) {
                Err(_) if self.lenient && frame != FIRST => {
                    let first = match images.get(&FIRST) {
                        Some(first) => first.clone(),
                        None => self.decode(index, FIRST)?,
                    };
                    self.replaced.fetch_add(1, Ordering::Relaxed);
                    images.insert(FIRST, first.clone());
                    first
                }
                decoded => decoded?,
            };
            images.insert(frame, image.clone());
            Ok(image)
        };
        frames.iter().map(|&frame| image(frame)).collect()
    }
}

/// The data sets for which networks of the TSM family are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// Something-Something V1, 174 classes.
    SomethingV1,
    /// Something-Something V2, 174 classes.
    SomethingV2,
    /// Jester, 27 classes.
    Jester,
    /// Kinetics-400.
    Kinetics400,
    /// The 200 classes of Mini-Kinetics.
    MiniKinetics,
    /// HMDB51 as the code of FFN and MCA has it.
    Hmdb51 {
        /// 1, 2 or 3.
        split: usize,
    },
    /// HMDB51 as the code of `AFNet` has it, split 1.
    Hmdb51Afnet,
    /// UCF101, split 1.
    Ucf101,
    /// The 200 classes of `ActivityNet`.
    ActivityNet,
}

impl Published {
    /// Where the published code expects the data set's files.
    pub fn layout(&self) -> Layout {
        let file = |path: &str| Classes::File(path.to_owned());
        let image = "image_";
        // The lists' names, with a star for `train` and `val`, and what is before the digits in the frames' names.
        let (frames, lists, classes, before, digits) = match self {
            Self::SomethingV1 => {
                let classes = file("something_v1/category.txt");
                ("something_v1", "something_v1/*_videofolder.txt".to_owned(), classes, "", 5)
            }
            Self::SomethingV2 => {
                let classes = file("something_v2/category.txt");
                ("something_v2", "something_v2/*_videofolder.txt".to_owned(), classes, "", 6)
            }
            Self::Jester => {
                ("jester", "jester/*_videofolder.txt".to_owned(), file("jester/category.txt"), "", 5)
            }
            Self::Kinetics400 => {
                let lists = "kinetics/labels/*_videofolder.txt".to_owned();
                ("kinetics/images", lists, Classes::Count(400), image, 5)
            }
            Self::MiniKinetics => {
                let lists = "mini-kinetics/mini_*_videofolder.txt".to_owned();
                ("mini-kinetics", lists, Classes::Count(200), image, 5)
            }
            Self::Hmdb51 { split } => {
                let lists = format!("HMDB51/hmdb51_*_split_{split}_rawframes.txt");
                ("HMDB51", lists, Classes::Count(51), image, 5)
            }
            Self::Hmdb51Afnet => {
                let lists = "HMDB51/splits/hmdb51_rgb_*_split_1.txt".to_owned();
                ("HMDB51/images", lists, Classes::Count(51), "img_", 5)
            }
            Self::Ucf101 => {
                let lists = "UCF101/file_list/ucf101_rgb_*_split_1.txt".to_owned();
                ("UCF101/jpg", lists, file("UCF101/labels/classInd.txt"), "img_", 5)
            }
            Self::ActivityNet => {
                let lists = "actnet/actnet_*_split_newest.txt".to_owned();
                ("actnet/frames", lists, file("actnet/classInd.txt"), image, 5)
            }
        };
        Layout {
            frames: frames.to_owned(),
            train_list: lists.replace('*', "train"),
            valid_list: lists.replace('*', "val"),
            classes,
            template: Template { before: before.to_owned(), digits, after: ".jpg".to_owned() },
        }
    }
}

/// Where a data set's files are, below one folder. What differs in yours is to be set anew:
///
/// ```
/// use leanburn_video::videos::{Layout, Published};
///
/// let layout = Layout { frames: "kinetics/frames".to_owned(), ..Published::Kinetics400.layout() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The folder below which the paths of the lists are.
    pub frames: String,
    /// The list of the training videos.
    pub train_list: String,
    /// The list of the validation videos.
    pub valid_list: String,
    /// The classes.
    pub classes: Classes,
    /// The names of the frames' files.
    pub template: Template,
}

/// Where the classes' names are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classes {
    /// A file with one a line; see [`lists::categories`].
    File(String),
    /// As many without names; they are called by their numbers from 0.
    Count(usize),
}

impl Layout {
    /// The data set's videos below a folder.
    ///
    /// - train: the training videos of 3 frames or more, as the published loaders have them; else all validation videos
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is not of its format, there is no folder of frames, a label is none of the classes,
    /// or a video has no frames, even a short one of those that are left out.
    pub fn open(&self, root: &Path, train: bool) -> Result<Videos> {
        let classes = match &self.classes {
            Classes::File(file) => lists::categories(root.join(file))?,
            Classes::Count(count) => (0..*count).map(|class| class.to_string()).collect(),
        };
        let list = root.join(if train { &self.train_list } else { &self.valid_list });
        let videos = Videos::open(root.join(&self.frames), list, self.template.clone(), classes)?;
        if !train {
            return Ok(videos);
        }
        let videos = videos.without_short(LEAST);
        if videos.is_empty() {
            let expected = format!("a video of {LEAST} frames or more");
            return Err(Error::format(root.join(&self.train_list), "list", expected, "shorter ones alone"));
        }
        Ok(videos)
    }
}

/// Videos in memory.
#[derive(Debug, Clone)]
pub struct MemoryVideos {
    videos: Vec<(Vec<Arc<Image>>, usize)>,
    classes: Vec<String>,
}

impl MemoryVideos {
    /// - videos: the frames of each, and its class
    ///
    /// # Errors
    ///
    /// When a video has no frame, or its class is none of `classes`.
    pub fn new(videos: impl IntoIterator<Item = (Vec<Image>, usize)>, classes: Vec<String>) -> Result<Self> {
        let videos = videos.into_iter().enumerate().map(|(number, (frames, label))| {
            if frames.is_empty() {
                return Err(Error::data(format!("video {number}"), "at least one frame", "none"));
            }
            if label >= classes.len() {
                return Err(Error::data(
                    format!("class of video {number}"),
                    format!("0..{}", classes.len()),
                    label,
                ));
            }
            Ok((frames.into_iter().map(Arc::new).collect(), label))
        });
        Ok(Self { videos: videos.collect::<Result<_>>()?, classes })
    }
}

impl VideoSource for MemoryVideos {
    fn len(&self) -> usize {
        self.videos.len()
    }

    fn frames(&self, index: usize) -> usize {
        self.videos[index].0.len()
    }

    fn label(&self, index: usize) -> usize {
        self.videos[index].1
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn read(&self, index: usize, frames: &[usize]) -> Result<Vec<Arc<Image>>> {
        let all = &self.videos[index].0;
        let read = frames.iter().map(|&frame| {
            let found = frame.checked_sub(FIRST).and_then(|place| all.get(place));
            found.cloned().ok_or_else(|| {
                Error::data(format!("frame of video {index}"), format!("1..={}", all.len()), frame)
            })
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry(path: &str, frames: usize, label: usize) -> Entry {
        Entry { path: path.to_owned(), frames, label }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Saves frame `number` of a video, gray of that value.
    fn save(folder: &Path, video: &str, number: u8) {
        let path = folder.join(video);
        fs::create_dir_all(&path).unwrap();
        let name = path.join(format!("{number:03}.png"));
        image::RgbImage::from_pixel(4, 3, image::Rgb([number; 3])).save(name).unwrap();
    }

    /// Videos `a` of frames 1 to 4, `b c` of 1 and 2.
    fn videos() -> (tempfile::TempDir, Videos) {
        let folder = tempfile::tempdir().unwrap();
        for (video, frames) in [("a", 4), ("b c", 2)] {
            for frame in 1..=frames {
                save(folder.path(), video, frame);
            }
        }
        let template = Template::new("{:03d}.png").unwrap();
        let entries = vec![entry("a", 4, 0), entry("b c", 2, 1)];
        let videos = Videos::new(folder.path(), entries, template, names(&["x", "y"])).unwrap();
        (folder, videos)
    }

    fn grays(images: &[Arc<Image>]) -> Vec<u8> {
        images.iter().map(|image| image.values()[0]).collect()
    }

    #[test]
    fn flow_is_read_from_two_images() {
        let (folder, videos) = videos();
        let size = [2, 2];
        let gray = |name: &str, side: u32, value: u8| {
            let image = image::GrayImage::from_pixel(side, side, image::Luma([value]));
            image.save(folder.path().join("a").join(name)).unwrap();
        };
        gray("x_1.png", 2, 10);
        gray("y_1.png", 2, 20);
        let template = |text| Template::new(text).unwrap();
        let entries = videos.entries()[..1].to_vec();
        let flow = Videos::new(folder.path(), entries, template("x_{:01d}.png"), names(&["x"])).unwrap();
        let flow = flow.with_flow_down(template("y_{:01d}.png"));
        let read = flow.read(0, &[1]).unwrap();
        assert_eq!((read[0].size(), &read[0].values()[..6]), (size, &[10, 20, 0, 10, 20, 0][..]));
        assert!(flow.read(0, &[2]).unwrap_err().to_string().contains("frame 2 of video `a`"));
        gray("y_1.png", 3, 20);
        assert!(flow.read(0, &[1]).unwrap_err().to_string().contains("[2, 2]"));
    }

    #[test]
    fn templates_name_frames() {
        let template = Template::new("image_{:05d}.jpg").unwrap();
        assert_eq!(template.file(42), "image_00042.jpg");
        assert_eq!(template.file(1_234_567), "image_1234567.jpg");
        let text = serde_json::to_string(&template).unwrap();
        assert_eq!(text, "\"image_{:05d}.jpg\"");
        assert_eq!(serde_json::from_str::<Template>(&text).unwrap(), template);
        for text in [
            "a.jpg",
            "{}.jpg",
            "{:5d}.jpg",
            "{:0d}",
            "{:00d}",
            "{:0+5d}",
            "{:05d}{:05d}",
            "{x{:05d}",
            "{:0999d}",
        ] {
            let error = Template::new(text).unwrap_err().to_string();
            assert!(error.contains("`template`") && error.contains(text), "{error}");
        }
        assert!(serde_json::from_str::<Template>("\"a.jpg\"").is_err());
    }

    #[test]
    fn frames_are_decoded_once() {
        let (_folder, videos) = videos();
        let videos: Arc<dyn VideoSource> = Arc::new(videos);
        assert_eq!((videos.len(), videos.frames(1), videos.label(1)), (2, 2, 1));
        assert_eq!(videos.classes(), ["x", "y"]);
        let images = videos.read(0, &[3, 1, 3]).unwrap();
        assert_eq!(grays(&images), [3, 1, 3]);
        assert!(Arc::ptr_eq(&images[0], &images[2]));
        assert_eq!(grays(&videos.read(1, &[2]).unwrap()), [2]);
    }

    #[test]
    fn missing_and_broken_frames_are_named() {
        let (folder, videos) = videos();
        fs::remove_file(folder.path().join("a/002.png")).unwrap();
        fs::write(folder.path().join("a/003.png"), "no image").unwrap();
        let error = videos.read(0, &[1, 2]).unwrap_err().to_string();
        assert!(error.contains("002.png") && error.contains("`a`") && error.contains("missing"), "{error}");
        let error = videos.read(0, &[3]).unwrap_err().to_string();
        assert!(
            error.contains("003.png") && error.contains("frame 3") && error.contains("broken"),
            "{error}"
        );
        assert_eq!(videos.replaced(), 0);

        let videos = videos.lenient();
        let images = videos.read(0, &[2, 3, 4, 2, 1]).unwrap();
        assert_eq!(grays(&images), [1, 1, 4, 1, 1]);
        assert!(Arc::ptr_eq(&images[0], &images[4]));
        assert_eq!(videos.replaced(), 2);
        assert_eq!(videos.subset(&[0]).unwrap().read(0, &[2]).unwrap().len(), 1);

        fs::remove_file(folder.path().join("a/001.png")).unwrap();
        for frames in [[2], [1]] {
            let error = videos.read(0, &frames).unwrap_err().to_string();
            assert!(error.contains("001.png") && error.contains("missing"), "{error}");
        }
        assert_eq!((grays(&videos.read(0, &[4]).unwrap()), videos.replaced()), (vec![4], 2));
    }

    #[test]
    fn entries_are_checked() {
        let (folder, videos) = videos();
        let new = |entries: Vec<Entry>| {
            Videos::new(folder.path(), entries, videos.template.clone(), names(&["x"]))
                .unwrap_err()
                .to_string()
        };
        assert!(new(vec![]).contains("none"));
        let error = new(vec![entry("a", 4, 0), entry("b c", 2, 1)]);
        assert!(error.contains("entry 1") && error.contains("`b c`") && error.contains("below 1"), "{error}");
        assert!(new(vec![entry("a", 0, 0)]).contains("at least one frame"));
        let list = folder.path().join("list.txt");
        fs::write(&list, "a 4 0\nb c 2 7\n").unwrap();
        let open = |folder: &Path| {
            Videos::open(folder, &list, videos.template.clone(), names(&["x", "y"])).unwrap_err().to_string()
        };
        let error = open(folder.path());
        assert!(error.contains("list.txt: line 2") && error.contains("below 2"), "{error}");
        fs::write(&list, "a 4 0\n").unwrap();
        assert!(open(&folder.path().join("absent")).contains("no folder"));
    }

    #[test]
    fn some_videos_can_be_taken() {
        let (_folder, videos) = videos();
        let subset = videos.subset(&[1, 0, 1]).unwrap();
        assert_eq!(subset.entries()[2].path, "b c");
        assert!(videos.subset(&[2]).unwrap_err().to_string().contains("below 2"));
        assert!(videos.subset(&[]).is_err());
        assert_eq!(videos.without_short(3).entries(), [entry("a", 4, 0)]);
    }

    #[test]
    fn videos_in_memory_are_checked() {
        let frame = || Image::new([1, 1], 1, vec![7]).unwrap();
        let classes = || vec!["a".to_owned()];
        let videos = MemoryVideos::new([(vec![frame(), frame()], 0)], classes()).unwrap();
        assert_eq!((videos.len(), videos.frames(0), videos.label(0)), (1, 2, 0));
        assert_eq!(videos.read(0, &[2, 1]).unwrap().len(), 2);
        assert!(videos.read(0, &[3]).unwrap_err().to_string().contains("1..=2"));
        let error = MemoryVideos::new([(vec![], 0)], classes()).unwrap_err();
        assert!(error.to_string().contains("at least one frame"));
        let error = MemoryVideos::new([(vec![frame()], 1)], classes()).unwrap_err();
        assert!(error.to_string().contains("class of video 0"));
    }

    #[test]
    fn published_layouts_are_opened() {
        let layout = Published::Hmdb51 { split: 2 }.layout();
        assert_eq!(layout.train_list, "HMDB51/hmdb51_train_split_2_rawframes.txt");
        assert_eq!(layout.template.file(1), "image_00001.jpg");
        assert_eq!(Published::SomethingV2.layout().template.file(1), "000001.jpg");

        let (folder, _) = videos();
        fs::create_dir(folder.path().join("jester")).unwrap();
        for (name, text) in [
            ("jester/category.txt", "x\ny"),
            ("jester/train_videofolder.txt", "a 4 0\nb c 2 1\n"),
            ("jester/val_videofolder.txt", "a 4 0\nb c 2 1\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let template = Template::new("{:03d}.png").unwrap();
        let layout = Layout { frames: String::new(), template, ..Published::Jester.layout() };
        let train = layout.open(folder.path(), true).unwrap();
        assert_eq!((train.entries(), train.classes()), (&[entry("a", 4, 0)][..], &names(&["x", "y"])[..]));
        assert_eq!(layout.open(folder.path(), false).unwrap().len(), 2);
        let counted = Layout { classes: Classes::Count(1), ..layout };
        assert!(counted.open(folder.path(), true).unwrap_err().to_string().contains("line 2"));
        assert!(Published::Jester.layout().open(&folder.path().join("absent"), true).is_err());
    }
}
