//! What the virtual machine says on its serial line: which jobs began, and how they ended.
//!
//! Every line of a job passes through as it is. Between them stand lines that begin with [`MARK`]:
//! `begin JOB`, `end STATUS JOB`, `kernel RELEASE`, and `done` after the last job.

/// The beginning of a line that is not a job's.
pub(super) const MARK: &str = "@vxdp-vm ";

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// The job's name.
    pub(super) job: String,
    /// Its exit code; 143 where it was stopped because its time was over.
    pub(super) status: i32,
}

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A job begins.
    Begin(&'a str),
    /// A job ended.
    End(&'a Ended),
    /// Something that a job printed.
    Text(&'a str),
    /// Ours, and nothing to show.
    Silent,
}

/// Follows the serial line of one machine.
#[derive(Debug, Default)]
pub(super) struct Console {
    /// What `uname -r` says there; `None` when the machine did not come that far.
    pub(super) release: Option<String>,
    /// The jobs that ended.
    pub(super) ended: Vec<Ended>,
    /// The job that runs.
    pub(super) running: Option<String>,
    /// Whether the machine got to the end of its list of jobs.
    pub(super) done: bool,
}

impl Console {
    /// Takes one line, without its end.
    pub(super) fn line<'a>(&'a mut self, line: &'a str) -> Line<'a> {
        let Some(words) = line.strip_prefix(MARK) else { return Line::Text(line) };
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        match verb {
            "kernel" => self.release = Some(rest.to_owned()),
            "begin" => {
                self.running = Some(rest.to_owned());
                return Line::Begin(rest);
            }
            "end" => {
                let (status, job) = rest.split_once(' ').unwrap_or((rest, ""));
                self.running = None;
                // A status that cannot be read is none of success.
                let status = status.parse().unwrap_or(-1);
                let ended = self.ended.len();
                self.ended.push(Ended { job: job.to_owned(), status });
                return Line::End(&self.ended[ended]);
            }
            "done" => self.done = true,
            _ => return Line::Text(line),
        }
        Line::Silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_their_output_are_told_apart() {
        let mut console = Console::default();
        assert_eq!(console.line("@vxdp-vm kernel 6.1.0-56-amd64"), Line::Silent);
        assert_eq!(console.line("@vxdp-vm begin demo, kernel mode"), Line::Begin("demo, kernel mode"));
        assert_eq!(console.running.as_deref(), Some("demo, kernel mode"));
        assert_eq!(console.line("Building …"), Line::Text("Building …"));
        let ended = Ended { job: "demo, kernel mode".to_owned(), status: 3 };
        assert_eq!(console.line("@vxdp-vm end 3 demo, kernel mode"), Line::End(&ended));
        assert!(!console.done && console.running.is_none());
        console.line("@vxdp-vm done");
        assert!(console.done);
        assert_eq!(console.release.as_deref(), Some("6.1.0-56-amd64"));
        assert_eq!(console.ended, [ended]);
    }

    #[test]
    fn a_status_that_cannot_be_read_is_a_failure() {
        let mut console = Console::default();
        console.line("@vxdp-vm end");
        console.line("@vxdp-vm end x demo");
        assert!(console.ended.iter().all(|ended| ended.status != 0));
    }
}
