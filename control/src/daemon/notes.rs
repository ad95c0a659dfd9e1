//! The file that remembers, beside the ledger, what `fdb add` and `fdb del` did: one JSON note per line.
//!
//! It is appended to, so that ten thousand additions cost ten thousand lines and not their square; a
//! daemon that starts writes it anew, without what has been deleted since.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::remembered::{Note, Remembered};

/// The open file.
#[derive(Debug)]
pub(crate) struct Notes {
    file: File,
}

impl Notes {
    /// Where the notes of the daemon at `socket` are.
    pub(crate) fn path_beside(socket: &Path) -> PathBuf {
        socket.with_extension("added")
    }

    /// Reads the notes at `path`, if there are any.
    ///
    /// A line that cannot be read is the end of one that a killed daemon did not finish; it is left out.
    pub(crate) fn read(path: &Path) -> io::Result<Remembered> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut remembered = Remembered::default();
        for note in text.lines().filter_map(|line| serde_json::from_str::<Note>(line).ok()) {
            remembered.read(note);
        }
        Ok(remembered)
    }

    /// Writes what is remembered to `path`, in place of what is there, and opens the file for more.
    pub(crate) fn create(path: &Path, remembered: &Remembered) -> io::Result<Self> {
        let new = path.with_extension("added.new");
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&new)?;
        file.set_len(0)?;
        for note in remembered.notes() {
            file.write_all(&line(&note)?)?;
        }
        fs::rename(&new, path)?;
        Ok(Self { file })
    }

    /// Adds a note.
    pub(crate) fn add(&mut self, note: &Note) -> io::Result<()> {
        self.file.write_all(&line(note)?)
    }

    /// Forgets everything.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn line(note: &Note) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(note)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::station;

    #[test]
    fn notes_are_there_again_and_a_torn_line_is_left_out() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = Notes::path_beside(&directory.path().join("vxdp.sock"));
        assert_eq!(Notes::read(&path).expect("nothing yet"), Remembered::default());
        let mut notes = Notes::create(&path, &Remembered::default()).expect("a file");
        for number in 9..12 {
            notes.add(&Note::Add(station(number))).expect("room");
        }
        notes.add(&Note::Del { vni: 42, port: 4789, mac: station(9).mac }).expect("room");
        drop(notes);
        let mut file = OpenOptions::new().append(true).open(&path).expect("the file");
        file.write_all(b"{\"add\":{\"vni\":42,\"mac\":\"02:").expect("room");
        drop(file);

        let remembered = Notes::read(&path).expect("the file");
        assert_eq!(remembered.notes().count(), 2);
        Notes::create(&path, &remembered).expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("text").lines().count(), 2);
        Notes::remove(&path).expect("gone");
        Notes::remove(&path).expect("gone already");
    }
}
