//! The files that a run leaves, and earlier runs read back.
//!
//! ```text
//! DIR/report.html    the page
//! DIR/summary.md     the same as Markdown
//! DIR/run.json       the run, as `--from` and `--against` read it
//! DIR/saved/NAME.json
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::against::Against;
use super::{Run, html, markdown};

/// The directory that reports go to.
#[derive(Debug, Clone)]
pub struct Output(PathBuf);

impl Output {
    /// In this directory, which is made if it is not there.
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// Writes page, summary and data; answers what was written.
    pub fn report(&self, run: &Run, against: Option<&Against>) -> Result<[PathBuf; 3]> {
        let files = ["report.html", "summary.md", "run.json"].map(|name| self.0.join(name));
        let contents = [html(run, against), markdown(run, against), json(run)?];
        for (path, content) in files.iter().zip(&contents) {
            write(path, content)?;
        }
        Ok(files)
    }

    /// Keeps a run under a name.
    pub fn save(&self, name: &str, run: &Run) -> Result<PathBuf> {
        let path = self.saved(name);
        write(&path, &json(run)?)?;
        Ok(path)
    }

    /// The run that was kept under this name; a path of a file is one, too.
    pub fn load(&self, name: &str) -> Result<Run> {
        let path = if name.contains('/') { PathBuf::from(name) } else { self.saved(name) };
        match read(&path) {
            Err(error) if is_absent(&error) => {
                let names = self.names();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                bail!("there is no run at {}: `--save` makes one; saved are: {known}", path.display())
            }
            other => other,
        }
    }

    fn saved(&self, name: &str) -> PathBuf {
        self.0.join("saved").join(format!("{name}.json"))
    }

    /// Names of what was saved.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("saved")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
            .collect();
        names.sort();
        names
    }
}

/// Reads a run.
pub fn read(path: &Path) -> Result<Run> {
    let text = fs::read_to_string(path).with_context(|| format!("while reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no run of this benchmark", path.display()))
}

/// Whether `name` can be a run's.
pub fn valid_name(name: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err("letters, digits, `-`, `_` and `.`, please".to_owned());
    }
    Ok(name.to_owned())
}

/// Writes a file, and the directories it takes, for whom the place belongs to: root measures, others read.
pub fn write(path: &Path, content: &str) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let missing = directory.ancestors().take_while(|place| !place.as_os_str().is_empty() && !place.exists());
    let missing: Vec<_> = missing.collect();
    let doing = || format!("while writing {}", path.display());
    fs::create_dir_all(directory).with_context(doing)?;
    fs::write(path, content).with_context(doing)?;
    for new in missing.into_iter().rev().chain([path]) {
        hand_over(new).with_context(doing)?;
    }
    Ok(())
}

/// Gives something to the owner of the directory it is in.
fn hand_over(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (owner, own) = (fs::metadata(parent)?, fs::metadata(path)?);
    if owner.uid() == own.uid() { Ok(()) } else { chown(path, Some(owner.uid()), Some(owner.gid())) }
}

fn json(run: &Run) -> Result<String> {
    Ok(serde_json::to_string_pretty(run)? + "\n")
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;

    #[test]
    fn a_saved_run_is_read_back_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let output = Output::new(&place.path().join("new/bench"));
        let mut run = Run::begin();
        run.figures = vec![figure("xdp", Unit::FramesPerSecond, &[1.5, 2.5])];
        output.save("before", &run).unwrap();
        assert_eq!(output.load("before").unwrap(), run);
        let files = output.report(&run, None).unwrap();
        assert_eq!(read(&files[2]).unwrap(), run);
        let error = output.load("after").unwrap_err().to_string();
        assert!(error.contains("saved are: before"), "{error}");
    }

    #[test]
    fn what_is_no_run_is_refused_with_its_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x.json");
        fs::write(&path, "[]").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("x.json is no run"), "{error}");
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        assert!(valid_name("before-2").is_ok());
        for bad in ["", "../x", "a/b", ".hidden", "a b"] {
            assert!(valid_name(bad).is_err(), "{bad}");
        }
    }
}
