//! What has to be on the machine: each thing with its use, how to see that it is there, and who packages it.

use super::Purpose::{self, Bench, Build, Demo, Dist, Docker, Ebpf, Fuzz, Test, Vm};
use crate::ebpf::toolchain;
use crate::process;
use std::path::{Path, PathBuf};

/// One thing that must be on the machine.
pub(super) struct Requirement {
    /// What it is used for, as a half sentence.
    pub(super) why: &'static str,
    /// How to see that it is there. Never a package query: things also get installed by other means.
    pub(super) what: Detect,
    /// The commands that need it.
    pub(super) purposes: &'static [Purpose],
    /// Debian and Ubuntu package; where releases differ, several, and the first that exists is taken.
    pub(super) debian: &'static [&'static str],
    /// Fedora package.
    pub(super) fedora: &'static str,
    /// Arch Linux package.
    pub(super) arch: &'static str,
}

/// How to see that something is there.
pub(super) enum Detect {
    /// A program in a directory of `PATH` or in a system administrator's directory.
    Program(&'static str),
    /// A C header, relative to an include directory.
    Header(&'static str),
    /// A shared library whose file name starts like this.
    Library(&'static str),
    /// A file, of which one name is all that matters.
    File(&'static str),
    /// The compiler of the XDP programs.
    EbpfCompiler,
}

impl Requirement {
    /// The same in words.
    pub(super) fn name(&self) -> String {
        match self.what {
            Detect::Program(name) => format!("program {name}"),
            Detect::Header(name) => format!("header <{name}>"),
            Detect::Library(name) => format!("library {name}.so"),
            Detect::File(name) => format!("file {name}"),
            Detect::EbpfCompiler => format!("{} with LLVM {}", toolchain::RUSTC, toolchain::LLVM),
        }
    }

    /// Whether it is there.
    pub(super) fn is_met(&self) -> bool {
        match self.what {
            Detect::Program(name) => process::find(name).is_some(),
            Detect::Header(name) => include_dirs().iter().any(|dir| dir.join(name).is_file()),
            Detect::Library(name) => library_dirs().iter().any(|dir| has_library(dir, name)),
            Detect::File(name) => Path::new(name).exists(),
            Detect::EbpfCompiler => toolchain::has_compiler(),
        }
    }
}

/// The directories in `parent` whose names match.
fn subdirs(parent: &str, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_str().is_some_and(&matches)).map(|e| e.path()).collect()
}

/// Where a C compiler looks for headers.
fn include_dirs() -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::from("/usr/include"), PathBuf::from("/usr/local/include")];
    dirs.extend(subdirs("/usr/include", |name| name.ends_with("-linux-gnu")));
    for variable in ["CPATH", "C_INCLUDE_PATH"] {
        dirs.extend(std::env::split_paths(&std::env::var_os(variable).unwrap_or_default()));
    }
    dirs
}

/// Where bindgen looks for libclang.
fn library_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<_> = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from).into();
    dirs.extend(subdirs("/usr/lib", |name| name.ends_with("-linux-gnu")));
    dirs.extend(subdirs("/usr/lib", |name| name.starts_with("llvm")).iter().map(|dir| dir.join("lib")));
    dirs.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    dirs
}

/// Whether `dir` has a shared library `name`, with or without a version before or after `.so`.
fn has_library(dir: &Path, name: &str) -> bool {
    let is_it = |file: &str| {
        let Some(rest) = file.strip_prefix(name) else { return false };
        // `libclang-14.so` is libclang, `libclang-cpp.so` is another library.
        let versioned =
            rest.strip_prefix('-').map(|r| r.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.'));
        rest.starts_with(".so") || versioned.is_some_and(|r| r.starts_with("so"))
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.file_name().to_str().is_some_and(is_it))
}

/// Everything, in the order in which it is shown.
pub(super) const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        why: "compiles libbpf and links every crate",
        what: Detect::Program("gcc"),
        purposes: &[Build, Ebpf],
        debian: &["gcc"],
        fedora: "gcc",
        arch: "gcc",
    },
    Requirement {
        why: "the C library's and the kernel's headers",
        what: Detect::Header("linux/if_xdp.h"),
        purposes: &[Build, Ebpf],
        debian: &["libc6-dev"],
        fedora: "glibc-devel",
        arch: "linux-api-headers",
    },
    Requirement {
        why: "builds libbpf and libxdp",
        what: Detect::Program("make"),
        purposes: &[Build],
        debian: &["make"],
        fedora: "make",
        arch: "make",
    },
    Requirement {
        why: "generates libxdp's dispatcher program",
        what: Detect::Program("m4"),
        purposes: &[Build],
        debian: &["m4"],
        fedora: "m4",
        arch: "m4",
    },
    Requirement {
        why: "finds the libraries libbpf and libxdp build on",
        what: Detect::Program("pkg-config"),
        purposes: &[Build],
        debian: &["pkg-config"],
        fedora: "pkgconf-pkg-config",
        arch: "pkgconf",
    },
    Requirement {
        why: "compiles libxdp's programs to LLVM code",
        what: Detect::Program("clang"),
        purposes: &[Build],
        debian: &["clang"],
        fedora: "clang",
        arch: "clang",
    },
    Requirement {
        why: "assembles libxdp's programs from LLVM code",
        what: Detect::Program("llc"),
        purposes: &[Build],
        debian: &["llvm"],
        fedora: "llvm",
        arch: "llvm",
    },
    Requirement {
        why: "bindgen reads libxdp's headers with it",
        what: Detect::Library("libclang"),
        purposes: &[Build],
        debian: &["libclang-dev"],
        fedora: "clang-devel",
        arch: "clang",
    },
    Requirement {
        why: "libbpf reads object files with it",
        what: Detect::Header("libelf.h"),
        purposes: &[Build],
        debian: &["libelf-dev"],
        fedora: "elfutils-libelf-devel",
        arch: "libelf",
    },
    Requirement {
        why: "libelf unpacks sections with it",
        what: Detect::Header("zlib.h"),
        purposes: &[Build],
        debian: &["zlib1g-dev"],
        fedora: "zlib-devel",
        arch: "zlib",
    },
    Requirement {
        // Nothing of ours captures with libpcap: the configure script of the vendored xdp-tools insists on
        // it, even when only libxdp is built, and its error in the middle of cargo's output is easy to miss.
        why: "libxdp's configure script insists on it",
        what: Detect::Header("pcap/dlt.h"),
        purposes: &[Build],
        debian: &["libpcap-dev"],
        fedora: "libpcap-devel",
        arch: "libpcap",
    },
    Requirement {
        why: "shows and changes links, routes and neighbours of the lab",
        what: Detect::Program("ip"),
        purposes: &[Demo, Dist, Test, Bench],
        debian: &["iproute2"],
        fedora: "iproute",
        arch: "iproute2",
    },
    Requirement {
        why: "the ping that crosses the overlay",
        what: Detect::Program("ping"),
        purposes: &[Demo, Dist, Test, Bench],
        debian: &["iputils-ping"],
        fedora: "iputils",
        arch: "iputils",
    },
    Requirement {
        why: "runs the containers of `--docker`",
        what: Detect::Program("dockerd"),
        purposes: &[Docker],
        debian: &["docker.io"],
        fedora: "moby-engine",
        arch: "docker",
    },
    Requirement {
        why: "starts the containers of `--docker`",
        what: Detect::Program("docker"),
        purposes: &[Docker],
        debian: &["docker-cli", "docker.io"],
        fedora: "docker-cli",
        arch: "docker",
    },
    Requirement {
        why: "the containers' image is made of it, without a registry, and so are virtual machines",
        what: Detect::Program("busybox"),
        purposes: &[Docker, Vm],
        debian: &["busybox-static"],
        fedora: "busybox",
        arch: "busybox",
    },
    Requirement {
        why: "shows the packets of a lab to whoever looks around in it",
        what: Detect::Program("tcpdump"),
        purposes: &[Test, Vm],
        debian: &["tcpdump"],
        fedora: "tcpdump",
        arch: "tcpdump",
    },
    Requirement {
        why: "reads what `vxdp capture` writes",
        what: Detect::Program("tshark"),
        purposes: &[Test],
        debian: &["tshark"],
        fedora: "wireshark-cli",
        arch: "wireshark-cli",
    },
    Requirement {
        why: "measures through a lab's overlay by hand",
        what: Detect::Program("iperf3"),
        purposes: &[Test],
        debian: &["iperf3"],
        fedora: "iperf3",
        arch: "iperf3",
    },
    Requirement {
        why: "a second opinion on the offloads of devices; finishes checksums for Open vSwitch",
        what: Detect::Program("ethtool"),
        purposes: &[Test, Bench, Vm],
        debian: &["ethtool"],
        fedora: "ethtool",
        arch: "ethtool",
    },
    Requirement {
        why: "checks the metrics by Prometheus' conventions; the server itself is not started",
        what: Detect::Program("promtool"),
        purposes: &[Test],
        debian: &["prometheus"],
        fedora: "golang-github-prometheus",
        arch: "prometheus",
    },
    Requirement {
        why: "the other VTEP of the interoperability tests",
        what: Detect::Program("ovs-vswitchd"),
        purposes: &[Test, Bench],
        debian: &["openvswitch-switch"],
        fedora: "openvswitch",
        arch: "openvswitch",
    },
    Requirement {
        why: "finds out what the Debian package depends on",
        what: Detect::Program("dpkg-shlibdeps"),
        purposes: &[Dist],
        debian: &["dpkg-dev"],
        fedora: "dpkg-dev",
        arch: "dpkg",
    },
    Requirement {
        why: "starts the service in a copy of the system, where the package is tried",
        what: Detect::File("/lib/systemd/systemd"),
        purposes: &[Dist],
        debian: &["systemd"],
        fedora: "systemd",
        arch: "systemd",
    },
    Requirement {
        why: "renders the manual page of the package",
        what: Detect::Program("man"),
        purposes: &[Dist],
        debian: &["man-db"],
        fedora: "man-db",
        arch: "man-db",
    },
    Requirement {
        why: "emulates a machine with another kernel",
        what: Detect::Program("qemu-system-x86_64"),
        purposes: &[Vm],
        debian: &["qemu-system-x86"],
        fedora: "qemu-system-x86-core",
        arch: "qemu-system-x86",
    },
    Requirement {
        why: "packs the files of a virtual machine",
        what: Detect::Program("cpio"),
        purposes: &[Vm],
        debian: &["cpio"],
        fedora: "cpio",
        arch: "cpio",
    },
    Requirement {
        why: "unpacks the kernel and the modules of its package",
        what: Detect::Program("xz"),
        purposes: &[Vm],
        debian: &["xz-utils"],
        fedora: "xz",
        arch: "xz",
    },
    Requirement {
        why: "unpacks the kernel of a newer package",
        what: Detect::Program("zstd"),
        purposes: &[Vm],
        debian: &["zstd"],
        fedora: "zstd",
        arch: "zstd",
    },
    Requirement {
        why: "writes the index of a kernel's modules",
        what: Detect::Program("depmod"),
        purposes: &[Vm],
        debian: &["kmod"],
        fedora: "kmod",
        arch: "kmod",
    },
    Requirement {
        why: "compiles the XDP programs",
        what: Detect::EbpfCompiler,
        purposes: &[Ebpf],
        debian: &["rustc-web"],
        fedora: "rust",
        arch: "rust",
    },
    Requirement {
        why: "the core library, compiled for BPF along with the XDP programs",
        what: Detect::File(toolchain::CORE),
        purposes: &[Ebpf],
        debian: &["rust-web-src"],
        fedora: "rust-src",
        arch: "rust-src",
    },
    Requirement {
        why: "what bpf-linker is built on",
        what: Detect::File(toolchain::LLVM_CONFIG),
        purposes: &[Ebpf],
        debian: &["llvm-22-dev"],
        fedora: "llvm-devel",
        arch: "llvm",
    },
    Requirement {
        why: "compiles libFuzzer",
        what: Detect::Program("c++"),
        purposes: &[Fuzz],
        debian: &["g++"],
        fedora: "gcc-c++",
        arch: "gcc",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_says_why_and_who_packages_it() {
        for r in REQUIREMENTS {
            assert!(!r.why.is_empty() && !r.debian.is_empty() && !r.purposes.is_empty(), "{}", r.name());
            assert!(!r.fedora.is_empty() && !r.arch.is_empty(), "{}", r.name());
        }
    }

    #[test]
    fn the_contributors_page_names_every_debian_package() {
        let page = std::fs::read_to_string(process::root().join("docs/contributing.md")).unwrap();
        for package in REQUIREMENTS.iter().flat_map(|r| r.debian) {
            assert!(page.contains(&format!("`{package}`")), "docs/contributing.md does not name {package}");
        }
    }

    #[test]
    fn a_library_is_recognised_with_and_without_a_version() {
        let dir = std::env::temp_dir().join(format!("xtask-library-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for (file, expected) in [
            ("libclang.so", true),
            ("libclang-14.so.14.0.6", true),
            ("libclang.so.1", true),
            ("libclang-cpp.so.22.1", false),
            ("libclang.a", false),
        ] {
            std::fs::write(dir.join(file), "").unwrap();
            assert_eq!(has_library(&dir, "libclang"), expected, "{file}");
            std::fs::remove_file(dir.join(file)).unwrap();
        }
        std::fs::remove_dir(&dir).unwrap();
    }
}
