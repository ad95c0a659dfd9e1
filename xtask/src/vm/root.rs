//! The files of the virtual machine: programs of this system with their libraries, ours, the kernel's modules.

use super::job::Job;
use super::kernel::Kernel;
use crate::process;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The first process.
const INIT: &str = include_str!("init.sh");

/// Programs of this system that the jobs start. Whatever else a shell script takes is busybox's.
const PROGRAMS: [&str; 12] = [
    "busybox", "sh", "ip", "bridge", "tc", "ping", "nsenter", "unshare", "setpriv", "mount", "ethtool",
    "tcpdump",
];

/// Directories of the workspace that tests read at run time.
const DATA: [&str; 2] = ["examples", "ebpf/packets"];

/// A directory that becomes a virtual machine's memory disk.
pub(super) struct Root {
    directory: PathBuf,
}

impl Root {
    /// Makes the root directory of a machine for `kernel` anew, with everything but `jobs` and their programs.
    pub(super) fn create(kernel: &Kernel) -> Result<Self> {
        let directory = process::target_dir().join("vm/root");
        if directory.exists() {
            std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
        }
        let root = Self { directory };
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::fs::create_dir_all(root.directory.join("usr").join(name))?;
            symlink(Path::new("usr").join(name), root.directory.join(name))?;
        }
        std::fs::create_dir_all(root.directory.join("usr/lib/modules").join(&kernel.release))?;
        kernel.copy_modules(&root.directory)?;
        for name in PROGRAMS {
            let file = process::find(name).with_context(|| format!("there is no program {name}"))?;
            root.add_program(&file, &file)?;
        }
        // What the kernel starts when it lacks a module.
        symlink("/bin/busybox", root.directory.join("sbin/modprobe"))?;
        root.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
        root.write("etc/group", "root:x:0:\n")?;
        root.write("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        root.write("init", INIT)?;
        root.allow_execution("init")?;
        root.write("vxdp-vm/directory", &format!("{}\n", process::root().display()))?;
        for data in DATA {
            root.copy_directory(&process::root().join(data))?;
        }
        Ok(root)
    }

    /// Adds the jobs and their programs, which keep their paths.
    pub(super) fn add_jobs(&self, jobs: &[Job]) -> Result<()> {
        let mut script = String::new();
        for job in jobs {
            script += &job.script();
            for program in &job.programs {
                self.add_our_program(program, program)?;
            }
            std::fs::create_dir_all(self.inside(&job.directory))?;
        }
        self.write("vxdp-vm/jobs", &script)
    }

    /// Adds a program of ours as `name`, without what only a debugger reads, which is most of it.
    pub(super) fn add_our_program(&self, program: &Path, name: &Path) -> Result<()> {
        if self.inside(name).exists() {
            return Ok(());
        }
        let stripped = process::target_dir().join("vm/stripped");
        process::run(process::command("strip").arg("-o").arg(&stripped).arg(program))?;
        self.add_program(&stripped, name)?;
        Ok(std::fs::remove_file(stripped)?)
    }

    /// Packs the directory as the kernel unpacks it (`Documentation/driver-api/early-userspace/buffer-format.rst`).
    pub(super) fn pack(&self, archive: &Path) -> Result<()> {
        let out = std::fs::File::create(archive).with_context(|| archive.display().to_string())?;
        let mut shell = process::command("sh");
        shell.args(["-c", "find . | cpio --create --format newc --owner +0:+0 --quiet"]);
        process::run(shell.current_dir(&self.directory).stdout(Stdio::from(out)))
    }

    /// Adds the program `file` as `name`, with the libraries that it loads.
    fn add_program(&self, file: &Path, name: &Path) -> Result<()> {
        self.copy(file, name)?;
        // Fails for a program that is linked statically, which needs none.
        let out = process::command("ldd").arg(file).stderr(Stdio::null()).output()?;
        for library in libraries(&String::from_utf8_lossy(&out.stdout))
            .with_context(|| format!("the libraries of {}", file.display()))?
        {
            if !self.inside(library).exists() {
                self.copy(library, library)?;
            }
        }
        Ok(())
    }

    fn copy_directory(&self, directory: &Path) -> Result<()> {
        for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                self.copy_directory(&path)?;
            } else {
                self.copy(&path, &path)?;
            }
        }
        Ok(())
    }

    fn copy(&self, file: &Path, name: &Path) -> Result<()> {
        let target = self.inside(name);
        if let Some(directory) = target.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::copy(file, &target).with_context(|| format!("while copying {}", file.display()))?;
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.directory.join(name);
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&file, text).with_context(|| file.display().to_string())
    }

    fn allow_execution(&self, name: &str) -> Result<()> {
        let file = self.directory.join(name);
        Ok(std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))?)
    }

    /// Where the path `path` of the machine lies on this one.
    fn inside(&self, path: &Path) -> PathBuf {
        self.directory.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The files in what `ldd` prints.
fn libraries(text: &str) -> Result<Vec<&Path>> {
    let mut files = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{}", line.trim());
        }
        // `libc.so.6 => /lib/… (0x…)`, and the loader as `/lib64/ld-linux-x86-64.so.2 (0x…)`.
        files.extend(line.split_ascii_whitespace().find(|word| word.starts_with('/')).map(Path::new));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libelf.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text).unwrap(), expected.map(Path::new));
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
        assert!(libraries("\tlibelf.so.1 => not found\n").is_err());
    }

    #[test]
    fn the_first_process_marks_its_lines_as_the_reader_expects() {
        for verb in ["kernel", "begin", "end", "done"] {
            assert!(INIT.contains(&format!("{}{verb}", super::super::console::MARK)), "{verb}");
        }
    }
}
