//! What steps of a build came to, so that the same step need not be done twice: `steps/KEY.json`.
//!
//! A key is the digest of all that a step depends on. What it came to may be gone: then it is as if it had never been done. Records
//! and the layers that only they need go with [`Store::prune`] of caches.

use crate::lock::Mode;
use crate::progress::Watch;
use crate::record::{self, Layer};
use crate::work::Work;
use crate::{Digest, Store, StoreError, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum StepResult {
    /// It changed nothing on the disk.
    Nothing,
    /// A layer over those before.
    Layer(Layer),
    /// An image to begin with.
    Image(Digest),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepRecord {
    what: String,
    since: Timestamp,
    result: StepResult,
}

impl Store {
    fn step_record(&self, key: Digest) -> PathBuf {
        self.root().join("steps").join(format!("{key}.json"))
    }
}

impl Work {
    /// What a step came to when it was done before, and when, if that is still there: it stays as long as this work lasts.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn step(&self, key: Digest, watch: Watch<'_>) -> Result<Option<(StepResult, Timestamp)>, StoreError> {
        let path = self.store().step_record(key);
        let record = match record::read::<StepRecord>(&path, &key.short()) {
            Ok(record) => record,
            Err(StoreError::Damaged { found, .. }) => {
                tracing::warn!("{} {found}: the step is done again", path.display());
                None
            }
            Err(error) => return Err(error),
        };
        let Some(StepRecord { result, since, .. }) = record else { return Ok(None) };
        let there = match &result {
            StepResult::Nothing => true,
            StepResult::Layer(layer) => self.pin(layer.digest, watch)?,
            StepResult::Image(image) => self.pin(*image, watch)?,
        };
        Ok(there.then_some((result, since)))
    }

    /// Notes what a step came to, and gives the time of it. A layer is to have been added to this work, or to be in the store; it is in the store from then on.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Cancelled`].
    pub fn keep_step(
        &self,
        key: Digest,
        what: &str,
        result: &StepResult,
        watch: Watch<'_>,
    ) -> Result<Timestamp, StoreError> {
        if let StepResult::Layer(layer) = result {
            self.cache(layer.digest, &format!("build step: {what}"), watch)?;
        }
        let _lock = self.store().lock(Mode::Alone, watch)?;
        let since = Timestamp::now();
        let record = StepRecord { what: what.to_owned(), since, result: result.clone() };
        record::write(&self.store().tmp(), &self.store().step_record(key), &record)?;
        Ok(since)
    }
}
