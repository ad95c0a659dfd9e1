//! One subject beside another: the ratio of two figures of one run, and what it is worth.

use crate::figure::Figure;

/// The subject that others are compared with, where it was measured.
pub(super) const REFERENCE: &str = "kernel";

/// What two figures of the same thing say about their subjects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Ratio {
    /// Repetitions of one of them lie too far apart.
    Void,
    /// The ranges overlap, or there is one repetition alone: no difference is shown.
    Unclear(f64),
    /// The ranges do not overlap.
    Clear(f64),
}

impl Ratio {
    /// `figure` beside `reference`; `None` where a ratio makes no sense.
    pub(super) fn of(figure: &Figure, reference: &Figure) -> Option<Self> {
        let ratio = figure.median() / reference.median();
        if figure.context || figure.unit.slack().is_some() || !ratio.is_finite() || ratio <= 0.0 {
            return None;
        }
        if figure.is_wide() || reference.is_wide() {
            return Some(Self::Void);
        }
        let ((least, greatest), (from, to)) = (figure.range(), reference.range());
        let repeated = figure.samples.len() > 1 && reference.samples.len() > 1;
        let apart = repeated && (least > to || greatest < from);
        Some(if apart { Self::Clear(ratio) } else { Self::Unclear(ratio) })
    }

    /// For people.
    pub(super) fn show(self) -> String {
        match self {
            Self::Void => "void".to_owned(),
            Self::Unclear(ratio) => format!("≈ {ratio:.2}×"),
            Self::Clear(ratio) => format!("{ratio:.2}×"),
        }
    }
}

/// The subject that the others of these are compared with: [`REFERENCE`], or else the first.
pub(super) fn reference(figures: &[Figure]) -> Option<&str> {
    let first = figures.first().map(|figure| figure.subject.as_str());
    figures.iter().map(|figure| figure.subject.as_str()).find(|subject| *subject == REFERENCE).or(first)
}

/// The ratio of a figure to the reference's of the same thing.
pub(super) fn to_reference(figure: &Figure, figures: &[Figure]) -> Option<Ratio> {
    let reference = reference(figures)?;
    let same = |other: &&Figure| other.subject == reference && other.compares_with(figure);
    let other = figures.iter().find(same)?;
    if figure.subject == reference { None } else { Ratio::of(figure, other) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;
    use crate::figure::tests::figure;

    #[test]
    fn a_ratio_is_clear_only_where_the_ranges_do_not_overlap() {
        let kernel = figure("kernel", Unit::FramesPerSecond, &[100.0, 102.0, 98.0]);
        let ratio = |samples: &[f64]| Ratio::of(&figure("xdp", Unit::FramesPerSecond, samples), &kernel);
        assert_eq!(ratio(&[150.0, 151.0, 149.0]), Some(Ratio::Clear(1.5)));
        assert_eq!(ratio(&[100.0, 104.0, 105.0]), Some(Ratio::Unclear(1.04)));
        assert_eq!(ratio(&[150.0]), Some(Ratio::Unclear(1.5)));
        assert_eq!(ratio(&[100.0, 150.0, 200.0]), Some(Ratio::Void));
        assert_eq!(ratio(&[0.0, 0.0, 0.0]), None);
    }

    #[test]
    fn counts_and_circumstances_have_no_ratio() {
        let [a, b] = ["kernel", "xdp"].map(|subject| figure(subject, Unit::Frames, &[5.0, 5.0]));
        assert_eq!(Ratio::of(&b, &a), None);
        let [a, b] = ["kernel", "xdp"].map(|subject| figure(subject, Unit::FramesPerSecond, &[5.0, 5.0]));
        assert_eq!(Ratio::of(&Figure { context: true, ..b }, &a), None);
    }

    #[test]
    fn the_kernel_is_the_reference_where_it_was_measured() {
        let [none, kernel] = ["none", "kernel"].map(|subject| figure(subject, Unit::Bytes, &[5.0]));
        assert_eq!(reference(&[none.clone(), kernel]), Some("kernel"));
        assert_eq!(reference(&[none]), Some("none"));
    }
}
