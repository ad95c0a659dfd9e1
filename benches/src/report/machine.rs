//! The machine of a run, as far as figures depend on it.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// What `/proc/cpuinfo` calls the processor.
    pub processor: String,
    /// Processors that the benchmark may use.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether a hypervisor is underneath, which takes processors away when it likes.
    pub virtual_machine: bool,
    /// Whether its processors are a program (qemu's TCG): no figure says anything about hardware then.
    #[serde(default)]
    pub emulated: bool,
}

impl Machine {
    /// This one. What the kernel does not tell stays empty: a report without it is better than none.
    pub fn here() -> Self {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kibibytes =
            value(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        let processor = value(&processors, "model name").unwrap_or("unknown processor");
        Self {
            kernel: kernel.unwrap_or_default(),
            processor: processor.to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            memory: kibibytes.unwrap_or(0) * 1024,
            virtual_machine: value(&processors, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            emulated: is_emulated(processor),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "Linux {}, {} × {}{}, {:.0} GiB",
            self.kernel,
            self.processors,
            self.processor,
            match self {
                Self { emulated: true, .. } => " (emulated)",
                Self { virtual_machine: true, .. } => " (virtual machine)",
                _ => "",
            },
            self.memory as f64 / f64::from(1 << 30)
        )
    }
}

/// Whether a processor of this name is qemu's own (`target/i386/cpu.c`; with KVM the host's shows through).
fn is_emulated(processor: &str) -> bool {
    processor.starts_with("QEMU TCG")
}

/// The first value of `key` in lines of `key : value`.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let here = Machine::here();
        assert!(here.processors > 0 && here.memory > 0 && !here.kernel.is_empty(), "{here:?}");
        assert!(here.line().starts_with(&format!("Linux {}", here.kernel)));
    }

    #[test]
    fn an_emulated_processor_is_told_from_a_real_one() {
        assert!(is_emulated("QEMU TCG CPU version 2.5+"));
        assert!(!is_emulated("QEMU Virtual CPU version 2.5+ of a real one"));
        let emulated = Machine { emulated: true, virtual_machine: true, ..Machine::default() };
        assert!(emulated.line().contains("(emulated)"), "{}", emulated.line());
    }

    #[test]
    fn values_are_found_behind_their_names() {
        let text = "processor\t: 0\nmodel name\t: Some CPU: fast\nflags\t\t: fpu hypervisor\n";
        assert_eq!(value(text, "model name"), Some("Some CPU: fast"));
        assert_eq!(value(text, "model"), None);
    }
}
