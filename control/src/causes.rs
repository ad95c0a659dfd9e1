//! An error with its causes, for places that have one line for it: the log, the status, an answer.

use std::error::Error;

/// The error and what caused it, outermost first, with colons between.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
