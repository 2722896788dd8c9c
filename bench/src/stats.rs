//! Series of measurements, and what can be said of them without knowing how they are distributed.
//!
//! A median's interval is that between two of the series' own values: the k-th from below and the k-th from above,
//! with k as large as the confidence allows (the sign test turned round). Fewer than six values cannot carry 95 %:
//! then it is the least and the most, and the confidence that these have is said. Ratios are of values of the same
//! round, which have met the same machine.

use std::fmt;

/// A spread above which a series is called noisy, and an interval's width above which a ratio is.
pub const NOISY: f64 = 0.2;

/// What intervals are to be worth.
const CONFIDENCE: f64 = 0.95;

/// The same thing measured several times.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

/// Where the middle of all that could have been measured lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// From here.
    pub low: f64,
    /// To here.
    pub high: f64,
    /// How sure that is, between 0 and 1.
    pub confidence: f64,
}

impl Interval {
    /// Do they have something in common?
    pub fn meets(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

impl From<Vec<f64>> for Series {
    fn from(values: Vec<f64>) -> Self {
        Self(values)
    }
}

impl Series {
    /// One more value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Nothing was measured.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was measured, in its order.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The value in the middle.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.get(sorted.len() / 2), sorted.len() % 2) {
            (None, _) => f64::NAN,
            (Some(middle), 1) => *middle,
            (Some(above), _) => f64::midpoint(*above, sorted[sorted.len() / 2 - 1]),
        }
    }

    /// The smallest value.
    pub fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The value that a part of all is not above, 0.99 for ninety-nine of a hundred.
    pub fn percentile(&self, part: f64) -> f64 {
        let sorted = self.sorted();
        let place = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(place.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// Half of the values are so close to each other, as a part of the median.
    pub fn spread(&self) -> f64 {
        let sorted = self.sorted();
        let quarter = sorted.len() / 4;
        match (sorted.get(quarter), sorted.get(sorted.len().saturating_sub(quarter + 1))) {
            (Some(low), Some(high)) if high > low => (high - low) / self.median().abs(),
            _ => 0.0,
        }
    }

    /// Where the true median is.
    pub fn interval(&self) -> Interval {
        let sorted = self.sorted();
        let Some(last) = sorted.len().checked_sub(1) else {
            return Interval { low: f64::NAN, high: f64::NAN, confidence: 0.0 };
        };
        let (mut place, mut confidence) = (0, certainty(sorted.len(), 0));
        while place < last.saturating_sub(place + 1) && certainty(sorted.len(), place + 1) >= CONFIDENCE {
            place += 1;
            confidence = certainty(sorted.len(), place);
        }
        Interval { low: sorted[place], high: sorted[last - place], confidence }
    }

    /// The ratios to another series, round by round.
    pub fn ratios(&self, to: &Self) -> Self {
        Self(self.0.iter().zip(&to.0).map(|(a, b)| a / b).collect())
    }

    /// The middle of them.
    pub fn ratio(&self, to: &Self) -> f64 {
        self.ratios(to).median()
    }
}

/// How sure it is that the true median is not outside of the values at a place from below and from above.
fn certainty(values: usize, place: usize) -> f64 {
    let (mut ways, mut beyond) = (1.0, 0.0);
    for below in 0..=place {
        beyond += ways;
        ways *= (values - below) as f64 / (below + 1) as f64;
    }
    // Of one value nothing is known.
    (1.0 - 2.0 * beyond * 0.5_f64.powi(values as i32)).max(0.0)
}

/// A ratio with its interval, as people read it.
pub struct Ratio<'a>(pub &'a Series);

impl fmt::Display for Ratio<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("-");
        }
        let Interval { low, high, .. } = self.0.interval();
        f.pad(&format!("{} [{}, {}]", short(self.0.median()), short(low), short(high)))
    }
}

/// A number with as many digits as matter.
pub fn short(number: f64) -> String {
    match number.abs() {
        _ if number.is_nan() => "-".to_owned(),
        size if size >= 9_999.5 => thousands(number.round() as i64),
        size if size >= 99.95 => format!("{number:.0}"),
        size if size >= 9.995 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// 1,048,576.
pub fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{}{}", if number < 0 { "-" } else { "" }, groups.join(","))
}

/// A time in nanoseconds, as people read it.
pub struct Time(pub f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            nanoseconds if nanoseconds.is_nan() => "-".to_owned(),
            nanoseconds if nanoseconds < 9_999.5 => format!("{nanoseconds:.0} ns"),
            nanoseconds if nanoseconds < 999_500.0 => format!("{:.1} µs", nanoseconds / 1e3),
            nanoseconds if nanoseconds < 9.995e9 => format!("{:.1} ms", nanoseconds / 1e6),
            nanoseconds => format!("{:.1} s", nanoseconds / 1e9),
        };
        f.pad(&text)
    }
}

/// A value of some unit, as people read it.
pub fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "ns" => Time(value).to_string(),
        _ => format!("{} {unit}", short(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.to_vec().into()
    }

    #[test]
    fn the_middle_the_spread_and_ratios_round_by_round() {
        let four = series(&[4.0, 1.0, 3.0, 100.0]);
        assert_eq!((four.median(), four.least(), four.most()), (3.5, 1.0, 100.0));
        assert_eq!(series(&[8.0, 2.0, 6.0, 200.0]).ratio(&four), 2.0);
        assert_eq!(series(&[10.0, 11.0, 12.0, 13.0, 50.0]).spread(), 2.0 / 12.0);
        assert_eq!(series(&[0.0, 0.0, 0.0]).spread(), 0.0, "nothing is lost in any round: that is not noise");
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let hundred: Series = (1..=100).map(f64::from).collect::<Vec<_>>().into();
        assert_eq!([0.5, 0.99, 0.999, 0.0].map(|part| hundred.percentile(part)), [50.0, 99.0, 100.0, 1.0]);
        assert!(Series::default().percentile(0.5).is_nan());
    }

    #[test]
    fn an_interval_is_as_narrow_as_its_confidence_allows() {
        // Of ten values the second from either end: 1 - 2 * 11 / 1024. Tables of the sign test have it so.
        let ten: Series = (1..=10).map(f64::from).collect::<Vec<_>>().into();
        assert_eq!(ten.interval(), Interval { low: 2.0, high: 9.0, confidence: 1.0 - 22.0 / 1024.0 });
        // Five cannot carry 95 %.
        assert_eq!(
            series(&[5.0, 1.0, 2.0, 3.0, 4.0]).interval(),
            Interval { low: 1.0, high: 5.0, confidence: 1.0 - 2.0 / 32.0 }
        );
        assert_eq!(series(&[7.0]).interval(), Interval { low: 7.0, high: 7.0, confidence: 0.0 });
        assert!(Series::default().interval().low.is_nan());
    }

    #[test]
    fn intervals_hold_the_median_as_often_as_they_say() {
        let (mut state, mut held) = (1u64, 0);
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for _ in 0..2000 {
            // Skewed, as times are; its true median is 1/4.
            let nine: Series = (0..9).map(|_| random().powi(2)).collect::<Vec<_>>().into();
            let Interval { low, high, .. } = nine.interval();
            held += u32::from(low <= 0.25 && 0.25 <= high);
        }
        assert!(held >= 1860, "{held} of 2000 intervals hold what they are about");
    }

    #[test]
    fn times_and_numbers_as_people_read_them() {
        let said = [12.4, 12_400.0, 12_400_000.0, 12_400_000_000.0].map(|time| Time(time).to_string());
        assert_eq!(said, ["12 ns", "12.4 µs", "12.4 ms", "12.4 s"]);
        assert_eq!([1.234, 12.34, 123.4, 12_345.6].map(short), ["1.23", "12.3", "123", "12,346"]);
        assert_eq!(thousands(-1_048_576), "-1,048,576");
        assert_eq!(quantity(14.5, "Gbit/s"), "14.5 Gbit/s");
        assert_eq!(Ratio(&series(&[2.0, 2.5, 3.0])).to_string(), "2.50 [2.00, 3.00]");
    }
}
