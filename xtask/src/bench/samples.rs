//! Least, middle and greatest of some measurements.

/// Measurements, in order.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn new(values: impl IntoIterator<Item = f64>) -> Samples {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Samples(values)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// The mean of the middle two where there is no middle one.
    pub fn median(&self) -> f64 {
        let upper = self.0.len() / 2;
        let lower = self.0.len().saturating_sub(1) / 2;
        match (self.0.get(lower), self.0.get(upper)) {
            (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
            _ => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_and_even_numbers_have_a_middle() {
        let three = Samples::new([3.0, 1.0, 2.0]);
        assert_eq!((three.min(), three.median(), three.max()), (1.0, 2.0, 3.0));
        assert_eq!(Samples::new([4.0, 1.0]).median(), 2.5);
        assert!(Samples::new([]).median().is_nan());
    }
}
