//! A network namespace for one test, made and looked at with iproute2.
#![allow(dead_code, reason = "every test file includes this module and uses a part of it")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use vxdp_control::netns::Netns;

/// A namespace of this test alone, removed when it ends.
pub(crate) struct Host(String);

impl Host {
    /// A new namespace whose name holds `name`, this process and a number.
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vxdp-{name}-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        Self(name)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// `ip WORDS` inside.
    pub(crate) fn ip(&self, words: &str) {
        self.output("ip", words);
    }

    /// `bridge WORDS` inside.
    pub(crate) fn bridge(&self, words: &str) {
        self.output("bridge", words);
    }

    /// What `ip WORDS` or `bridge WORDS` prints inside.
    pub(crate) fn output(&self, program: &str, words: &str) -> String {
        run(Command::new(program).args(["-n", &self.0]).args(words.split(' ')))
    }

    /// What any program prints inside.
    pub(crate) fn run(&self, program: &str, words: &str) -> String {
        run(Command::new("ip").args(["netns", "exec", &self.0, program]).args(words.split(' ')))
    }

    /// `bridge -batch -` with these lines.
    pub(crate) fn bridge_batch(&self, lines: &str) {
        self.batch("bridge", lines);
    }

    /// `ip -batch -` with these lines.
    pub(crate) fn ip_batch(&self, lines: &str) {
        self.batch("ip", lines);
    }

    fn batch(&self, program: &str, lines: &str) {
        let mut command = Command::new(program);
        let mut child =
            command.args(["-n", &self.0, "-batch", "-"]).stdin(Stdio::piped()).spawn().expect("it starts");
        child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("it reads");
        assert!(child.wait().expect("it ends").success());
    }

    /// The open namespace.
    pub(crate) fn netns(&self) -> Netns {
        Netns::named(&self.0).expect("the namespace was just made")
    }

    /// Index of a device inside.
    pub(crate) fn index(&self, device: &str) -> u32 {
        let line = self.output("ip", &format!("-o link show {device}"));
        line.split(':').next().and_then(|index| index.parse().ok()).expect("an index")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
