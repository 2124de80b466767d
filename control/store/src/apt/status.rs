//! How far apt has come with a download, as it says on `APT::Status-Fd` (apt's README.progress-reporting).

use std::str::FromStr;

/// A line `dlstatus:NUMBER:PERCENT:TEXT`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct DownloadStatus {
    /// 0 to 100.
    percent: f64,
}

impl DownloadStatus {
    /// The part of so many bytes that is done.
    pub(super) fn of(self, total: u64) -> u64 {
        // Exact enough to draw: a rounding of some bytes in 2^53.
        ((total as f64) * self.percent / 100.0) as u64
    }
}

impl FromStr for DownloadStatus {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut fields = line.strip_prefix("dlstatus:").ok_or(())?.splitn(3, ':');
        fields.next().and_then(|number| number.parse::<u64>().ok()).ok_or(())?;
        let percent: f64 = fields.next().and_then(|percent| percent.parse().ok()).ok_or(())?;
        if percent.is_finite() { Ok(DownloadStatus { percent: percent.clamp(0.0, 100.0) }) } else { Err(()) }
    }
}
