//! What an idle guest costs the host.

use super::guest::{Guest, Init};
use super::vmm::{Running, Vmm};
use anyhow::Result;
use std::time::{Duration, Instant};

/// The guest's start is over by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Percent of one core that the program uses while its guest sleeps, over `watch`.
pub fn run(vmm: &Vmm, guest: &Guest, watch: Duration) -> Result<f64> {
    let running = Running::start(vmm, guest, Init::Idle)?;
    std::thread::sleep(SETTLE);
    let (before, start) = (running.cpu_time()?, Instant::now());
    std::thread::sleep(watch);
    let used = running.cpu_time()? - before;
    Ok(100.0 * used / start.elapsed().as_secs_f64())
}
