//! The summary of a set of samples. Percentiles are by nearest rank: always a value that was really measured, never one
//! between two, so that with few samples p99 is simply the largest.

/// Percentiles, extremes and count of some samples, in the samples' unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half of the samples are at most this.
    pub p50: f64,
    /// 99 of 100 samples are at most this.
    pub p99: f64,
    /// The smallest of the samples.
    pub min: f64,
    /// The largest of the samples.
    pub max: f64,
    /// How many there are.
    pub n: usize,
}

impl Summary {
    /// The summary of `samples`; none of no samples.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Self { p50: percentile(&sorted, 50)?, p99: percentile(&sorted, 99)?, min, max, n: sorted.len() })
    }
}

/// The smallest sample that at least `percent` of all samples do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_samples(count: u32) -> Vec<f64> {
        (1..=count).rev().map(f64::from).collect()
    }

    #[test]
    fn of_a_hundred_samples_p99_is_the_second_largest() {
        let summary = Summary::of(mk_samples(100)).expect("there are samples");
        assert_eq!(summary, Summary { p50: 50.0, p99: 99.0, min: 1.0, max: 100.0, n: 100 });
    }

    #[test]
    fn of_few_samples_p99_is_the_largest_and_p50_is_one_of_them() {
        let summary = Summary::of(mk_samples(4)).expect("there are samples");
        assert_eq!((summary.p50, summary.p99), (2.0, 4.0));
        let summary = Summary::of(mk_samples(3)).expect("there are samples");
        assert_eq!((summary.p50, summary.p99), (2.0, 3.0));
    }

    #[test]
    fn a_single_sample_is_its_own_summary_and_none_has_none() {
        let summary = Summary::of([7.5]).expect("there is a sample");
        assert_eq!(summary, Summary { p50: 7.5, p99: 7.5, min: 7.5, max: 7.5, n: 1 });
        assert_eq!(Summary::of([]), None);
    }
}
