//! Where a capture goes: standard output, a file, or a ring of files.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Ending;
use super::pipe::Pipe;
use crate::capture::pcapng::{Blocks, Interface, Record};

/// Bytes after which blocks are written without waiting for an idle moment.
const CHUNK: usize = 256 << 10;

enum Sink {
    Stdout(Pipe),
    /// A file, and how many bytes of whole blocks it has.
    File(File, u64),
    /// Its reader has gone, or takes nothing while the capture shall end.
    Closed,
}

/// A capture's file.
pub(super) struct Output {
    path: PathBuf,
    /// Size at which the next file begins, and number of files after which the first one is overwritten.
    ring: Option<(u64, u32)>,
    /// Files begun so far, less one.
    number: u32,
    sink: Sink,
    blocks: Blocks,
    /// Where in the blocks that wait each frame ends, in bytes.
    ends: Vec<usize>,
    interfaces: Vec<Interface>,
    /// Frames that a stalled reader kept from being written.
    unwritten: u64,
}

impl Output {
    /// Begins the capture at `path`, `-` being standard output. With a size the capture is a series of files; of
    /// more than `files` only the last ones are kept.
    pub(super) fn create(
        path: &Path,
        size: Option<u64>,
        files: Option<u32>,
        ending: Ending,
    ) -> anyhow::Result<Self> {
        let (path, ring) = (path.to_owned(), size.map(|size| (size, files.unwrap_or(u32::MAX))));
        let (ends, interfaces) = Default::default();
        let (sink, blocks) = (Sink::Closed, Blocks::new()?);
        let mut output = Self { path, ring, number: 0, sink, blocks, ends, interfaces, unwritten: 0 };
        let is_stdout = output.path.as_os_str() == "-";
        output.sink = if is_stdout { Sink::Stdout(Pipe::new(ending)) } else { output.open()? };
        output.flush()?;
        Ok(output)
    }

    /// Adds a frame.
    pub(super) fn frame(
        &mut self,
        interface: &Interface,
        snap_length: u32,
        frame: &Record<'_>,
    ) -> anyhow::Result<()> {
        let known = self.interfaces.iter().position(|known| known == interface);
        let number = match known {
            Some(number) => number,
            None => {
                self.blocks.interface(interface, snap_length)?;
                self.interfaces.push(interface.clone());
                self.interfaces.len() - 1
            }
        };
        self.blocks.frame(u32::try_from(number)?, frame)?;
        self.ends.push(self.blocks.bytes().len());
        if self.is_full() {
            self.flush()?;
            self.begin_next(snap_length)?;
        } else if self.blocks.bytes().len() >= CHUNK {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what there is. A file that cannot take it ends with the last block that it has whole.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let bytes = self.blocks.bytes();
        if bytes.is_empty() {
            return Ok(());
        }
        match &mut self.sink {
            Sink::Stdout(pipe) => match pipe.write(bytes) {
                Ok(taken) if taken < bytes.len() => {
                    self.unwritten += self.ends.iter().filter(|end| **end > taken).count() as u64;
                    self.sink = Sink::Closed;
                }
                Ok(_) => {}
                // Wireshark was closed: that ends the capture.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.sink = Sink::Closed,
                Err(error) => return Err(error).context("cannot write the capture to standard output"),
            },
            Sink::File(file, whole) => {
                match file.write_all(bytes) {
                    Ok(()) => *whole += bytes.len() as u64,
                    Err(error) => {
                        // Half a block would make the file unreadable to its end.
                        let _ = file.set_len(*whole);
                        let path = self.file().display().to_string();
                        return Err(error).with_context(|| {
                        format!("cannot write {path}; what was captured before is in it, whole to the last frame")
                    });
                    }
                }
            }
            Sink::Closed => {}
        }
        self.blocks.written();
        self.ends.clear();
        Ok(())
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.sink, Sink::Closed)
    }

    /// Frames that were taken and could not be written, because the reader had stalled when the capture ended.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten
    }

    fn is_full(&self) -> bool {
        let waiting = self.blocks.bytes().len() as u64;
        match (&self.sink, self.ring) {
            (Sink::File(_, whole), Some((size, _))) => whole + waiting >= size,
            _ => false,
        }
    }

    /// Begins the next file of the ring; each can be read without the others.
    fn begin_next(&mut self, snap_length: u32) -> anyhow::Result<()> {
        self.number += 1;
        self.sink = self.open()?;
        self.blocks = Blocks::new()?;
        for interface in &self.interfaces {
            self.blocks.interface(interface, snap_length)?;
        }
        Ok(())
    }

    fn open(&self) -> anyhow::Result<Sink> {
        let path = self.file();
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Sink::File(file, 0))
    }

    /// The present file: of a ring `trace.pcapng` it is `trace.0.pcapng` and so on.
    fn file(&self) -> PathBuf {
        let Some((_, files)) = self.ring else { return self.path.clone() };
        let number = self.number % files.max(1);
        match self.path.extension() {
            Some(extension) => self.path.with_extension(format!("{number}.{}", extension.to_string_lossy())),
            None => self.path.with_extension(number.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;
    use std::time::Duration;
    use vxdp_dataplane::worker::Way;

    fn frame() -> Record<'static> {
        let (bytes, comment) = (Cow::Borrowed(&[7; 1000][..]), Cow::Borrowed("path kernel"));
        Record { at: Duration::from_secs(1), len: 1000, bytes, way: Way::Enters, comment, lost: 0 }
    }

    fn interface(name: &str) -> Interface {
        Interface { device: name.to_owned(), description: "underlay".to_owned() }
    }

    fn frames_in(path: &Path) -> usize {
        let mut reader =
            pcap_file::pcapng::PcapNgReader::new(File::open(path).expect("a file")).expect("a section");
        let mut frames = 0;
        while let Some(block) = reader.next_block() {
            frames += usize::from(block.expect("a whole block").into_enhanced_packet().is_some());
        }
        frames
    }

    #[test]
    fn a_ring_keeps_the_last_files_each_readable_by_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("trace.pcapng");
        let mut output = Output::create(&path, Some(10_000), Some(3), Ending::default()).expect("a file");
        for number in 0..100 {
            output.frame(&interface(["eth0", "veth2"][number % 2]), 65535, &frame()).expect("room");
        }
        output.flush().expect("room");
        let mut names: Vec<_> =
            std::fs::read_dir(directory.path()).expect("it is there").map(|e| e.unwrap().path()).collect();
        names.sort();
        assert_eq!(names, ["0", "1", "2"].map(|n| directory.path().join(format!("trace.{n}.pcapng"))));
        assert!(names.iter().map(|name| frames_in(name)).sum::<usize>() >= 18);
    }

    #[test]
    fn a_disk_that_is_full_is_said_to_be() {
        let create = |path| Output::create(Path::new(path), None, None, Ending::default());
        let mut output = create("/dev/full").map(drop).expect_err("no room");
        assert!(format!("{output:#}").contains("No space left"), "{output:#}");
        output = create("/nonexistent/x").map(drop).expect_err("no directory");
        assert!(output.to_string().contains("/nonexistent/x"));
    }
}
