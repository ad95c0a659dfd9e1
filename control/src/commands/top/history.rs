//! The last minutes of a rate, as the columns of a graph.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back a graph goes at least, once there is as much.
const SHOWN: Duration = Duration::from_secs(180);

/// Values that are kept: enough for the widest terminal at the shortest interval.
const KEPT: usize = 8192;

/// Values at equal distances, the newest last; without one where none is known.
#[derive(Debug, Default)]
pub(super) struct History {
    values: VecDeque<Option<f64>>,
    /// How many have been dropped at the front.
    dropped: usize,
}

impl History {
    pub(super) fn push(&mut self, value: Option<f64>) {
        self.values.push_back(value);
        if self.values.len() > KEPT {
            self.values.pop_front();
            self.dropped += 1;
        }
    }

    /// Values that share a column when there are `width` of them.
    fn per_column(width: usize, interval: Duration) -> usize {
        let values = (SHOWN.as_secs_f64() / interval.as_secs_f64()).ceil() as usize;
        values.div_ceil(width.max(1)).max(1)
    }

    /// How far `width` columns go back.
    pub(super) fn span(width: usize, interval: Duration) -> Duration {
        let values = Self::per_column(width, interval) * width;
        interval.saturating_mul(u32::try_from(values).unwrap_or(u32::MAX))
    }

    /// At most `width` columns, the newest last, each the mean of its values. A column keeps its values while it
    /// moves to the left, so that the graph moves and does not flicker.
    pub(super) fn columns(&self, width: usize, interval: Duration) -> Vec<Option<f64>> {
        let each = Self::per_column(width, interval);
        let mut columns: Vec<(f64, usize)> = Vec::new();
        for (number, value) in (self.dropped..).zip(&self.values) {
            if columns.is_empty() || number % each == 0 {
                columns.push((0.0, 0));
            }
            if let (Some((sum, count)), Some(value)) = (columns.last_mut(), value) {
                *sum += value;
                *count += 1;
            }
        }
        let skipped = columns.len().saturating_sub(width);
        let mean = |(sum, count): (f64, usize)| (count > 0).then(|| sum / count as f64);
        columns.into_iter().skip(skipped).map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn eighty_columns_hold_some_minutes_and_wide_ones_a_value_each() {
        assert_eq!(History::span(80, SECOND), Duration::from_secs(240));
        assert_eq!(History::span(200, SECOND), Duration::from_secs(200));
        assert_eq!(History::span(80, 10 * SECOND), Duration::from_secs(800));
    }

    #[test]
    fn a_column_is_the_mean_of_what_is_known_and_stays_so_as_time_goes_on() {
        let mut history = History::default();
        for value in [Some(1.0), None, Some(3.0), None, None, None, Some(6.0)] {
            history.push(value);
        }
        assert_eq!(history.columns(80, SECOND), [Some(2.0), None, Some(6.0)]);
        history.push(Some(8.0));
        assert_eq!(history.columns(80, SECOND), [Some(2.0), None, Some(7.0)]);
    }

    #[test]
    fn there_are_never_more_columns_than_asked_for() {
        let mut history = History::default();
        (0..2 * KEPT).for_each(|value| history.push(Some(value as f64)));
        assert_eq!(history.values.len(), KEPT);
        for width in [0, 1, 80, 1000] {
            assert!(history.columns(width, SECOND).len() <= width, "{width}");
        }
    }
}
