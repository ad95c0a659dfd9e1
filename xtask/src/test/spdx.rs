//! Judging SPDX licence expressions against a list of allowed licences.

use anyhow::{Result, bail};

/// Whether `expression` can be fulfilled with licences for which `is_allowed` holds.
///
/// `AND` binds tighter than `OR`, `WITH` belongs to the licence before it (SPDX specification, annex D);
/// a slash is what old crates write for `OR`.
pub(super) fn is_satisfied(expression: &str, is_allowed: &dyn Fn(&str) -> bool) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut parser = Parser { words: spaced.split_whitespace().peekable(), is_allowed };
    match (parser.any_of(), parser.words.next()) {
        (Some(satisfied), None) => Ok(satisfied),
        _ => bail!("`{expression}` is no SPDX expression"),
    }
}

/// Reads an expression word by word; `None` means it is malformed.
struct Parser<'a, W: Iterator<Item = &'a str>> {
    words: std::iter::Peekable<W>,
    is_allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a, W: Iterator<Item = &'a str>> Parser<'a, W> {
    /// Alternatives, separated by `OR`.
    fn any_of(&mut self) -> Option<bool> {
        let mut satisfied = self.all_of()?;
        while self.words.next_if_eq(&"OR").is_some() {
            satisfied |= self.all_of()?;
        }
        Some(satisfied)
    }

    /// Licences that hold together, separated by `AND`.
    fn all_of(&mut self) -> Option<bool> {
        let mut satisfied = self.one()?;
        while self.words.next_if_eq(&"AND").is_some() {
            satisfied &= self.one()?;
        }
        Some(satisfied)
    }

    /// A licence, with its exception if it has one, or an expression in parentheses.
    fn one(&mut self) -> Option<bool> {
        let word = self.words.next()?;
        if word == "(" {
            let satisfied = self.any_of()?;
            return (self.words.next()? == ")").then_some(satisfied);
        }
        if matches!(word, ")" | "OR" | "AND" | "WITH") {
            return None;
        }
        if self.words.next_if_eq(&"WITH").is_none() {
            return Some((self.is_allowed)(word));
        }
        let exception = self.words.next()?;
        Some((self.is_allowed)(&format!("{word} WITH {exception}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(expression: &str) -> Option<bool> {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"];
        is_satisfied(expression, &|licence| allowed.contains(&licence)).ok()
    }

    #[test]
    fn one_of_several_alternatives_is_enough() {
        assert_eq!(judge("MIT"), Some(true));
        assert_eq!(judge("GPL-2.0"), Some(false));
        assert_eq!(judge("GPL-2.0 OR MIT"), Some(true));
        assert_eq!(judge("Apache-2.0/MIT"), Some(true));
        assert_eq!(judge("Apache-2.0 / MIT"), Some(true));
        assert_eq!(judge("GPL-2.0 OR EUPL-1.2"), Some(false));
    }

    #[test]
    fn licences_that_hold_together_must_all_be_allowed() {
        assert_eq!(judge("MIT AND ISC"), Some(true));
        assert_eq!(judge("MIT AND GPL-2.0"), Some(false));
        assert_eq!(judge("MIT OR ISC AND GPL-2.0"), Some(true));
        assert_eq!(judge("(MIT OR ISC) AND GPL-2.0"), Some(false));
        assert_eq!(judge("((GPL-2.0 OR MIT)) AND ISC"), Some(true));
    }

    #[test]
    fn an_exception_makes_another_licence() {
        assert_eq!(judge("Apache-2.0 WITH LLVM-exception"), Some(true));
        assert_eq!(judge("Apache-2.0"), Some(false));
        assert_eq!(judge("MIT WITH LLVM-exception"), Some(false));
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH", "()"] {
            assert_eq!(judge(nonsense), None, "{nonsense}");
        }
    }
}
