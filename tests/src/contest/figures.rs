//! Medians and the like.

/// The value in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    percentile(&sorted(values), 50)
}

/// From the smallest to the largest.
pub fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values = values.collect::<Vec<_>>();
    values.sort_by(f64::total_cmp);
    values
}

/// The smallest value that so many in a hundred do not exceed.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// What is beyond was not measured.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred = sorted((1..=100).rev().map(f64::from));
        assert_eq!(percentile(&hundred, 50), 50.0);
        assert_eq!(percentile(&hundred, 99), 99.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
    }

    #[test]
    fn numbers_are_written_as_exactly_as_they_are_known() {
        assert_eq!(rounded(0.123_456, 4), 0.1235);
        assert_eq!(rounded(14_999.96, 1), 15_000.0);
    }
}
