//! The latest distinct errors, for `status`.

use std::time::Duration;

use crate::api::status::ErrorStatus;

/// How many distinct errors are kept: one screen has room for no more.
const KEPT: usize = 8;

#[derive(Debug)]
struct Trouble {
    message: String,
    count: u64,
    last: Duration,
}

/// The latest distinct errors.
#[derive(Debug, Default)]
pub struct Troubles {
    latest_first: Vec<Trouble>,
}

impl Troubles {
    /// Notes an error.
    pub fn add(&mut self, now: Duration, message: &str) {
        let known = self.latest_first.iter().position(|trouble| trouble.message == message);
        let mut trouble = match known {
            Some(at) => self.latest_first.remove(at),
            None => Trouble { message: message.to_owned(), count: 0, last: now },
        };
        trouble.count += 1;
        trouble.last = now;
        self.latest_first.insert(0, trouble);
        self.latest_first.truncate(KEPT);
    }

    /// For `status`.
    pub fn status(&self, now: Duration) -> Vec<ErrorStatus> {
        let of = |trouble: &Trouble| ErrorStatus {
            message: trouble.message.clone(),
            count: trouble.count,
            age_s: now.saturating_sub(trouble.last).as_secs(),
        };
        self.latest_first.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_error_is_counted_and_old_ones_are_forgotten() {
        let mut troubles = Troubles::default();
        for n in 0..100u64 {
            troubles.add(Duration::from_secs(n), "the same");
            troubles.add(Duration::from_secs(n), &format!("another {n}"));
        }
        let status = troubles.status(Duration::from_secs(100));
        assert_eq!(status.len(), KEPT);
        assert_eq!((status[1].message.as_str(), status[1].count, status[1].age_s), ("the same", 100, 1));
    }
}
