//! What was expected and what was seen.

use std::fmt::Display;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

/// One thing that had to be shown.
#[derive(Debug)]
pub(crate) struct Proof {
    what: String,
    expected: String,
    seen: String,
    holds: bool,
}

impl Proof {
    /// Holds when both sides read the same.
    pub(crate) fn equal(what: &str, expected: impl Display, seen: impl Display) -> Self {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        let holds = expected == seen;
        Self { what: what.to_owned(), expected, seen, holds }
    }

    /// Holds when no more than `limit` were seen.
    pub(crate) fn at_most(what: &str, limit: u64, seen: u64) -> Self {
        let (expected, holds) = (format!("at most {limit}"), seen <= limit);
        Self { what: what.to_owned(), expected, seen: seen.to_string(), holds }
    }

    fn holds(&self) -> bool {
        self.holds
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Proofs(Vec<Proof>);

impl Proofs {
    pub(crate) fn add(&mut self, proof: Proof) {
        self.0.push(proof);
    }

    /// Whether each holds.
    pub(crate) fn hold(&self) -> bool {
        self.0.iter().all(Proof::holds)
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header(["proven", "what", "expected", "seen"]);
        for proof in &self.0 {
            let holds = if proof.holds() { "yes" } else { "NO" };
            table.add_row([holds, &proof.what, &proof.expected, &proof.seen]);
        }
        table.to_string()
    }
}
