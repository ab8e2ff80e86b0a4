//! Lists the data sets that can be downloaded, or downloads one into the folder of data sets.

use std::path::PathBuf;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use leanburn::core::Result;

/// Downloads a data set; without a name, lists them all.
#[derive(Parser)]
struct Options {
    /// The set's name in the catalogue.
    name: Option<String>,
    /// The folder of data sets.
    #[arg(long, env = "LEANBURN_DATA", default_value = "data")]
    data: PathBuf,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let Some(name) = &options.name else {
        for entry in leanburn_datasets::catalogue() {
            println!("{:<16} {}", entry.name, entry.description);
            println!("{:<16} licence: {}; file: {}", "", entry.licence, entry.file);
        }
        return Ok(());
    };
    let entry = leanburn_datasets::find(name)?;
    println!("{}\n{}\nlicence: {}\ncite: {}", entry.description, entry.note, entry.licence, entry.citation);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
    let bar = ProgressBar::no_length().with_style(style.expect("the template is valid"));
    let path = leanburn_datasets::download(entry, &options.data, &mut |done, total| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    })?;
    bar.finish();
    println!("{}", path.display());
    Ok(())
}
